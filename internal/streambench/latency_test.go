package streambench

import (
	"context"
	"fmt"
	"slices"
	"strconv"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/capsaga/capsaga/saga"
)

const (
	latencyRate  = 200 // commits a second
	latencyCount = 2000
	latencyWarm  = 200 // of them, not counted
)

// BenchmarkStreamLatency measures at 200 commits a second how long after COMMIT
// returned a row can be read at the sink: by a consumer of the topic, by HMGET, by
// a get of the document. Each sink has its stream alone; then all three run at
// once.
func BenchmarkStreamLatency(b *testing.B) {
	for _, sinks := range [][]saga.Sink{{saga.Kafka}, {saga.Redis}, {saga.Elasticsearch}, saga.Sinks} {
		name := string(sinks[0])
		if len(sinks) > 1 {
			name = "all"
		}
		b.Run(name, func(b *testing.B) { benchmarkLatency(b, sinks) })
	}
}

func benchmarkLatency(b *testing.B, sinks []saga.Sink) {
	w := newWorld(b)
	w.renew("latency")
	seen := map[saga.Sink]*arrivals{}
	ctx, cancel := context.WithCancel(context.Background())
	b.Cleanup(cancel)
	for _, sink := range sinks {
		publication := map[saga.Sink]string{saga.Kafka: saga.PublicationKafka, saga.Redis: saga.PublicationRedis, saga.Elasticsearch: saga.PublicationElasticsearch}[sink]
		_, stop := w.start(w.slot(publication), publication, sink)
		b.Cleanup(stop)
		seen[sink] = &arrivals{}
	}
	if kafka := seen[saga.Kafka]; kafka != nil {
		w.consume(ctx, kafka)
	}
	var waiting sync.WaitGroup
	began := time.Now()
	for n := range latencyCount {
		time.Sleep(time.Until(began.Add(time.Duration(n) * time.Second / latencyRate)))
		w.exec("INSERT INTO items VALUES ($1, 'item of the catalogue, with a title of some length', 'a note of a hundred bytes and a bit, as a description of the item would be, or the body of a message', 1, 99)", n)
		committed := time.Now()
		for sink, a := range seen {
			a.commit(n, committed)
			if sink != saga.Kafka {
				waiting.Go(func() { w.poll(ctx, sink, n, a) })
			}
		}
	}
	waiting.Wait()
	for sink, a := range seen {
		took := a.latencies(b)
		b.ReportMetric(took[len(took)/2], string(sink)+"-p50-ms")
		b.ReportMetric(took[len(took)*99/100], string(sink)+"-p99-ms")
	}
	b.ReportMetric(0, "ns/op")
}

// arrivals holds when each row was committed and seen.
type arrivals struct {
	mu              sync.Mutex
	committed, seen [latencyCount]time.Time
}

func (a *arrivals) commit(n int, at time.Time) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.committed[n] = at
}

func (a *arrivals) arrive(n int) {
	now := time.Now()
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.seen[n].IsZero() {
		a.seen[n] = now
	}
}

// latencies waits for the last row and returns milliseconds, sorted.
func (a *arrivals) latencies(b *testing.B) []float64 {
	deadline := time.Now().Add(30 * time.Second)
	for {
		a.mu.Lock()
		missing := slices.IndexFunc(a.seen[:], time.Time.IsZero)
		a.mu.Unlock()
		if missing < 0 {
			break
		}
		require.True(b, time.Now().Before(deadline), "row %d has not arrived", missing)
		time.Sleep(10 * time.Millisecond)
	}
	var took []float64
	for n := latencyWarm; n < latencyCount; n++ {
		took = append(took, max(0, float64(a.seen[n].Sub(a.committed[n]).Microseconds())/1000))
	}
	slices.Sort(took)
	return took
}

// poll reads a row until it is there.
func (w *world) poll(ctx context.Context, sink saga.Sink, n int, a *arrivals) {
	for ctx.Err() == nil {
		var found bool
		var err error
		pause := 100 * time.Microsecond
		if sink == saga.Redis {
			_, found, err = w.redis.Get(ctx, "items", strconv.Itoa(n))
		} else {
			_, found, err = w.elastic.Get(ctx, "items", strconv.Itoa(n))
			pause = time.Millisecond
		}
		if err == nil && found {
			a.arrive(n)
			return
		}
		time.Sleep(pause)
	}
}

// consume notes the rows that come in the topic.
func (w *world) consume(ctx context.Context, a *arrivals) {
	topic, err := w.prefix.Topic(saga.Table{Schema: "public", Name: "items"})
	require.NoError(w.b, err)
	w.topic(topic)
	client, err := kgo.NewClient(kgo.SeedBrokers(w.stack.KafkaBrokers...), kgo.ConsumeTopics(topic), kgo.ConsumeResetOffset(kgo.NewOffset().AtStart()))
	require.NoError(w.b, err)
	w.b.Cleanup(client.Close)
	go func() {
		for ctx.Err() == nil {
			client.PollFetches(ctx).EachRecord(func(r *kgo.Record) {
				var n int
				if _, err := fmt.Sscanf(string(r.Key), `{"id":%d}`, &n); err == nil {
					a.arrive(n)
				}
			})
		}
	}()
}
