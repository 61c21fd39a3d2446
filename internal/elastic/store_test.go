package elastic_test

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"net"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/capsaga/capsaga/internal/elastic"
	"github.com/capsaga/capsaga/internal/sinktest"
	"github.com/capsaga/capsaga/internal/stacktest"
	"github.com/capsaga/capsaga/saga"
)

const version = saga.Version(9007199254740993)

// bench is a store with a raw client beside it.
type bench struct {
	*elastic.Store
	url    string
	prefix saga.Prefix
}

func open(t *testing.T) bench {
	t.Helper()
	stack := stacktest.New(t)
	store, err := elastic.Open(elastic.Config{URL: stack.ElasticsearchURL}, stack.Prefix)
	require.NoError(t, err)
	t.Cleanup(func() { assert.NoError(t, store.Close()) })
	return bench{store, stack.ElasticsearchURL, stack.Prefix}
}

// entity creates an entity's index and removes it after the test.
func (b bench) entity(t *testing.T, name, mappings, settings string) *saga.Entity {
	t.Helper()
	e := newEntity(name, mappings, settings)
	b.removeAfter(t, name)
	_, err := b.EnsureIndex(t.Context(), e)
	require.NoError(t, err)
	return e
}

func newEntity(name, mappings, settings string) *saga.Entity {
	return &saga.Entity{Name: name, Elasticsearch: &saga.ElasticsearchSink{
		Mappings: json.RawMessage(mappings), Settings: json.RawMessage(settings),
	}}
}

const oneCopy = `{"number_of_shards": 1, "index": {"number_of_replicas": "0"}}`

func (b bench) removeAfter(t *testing.T, entity string) {
	t.Cleanup(func() {
		for _, index := range b.indices(t, entity) {
			b.do(t, http.MethodDelete, "/"+index, "")
		}
		b.do(t, http.MethodDelete, "/_index_template/"+b.prefix.Alias(entity), "")
	})
}

// indices returns the names of an entity's indices, in order.
func (b bench) indices(t *testing.T, entity string) []string {
	t.Helper()
	_, answer := b.do(t, http.MethodGet, "/"+b.prefix.Alias(entity)+"-*?expand_wildcards=all&filter_path=*.aliases", "")
	var indices map[string]any
	require.NoError(t, json.Unmarshal([]byte(answer), &indices))
	return slices.Sorted(maps.Keys(indices))
}

// do does a request of the test's own.
func (b bench) do(t *testing.T, method, path, body string) (status int, answer string) {
	t.Helper()
	request, err := http.NewRequestWithContext(context.Background(), method, b.url+path, strings.NewReader(body))
	require.NoError(t, err)
	request.Header.Set("Content-Type", "application/json")
	response, err := http.DefaultClient.Do(request)
	require.NoError(t, err)
	defer response.Body.Close()
	content, err := io.ReadAll(response.Body)
	require.NoError(t, err)
	return response.StatusCode, string(content)
}

func document(entity, key string, v saga.Version, row string) saga.Document {
	d := saga.Document{Entity: entity, Key: key, Version: v}
	if row != "" {
		d.Row = json.RawMessage(row)
	}
	return d
}

func TestConformance(t *testing.T) {
	t.Parallel()
	b := open(t)
	for _, name := range []string{sinktest.Entity, sinktest.OtherEntity} {
		b.entity(t, name, `{"dynamic": false}`, oneCopy)
	}
	sinktest.Run(t, b.Store)
}

func TestFloors(t *testing.T) {
	t.Parallel()
	b := open(t)
	two := b.another(t)
	var entities atomic.Int64
	sinktest.RunFloors(t, b.Store, two, func(t *testing.T) string {
		name := fmt.Sprint("e", entities.Add(1))
		b.entity(t, name, `{"dynamic": false}`, oneCopy)
		return name
	})
}

// another returns a store as another process has it.
func (b bench) another(t *testing.T) *elastic.Store {
	t.Helper()
	store, err := elastic.Open(elastic.Config{URL: b.url}, b.prefix)
	require.NoError(t, err)
	t.Cleanup(func() { assert.NoError(t, store.Close()) })
	return store
}

func TestPing(t *testing.T) {
	t.Parallel()
	require.NoError(t, open(t).Ping(t.Context()))
}

