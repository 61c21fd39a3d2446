package kafkapub_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/capsaga/capsaga/internal/kafka"
	"github.com/capsaga/capsaga/internal/kafkapub"
	"github.com/capsaga/capsaga/internal/stacktest"
	"github.com/capsaga/capsaga/internal/stream"
	"github.com/capsaga/capsaga/saga"
)

// requireAlarm waits until the stream is reported as standing still with words
// of that kind, and checks that a waiter hears of it and nothing is confirmed.
func (w *world) requireAlarm(r *running, words ...string) {
	w.t.Helper()
	lsn := w.flushed()
	var info stream.Info
	stacktest.Eventually(w.t, 20*time.Second, func() error {
		infos, err := stream.Status(context.Background(), w.pool(), w.stack.Prefix)
		if err != nil || len(infos) != 1 || infos[0].Error == "" {
			return fmt.Errorf("%w: %+v", errors.Join(err, errors.New("no alarm")), infos)
		}
		info = infos[0]
		for _, word := range words {
			if !strings.Contains(info.Error, word) {
				return fmt.Errorf("the alarm %q does not say %q", info.Error, word)
			}
		}
		return nil
	})
	require.Less(w.t, info.ConfirmedLSN, lsn)
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	err := r.positions.Wait(ctx, lsn)
	require.Error(w.t, err)
	require.Equal(w.t, saga.Unavailable, saga.ClassOf(err))
	require.Contains(w.t, err.Error(), words[0])
}

func TestAMissingSlotIsReported(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.exec("SELECT pg_drop_replication_slot($1)", w.slot)
	r := w.start()
	err := r.positions.Wait(context.Background(), w.flushed())
	require.ErrorContains(t, err, "does not exist")
	require.ErrorContains(t, err, "catalog apply")
	w.exec("SELECT pg_create_logical_replication_slot($1, 'pgoutput')", w.slot)
	w.settle(r.positions)
}

func TestNobodyHoldsTheStream(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.exec("SELECT pg_logical_emit_message(false, 'x', 'y')")
	err := stream.NewPositions(w.pool(), w.slot).Wait(context.Background(), w.flushed()+1)
	require.ErrorContains(t, err, "no worker holds the stream")
}

// slowCluster holds acknowledgements back.
type slowCluster struct {
	mu   sync.Mutex
	held []func()
	hold bool
}

func (s *slowCluster) slow(outcome kafka.Outcome) kafka.Outcome {
	told := outcome.Acknowledged
	outcome.Acknowledged = func(n int) {
		s.mu.Lock()
		defer s.mu.Unlock()
		if s.hold {
			s.held = append(s.held, func() { told(n) })
			return
		}
		told(n)
	}
	return outcome
}

func (s *slowCluster) set(hold bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.hold = hold
	for _, done := range s.held {
		done()
	}
	s.held = nil
}

// TestAClusterThatIsAwayOnlyDelays holds acknowledgements back for longer than
// the walsender's timeout while far more is written than the stream may buffer:
// it has to keep the slot, to say why it stands still, and then to go on.
func TestAClusterThatIsAwayOnlyDelays(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.exec("CREATE TABLE products (id int PRIMARY KEY, note text)")
	slow := &slowCluster{}
	publisher := kafkapub.New(kafkapub.Config{
		Prefix: w.stack.Prefix, DatabaseName: w.stack.Database, Database: w.pool(), Topics: w.kafka,
		NewProducer: func(outcome kafka.Outcome) (kafkapub.Producer, error) { return w.kafka.NewProducer(slow.slow(outcome)) },
	})
	r := w.start(func(c *stream.Config, _ *kafkapub.Config) { c.Handler, c.MaxInFlightBytes = publisher, 1<<20 })
	w.exec("INSERT INTO products VALUES (0, '')")
	w.settle(r.positions)

	slow.set(true)
	const rows = 30_000
	w.exec("INSERT INTO products SELECT id, repeat('x', 800) FROM generate_series(1, $1) id", rows)
	away := time.Now()
	w.requireAlarm(r, "was acknowledged")
	stacktest.Eventually(t, 20*time.Second, func() error {
		if time.Since(away) < 7*time.Second {
			return errors.New("not away for long enough yet")
		}
		return nil
	})
	require.True(t, r.Stats().Holding.Load())
	require.EqualValues(t, 1, r.Stats().Generation.Load(), "it kept the slot")
	require.Less(t, r.Stats().InFlight.Load(), int64(2000), "what is in flight is bounded")
	slow.set(false)
	w.settle(r.positions)
	require.EqualValues(t, 1, r.Stats().Generation.Load())
	require.Zero(t, r.Stats().Losses.Load())
	require.Len(t, w.events(w.topic("products")), rows+1)
}
