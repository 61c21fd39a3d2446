package kafkapub_test

import (
	"context"
	"errors"
	"net"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/capsaga/capsaga/internal/kafka"
	"github.com/capsaga/capsaga/internal/kafkapub"
	"github.com/capsaga/capsaga/internal/stacktest"
	"github.com/capsaga/capsaga/internal/stream"
	"github.com/capsaga/capsaga/saga"
)

// startBehind runs a reader whose producer reaches the broker through a proxy.
func (w *world) startBehind(link *proxy) *running {
	w.t.Helper()
	client, err := kafka.Open(kafka.Config{
		Brokers: w.stack.KafkaBrokers,
		Dial: func(ctx context.Context, network, _ string) (net.Conn, error) {
			return (&net.Dialer{Timeout: time.Second}).DialContext(ctx, network, link.listener.Addr().String())
		},
	})
	require.NoError(w.t, err)
	w.t.Cleanup(client.Close)
	return w.start(func(c *stream.Config, _ *kafkapub.Config) {
		c.Handler = kafkapub.Open(client, kafkapub.Config{
			Prefix: w.stack.Prefix, DatabaseName: w.stack.Database, Database: w.pool(), Logger: c.Logger,
		})
	})
}

// TestOrderHoldsWhenConnectionsToTheBrokerBreak breaks them again and again
// under load: what was in flight is sent again by the idempotent producer, and
// the same holder goes on, so that no event may be there twice.
func TestOrderHoldsWhenConnectionsToTheBrokerBreak(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.makeCounters()
	link := newProxy(t, w.stack.KafkaBrokers[0])
	r := w.startBehind(link)
	ctx, cancel := context.WithCancel(context.Background())
	var group sync.WaitGroup
	for seed := range uint64(2) {
		group.Go(func() { w.count(ctx, seed) })
	}
	w.settle(r.positions)
	for range 10 {
		before := r.Stats().Confirmed.Load()
		link.sever(true)
		link.sever(false)
		stacktest.Eventually(t, 20*time.Second, func() error {
			if r.Stats().Confirmed.Load() == before {
				return errors.New("the stream does not move")
			}
			return nil
		})
	}
	cancel()
	group.Wait()
	w.settle(r.positions)
	require.Zero(t, w.requireCounted(), "repeated events")
	require.EqualValues(t, 1, r.Stats().Generation.Load())
}

// TestABrokerThatIsAwayIsReportedAndWaitedFor cuts the broker off for longer
// than the stream's patience.
func TestABrokerThatIsAwayIsReportedAndWaitedFor(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.makeCounters()
	link := newProxy(t, w.stack.KafkaBrokers[0])
	r := w.startBehind(link)
	w.settle(r.positions)
	link.sever(true)
	w.exec("UPDATE counters SET n = n + 1")
	w.exec("CREATE TABLE later (id int PRIMARY KEY)")
	w.exec("INSERT INTO later VALUES (1)") // its topic cannot be made now
	w.requireAlarm(r, "was acknowledged", "kafka")
	link.sever(false)
	w.settle(r.positions)
	require.Zero(t, w.requireCounted())
	require.Len(t, w.events(w.topic("later")), 1)
	require.EqualValues(t, 1, r.Stats().Generation.Load(), "the same holder went on")
	require.Zero(t, r.Stats().Alarms.Load())
}

// TestATopicThatWasRemovedIsMadeAgain removes it under a running stream.
func TestATopicThatWasRemovedIsMadeAgain(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.exec("CREATE TABLE products (id int PRIMARY KEY)")
	var refills atomic.Int64
	r := w.start(func(_ *stream.Config, c *kafkapub.Config) {
		c.Refill = func(_ context.Context, table saga.Table) error {
			if table == (saga.Table{Schema: "public", Name: "products"}) {
				refills.Add(1)
			}
			return nil
		}
	})
	w.exec("INSERT INTO products VALUES (1)")
	w.settle(r.positions)
	require.Zero(t, refills.Load(), "a topic is new, and has nothing to be filled with")
	w.deleteTopic("products")
	w.exec("INSERT INTO products VALUES (2)")
	w.settle(r.positions)
	events := w.events(w.topic("products"))
	require.Equal(t, `{"id":2}`, events[len(events)-1].Key)
	require.NotZero(t, refills.Load(), "the row of the first change is asked for")

	// So it is when somebody else made it again.
	asked := refills.Load()
	w.deleteTopic("products")
	w.makeTopic("products")
	w.exec("INSERT INTO products VALUES (3)")
	w.settle(r.positions)
	require.Greater(t, refills.Load(), asked)
	asked = refills.Load()
	r.stop()
	r = w.start()
	w.exec("INSERT INTO products VALUES (4)")
	w.settle(r.positions)
	require.Equal(t, asked, refills.Load(), "once")
}
