package elastic_test

import (
	"net/http"
	"slices"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"golang.org/x/sync/errgroup"

	"github.com/capsaga/capsaga/saga"
)

const titles = `{"properties": {"title": {"type": "text"}}}`

func TestEnsureIndex(t *testing.T) {
	t.Parallel()
	b := open(t)
	b.removeAfter(t, "films")
	alias, index := b.prefix.Alias("films"), b.prefix.FirstIndex("films")

	created, err := b.EnsureIndex(t.Context(), newEntity("films", titles, oneCopy))
	require.NoError(t, err)
	assert.Equal(t, []string{"index template " + alias, "index " + index, "alias " + alias}, created)

	_, answer := b.do(t, http.MethodGet, "/"+index+"?filter_path=*.aliases,*.mappings,*.settings.index.gc_deletes,*.settings.index.number_*", "")
	assert.JSONEq(t, `{"`+index+`": {
		"aliases": {"`+alias+`": {"is_write_index": true}},
		"mappings": {"properties": {"title": {"type": "text"}}},
		"settings": {"index": {"gc_deletes": "86400s", "number_of_shards": "1", "number_of_replicas": "0"}}}}`, answer)

	created, err = b.EnsureIndex(t.Context(), newEntity("films", titles, oneCopy))
	require.NoError(t, err)
	assert.Empty(t, created)
}

func TestEnsureIndexWithoutSettings(t *testing.T) {
	t.Parallel()
	b := open(t)
	b.entity(t, "films", "", "")
	created, err := b.EnsureIndex(t.Context(), newEntity("films", "", ""))
	require.NoError(t, err)
	assert.Empty(t, created)
	created, err = b.EnsureIndex(t.Context(), &saga.Entity{Name: "other"})
	require.NoError(t, err)
	assert.Empty(t, created, "an entity without the sink needs no index")
}

func TestEnsureIndexByManyAtOnce(t *testing.T) {
	t.Parallel()
	b := open(t)
	b.removeAfter(t, "films")
	var group errgroup.Group
	for range 8 {
		group.Go(func() error {
			_, err := b.EnsureIndex(t.Context(), newEntity("films", titles, oneCopy))
			return err
		})
	}
	require.NoError(t, group.Wait())
	_, answer := b.do(t, http.MethodGet, "/_alias/"+b.prefix.Alias("films"), "")
	assert.JSONEq(t, `{"`+b.prefix.FirstIndex("films")+`":{"aliases":{"`+b.prefix.Alias("films")+`":{"is_write_index":true}}}}`, answer)
}

func TestEnsureIndexRepairs(t *testing.T) {
	t.Parallel()
	b := open(t)
	b.entity(t, "films", titles, oneCopy)
	alias, index := b.prefix.Alias("films"), b.prefix.FirstIndex("films")

	status, answer := b.do(t, http.MethodDelete, "/"+index+"/_alias/"+alias, "")
	require.Equal(t, http.StatusOK, status, answer)
	created, err := b.EnsureIndex(t.Context(), newEntity("films", titles, oneCopy))
	require.NoError(t, err)
	assert.Equal(t, []string{"alias " + alias}, created)

	status, answer = b.do(t, http.MethodPut, "/"+index+"/_settings", `{"index.gc_deletes":"1m"}`)
	require.Equal(t, http.StatusOK, status, answer)
	_, err = b.EnsureIndex(t.Context(), newEntity("films", titles, oneCopy))
	require.NoError(t, err)
	_, answer = b.do(t, http.MethodGet, "/"+index+"/_settings/index.gc_deletes?filter_path=**.gc_deletes", "")
	assert.Contains(t, answer, "86400s")
}

func TestEnsureIndexAddsFields(t *testing.T) {
	t.Parallel()
	b := open(t)
	b.entity(t, "films", titles, oneCopy)
	more := newEntity("films", `{"properties": {"title": {"type": "text"}, "year": {"type": "long"}}}`, oneCopy)
	created, err := b.EnsureIndex(t.Context(), more)
	require.NoError(t, err)
	assert.Equal(t, []string{"fields in the mapping of " + b.prefix.Alias("films")}, created)
	created, err = b.EnsureIndex(t.Context(), more)
	require.NoError(t, err)
	assert.Empty(t, created)
}

func TestEnsureIndexRefusesAnotherType(t *testing.T) {
	t.Parallel()
	b := open(t)
	b.entity(t, "films", titles, oneCopy)
	_, err := b.EnsureIndex(t.Context(), newEntity("films", `{"properties": {"title": {"type": "long"}, "year": {"type": "long"}}}`, oneCopy))
	assert.Equal(t, saga.Rejected, saga.ClassOf(err))
	for _, text := range []string{b.prefix.Alias("films"), "[title]", "[text]", "[long]", "new index"} {
		assert.ErrorContains(t, err, text)
	}
	created, err := b.EnsureIndex(t.Context(), newEntity("films", titles, oneCopy))
	require.NoError(t, err)
	assert.Empty(t, created)
	_, template := b.do(t, http.MethodGet, "/_index_template/"+b.prefix.Alias("films"), "")
	assert.NotContains(t, template, "year", "a refused mapping must not reach the template")
}

func TestEnsureIndexBadCatalog(t *testing.T) {
	t.Parallel()
	b := open(t)
	b.removeAfter(t, "films")
	cases := []struct{ name, mappings, settings, says string }{
		{"unknown type", `{"properties": {"title": {"type": "txt"}}}`, oneCopy, "txt"},
		{"unknown setting", titles, `{"number_of_shard": 1}`, "number_of_shard"},
		{"settings are a list", titles, `[]`, "not a JSON object"},
		{"mappings are not JSON", `{`, oneCopy, "unexpected end"},
		{"our setting", titles, `{"gc_deletes": "1h"}`, "gc_deletes"},
		{"our setting, dotted", titles, `{"index.gc_deletes": "1h"}`, "gc_deletes"},
		{"our setting, nested", titles, `{"index": {"gc_deletes": "1h"}}`, "gc_deletes"},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			_, err := b.EnsureIndex(t.Context(), newEntity("films", c.mappings, c.settings))
			assert.Equal(t, saga.Rejected, saga.ClassOf(err))
			assert.ErrorContains(t, err, c.says)
			assert.ErrorContains(t, err, b.prefix.Alias("films"))
		})
	}
	status, _ := b.do(t, http.MethodHead, "/"+b.prefix.FirstIndex("films"), "")
	assert.Equal(t, http.StatusNotFound, status, "nothing half done")
}

func TestIndexInTheAliasPlace(t *testing.T) {
	t.Parallel()
	b := open(t)
	alias := b.prefix.Alias("films")
	status, answer := b.do(t, http.MethodPut, "/"+alias, "")
	require.Equal(t, http.StatusOK, status, answer)
	t.Cleanup(func() { b.do(t, http.MethodDelete, "/"+alias, "") })
	b.removeAfter(t, "films")
	created, err := b.EnsureIndex(t.Context(), newEntity("films", titles, oneCopy))
	assert.Equal(t, saga.Rejected, saga.ClassOf(err))
	assert.ErrorContains(t, err, alias)
	assert.True(t, slices.Contains(created, "index template "+alias))
}
