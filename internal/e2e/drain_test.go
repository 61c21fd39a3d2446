package e2e

import (
	"context"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/capsaga/capsaga/internal/stacktest"
	"github.com/capsaga/capsaga/saga"
	"github.com/capsaga/capsaga/saga/client"
)

// A worker that is told to stop under load ends in time and well. No caller sees
// an error, every saga completes, and the stream goes on within five seconds.
func TestDrain(t *testing.T) {
	w := newWorld(t)
	first := w.startWorker("CAPSAGA_DRAIN_TIMEOUT=20s")
	p := w.startProbe()
	second := w.startWorker()
	const callers = 32
	ctx, cancel := context.WithTimeout(context.Background(), 3*time.Minute)
	defer cancel()
	var written, slowest atomic.Int64
	var enough atomic.Bool
	var group sync.WaitGroup
	for range callers {
		group.Go(func() {
			for !enough.Load() && ctx.Err() == nil {
				n := written.Add(1)
				began := time.Now()
				o, err := w.client.Write(ctx, saga.Write{SagaID: w.id("%d", n), Mutations: []saga.Mutation{
					upsert("products", "id", n%100, "title", w.id("%d", n)),
				}}, client.WaitCommitted)
				if err != nil || o.Version == 0 {
					t.Errorf("saga %d: %+v, %v", n, o, err)
				}
				for took := int64(time.Since(began)); took > slowest.Load(); {
					slowest.Store(took)
				}
			}
		})
	}
	stop := func() {
		enough.Store(true)
		group.Wait()
	}
	t.Cleanup(stop)
	reached := func(n int64) {
		stacktest.Eventually(t, time.Minute, func() error {
			if is := written.Load(); is < n {
				return fmt.Errorf("%d sagas are written of %d", is, n)
			}
			return nil
		})
	}
	reached(2 * callers)
	began := time.Now()
	t.Logf("the worker drained in %s", first.terminate(20*time.Second))
	require.Same(t, second, w.holder(second))
	handover := awaitTakeover(t, p, began)
	t.Logf("the longest that an event was under way: %s", handover)
	reached(written.Load() + 4*callers)
	stop()
	sagas := map[string]int{}
	for n := int64(1); n <= written.Load(); n++ {
		sagas[w.id("%d", n)] = 1
		require.Equal(t, saga.Completed, w.await(w.id("%d", n)).Status)
	}
	t.Logf("%d sagas, the slowest answered after %s", len(sagas), time.Duration(slowest.Load()))
	w.requireConverged(sagas)
}
