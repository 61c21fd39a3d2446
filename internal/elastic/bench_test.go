package elastic_test

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/capsaga/capsaga/internal/elastic"
	"github.com/capsaga/capsaga/internal/stacktest"
	"github.com/capsaga/capsaga/saga"
)

// BenchmarkApply indexes new rows of 200 bytes in batches of several sizes, one or
// two at a time. Beside it stands a bare bulk loader: the same rows and ids, without
// versions, whose answer is asked for nothing but whether all went well. Next to
// rows/s, which depend on who else uses the cores, stand the microseconds of CPU that
// a row costs on each side.
func BenchmarkApply(b *testing.B) {
	stack := stacktest.New(b)
	store, err := elastic.Open(elastic.Config{URL: stack.ElasticsearchURL}, stack.Prefix)
	require.NoError(b, err)
	apply := func(ctx context.Context, docs []saga.Document) error {
		applied, err := store.Apply(ctx, docs)
		for _, a := range applied {
			if a.Err != nil || !a.Changed {
				return fmt.Errorf("not applied: %w", a.Err)
			}
		}
		return err
	}
	client := &http.Client{Transport: &http.Transport{MaxIdleConnsPerHost: 4}}
	bare := func(ctx context.Context, docs []saga.Document) error {
		return bareBulk(ctx, client, stack.ElasticsearchURL, stack.Prefix.FirstIndex(docs[0].Entity), docs)
	}
	for _, size := range []int{500, 1000, 2000, 5000} {
		for _, flights := range []int{1, 2} {
			for _, c := range []struct {
				name  string
				write func(context.Context, []saga.Document) error
			}{{"bare", bare}, {"apply", apply}} {
				b.Run(fmt.Sprintf("batch=%d/flights=%d/%s", size, flights, c.name), func(b *testing.B) {
					entity := fmt.Sprintf("e%d", time.Now().UnixNano())
					created := newEntity(entity, `{"properties":{"id":{"type":"long"},"text":{"type":"keyword"}}}`, oneCopy)
					_, err := store.EnsureIndex(b.Context(), created)
					require.NoError(b, err)
					defer func() {
						for _, path := range []string{"/" + stack.Prefix.FirstIndex(entity), "/_index_template/" + stack.Prefix.Alias(entity)} {
							request, err := http.NewRequest(http.MethodDelete, stack.ElasticsearchURL+path, nil) //nolint:noctx // it ends the benchmark
							require.NoError(b, err)
							response, err := client.Do(request)
							require.NoError(b, err)
							_ = response.Body.Close()
						}
					}()
					before := serverCPU(b, client, stack.ElasticsearchURL)
					benchFlights(b, entity, size, flights, c.write)
					used := serverCPU(b, client, stack.ElasticsearchURL) - before
					b.ReportMetric(float64(used.Microseconds())/float64(b.N*size), "server-µs/row")
				})
			}
		}
	}
}

// serverCPU returns the CPU time that the server has used.
func serverCPU(b *testing.B, client *http.Client, url string) (used time.Duration) {
	request, err := http.NewRequestWithContext(b.Context(), http.MethodGet, url+"/_nodes/stats/process?filter_path=nodes.*.process.cpu.total_in_millis", nil)
	require.NoError(b, err)
	response, err := client.Do(request)
	require.NoError(b, err)
	defer response.Body.Close()
	var reply struct {
		Nodes map[string]struct {
			Process struct {
				CPU struct {
					Millis int64 `json:"total_in_millis"`
				} `json:"cpu"`
			} `json:"process"`
		} `json:"nodes"`
	}
	require.NoError(b, json.NewDecoder(response.Body).Decode(&reply))
	for _, node := range reply.Nodes {
		used += time.Duration(node.Process.CPU.Millis) * time.Millisecond
	}
	return used
}

func benchFlights(b *testing.B, entity string, size, flights int, write func(context.Context, []saga.Document) error) {
	text := strings.Repeat("x", 160)
	var batches atomic.Int64
	var group sync.WaitGroup
	var began syscall.Rusage
	require.NoError(b, syscall.Getrusage(syscall.RUSAGE_SELF, &began))
	b.ReportAllocs()
	b.ResetTimer()
	for range flights {
		group.Go(func() {
			docs := make([]saga.Document, size)
			for {
				n := int(batches.Add(1)) - 1
				if n >= b.N {
					return
				}
				for i := range docs {
					key := fmt.Sprint(n*size + i)
					docs[i] = saga.Document{Entity: entity, Key: key, Version: version + saga.Version(n), Row: json.RawMessage(`{"id":` + key + `,"text":"` + text + `"}`)}
				}
				if err := write(b.Context(), docs); err != nil {
					b.Error(err)
					return
				}
			}
		})
	}
	group.Wait()
	var ended syscall.Rusage
	require.NoError(b, syscall.Getrusage(syscall.RUSAGE_SELF, &ended))
	rows := float64(b.N * size)
	used := time.Duration(ended.Utime.Nano() + ended.Stime.Nano() - began.Utime.Nano() - began.Stime.Nano())
	b.ReportMetric(rows/b.Elapsed().Seconds(), "rows/s")
	b.ReportMetric(float64(used.Microseconds())/rows, "client-µs/row")
}

func bareBulk(ctx context.Context, client *http.Client, url, index string, docs []saga.Document) error {
	var body bytes.Buffer
	for _, doc := range docs {
		fmt.Fprintf(&body, "{\"index\":{\"_id\":%q}}\n", doc.Key)
		body.Write(doc.Row)
		body.WriteByte('\n')
	}
	request, err := http.NewRequestWithContext(ctx, http.MethodPost, url+"/"+index+"/_bulk?filter_path=errors", &body)
	if err != nil {
		return err
	}
	request.Header.Set("Content-Type", "application/x-ndjson")
	response, err := client.Do(request)
	if err != nil {
		return err
	}
	defer response.Body.Close()
	answer, err := io.ReadAll(response.Body)
	if err == nil && !strings.Contains(string(answer), `"errors":false`) {
		err = fmt.Errorf("bulk: %s", answer)
	}
	return err
}
