package stream_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/capsaga/capsaga/internal/stacktest"
	"github.com/capsaga/capsaga/internal/stream"
	"github.com/capsaga/capsaga/saga"
)

// A slot that changes hands, whichever way, leaves no gap and loses nothing.
func TestOneSlotLeavesNoGap(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.insert("before the first holder")
	for i := range 4 {
		r := w.start()
		w.insert(fmt.Sprint("row ", i))
		r.settle()
		if i == 3 {
			w.rest() // a holder that dies at rest
		}
		if i%2 == 0 {
			r.stop()
		} else {
			r.kill()
		}
		w.insert(fmt.Sprint("nobody holds ", i))
	}
	w.start().settle()
	require.Equal(t, 1, w.times("before the first holder"))
	for i := range 4 {
		require.NotZero(t, w.times(fmt.Sprint("row ", i)))
		require.NotZero(t, w.times(fmt.Sprint("nobody holds ", i)))
	}
	require.Empty(t, w.asked())
	require.Nil(t, w.status().Gap)
}

// A slot that was dropped and made anew by hand is told from the one before, also
// when its holder had no time for a last word and one row was missed.
func TestASlotMadeAnewIsAGap(t *testing.T) {
	t.Parallel()
	for name, leave := range map[string]func(*world, *running){
		"stopped":        func(_ *world, r *running) { r.stop() },
		"killed":         func(_ *world, r *running) { r.kill() },
		"killed at rest": func(w *world, r *running) { w.rest(); r.kill() },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t)
			r := w.start()
			w.insert("seen")
			r.settle()
			leave(w, r)
			w.dropSlot()
			w.insert("missed")
			w.createSlot()
			w.insert("after")
			created := w.status().ConfirmedLSN

			w.start().settle()
			gap := w.awaitGaps(1)[0]
			require.Equal(t, w.slot, gap.Slot)
			require.Equal(t, saga.Redis, gap.Sink)
			require.Contains(t, gap.Reason, "made anew or advanced by hand")
			require.Equal(t, created, gap.To)
			require.Less(t, gap.From, gap.To)
			require.GreaterOrEqual(t, gap.Floor.LSN(), gap.To)
			require.NotZero(t, gap.Floor.Epoch())
			require.Zero(t, w.times("missed"))
			require.Equal(t, 1, w.times("after"))
		})
	}
}

// So is one that was dropped before anybody held it.
func TestAFirstSlotThatNobodyHeldIsKnown(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.dropSlot()
	w.insert("missed")
	w.createSlot()
	w.start().settle()
	require.Zero(t, w.times("missed"))
	w.awaitGaps(1)
}

func TestASlotAdvancedByHandIsAGap(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	r := w.start()
	w.insert("seen")
	r.settle()
	r.stop()
	w.insert("missed")
	stacktest.Eventually(t, 10*time.Second, func() error {
		_, err := w.pool().Exec(t.Context(), "SELECT pg_replication_slot_advance($1, pg_current_wal_flush_lsn())", w.slot)
		return err
	})
	w.start().settle()
	require.Zero(t, w.times("missed"))
	w.awaitGaps(1)
}

// The gap stays written down until the backfill was requested, whoever dies
// meanwhile.
func TestAGapStaysOpenUntilItsBackfillIsRequested(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	r := w.start()
	w.insert("seen")
	r.settle()
	r.kill()
	w.dropSlot()
	w.insert("missed")
	w.createSlot()

	// Nobody can be asked; then somebody who refuses; then one dies between the
	// request and the note of it.
	r = w.start(func(c *stream.Config) { c.OnGap = nil })
	r.settle()
	require.Equal(t, int64(1), r.Stats().Gaps.Load())
	info := w.status()
	require.True(t, info.Gap.Open)
	require.Contains(t, info.Error, "capsaga backfill")
	r.kill()

	w.refusals = 1
	r = w.start(func(c *stream.Config) {
		registry := c.Registry.(*mortal)
		c.OnGap = func(ctx context.Context, gap stream.Gap) error {
			err := w.onGap(ctx, gap)
			if err == nil {
				registry.dead.Store(true)
			}
			return err
		}
	})
	stacktest.Eventually(t, 10*time.Second, func() error {
		if !r.registry.dead.Load() {
			return errors.New("it was not asked again")
		}
		return nil
	})
	r.kill()
	require.True(t, w.status().Gap.Open)

	w.start().settle()
	gaps := w.awaitGaps(3)
	for _, gap := range gaps {
		require.Equal(t, gaps[0].StreamGap, gap.StreamGap, "the request is the same")
	}
	require.False(t, w.status().Gap.Open)
	require.Empty(t, w.status().Error)
}

// A gap that is found while another is open covers both.
func TestASecondGapJoinsTheFirst(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	r := w.start()
	for i := range 3 {
		w.insert(fmt.Sprint("seen ", i))
		r.settle()
		r.kill()
		w.dropSlot()
		w.insert(fmt.Sprint("missed ", i))
		w.createSlot()
		r = w.start(func(c *stream.Config) { c.OnGap = nil })
	}
	r.settle()
	first := w.status().Gap
	r.kill()
	w.start().settle()
	gap := w.awaitGaps(1)[0]
	require.Equal(t, *first.From, gap.From)
	require.Equal(t, first.To, gap.To)
	require.Less(t, gap.From+3*100, gap.To)
	require.Zero(t, w.times("missed 0")+w.times("missed 1")+w.times("missed 2"))
}

