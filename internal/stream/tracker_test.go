package stream

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/capsaga/capsaga/saga"
)

// TestConfirmedNeverPassesWhatIsOutstanding lets transactions, keepalives and
// acknowledgements come in any order and compares with the definition: the
// confirmed position is below the commit of every transaction that is open or
// has a record outstanding, and it is the greatest such position seen.
func TestConfirmedNeverPassesWhatIsOutstanding(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		type entry struct {
			p    *pending
			end  saga.LSN // 0 while open
			done []func(error)
			lost bool // a record of it failed, which keeps its place for ever
		}
		var told saga.LSN
		tracker := newTracker(1<<40, func(lsn saga.LSN) { told = lsn })
		var entries []*entry
		var at saga.LSN
		failed := false
		check := func() {
			var want saga.LSN
			for _, e := range entries {
				if e.end == 0 || e.lost || len(e.done) > 0 {
					break
				}
				want = e.end
			}
			got, err := tracker.state()
			require.Equal(t, want, got)
			require.Equal(t, want, told)
			require.Equal(t, failed, err != nil)
		}
		last := func() *entry {
			if len(entries) == 0 {
				return nil
			}
			return entries[len(entries)-1]
		}
		open := func() bool { e := last(); return e != nil && e.end == 0 }
		t.Repeat(map[string]func(*rapid.T){
			"begin": func(t *rapid.T) {
				if open() {
					t.Skip("one transaction at a time")
				}
				entries = append(entries, &entry{p: tracker.begin(time.Now())})
			},
			"record": func(t *rapid.T) {
				if !open() {
					t.Skip("no transaction")
				}
				e := last()
				receipt, err := tracker.reserve(context.Background(), e.p, rapid.IntRange(0, 1000).Draw(t, "bytes"))
				require.NoError(t, err)
				e.done = append(e.done, receipt.done)
			},
			"compact": func(*rapid.T) {
				tracker.mu.Lock()
				defer tracker.mu.Unlock()
				tracker.compact()
			},
			"commit": func(t *rapid.T) {
				if !open() {
					t.Skip("no transaction")
				}
				at += 10
				last().end = at
				tracker.commit(last().p, at)
			},
			"keepalive": func(t *rapid.T) {
				at += 10
				if !open() { // within a transaction it lies below the commit
					entries = append(entries, &entry{end: at})
				}
				tracker.keepalive(at)
			},
			"acknowledge": func(t *rapid.T) {
				var waiting []*entry
				for _, e := range entries {
					if len(e.done) > 0 {
						waiting = append(waiting, e)
					}
				}
				if len(waiting) == 0 {
					t.Skip("nothing outstanding")
				}
				e := rapid.SampledFrom(waiting).Draw(t, "transaction")
				if rapid.IntRange(0, 20).Draw(t, "fails") == 0 {
					failed, e.lost = true, true
					e.done[0](errors.New("refused"))
				} else {
					e.done[0](nil)
				}
				e.done = e.done[1:]
			},
			"": func(*rapid.T) { check() },
		})
	})
}

func TestTrackWaitsForRoom(t *testing.T) {
	t.Parallel()
	tracker := newTracker(1000, nil)
	p := tracker.begin(time.Now())
	first, err := tracker.reserve(context.Background(), p, 900)
	require.NoError(t, err)

	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Millisecond)
	defer cancel()
	_, err = tracker.reserve(ctx, p, 900)
	require.ErrorIs(t, err, context.DeadlineExceeded)

	entered := make(chan error, 1)
	go func() {
		_, err := tracker.reserve(context.Background(), p, 1<<30) // larger than all the room
		entered <- err
	}()
	Acknowledge(first)
	require.NoError(t, <-entered)
}

// What completes behind a record that waits takes no room, and does not hide that the
// stream stands still.
func TestCompletedTransactionsBehindAWaitingOne(t *testing.T) {
	t.Parallel()
	tr := newTracker(1<<20, nil)
	first := tr.begin(time.Now())
	waiting, err := tr.reserve(t.Context(), first, 1)
	require.NoError(t, err)
	tr.commit(first, 1)
	tr.since = tr.since.Add(-time.Hour)
	const transactions = 100_000
	for n := range transactions {
		p := tr.begin(time.Now())
		r, err := tr.reserve(t.Context(), p, 1)
		require.NoError(t, err)
		tr.commit(p, saga.LSN(n+2))
		Acknowledge(r)
	}
	require.Less(t, len(tr.queue), 2*minCompact)
	_, stalled := tr.waiting()
	require.GreaterOrEqual(t, stalled, time.Hour)
	Acknowledge(waiting)
	confirmed, _ := tr.state()
	require.Equal(t, saga.LSN(transactions+1), confirmed)
	_, stalled = tr.waiting()
	require.Zero(t, stalled)
}
