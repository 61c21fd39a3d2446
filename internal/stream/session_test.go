package stream

import (
	"context"
	"errors"
	"log/slog"
	"math/rand/v2"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pglogrepl"
	"github.com/stretchr/testify/require"
	"golang.org/x/sync/semaphore"

	"github.com/capsaga/capsaga/internal/postgres"
	"github.com/capsaga/capsaga/saga"
)

// recorder is a handler's session that publishes to memory, where records are
// acknowledged late and out of order, and one may be refused.
type recorder struct {
	refuse int // the record that is refused, counted from 1

	mu        sync.Mutex
	published []published
	waiting   []func()
	acked     map[saga.LSN]int
}

type published struct {
	commit saga.LSN
	index  int
}

var errRefused = &saga.Error{Class: saga.Rejected, System: "kafka", Message: "refused"}

func (r *recorder) Begin(context.Context, *Transaction) error                       { return nil }
func (r *recorder) Commit(context.Context, *Transaction) error                      { return nil }
func (r *recorder) Trouble() error                                                  { return nil }
func (r *recorder) Close()                                                          {}
func (r *recorder) Mark(context.Context, *Transaction, *saga.BackfillMessage) error { return nil }
func (r *recorder) Truncate(context.Context, *Transaction, []*Relation, int) error {
	return errRefused
}

