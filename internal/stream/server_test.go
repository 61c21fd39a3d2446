package stream_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/require"

	"github.com/capsaga/capsaga/internal/stacktest"
	"github.com/capsaga/capsaga/internal/stream"
)

// What takes servers of a test's own: the tests run one after the other.

func newOwnWorld(t *testing.T) (*stacktest.Own, *world) {
	own := stacktest.NewOwn(t)
	stack := own.Stack(stacktest.Primary)
	return own, newWorldOn(t, stack.PostgresURL, stack.Prefix)
}

// on is the same world on another server.
func (w *world) on(stack stacktest.Stack) *world {
	other := &world{t: w.t, url: stack.PostgresURL, prefix: w.prefix, slot: w.slot, seen: map[string]int{}}
	other.open()
	return other
}

func (w *world) set(name, value string) {
	w.t.Helper()
	w.exec(fmt.Sprintf("ALTER SYSTEM SET %s = '%s'", name, value))
	w.exec("SELECT pg_reload_conf()")
}

// loseSlot writes WAL until the server invalidates the slot.
func (w *world) loseSlot() {
	w.t.Helper()
	w.set("max_slot_wal_keep_size", "16MB")
	stacktest.Eventually(w.t, 60*time.Second, func() error {
		for range 2 {
			w.exec("SELECT pg_logical_emit_message(false, 'filler', repeat('x', 1000))")
			w.exec("SELECT pg_switch_wal()")
		}
		w.exec("CHECKPOINT")
		if status := w.status().WALStatus; status != "lost" {
			return fmt.Errorf("wal_status is %s", status)
		}
		return nil
	})
	w.set("max_slot_wal_keep_size", "-1")
}

// A slot that the server invalidated is made anew by a worker, whether it was held
// at the time or not.
func TestAnInvalidatedSlotIsMadeAnew(t *testing.T) {
	own, w := newOwnWorld(t)
	own.Do("stop", "replica") // its slot needs the same WAL
	w.exec("SELECT pg_drop_replication_slot('replica')")
	r := w.start()
	w.insert("seen")
	r.settle()
	r.stop()
	w.insert("missed")
	w.loseSlot()
	require.Contains(t, w.status().Error, "invalidated by the server (wal_removed)")

	sink := &memory{world: w}
	r = w.start(func(c *stream.Config) { c.Handler = sink })
	r.settle()
	require.Contains(t, w.awaitGaps(1)[0].Reason, "the server had invalidated it (wal_removed)")
	require.Zero(t, w.times("missed"))
	require.Equal(t, "reserved", w.status().WALStatus)

	sink.setAway(true)
	w.insert("the sink is away")
	stacktest.Eventually(t, 10*time.Second, func() error {
		if w.times("the sink is away") == 0 {
			return errors.New("it was not handed over")
		}
		return nil
	})
	w.loseWhileHeld(r)
	sink.setAway(false)
	r.settle()
	w.awaitGaps(2)
	w.insert("after")
	r.settle()
	require.Equal(t, 1, w.times("after"))
}

// loseWhileHeld is loseSlot for a slot whose holder makes it anew at once.
func (w *world) loseWhileHeld(r *running) {
	w.t.Helper()
	losses := r.Stats().Losses.Load()
	w.set("max_slot_wal_keep_size", "16MB")
	stacktest.Eventually(w.t, 60*time.Second, func() error {
		w.exec("SELECT pg_logical_emit_message(false, 'filler', repeat('x', 1000))")
		w.exec("SELECT pg_switch_wal()")
		w.exec("CHECKPOINT")
		if r.Stats().Losses.Load() == losses {
			return errors.New("the slot is still held")
		}
		return nil
	})
	w.set("max_slot_wal_keep_size", "-1")
}

// A database that writes nothing does not hold back the WAL that its neighbour
// writes.
func TestAnIdleDatabaseHoldsNoWALBack(t *testing.T) {
	_, w := newOwnWorld(t)
	r := w.start()
	w.insert("seen")
	r.settle()
	w.exec("CREATE DATABASE busy")
	busy, err := pgx.Connect(t.Context(), strings.Replace(w.url, "/own?", "/busy?", 1))
	require.NoError(t, err)
	defer func() { _ = busy.Close(context.Background()) }()
	_, err = busy.Exec(t.Context(), "CREATE TABLE work (v text)")
	require.NoError(t, err)
	before := w.status()
	began := time.Now()
	const written = 64 << 20
	var most int64
	stacktest.Eventually(t, 60*time.Second, func() error {
		_, err := busy.Exec(t.Context(), "INSERT INTO work SELECT repeat('x', 1000) FROM generate_series(1, 500)")
		require.NoError(t, err)
		info := w.status()
		most = max(most, info.RetainedBytes)
		at := info.ConfirmedLSN - before.ConfirmedLSN
		if at < written || info.RetainedBytes > written/4 || info.LagSeconds > 0 {
			return fmt.Errorf("%d bytes on: %+v", at, info)
		}
		return nil
	})
	info := w.status()
	t.Logf("%d MiB were written next door; after %s the slot keeps %d KiB, at most it kept %d MiB",
		(info.ConfirmedLSN-before.ConfirmedLSN)>>20, time.Since(began).Round(time.Second), info.RetainedBytes>>10, most>>20)
	require.Equal(t, before.Generation, info.Generation, "nothing disturbed the hold")
	require.Empty(t, w.asked())
}

