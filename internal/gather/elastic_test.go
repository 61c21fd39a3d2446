package gather_test

import (
	"context"
	"net/http"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/capsaga/capsaga/internal/elastic"
	"github.com/capsaga/capsaga/internal/gather"
	"github.com/capsaga/capsaga/internal/stacktest"
)

// Elasticsearch answers a bulk request only when it has an answer for each document,
// and for an index whose shard is nowhere that takes a minute.
func TestIndexThatIsAwayHoldsNoOther(t *testing.T) {
	t.Parallel()
	stack := stacktest.New(t)
	store, err := elastic.Open(elastic.Config{URL: stack.ElasticsearchURL}, stack.Prefix)
	require.NoError(t, err)
	t.Cleanup(func() { _ = store.Close() })
	_, err = store.EnsureIndex(t.Context(), entityOf("green"))
	require.NoError(t, err)
	red := stack.ElasticsearchURL + "/" + stack.Prefix.FirstIndex("red")
	send(t, http.MethodPut, red+"?wait_for_active_shards=0", `{
		"settings": {"number_of_replicas": 0, "index.routing.allocation.require._name": "nowhere"},
		"aliases": {"`+stack.Prefix.Alias("red")+`": {}}}`)
	t.Cleanup(func() {
		for _, path := range []string{"/" + stack.Prefix.FirstIndex("green"), "/_index_template/" + stack.Prefix.Alias("green")} {
			send(t, http.MethodDelete, stack.ElasticsearchURL+path, "")
		}
		send(t, http.MethodDelete, red, "")
	})
	sink := gather.New("elasticsearch", store, gather.Limits{Requests: 1, ByEntity: true})
	hang, cancel := context.WithCancel(t.Context())
	ended := make(chan error)
	const callers = 3
	for range callers {
		go func() {
			_, err := sink.Apply(hang, documents("red/1"))
			ended <- err
		}()
	}
	for range 5 {
		ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
		applied, err := sink.Apply(ctx, documents("green/1 green/2"))
		cancel()
		require.NoError(t, err)
		require.NoError(t, applied[0].Err)
	}
	select {
	case err := <-ended:
		t.Fatalf("the index that is away answered: %v", err)
	default:
	}
	cancel()
	for range callers {
		require.ErrorIs(t, <-ended, context.Canceled)
	}
}