func (r *recorder) Change(ctx context.Context, tx *Transaction, c *Change) error {
	done, err := tx.Track(ctx, 100)
	if err != nil {
		return err
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.published = append(r.published, published{tx.CommitLSN, c.Index})
	var result error
	if len(r.published) == r.refuse {
		result = errRefused
	}
	lsn := tx.CommitLSN
	r.waiting = append(r.waiting, func() {
		if result == nil {
			r.mu.Lock()
			r.acked[lsn]++
			r.mu.Unlock()
		}
		done(result)
	})
	return nil
}

// acknowledgeSome answers about half of what waits, in any order.
func (r *recorder) acknowledgeSome(random *rand.Rand, all bool) {
	r.mu.Lock()
	random.Shuffle(len(r.waiting), func(i, j int) { r.waiting[i], r.waiting[j] = r.waiting[j], r.waiting[i] })
	n := len(r.waiting) / 2
	if all {
		n = len(r.waiting)
	}
	now := r.waiting[:n]
	r.waiting = append([]func(){}, r.waiting[n:]...)
	r.mu.Unlock()
	for _, done := range now {
		done()
	}
}

func newTestHold(handler Session) *hold {
	return &hold{
		slot: "test", handler: handler, tracker: newTracker(1<<30, nil), notes: &notes{}, stats: &Stats{}, log: slog.New(slog.DiscardHandler),
		lease:     Lease{Generation: 1, Epochs: postgres.Epochs{{Epoch: 1}, {Epoch: 2, Start: 5000}}},
		relations: map[uint32]*Relation{}, backfilled: map[uint32]*Relation{}, sink: saga.Kafka, room: semaphore.NewWeighted(receiveBytes), events: make(chan event, 16),
	}
}

// feed dispatches transactions of three changes each, the second of Capsaga's
// own table, with acknowledgements in between.
func feed(h *hold, r *recorder, transactions int, random *rand.Rand) error {
	ctx := context.Background()
	send := func(m any) error { return h.dispatch(ctx, event{message: m}) }
	own := &pglogrepl.RelationMessage{RelationID: 1, Namespace: saga.Schema, RelationName: "saga"}
	products := &pglogrepl.RelationMessage{RelationID: 2, Namespace: "public", RelationName: "products"}
	for _, m := range []any{own, products} {
		if err := send(m); err != nil {
			return err
		}
	}
	for i := 1; i <= transactions; i++ {
		commit := pglogrepl.LSN(i * 100)
		for _, m := range []any{
			&pglogrepl.BeginMessage{FinalLSN: commit, CommitTime: time.Now()},
			&row{relation: 2, change: Change{Op: Insert, New: Tuple{}}},
			&row{relation: 1, change: Change{Op: Insert, New: Tuple{}}},
			&row{relation: 2, change: Change{Op: Insert, New: Tuple{}}},
			&pglogrepl.CommitMessage{CommitLSN: commit, TransactionEndLSN: commit + 8},
		} {
			if err := send(m); err != nil {
				return err
			}
		}
		if random.IntN(4) == 0 {
			r.acknowledgeSome(random, false)
		}
	}
	return nil
}

// requireContiguous checks that all transactions up to the confirmed position
// were acknowledged whole.
func requireContiguous(t *testing.T, h *hold, r *recorder, transactions int) {
	t.Helper()
	confirmed, _ := h.tracker.state()
	for i := 1; i <= transactions; i++ {
		commit := saga.LSN(i * 100)
		if commit+8 <= confirmed {
			require.Equal(t, 2, r.acked[commit], "transaction %s is confirmed", commit)
		}
	}
}

func TestTransactionsAreHandedOverInOrderAndConfirmedContiguously(t *testing.T) {
	t.Parallel()
	for seed := range uint64(50) {
		random := rand.New(rand.NewPCG(seed, 1))
		r := &recorder{acked: map[saga.LSN]int{}}
		h := newTestHold(r)
		require.NoError(t, feed(h, r, 100, random))
		for i, p := range r.published {
			require.Equal(t, published{saga.LSN((i/2 + 1) * 100), (i % 2) * 2}, p, "own rows count in the index and are not published")
		}
		requireContiguous(t, h, r, 100)
		r.acknowledgeSome(random, true)
		confirmed, err := h.tracker.state()
		require.NoError(t, err)
		require.Equal(t, saga.LSN(100*100+8), confirmed)
	}
}

func TestNothingAfterARefusedRecordIsConfirmed(t *testing.T) {
	t.Parallel()
	for seed := range uint64(50) {
		random := rand.New(rand.NewPCG(seed, 2))
		refuse := 1 + random.IntN(200)
		r := &recorder{acked: map[saga.LSN]int{}, refuse: refuse}
		h := newTestHold(r)
		require.NoError(t, feed(h, r, 100, random))
		r.acknowledgeSome(random, true)
		confirmed, err := h.tracker.state()
		require.ErrorIs(t, err, errRefused)
		require.Equal(t, max(0, saga.LSN((refuse-1)/2*100+8)), max(confirmed, 8), "all before the refused one is confirmed")
		requireContiguous(t, h, r, 100)
	}
}

func TestEpochIsThatOfThePosition(t *testing.T) {
	t.Parallel()
	r := &recorder{acked: map[saga.LSN]int{}}
	h := newTestHold(r)
	var epochs []saga.Epoch
	h.observe = func(tx *Transaction) { epochs = append(epochs, tx.Version.Epoch()) }
	require.NoError(t, feed(h, r, 60, rand.New(rand.NewPCG(1, 1))))
	require.Equal(t, saga.Epoch(1), epochs[48])
	require.Equal(t, saga.Epoch(2), epochs[49], "position 5000")
}

func TestTruncateStopsAndNamesItsTransaction(t *testing.T) {
	t.Parallel()
	r := &recorder{acked: map[saga.LSN]int{}}
	h := newTestHold(r)
	require.NoError(t, feed(h, r, 1, rand.New(rand.NewPCG(1, 1))))
	ctx := context.Background()
	require.NoError(t, h.dispatch(ctx, event{message: &pglogrepl.BeginMessage{FinalLSN: 0x500}}))
	require.NoError(t, h.dispatch(ctx, event{message: &pglogrepl.TruncateMessage{RelationIDs: []uint32{1}}}), "Capsaga's own")
	err := h.located(h.dispatch(ctx, event{message: &pglogrepl.TruncateMessage{RelationIDs: []uint32{1, 2}}}))
	require.ErrorIs(t, err, errRefused)
	require.Equal(t, saga.Rejected, saga.ClassOf(err))
	require.Contains(t, err.Error(), "0/500")
}

func TestAProcessThatStoodStillLeaves(t *testing.T) {
	t.Parallel()
	h := newTestHold(&recorder{})
	h.heard.now()
	h.turned.advance(time.Now().Add(-3 * time.Second))
	h.turned.at.Store(int64(time.Since(processStart) - 3*time.Second))
	require.ErrorIs(t, h.check(context.Background()), errLost)
	require.NoError(t, h.check(context.Background()), "the clock of the loop starts anew")
}

func TestSilenceEndsTheHoldUnlessNothingCanBePublished(t *testing.T) {
	t.Parallel()
	ctx := context.Background()
	ago := func(c *clock, d time.Duration) { c.at.Store(int64(time.Since(processStart) - d)) }
	h := newTestHold(&recorder{})
	h.holds = func(context.Context) (bool, error) { return false, errors.New("no answer") }
	p := h.tracker.begin(time.Now())
	h.turned.now()

	ago(&h.heard, 3*time.Second)
	ago(&h.known, 3*time.Second)
	require.ErrorIs(t, h.check(ctx), errLost, "neither the walsender nor the database says anything")
	h.known.now()
	require.NoError(t, h.check(ctx), "the database says that the slot is held, and nothing is in flight")

	receipt, err := h.tracker.reserve(ctx, p, 1)
	require.NoError(t, err)
	require.ErrorIs(t, h.check(ctx), errLost, "what is in flight must not outlive the limit")
	h.full.Store(true)
	require.NoError(t, h.check(ctx), "there is no room to hear the walsender")
	h.full.Store(false)
	Acknowledge(receipt)
	require.NoError(t, h.check(ctx))
	h.notHeld.Store(true)
	require.ErrorIs(t, h.check(ctx), errLost)
}

func TestErrorsHoldNoPassword(t *testing.T) {
	t.Parallel()
	for _, url := range []string{"postgres://u:secret@host:bad/db", "postgres://u:secret@127.0.0.1:1/db?sslmode=disable&connect_timeout=1"} {
		config, err := replicationConfig(url)
		if err == nil {
			reader := &Reader{config: Config{Slot: "s", Publications: []string{"p"}}, conn: config}
			_, err = reader.startReplication(context.Background())
		}
		require.Error(t, err)
		require.NotContains(t, err.Error(), "secret")
		var classified *saga.Error
		require.True(t, errors.As(err, &classified))
	}
}
