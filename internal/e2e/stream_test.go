package e2e

import (
	"fmt"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/capsaga/capsaga/internal/stacktest"
	"github.com/capsaga/capsaga/saga"
	"github.com/capsaga/capsaga/saga/client"
)

// 200 writers change one row at once: its events come in version order, and
// every system ends with the last.
func TestHotKey(t *testing.T) {
	w := newWorld(t)
	w.startWorker()
	w.write(client.WaitVisible, saga.Completed, saga.Write{SagaID: w.id("first"), Mutations: []saga.Mutation{
		upsert("products", "id", 1, "title", "the hot one"),
	}})
	sagas := map[string]int{w.id("first"): 1}
	outcomes := make([]saga.Outcome, 200)
	var group sync.WaitGroup
	for n := range outcomes {
		id := w.id("hot-%d", n)
		sagas[id] = 2
		group.Go(func() {
			outcomes[n], _ = w.client.Write(t.Context(), saga.Write{SagaID: id, Mutations: []saga.Mutation{
				add("products", 1, "stock", 1), patch("products", 1, "title", fmt.Sprintf("the hot one of %d", n)),
			}}, client.WaitVisible)
		})
	}
	group.Wait()
	byVersion := map[saga.Version]saga.Outcome{}
	for _, o := range outcomes {
		require.Equal(t, saga.Completed, o.Status, "%+v", o)
		byVersion[o.Version] = o
	}
	require.Len(t, byVersion, len(outcomes), "two sagas have one version")
	require.Equal(t, "200", w.inPostgres("products")["1"]["stock"])
	// The order of the commits is the order of the versions that callers were told.
	var last saga.Version
	for _, e := range distinct(w.events("products")) {
		for version, o := range byVersion {
			if o.SagaID == e.sagaID() {
				require.GreaterOrEqual(t, version, last, "saga %s comes out of its version's order", o.SagaID)
				require.LessOrEqual(t, version, e.version, "the commit of saga %s is before its version", o.SagaID)
				last = version
			}
		}
	}
	w.requireConverged(sagas)
}

// A change by any SQL client is in Kafka within a second, as Debezium writes it.
func TestPlainSQL(t *testing.T) {
	w := newWorld(t)
	w.startWorker()
	events := w.follow("products")
	const limit = time.Second
	var slowest time.Duration
	do := func(sql string) event {
		t.Helper()
		w.exec(sql)
		began := time.Now()
		e := next(t, events, 10*time.Second)
		slowest = max(slowest, time.Since(began))
		return e
	}
	e := do("INSERT INTO products (id, title, stock, imdb_rating) VALUES (42, 'Lamp', 9007199254740993, 7.5)")
	require.Equal(t, "c", e.envelope.Op)
	require.Nil(t, e.envelope.Before)
	for n := range 20 {
		e = do(fmt.Sprintf("UPDATE products SET price_cents = %d WHERE id = 42", n))
	}
	t.Logf("the slowest of 21 changes was in Kafka after %s", slowest)
	require.Less(t, slowest, limit)
	require.Equal(t, "u", e.envelope.Op)
	require.JSONEq(t, `{"id":42}`, e.key)
	require.Equal(t, "9007199254740993", string(e.envelope.After["stock"]), "a number went through floating point")
	require.Equal(t, `"7.5"`, string(e.envelope.After["imdb_rating"]))
	require.Equal(t, "19", string(e.envelope.After["price_cents"]))
	require.Equal(t, "null", string(e.envelope.After["genre"]))
	source := e.envelope.Source
	require.Equal(t, []string{"postgresql", string(w.stack.Prefix), w.stack.Database, "public", "products"},
		[]string{source.Connector, source.Name, source.DB, source.Schema, source.Table})
	require.InDelta(t, time.Now().UnixMilli(), source.TsMs, 10_000)
	require.InDelta(t, time.Now().UnixMilli(), e.envelope.TsMs, 10_000)
	require.Equal(t, source.LSN, uint64(e.version.LSN()))
	require.Empty(t, e.sagaID())
	e = do("DELETE FROM products WHERE id = 42")
	require.Equal(t, "d", e.envelope.Op)
	require.Equal(t, "42", string(e.envelope.Before["id"]))
	require.Nil(t, e.envelope.After)
	e = next(t, events, time.Second)
	require.True(t, e.tombstone)
	require.JSONEq(t, `{"id":42}`, e.key)
}

// takeoverLimit is within what another worker has the stream.
const takeoverLimit = 5 * time.Second

// The worker that holds the stream dies; another has it within five seconds.
func TestTakeoverFromADeadWorker(t *testing.T) {
	w := newWorld(t)
	one, other := w.startWorker(), w.startWorker()
	p := w.startProbe()
	began := time.Now()
	w.holder(one, other).kill()
	t.Logf("took over within %s", awaitTakeover(t, p, began))
	events := w.events("probe")
	requireInOrder(t, distinct(events))
}

// A frozen holder loses the stream, and when it wakes up it spoils nothing.
func TestTakeoverFromAFrozenWorker(t *testing.T) {
	w := newWorld(t)
	one, other := w.startWorker(), w.startWorker()
	p := w.startProbe()
	holder := w.holder(one, other)
	began := time.Now()
	holder.signal(syscall.SIGSTOP)
	lag := awaitTakeover(t, p, began)
	t.Logf("took over within %s", lag)
	holder.signal(syscall.SIGCONT)
	stacktest.Eventually(t, 30*time.Second, func() error {
		if len(holder.logged("left the stream")) == 0 {
			return fmt.Errorf("the former holder still holds the stream:\n%s", tail(holder.text(), 5))
		}
		return nil
	})
	// Both are well: sagas complete, whoever runs them.
	var group sync.WaitGroup
	sagas := map[string]int{}
	for n := range 40 {
		id := w.id("after-%d", n)
		sagas[id] = 1
		group.Go(func() {
			o, err := w.client.Write(t.Context(), saga.Write{SagaID: id, Mutations: []saga.Mutation{
				upsert("products", "id", n%4, "title", id),
			}}, client.WaitVisible)
			if err != nil || o.Status != saga.Completed {
				t.Errorf("saga %s: %+v, %v", id, o, err)
			}
		})
	}
	group.Wait()
	w.requireConverged(sagas)
	events := w.events("probe")
	kept := distinct(events)
	requireInOrder(t, kept)
	var last saga.Version
	for _, e := range kept {
		require.Greater(t, e.version, last, "probes out of commit order: %s", e)
		last = e.version
	}
	t.Logf("%d events, %d of them repeated", len(events), len(events)-len(kept))
}

// awaitTakeover waits until the probes flow again after a fault, and returns the
// longest that one was under way.
func awaitTakeover(t *testing.T, p *probe, began time.Time) time.Duration {
	t.Helper()
	// What was in a socket at the fault may arrive still.
	stacktest.Eventually(t, 30*time.Second, func() error { return p.flows(began.Add(100 * time.Millisecond)) })
	lags := p.settle(began)
	longest := lags[len(lags)-1]
	require.Less(t, longest, takeoverLimit, "the stream stood still for too long")
	return longest
}
