package elastic_test

import (
	"fmt"
	"net/http"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/capsaga/capsaga/saga"
)

// must does a request that has to succeed.
func (b bench) must(t *testing.T, method, path, body string) {
	t.Helper()
	status, answer := b.do(t, method, path, body)
	require.Less(t, status, http.StatusMultipleChoices, answer)
}

// refused applies one document and checks what Elasticsearch says of it.
func (b bench) refused(t *testing.T, doc saga.Document, class saga.Class, says string) {
	t.Helper()
	applied, err := b.Apply(t.Context(), []saga.Document{doc})
	require.NoError(t, err)
	require.Error(t, applied[0].Err)
	assert.Equal(t, class, saga.ClassOf(applied[0].Err), applied[0].Err)
	assert.ErrorContains(t, applied[0].Err, says)
}

// passes applies one document for which nothing is in the way.
func (b bench) passes(t *testing.T, doc saga.Document) {
	t.Helper()
	applied, err := b.Apply(t.Context(), []saga.Document{doc})
	require.NoError(t, err)
	require.NoError(t, applied[0].Err)
}

// What the server says of an index that is in trouble, and that the same document
// passes when that is over.
func TestIndexInTrouble(t *testing.T) {
	t.Parallel()
	b := open(t)
	b.entity(t, "products", `{"properties": {"price": {"type": "long"}}}`, oneCopy)
	index := "/" + b.prefix.FirstIndex("products")
	doc := document("products", "1", version, `{"price":1}`)
	for _, block := range []string{"read_only_allow_delete", "write"} {
		b.must(t, http.MethodPut, index+"/_settings", fmt.Sprintf(`{"index.blocks.%s": true}`, block))
		b.refused(t, doc, saga.Unavailable, "cluster_block_exception")
		b.must(t, http.MethodPut, index+"/_settings", fmt.Sprintf(`{"index.blocks.%s": null}`, block))
	}
	b.must(t, http.MethodPost, index+"/_close", "")
	b.refused(t, doc, saga.Unavailable, "open the index")
	b.must(t, http.MethodPost, index+"/_open?wait_for_active_shards=1", "")
	b.passes(t, doc)
}

func TestAliasOfTwoIndices(t *testing.T) {
	t.Parallel()
	b := open(t)
	b.entity(t, "products", "", oneCopy)
	other := "/" + b.prefix.Alias("products") + "-000002"
	b.must(t, http.MethodPut, other, `{"settings":{"number_of_shards":1,"number_of_replicas":0}}`)
	t.Cleanup(func() { b.do(t, http.MethodDelete, other, "") })
	alias := b.prefix.Alias("products")
	b.must(t, http.MethodPost, "/_aliases", fmt.Sprintf(`{"actions":[
		{"add":{"index":%q,"alias":%q,"is_write_index":false}},{"add":{"index":%q,"alias":%q}}]}`, b.prefix.FirstIndex("products"), alias, other[1:], alias))
	b.refused(t, document("products", "1", version, `{"a":1}`), saga.Rejected, "mark one of them as its write index")
}

// Rows that the mapping has no place for, each in the server's words.
func TestRowsThatDoNotFit(t *testing.T) {
	t.Parallel()
	b := open(t)
	b.entity(t, "products", `{"properties": {"price": {"type": "long"}, "title": {"type": "keyword"}, "place": {"type": "geo_point"}}}`,
		`{"number_of_shards": 1, "index": {"number_of_replicas": "0", "mapping.total_fields.limit": 5}}`)
	b.entity(t, "users", `{"dynamic": "strict", "properties": {"name": {"type": "text"}}}`, oneCopy)
	for _, row := range []struct{ entity, row, says string }{
		{"products", `{"price":"cheap"}`, "price"},
		{"products", `{"title":"` + strings.Repeat("x", 40_000) + `"}`, "immense term"},
		{"products", `{"place":"nowhere"}`, "place"},
		{"products", `{"f1":1,"f2":1,"f3":1,"f4":1,"f5":1,"f6":1}`, "Limit of total fields"},
		{"products", `{"price":{"net":1}}`, "price"},
		{"users", `{"colour":"red"}`, "colour"},
	} {
		b.refused(t, document(row.entity, "1", version, row.row), saga.Rejected, row.says)
	}
}
