package streambench

import (
	"bytes"
	"context"
	"fmt"
	"net/http"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/capsaga/capsaga/internal/stream"
	"github.com/capsaga/capsaga/saga"
)

const (
	backlogRows = 200_000
	rounds      = 5
)

// figures are those of one contestant, a value per round.
type figures struct{ rows, cpu, peak []float64 }

func (f *figures) add(rows int, took, cpu time.Duration, peakMB float64) {
	f.rows = append(f.rows, float64(rows)/took.Seconds())
	f.cpu = append(f.cpu, cpu.Seconds()*100_000/float64(rows))
	f.peak = append(f.peak, peakMB)
}

func median(values []float64) float64 {
	sorted := slices.Sorted(slices.Values(values))
	return sorted[len(sorted)/2]
}

func (f *figures) report(b *testing.B, name string) {
	b.ReportMetric(median(f.rows), name+"-rows/s")
	b.ReportMetric(median(f.cpu), name+"-cpu-s/100k")
	b.ReportMetric(slices.Max(f.peak), name+"-peak-MB")
}

// BenchmarkStreamBacklog runs after the latencies: Elasticsearch merges for a while what it
// has taken. It measures how fast each stream works off 200,000 inserts of
// 200 bytes in transactions of 100, beside a minimal reader and a bare bulk loader.
func BenchmarkStreamBacklog(b *testing.B) {
	w := newWorld(b)
	contestants := []string{"minimal-reader", "kafka", "redis", "bulk-loader", "elasticsearch", "all-three"}
	results := map[string]*figures{}
	for _, name := range contestants {
		results[name] = &figures{}
	}
	for round := range rounds {
		w.exec("TRUNCATE items")
		slots := map[string]string{}
		for _, name := range []string{"minimal_reader", "kafka", "redis", "elasticsearch", "all_kafka", "all_redis", "all_elasticsearch"} {
			slots[name] = w.slot(fmt.Sprintf("%s_%d", name, round))
		}
		w.fill(round*backlogRows, backlogRows)
		order := slices.Clone(contestants)
		if round%2 == 1 {
			slices.Reverse(order)
		}
		for _, name := range order {
			runtime.GC()
			w.renew(fmt.Sprintf("%s_%d", strings.ReplaceAll(name, "-", "_"), round))
			took, cpu, peak := measure(b, func() { w.contest(name, slots) })
			results[name].add(backlogRows, took, cpu, peak)
		}
		for _, slot := range slots {
			w.dropSlot(slot)
		}
	}
	for _, name := range contestants {
		results[name].report(b, name)
	}
	ratio := func(a, of string) { b.ReportMetric(median(results[a].rows)/median(results[of].rows), a+"/"+of) }
	ratio("kafka", "minimal-reader")
	ratio("redis", "minimal-reader")
	ratio("elasticsearch", "bulk-loader")
	b.ReportMetric(0, "ns/op")
}

func (w *world) contest(name string, slots map[string]string) {
	sinks := map[string]saga.Sink{"kafka": saga.Kafka, "redis": saga.Redis, "elasticsearch": saga.Elasticsearch}
	publications := map[saga.Sink]string{saga.Kafka: saga.PublicationKafka, saga.Redis: saga.PublicationRedis, saga.Elasticsearch: saga.PublicationElasticsearch}
	switch name {
	case "minimal-reader":
		w.readMinimally(slots["minimal_reader"], w.lean())
	case "bulk-loader":
		w.loadInBulk()
	case "all-three":
		var all []*stream.Positions
		var stops []func()
		defer func() {
			for _, stop := range stops {
				stop()
			}
		}()
		for _, sink := range []string{"elasticsearch", "redis", "kafka"} {
			positions, stop := w.start(slots["all_"+sink], publications[sinks[sink]], sinks[sink])
			all, stops = append(all, positions), append(stops, stop)
		}
		for _, positions := range all {
			w.confirmed(positions)
		}
	default:
		positions, stop := w.start(slots[name], publications[sinks[name]], sinks[name])
		w.confirmed(positions)
		stop()
	}
}

// lean returns the topic of the minimal reader.
func (w *world) lean() string {
	topic, err := w.prefix.Topic(saga.Table{Schema: "bench", Name: "lean"})
	require.NoError(w.b, err)
	w.topic(topic)
	return topic
}

// loadInBulk is the floor of every stream to Elasticsearch: the same rows as
// documents, made in memory and indexed in requests of 2,000, two at a time, with
// external versions as any stream that may repeat itself needs them.
func (w *world) loadInBulk() {
	index := string(w.prefix) + "-bulk"
	w.request(http.MethodPut, "/"+index, []byte(`{"settings":{"number_of_shards":1,"number_of_replicas":0}}`))
	const batch = 2000
	bodies := make(chan []byte)
	done := make(chan struct{})
	for range 2 {
		go func() {
			for body := range bodies {
				w.request(http.MethodPost, "/_bulk?filter_path=errors", body)
			}
			done <- struct{}{}
		}()
	}
	for first := 0; first < w.rows; first += batch {
		var body bytes.Buffer
		for id := first; id < first+batch; id++ {
			n := id%100 + 1
			fmt.Fprintf(&body, `{"index":{"_index":%q,"_id":"%d","version":%d,"version_type":"external"}}`+"\n", index, id, 1<<53+id)
			fmt.Fprintf(&body, `{"id":%d,"title":"item %d of the catalogue, with a title of some length","note":"a note of a hundred bytes and a bit, as a description of the item would be, or the body of a message","n":%d,"price":%d}`+"\n", id, n, n, n*99)
		}
		bodies <- body.Bytes()
	}
	close(bodies)
	<-done
	<-done
}

func (w *world) request(method, path string, body []byte) {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	request, err := http.NewRequestWithContext(ctx, method, w.stack.ElasticsearchURL+path, bytes.NewReader(body))
	require.NoError(w.b, err)
	request.Header.Set("Content-Type", "application/json")
	response, err := http.DefaultClient.Do(request)
	require.NoError(w.b, err)
	defer func() { _ = response.Body.Close() }()
	var answer bytes.Buffer
	_, err = answer.ReadFrom(response.Body)
	require.NoError(w.b, err)
	require.Less(w.b, response.StatusCode, 300, "%s %s: %s", method, path, answer.String())
	require.NotContains(w.b, answer.String(), `"errors":true`)
}
