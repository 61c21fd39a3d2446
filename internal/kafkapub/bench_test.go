package kafkapub_test

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/capsaga/capsaga/internal/stream"
)

// BenchmarkCommitToAcknowledged measures from a COMMIT's return until the slot
// has confirmed it, which is when Kafka has acknowledged it: in the process that
// holds the stream and in another, on an idle database and beside 1,000 rows/s.
func BenchmarkCommitToAcknowledged(b *testing.B) {
	for _, load := range []int{0, 1000} {
		for _, where := range []string{"holder", "other"} {
			b.Run(fmt.Sprintf("rows=%d/%s", load, where), func(b *testing.B) {
				benchmarkLatency(b, load, where == "other")
			})
		}
	}
}

func benchmarkLatency(b *testing.B, load int, other bool) {
	w := newWorld(b)
	w.exec("CREATE TABLE products (id bigint PRIMARY KEY, title text)")
	w.exec("CREATE TABLE noise (id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, title text)")
	w.exec("INSERT INTO products VALUES (0, '')")
	r := w.start()
	positions := r.positions
	if other {
		positions = stream.NewPositions(w.pool(), w.slot)
	}
	w.exec("INSERT INTO noise (title) VALUES ('first')")
	w.settle(positions)
	ctx, cancel := context.WithCancel(context.Background())
	var group sync.WaitGroup
	if load > 0 {
		group.Go(func() { w.insertEvery(ctx, time.Second/time.Duration(load)) })
	}
	var took []time.Duration
	for b.Loop() {
		w.exec("INSERT INTO products VALUES ($1, 'a title of some length for a row of about a hundred bytes in all') ON CONFLICT (id) DO UPDATE SET title = excluded.title", len(took)%100)
		start := time.Now()
		require.NoError(b, positions.Wait(ctx, w.flushed()))
		took = append(took, time.Since(start))
	}
	cancel()
	group.Wait()
	slices.Sort(took)
	b.ReportMetric(float64(took[len(took)/2].Microseconds())/1000, "p50-ms")
	b.ReportMetric(float64(took[len(took)*99/100].Microseconds())/1000, "p99-ms")
	b.ReportMetric(float64(took[len(took)-1].Microseconds())/1000, "max-ms")
}

// insertEvery commits one row per interval, as far as the server keeps up.
func (w *world) insertEvery(ctx context.Context, interval time.Duration) {
	start := time.Now()
	for n := 1; ctx.Err() == nil; n++ {
		if ahead := time.Duration(n)*interval - time.Since(start); ahead > 0 {
			time.Sleep(ahead)
		}
		_, _ = w.pool().Exec(ctx, "INSERT INTO noise (title) VALUES ('a title of some length for a row of about a hundred bytes in all')")
	}
}

// BenchmarkBacklog measures how fast a stream publishes what was written while
// nobody held it: b.N rows, in transactions of 1, 100 and all of them.
func BenchmarkBacklog(b *testing.B) {
	for _, rows := range []int{1, 100, 1_000_000} {
		b.Run(fmt.Sprintf("rows-a-transaction=%d", rows), func(b *testing.B) {
			w := newWorld(b)
			w.exec("CREATE TABLE products (id bigint PRIMARY KEY, title text, stock int)")
			w.exec(fmt.Sprintf(`CREATE PROCEDURE fill(n int) LANGUAGE plpgsql AS $$
				BEGIN FOR i IN 1..n LOOP
					INSERT INTO products VALUES (i, 'a title of some length for a row of about a hundred bytes in all', i);
					IF i %% %d = 0 THEN COMMIT; END IF;
				END LOOP; END $$`, rows))
			w.exec("CALL fill($1)", b.N)
			b.ResetTimer()
			r := w.start()
			w.settle(r.positions)
			b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "rows/s")
			require.GreaterOrEqual(b, r.Stats().Changes.Load(), int64(b.N))
		})
	}
}