func TestRejectedRowNamesTheFieldAndSparesItsNeighbours(t *testing.T) {
	t.Parallel()
	b := open(t)
	b.entity(t, "products", `{"dynamic": "strict", "properties": {"price": {"type": "long"}, "made": {"type": "object", "properties": {"on": {"type": "date"}}}}}`, oneCopy)
	long := strings.Repeat("k", saga.MaxDocumentKeyBytes+1)
	docs := []saga.Document{
		document("products", "1", version, `{"price":1}`),
		document("products", "2", version, `{"price":"cheap"}`),
		document("products", "3", version, `{"made":{"on":"soon"}}`),
		document("products", "4", version, `{"colour":"red"}`),
		document("products", "5", version, `{"price":1`),
		document("products", "6", version, "{\n\"price\":1"),
		document("products", long, version, `{"price":1}`),
		document("products", "8", version, `{"price":1e400}`),
		document("products", "9", version, "{\n\"price\":9}"),
	}
	applied, err := b.Apply(t.Context(), docs)
	require.NoError(t, err)
	says := map[int][]string{
		1: {"[price]", "[long]", "cheap", "fix the row"},
		2: {"[made.on]", "soon"},
		3: {"[colour]", "strict"},
		4: {"document_parsing_exception"},
		5: {"not JSON"},
		6: {"513 bytes", "at most 512"},
		7: {"[price]"},
	}
	for i, a := range applied {
		if says[i] == nil {
			assert.Equal(t, saga.Applied{Changed: true}, a, "document %d", i)
			continue
		}
		assert.Equal(t, saga.Rejected, saga.ClassOf(a.Err), "document %d: %v", i, a.Err)
		for _, text := range append(says[i], docs[i].Key[:1], "products") {
			assert.ErrorContains(t, a.Err, text, "document %d", i)
		}
	}
	got, found, err := b.Get(t.Context(), "products", "9")
	require.NoError(t, err)
	require.True(t, found)
	assert.JSONEq(t, `{"price":9}`, string(got.Row))
}

// TestMissingAlias holds that nothing creates an index in the alias's place; a
// delete with an external version would.
func TestMissingAlias(t *testing.T) {
	t.Parallel()
	b := open(t)
	docs := []saga.Document{document("nowhere", "1", version, `{"a":1}`), document("nowhere", "2", version, "")}
	applied, err := b.Apply(t.Context(), docs)
	require.NoError(t, err)
	for i, a := range applied {
		assert.Equal(t, saga.Rejected, saga.ClassOf(a.Err), "document %d", i)
		assert.ErrorContains(t, a.Err, "capsaga catalog apply")
		assert.ErrorContains(t, a.Err, b.prefix.Alias("nowhere"))
		assert.ErrorIs(t, a.Err, elastic.ErrNoIndex)
	}
	_, _, err = b.Get(t.Context(), "nowhere", "1")
	assert.Equal(t, saga.Rejected, saga.ClassOf(err))
	_, err = b.Search(t.Context(), "nowhere", "x", 1)
	assert.Equal(t, saga.Rejected, saga.ClassOf(err))
	status, _ := b.do(t, http.MethodHead, "/"+b.prefix.Alias("nowhere"), "")
	assert.Equal(t, http.StatusNotFound, status)
}

// TestLostAlias is TestMissingAlias for a store that has seen the alias.
func TestLostAlias(t *testing.T) {
	t.Parallel()
	b := open(t)
	b.entity(t, "products", "", oneCopy)
	applied, err := b.Apply(t.Context(), []saga.Document{document("products", "1", version, "")})
	require.NoError(t, err)
	require.NoError(t, applied[0].Err)
	status, answer := b.do(t, http.MethodDelete, "/"+b.prefix.FirstIndex("products"), "")
	require.Equal(t, http.StatusOK, status, answer)

	applied, err = b.Apply(t.Context(), []saga.Document{document("products", "1", version+1, "")})
	require.NoError(t, err)
	assert.Equal(t, saga.Rejected, saga.ClassOf(applied[0].Err))
	status, _ = b.do(t, http.MethodHead, "/"+b.prefix.Alias("products"), "")
	assert.Equal(t, http.StatusNotFound, status)
}

