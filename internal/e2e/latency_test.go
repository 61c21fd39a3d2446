package e2e

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/capsaga/capsaga/internal/stream"
	"github.com/capsaga/capsaga/saga"
)

// BenchmarkAcknowledgedByOtherWorker measures from the return of COMMIT to the
// stream's confirmation, as a saga waits for it whose worker does not hold the
// stream. Wanted: p50 under 5 ms, p99 under 30 ms.
func BenchmarkAcknowledgedByOtherWorker(b *testing.B) {
	for _, rate := range []int{0, 1000} {
		b.Run(fmt.Sprintf("beside=%d rows/s", rate), func(b *testing.B) {
			w := newWorld(b)
			w.exec("CREATE TABLE beside (id bigserial PRIMARY KEY, note text)")
			w.exec("CREATE TABLE probe (id bigserial PRIMARY KEY)")
			w.startWorker("CAPSAGA_ROLES=stream")
			positions := stream.NewPositions(w.db, w.stack.Prefix.Slot(saga.PublicationKafka))
			w.acknowledged(positions) // the topic is made
			w.beside(rate)
			took := make([]time.Duration, 0, b.N)
			for b.Loop() {
				took = append(took, w.acknowledged(positions))
			}
			slices.Sort(took)
			for _, percent := range []int{50, 99} {
				b.ReportMetric(float64(took[(len(took)-1)*percent/100].Microseconds())/1000, fmt.Sprintf("p%d-ms", percent))
			}
		})
	}
}

// acknowledged commits a row and waits until Kafka has it.
func (w *world) acknowledged(positions *stream.Positions) time.Duration {
	w.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	w.exec("INSERT INTO probe DEFAULT VALUES")
	began := time.Now()
	lsn, err := saga.ParseLSN(value[string](w, "SELECT pg_current_wal_flush_lsn()::text"))
	require.NoError(w.t, err)
	require.NoError(w.t, positions.Wait(ctx, lsn))
	return time.Since(began)
}

// beside writes rows at a rate until the test ends, ten in a commit.
func (w *world) beside(rate int) {
	if rate == 0 {
		return
	}
	ctx, cancel := context.WithCancel(context.Background())
	var writer sync.WaitGroup
	writer.Go(func() {
		tick := time.NewTicker(time.Second * 10 / time.Duration(rate))
		defer tick.Stop()
		for {
			select {
			case <-tick.C:
				_, _ = w.db.Exec(ctx, "INSERT INTO beside (note) SELECT 'row ' || n FROM generate_series(1, 10) n")
			case <-ctx.Done():
				return
			}
		}
	})
	w.t.Cleanup(func() {
		cancel()
		writer.Wait()
	})
}