// A server that is told to shut down waits until the holder has confirmed all that
// it was sent; it does not wait for the byte that the holder keeps back.
func TestAServerShutsDownBesideAHolder(t *testing.T) {
	own, w := newOwnWorld(t)
	r := w.start()
	stop := w.writer()
	stacktest.Eventually(t, 20*time.Second, func() error {
		if w.times("load 50") == 0 {
			return errors.New("the load does not flow")
		}
		return nil
	})
	began := time.Now()
	own.Do("stop", "postgres")
	took := time.Since(began)
	stop()
	t.Logf("the server was down after %s", took.Round(time.Millisecond))
	require.Less(t, took, 5*time.Second)
	r.stop()
	own.Do("start", "postgres")
	r = w.start()
	r.settle()
	for id := range w.rows() {
		require.NotZero(t, w.times(id), "%s was lost", id)
	}
	require.Empty(t, w.asked())
}

// writer inserts rows until the server is gone; what it returns tells how many were
// committed.
func (w *world) writer() (stop func() int64) {
	var written atomic.Int64
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() {
		defer close(done)
		for i := int64(1); ; i++ {
			_, err := w.pool().Exec(ctx, "INSERT INTO items VALUES ($1)", fmt.Sprint("load ", i))
			if err != nil {
				return
			}
			written.Store(i)
		}
	}()
	return func() int64 {
		cancel()
		<-done
		return written.Load()
	}
}

func (w *world) rows() map[string]bool {
	w.t.Helper()
	rows, err := w.pool().Query(context.Background(), "SELECT id FROM items")
	require.NoError(w.t, err)
	ids, err := pgx.CollectRows(rows, pgx.RowTo[string])
	require.NoError(w.t, err)
	set := map[string]bool{}
	for _, id := range ids {
		set[id] = true
	}
	return set
}

// promote kills the primary under load and goes on with the replica.
func promote(own *stacktest.Own, w *world, r *running) *world {
	w.t.Helper()
	stop := w.writer()
	stacktest.Eventually(w.t, 20*time.Second, func() error {
		if w.times("load 200") == 0 {
			return errors.New("the load does not flow")
		}
		return nil
	})
	own.Do("kill", "postgres")
	stop()
	r.stop()
	own.Do("promote")
	other := w.on(own.Stack(stacktest.Replica))
	other.seen = w.seen
	return other
}

// With failover slots and synchronized_standby_slots the promoted replica's stream
// goes on: nothing is lost, there is no gap, and no sink has seen what the replica
// never had.
func TestAPromotedReplicaGoesOnWithAFailoverSlot(t *testing.T) {
	own, w := newOwnWorld(t)
	w.set("synchronized_standby_slots", "replica")
	// A standby's slot sync worker that comes to a slot of a database that is not replayed
	// yet ends with an error, and did not begin again within a minute.
	replica := w.on(own.Stack(stacktest.Replica))
	stacktest.Eventually(t, 20*time.Second, func() error { return replica.pool().Ping(t.Context()) })
	require.Contains(t, w.ensure(true).Detail, "failover from false to true")
	r := w.start(func(c *stream.Config) { c.Failover = true })
	w.insert("seen")
	r.settle()
	began := time.Now()
	stacktest.Eventually(t, 60*time.Second, func() error {
		w.insert(time.Now().String()) // the copy becomes usable as the slot moves
		var ready bool
		err := replica.pool().QueryRow(t.Context(), "SELECT coalesce(bool_or(synced AND NOT temporary), false) FROM pg_replication_slots WHERE slot_name = $1", w.slot).Scan(&ready)
		if err == nil && !ready {
			err = errors.New("the replica has no copy of the slot")
		}
		return err
	})
	t.Logf("the replica's copy of the slot was ready after %s", time.Since(began).Round(time.Millisecond))

	w = promote(own, w, r)
	require.True(t, w.status().Synced)
	began = time.Now()
	r = w.start(func(c *stream.Config) { c.Failover = true })
	r.settle()
	t.Logf("the stream went on %s after the new holder started", time.Since(began).Round(time.Millisecond))
	rows := w.rows()
	for id := range rows {
		require.NotZero(t, w.times(id), "%s was lost", id)
	}
	for id := range w.seen {
		require.True(t, rows[id], "%s was seen, but the replica never had it", id)
	}
	require.Empty(t, w.asked())
	require.Nil(t, w.status().Gap)
	require.Greater(t, w.text("SELECT max(epoch)::text FROM capsaga.epoch"), "1", "versions go on rising")
}

// Without them the slot is gone with the primary: the gap is found and the backfill
// requested.
func TestAPromotedReplicaWithoutItsSlotHasAGap(t *testing.T) {
	own, w := newOwnWorld(t)
	r := w.start()
	w.insert("seen")
	r.settle()
	w = promote(own, w, r)
	require.False(t, w.status().Exists)
	r = w.start()
	r.settle()
	gap := w.awaitGaps(1)[0]
	require.Equal(t, "it did not exist any more", gap.Reason)
	require.EqualValues(t, 2, gap.Floor.Epoch())
	w.insert("after")
	r.settle()
	require.Equal(t, 1, w.times("after"))
}