func TestSearch(t *testing.T) {
	t.Parallel()
	b := open(t)
	b.entity(t, "films", `{"properties": {"title": {"type": "text"}, "year": {"type": "long"}, "seen": {"type": "boolean"},
		"released": {"type": "date"}, "tag": {"type": "keyword"}, "notes": {"type": "object", "enabled": false}}}`, oneCopy)
	_, err := b.Apply(t.Context(), []saga.Document{
		document("films", "1", version, `{"title":"The Matrix","year":1999,"seen":true,"released":"1999-03-31","tag":"scifi","price":1.10}`),
		document("films", "2", version+1, `{"title":"The Matrices of Love","year":2003,"seen":false,"released":"2003-05-15","tag":"love"}`),
		document("films", "3", version+2, `{"title":"Amélie","year":2001,"seen":true,"released":"2001-04-25","tag":"love"}`),
	})
	require.NoError(t, err)
	var found elastic.Found
	require.Eventually(t, func() bool {
		found, err = b.Search(t.Context(), "films", "matrix", 0)
		return err == nil && len(found.Hits) > 0
	}, 20*time.Second, 50*time.Millisecond)
	assert.Equal(t, "1", found.Hits[0].Key)
	assert.Equal(t, version, found.Hits[0].Version)
	assert.Positive(t, found.Hits[0].Score)
	assert.Contains(t, string(found.Hits[0].Row), `"price":1.10`)
	assert.Equal(t, []string{"The <em>Matrix</em>"}, found.Hits[0].Highlights["title"])

	for query, key := range map[string]string{
		"matrx": "1", "2001": "3", "scifi": "1", "2003-05-15": "2", "amelei": "3", "amélie": "3",
		`"}],"query":{"match_all":{}}`: "", `\`: "", "": "", "title:(": "",
	} {
		found, err := b.Search(t.Context(), "films", query, 10)
		require.NoError(t, err, query)
		if key == "" {
			assert.Empty(t, found.Hits, query)
			continue
		}
		require.NotEmpty(t, found.Hits, query)
		assert.Equal(t, key, found.Hits[0].Key, query)
	}
	found, err = b.Search(t.Context(), "films", "the", 1)
	require.NoError(t, err)
	assert.Len(t, found.Hits, 1)
	assert.EqualValues(t, 2, found.Total)
}

func TestServerAway(t *testing.T) {
	t.Parallel()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	address := listener.Addr().String()
	require.NoError(t, listener.Close())
	store, err := elastic.Open(elastic.Config{URL: "http://elastic:hunter2@" + address}, "away")
	require.NoError(t, err)
	for _, doc := range []saga.Document{document("a", "1", version, "{}"), document("a", "1", version, "")} {
		_, err := store.Apply(t.Context(), []saga.Document{doc})
		requireUnavailable(t, err, address)
	}
	_, _, err = store.Get(t.Context(), "a", "1")
	requireUnavailable(t, err, address)
	_, err = store.Search(t.Context(), "a", "1", 1)
	requireUnavailable(t, err, address)
	_, err = store.EnsureIndex(t.Context(), newEntity("a", "", ""))
	requireUnavailable(t, err, address)
	requireUnavailable(t, store.Ping(t.Context()), address)
}

func requireUnavailable(t *testing.T, err error, address string) {
	t.Helper()
	require.Error(t, err)
	assert.Equal(t, saga.Unavailable, saga.ClassOf(err))
	assert.ErrorContains(t, err, address)
	assert.NotContains(t, err.Error(), "hunter2")
}

// fake answers every request as an Elasticsearch, or what stands before it, might.
func fake(t *testing.T, answer http.HandlerFunc) *elastic.Store {
	t.Helper()
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("X-Elastic-Product", "Elasticsearch")
		if r.Method == http.MethodGet && r.URL.Path == "/fake-a" {
			fmt.Fprint(w, `{"fake-a-000001":{"aliases":{"fake-a":{}}}}`)
			return
		}
		answer(w, r)
	}))
	t.Cleanup(server.Close)
	store, err := elastic.Open(elastic.Config{URL: server.URL, Timeout: time.Minute}, "fake")
	require.NoError(t, err)
	return store
}

// TestSilentServer takes the request and never answers: it may have been done.
func TestSilentServer(t *testing.T) {
	t.Parallel()
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/silent-a" {
			w.Header().Set("X-Elastic-Product", "Elasticsearch")
			fmt.Fprint(w, `{"silent-a-000001":{"aliases":{"silent-a":{}}}}`)
			return
		}
		_, _ = io.Copy(io.Discard, r.Body)
		<-r.Context().Done()
	}))
	defer server.Close()
	store, err := elastic.Open(elastic.Config{URL: server.URL, Timeout: 100 * time.Millisecond}, "silent")
	require.NoError(t, err)
	_, err = store.Apply(t.Context(), []saga.Document{document("a", "1", version, "{}")})
	assert.Equal(t, saga.Ambiguous, saga.ClassOf(err))
	_, _, err = store.Get(t.Context(), "a", "1")
	assert.Equal(t, saga.Unavailable, saga.ClassOf(err), "a read has no effect to be unsure of")
}

func TestTooLargeTogetherIsSplit(t *testing.T) {
	t.Parallel()
	var requests atomic.Int64
	store := fake(t, func(w http.ResponseWriter, r *http.Request) {
		requests.Add(1)
		body, _ := io.ReadAll(r.Body)
		if len(body) > 300 {
			w.WriteHeader(http.StatusRequestEntityTooLarge)
			fmt.Fprint(w, "<html>too large</html>")
			return
		}
		items := make([]string, strings.Count(string(body), "\n")/2)
		for i := range items {
			items[i] = `{"index":{"status":201}}`
		}
		fmt.Fprintf(w, `{"items":[%s]}`, strings.Join(items, ","))
	})
	var docs []saga.Document
	for i := range 10 {
		docs = append(docs, document("a", fmt.Sprint(i), version, `{"a":1}`))
	}
	docs[3].Row = json.RawMessage(`{"a":"` + strings.Repeat("x", 300) + `"}`)
	applied, err := store.Apply(t.Context(), docs)
	require.NoError(t, err)
	for i, a := range applied {
		if i == 3 {
			assert.Equal(t, saga.Rejected, saga.ClassOf(a.Err))
			assert.ErrorContains(t, a.Err, "index 3 in fake-a")
			continue
		}
		assert.Equal(t, saga.Applied{Changed: true}, a, "document %d", i)
	}
	assert.Greater(t, requests.Load(), int64(1))
}

func TestLargeAppliesAreCut(t *testing.T) {
	t.Parallel()
	var sizes []int
	store := fake(t, func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		sizes = append(sizes, len(body))
		fmt.Fprintf(w, `{"items":[%s]}`, strings.TrimSuffix(strings.Repeat(`{"index":{"status":200}},`, strings.Count(string(body), "\n")/2), ","))
	})
	row := `{"a":"` + strings.Repeat("x", 1<<20) + `"}`
	docs := make([]saga.Document, 20)
	for i := range docs {
		docs[i] = document("a", fmt.Sprint(i), version, row)
	}
	applied, err := store.Apply(t.Context(), docs)
	require.NoError(t, err)
	for i, a := range applied {
		assert.True(t, a.Changed, "document %d", i)
	}
	assert.Len(t, sizes, 3)
	for _, size := range sizes {
		assert.LessOrEqual(t, size, 8<<20)
	}
}

func TestWholeRequestFails(t *testing.T) {
	t.Parallel()
	cases := []struct {
		name   string
		answer http.HandlerFunc
		class  saga.Class
	}{
		{"overloaded", status(http.StatusTooManyRequests, `{"error":{"type":"es_rejected_execution_exception","reason":"full"},"status":429}`), saga.Unavailable},
		{"a proxy without a server", status(http.StatusServiceUnavailable, `<html>`), saga.Unavailable},
		{"a proxy that gave up", status(http.StatusGatewayTimeout, `<html>`), saga.Ambiguous},
		{"no access", status(http.StatusUnauthorized, `{"error":{"type":"security_exception","reason":"missing authentication credentials"},"status":401}`), saga.Unavailable},
		{"not JSON", status(http.StatusOK, `<html>`), saga.Ambiguous},
		{"too few results", status(http.StatusOK, `{"items":[]}`), saga.Ambiguous},
		{"a redirect", status(http.StatusFound, ``), saga.Unavailable},
		{"half an answer", func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Length", "100")
			fmt.Fprint(w, `{"items":`)
		}, saga.Ambiguous},
		{"something else", func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Del("X-Elastic-Product")
			fmt.Fprint(w, `{"items":[]}`)
		}, saga.Ambiguous},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			_, err := fake(t, c.answer).Apply(t.Context(), []saga.Document{document("a", "1", version, "{}")})
			require.Error(t, err)
			assert.Equal(t, c.class, saga.ClassOf(err), err)
		})
	}
}

func status(code int, body string) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) {
		w.WriteHeader(code)
		fmt.Fprint(w, body)
	}
}

func TestPingNeedsNoClusterPrivilege(t *testing.T) {
	t.Parallel()
	require.NoError(t, fake(t, status(http.StatusForbidden, `{"error":{"type":"security_exception"}}`)).Ping(t.Context()))
	err := fake(t, status(http.StatusUnauthorized, `{"error":{"type":"security_exception"}}`)).Ping(t.Context())
	assert.Equal(t, saga.Unavailable, saga.ClassOf(err))
}

func TestMark(t *testing.T) {
	b := open(t)
	t.Cleanup(func() { b.do(t, http.MethodDelete, "/"+b.prefix.Alias("_marks"), "") })
	_, found, err := b.Mark(t.Context(), "epoch")
	require.NoError(t, err)
	assert.False(t, found)
	for _, value := range []string{`{"epoch":1}`, `{"epoch":2}`} {
		require.NoError(t, b.SetMark(t.Context(), "epoch", value))
		got, found, err := b.Mark(t.Context(), "epoch")
		require.NoError(t, err)
		assert.True(t, found)
		assert.Equal(t, value, got)
	}
}
