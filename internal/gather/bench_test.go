package gather_test

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/capsaga/capsaga/internal/elastic"
	"github.com/capsaga/capsaga/internal/gather"
	"github.com/capsaga/capsaga/internal/redis"
	"github.com/capsaga/capsaga/internal/sinkpub"
	"github.com/capsaga/capsaga/internal/stacktest"
	"github.com/capsaga/capsaga/saga"
)

// BenchmarkApply has callers apply one new row of 200 bytes at a time: each with
// requests of its own (plain), and gathered with one or two requests under way.
func BenchmarkApply(b *testing.B) {
	stack := stacktest.New(b)
	elasticsearch, err := elastic.Open(elastic.Config{URL: stack.ElasticsearchURL}, stack.Prefix)
	require.NoError(b, err)
	b.Cleanup(func() { _ = elasticsearch.Close() })
	const entity = "rows"
	_, err = elasticsearch.EnsureIndex(b.Context(), entityOf(entity))
	require.NoError(b, err)
	b.Cleanup(func() {
		for _, path := range []string{"/" + stack.Prefix.FirstIndex(entity), "/_index_template/" + stack.Prefix.Alias(entity)} {
			send(b, http.MethodDelete, stack.ElasticsearchURL+path, "")
		}
	})
	cache, err := redis.Open(stack.RedisURL, stack.Prefix)
	require.NoError(b, err)
	b.Cleanup(func() { _ = cache.Close() })
	catalog := &saga.Catalog{Entities: map[string]*saga.Entity{entity: {Name: entity, Redis: &saga.RedisSink{TTL: time.Minute, TombstoneTTL: time.Minute}}}}
	var keys atomic.Int64
	for _, sink := range []struct {
		name   string
		sink   gather.Applier
		limits gather.Limits
	}{
		{"redis", sinkpub.Redis(cache, catalog), gather.Limits{Documents: 1000}},
		{"elasticsearch", elasticsearch, gather.Limits{Documents: 2000, ByEntity: true}},
	} {
		for _, callers := range []int{1, 32, 256} {
			b.Run(fmt.Sprintf("%s/callers=%d/plain", sink.name, callers), func(b *testing.B) {
				benchCallers(b, sink.sink, entity, callers, &keys)
			})
			for _, requests := range []int{1, 2} {
				b.Run(fmt.Sprintf("%s/callers=%d/requests=%d", sink.name, callers, requests), func(b *testing.B) {
					limits := sink.limits
					limits.Requests = requests
					benchCallers(b, gather.New(sink.name, sink.sink, limits), entity, callers, &keys)
				})
			}
		}
	}
}

func entityOf(name string) *saga.Entity {
	return &saga.Entity{Name: name, Elasticsearch: &saga.ElasticsearchSink{
		Mappings: json.RawMessage(`{"properties":{"id":{"type":"long"},"text":{"type":"keyword"}}}`),
		Settings: json.RawMessage(`{"number_of_shards": 1, "index": {"number_of_replicas": "0"}}`),
	}}
}

func benchCallers(b *testing.B, sink gather.Applier, entity string, callers int, keys *atomic.Int64) {
	text := strings.Repeat("x", 160)
	var calls atomic.Int64
	took := make([]time.Duration, b.N)
	var group sync.WaitGroup
	b.ReportAllocs()
	b.ResetTimer()
	for range callers {
		group.Go(func() {
			for n := calls.Add(1); n <= int64(b.N); n = calls.Add(1) {
				key := fmt.Sprint(keys.Add(1))
				docs := []saga.Document{{Entity: entity, Key: key, Version: 1 << 53, Row: json.RawMessage(`{"id":` + key + `,"text":"` + text + `"}`)}}
				ctx, cancel := context.WithTimeout(b.Context(), 10*time.Second)
				began := time.Now()
				applied, err := sink.Apply(ctx, docs)
				took[n-1] = time.Since(began)
				cancel()
				if err != nil || applied[0].Err != nil || !applied[0].Changed {
					b.Errorf("not applied: %v %v", err, applied)
					return
				}
			}
		})
	}
	group.Wait()
	b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "docs/s")
	slices.Sort(took)
	b.ReportMetric(float64(took[b.N/2].Microseconds()), "p50-µs")
	b.ReportMetric(float64(took[b.N*99/100].Microseconds()), "p99-µs")
}

func send(t testing.TB, method, url, body string) {
	t.Helper()
	request, err := http.NewRequest(method, url, strings.NewReader(body))
	require.NoError(t, err)
	request.Header.Set("Content-Type", "application/json")
	response, err := http.DefaultClient.Do(request)
	require.NoError(t, err)
	defer response.Body.Close()
	require.Less(t, response.StatusCode, http.StatusBadRequest, "%s %s", method, url)
}