// A worker makes a slot anew that is gone.
func TestAMissingSlotIsMadeAnew(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	r := w.start()
	w.insert("seen")
	r.settle()
	r.stop()
	w.dropSlot()
	w.insert("missed")
	require.False(t, w.status().Exists)
	require.Contains(t, w.status().Error, "the slot is gone")
	r = w.start()
	r.settle()
	w.insert("after")
	r.settle()
	require.Zero(t, w.times("missed"))
	require.Equal(t, 1, w.times("after"))
	require.Equal(t, "it did not exist any more", w.awaitGaps(1)[0].Reason)
}

// The slot of a stream that never was, or is no longer to be, is not a worker's to
// make; nor is one that somebody else has.
func TestSlotsThatAreNotAWorkersToMake(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	reported := func(words string) {
		t.Helper()
		stacktest.Eventually(t, 10*time.Second, func() error {
			if problem := w.text("SELECT coalesce(error, '') FROM capsaga.stream UNION ALL SELECT '' ORDER BY 1 DESC LIMIT 1"); !strings.Contains(problem, words) {
				return fmt.Errorf("%q lacks %q", problem, words)
			}
			return nil
		})
	}
	w.dropSlot()
	w.exec("DELETE FROM capsaga.stream")
	r := w.start()
	reported("does not exist: `capsaga catalog apply` creates it")
	r.stop()

	w.exec("SELECT pg_create_physical_replication_slot($1)", w.slot)
	r = w.start()
	reported("is a physical slot")
	r.stop()
	w.exec("SELECT pg_drop_replication_slot($1)", w.slot)

	w.ensure(false)
	w.exec("UPDATE capsaga.stream SET retired_at = now()")
	w.dropSlot()
	r = w.start()
	reported("no entity needed its stream")
	r.stop()
	infos, err := stream.Status(t.Context(), w.pool(), w.prefix)
	require.NoError(t, err)
	require.Empty(t, infos, "it is not shown either")

	w.exec("UPDATE capsaga.stream SET retired_at = NULL")
	w.exec("DROP PUBLICATION redispub")
	r = w.start()
	reported("publication redispub does not exist")
	r.stop()
}

// What an operator sees while the sink is away, after that, and while nobody holds
// the stream.
func TestStatusTellsHowFarBehindTheStreamIs(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	sink := &memory{world: w}
	r := w.start(func(c *stream.Config) { c.Handler = sink })
	w.insert("seen")
	r.settle()
	w.rest()
	info := w.status()
	require.True(t, info.Exists && info.Active)
	require.Zero(t, info.LagSeconds)
	require.Equal(t, "test", info.Holder)
	require.Equal(t, int64(1), info.Generation)
	require.Equal(t, "reserved", info.WALStatus)
	require.Positive(t, info.DecodedTransactions)

	sink.setAway(true)
	began := time.Now()
	w.insert("waits")
	behind := func(least float64) {
		t.Helper()
		stacktest.Eventually(t, 10*time.Second, func() error {
			if info := w.status(); info.LagSeconds < least || info.LagSeconds > time.Since(began).Seconds()+0.1 || info.LagBytes == 0 {
				return fmt.Errorf("%+v after %s", info, time.Since(began))
			}
			return nil
		})
	}
	behind(2.5)
	r.stop()
	behind(time.Since(began).Seconds()) // what waited goes on waiting
	require.False(t, w.status().Active)
	require.Empty(t, w.status().Holder)

	sink.setAway(false)
	r = w.start(func(c *stream.Config) { c.Handler = sink })
	r.settle()
	stacktest.Eventually(t, 10*time.Second, func() error {
		if info := w.status(); info.LagSeconds != 0 {
			return fmt.Errorf("%+v", info)
		}
		return nil
	})
}

// A stream that keeps up writes nothing down while it works, and next to nothing
// when it comes to rest, however much others write.
func TestAStreamThatKeepsUpWritesLittle(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	r := w.start()
	r.settle()
	writes := func(beside func()) (n int) {
		row := func() string { return w.text("SELECT xmin::text FROM capsaga.stream") }
		last := row()
		for began := time.Now(); time.Since(began) < 3*time.Second; {
			beside()
			if is := row(); is != last {
				n, last = n+1, is
			}
		}
		return n
	}
	require.LessOrEqual(t, writes(func() { w.insert(fmt.Sprint(time.Now().UnixNano())) }), 2)
	r.settle()
	require.LessOrEqual(t, writes(func() {}), 3)
}

// A holder that is told to stop leaves nothing to be repeated, however soon after
// the last acknowledgement.
func TestALeavingHolderLeavesNothingToRepeat(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	for i := range 10 {
		r := w.start()
		r.settle()
		for j := range 20 {
			w.insert(fmt.Sprint(i, " ", j))
		}
		r.settle()
		r.stop()
	}
	w.start().settle()
	for i := range 10 {
		for j := range 20 {
			require.Equal(t, 1, w.times(fmt.Sprint(i, " ", j)))
		}
	}
}
