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
		return nil
	})
	for _, word := range words {
		require.Contains(w.t, info.Error, word)
	}
	require.Less(w.t, info.ConfirmedLSN, lsn)
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	err := r.positions.Wait(ctx, lsn)
	require.Error(w.t, err)
	require.Equal(w.t, saga.Unavailable, saga.ClassOf(err))
	require.Contains(w.t, err.Error(), words[0])
}

func TestTruncateStopsTheStreamAndStaysAlarmed(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.exec("CREATE TABLE products (id int PRIMARY KEY)")
	r := w.start()
	w.exec("INSERT INTO products VALUES (1)")
	w.settle(r.positions)
	w.exec("TRUNCATE products")
	w.exec("INSERT INTO products VALUES (2)")
	w.requireAlarm(r, "TRUNCATE", "public.products")
	alarms := r.Stats().Alarms.Load()
	stacktest.Eventually(t, 10*time.Second, func() error {
		if r.Stats().Alarms.Load() <= alarms {
			return errors.New("it was not tried again")
		}
		return nil
	})
	require.True(t, r.Stats().Alarmed.Load())
	require.Len(t, w.events(w.topic("products")), 1, "nothing after the TRUNCATE is published")
}

func TestAnotherKeyStopsTheStream(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.exec("CREATE TABLE products (id int PRIMARY KEY, code text NOT NULL UNIQUE)")
	r := w.start()
	w.exec("INSERT INTO products VALUES (1, 'a')")
	w.settle(r.positions)
	w.exec("ALTER TABLE products DROP CONSTRAINT products_pkey, ADD PRIMARY KEY (code)")
	w.exec("INSERT INTO products VALUES (2, 'b')")
	w.requireAlarm(r, "key columns", "public.products", "(id)", "(code)")
	r.stop()
	r = w.start() // another process, which has not seen the old key
	w.held(3)
	w.requireAlarm(r, "key columns", "public.products", "(id)", "(code)")
	require.Len(t, w.events(w.topic("products")), 1)

	w.deleteTopic("products")
	w.settle(r.positions)
	require.Equal(t, `{"code":"b"}`, w.events(w.topic("products"))[0].Key)
}

func TestARefusedRecordStopsTheStreamUntilItIsMended(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.exec("CREATE TABLE products (id int PRIMARY KEY, note text)")
	r := w.start()
	w.exec("INSERT INTO products VALUES (1, 'small')")
	w.settle(r.positions)
	w.exec("INSERT INTO products VALUES (2, $1)", strings.Repeat("large", 300_000))
	w.exec("INSERT INTO products VALUES (3, 'small')")
	w.requireAlarm(r, "public.products", w.topic("products"), "max.message.bytes")
	require.Len(t, w.events(w.topic("products")), 1, "what follows is not written ahead of it")

	w.setTopic("products", "max.message.bytes", "4000000")
	w.settle(r.positions)
	events := w.events(w.topic("products"))
	require.Len(t, events, 3)
	require.Equal(t, []string{`{"id":1}`, `{"id":2}`, `{"id":3}`}, []string{events[0].Key, events[1].Key, events[2].Key})
	stacktest.Eventually(t, 5*time.Second, func() error {
		infos, err := stream.Status(context.Background(), w.pool(), w.stack.Prefix)
		if err != nil || infos[0].Error != "" {
			return fmt.Errorf("%w: %+v", errors.Join(err, errors.New("still alarmed")), infos)
		}
		return nil
	})
	require.False(t, r.Stats().Alarmed.Load())
}

func TestAKeylessTableNeedsATopicWithDeletePolicy(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.exec("CREATE TABLE keyless (n int)")
	_, err := w.kafka.EnsureTopics(context.Background(), []kafka.TopicSpec{{Name: w.topic("keyless"), Cleanup: "compact"}})
	require.NoError(t, err)
	r := w.start()
	w.exec("INSERT INTO keyless VALUES (1)")
	w.requireAlarm(r, "public.keyless", w.topic("keyless"))
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
	kafkapub.Producer
	mu   sync.Mutex
	held []func()
	hold bool
}

func (s *slowCluster) Produce(ctx context.Context, r kafka.Record, done func(error)) error {
	return s.Producer.Produce(ctx, r, func(err error) {
		s.mu.Lock()
		defer s.mu.Unlock()
		if s.hold {
			s.held = append(s.held, func() { done(err) })
			return
		}
		done(err)
	})
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
		NewProducer: func() (kafkapub.Producer, error) {
			producer, err := w.kafka.NewProducer()
			slow.Producer = producer
			return slow, err
		},
	})
	r := w.start(func(c *stream.Config, _ *kafkapub.Config) { c.Handler, c.MaxInFlightBytes = publisher, 1<<20 })
	w.exec("INSERT INTO products VALUES (0, '')")
	w.settle(r.positions)

	slow.set(true)
	const rows = 30_000
	w.exec("INSERT INTO products SELECT id, repeat('x', 800) FROM generate_series(1, $1) id", rows)
	away := time.Now()
	w.requireAlarm(r, "nothing was acknowledged")
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
