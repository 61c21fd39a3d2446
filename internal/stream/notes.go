package stream

import (
	"context"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"github.com/capsaga/capsaga/internal/postgres"
	"github.com/capsaga/capsaga/saga"
)

// notes keeps in PostgreSQL what a holder's successor and people have to know of
// it, beside the stream and without ever holding it up.
//
// How a slot is told from one that was made anew is in the positions themselves: a
// holder confirms odd ones (postgres.SlotMark), which costs nothing. Only when the
// stream has come to rest is the last byte confirmed too, so that whoever compares
// the slot with the end of the WAL finds them equal; that is written down first.
type notes struct {
	registry Registry
	slot     string
	pid      uint32
	lease    Lease
	tracker  *tracker
	log      *slog.Logger

	bound  atomic.Uint64 // up to here even positions may be confirmed
	worked atomic.Bool   // a change was handed over
	known  atomic.Bool   // PostgreSQL has what was told last

	// Of keep's goroutine.
	resting int      // ticks in which the position stood
	last    saga.LSN // at the last tick
	tries   int      // to come to rest that are left
	ticks   int
	told    time.Time // the oldest transaction, as it was last reported
	busy    atomic.Bool
	beside  sync.WaitGroup
}

const (
	// restTicks is for how many ticks a position has to stand.
	restTicks = 2
	// restTries bounds the writes by which a stream comes to rest: each makes the
	// WAL longer, that of the other streams too.
	restTries = 3
	// restBytes of WAL that held nothing for the stream are worth such a write too.
	restBytes = 64 << 10
	// progressTicks is how many ticks lie between two looks at the oldest
	// transaction that waits, and worthAWord how old one is that is reported.
	progressTicks = 4
	worthAWord    = time.Second
)

// mark is what is confirmed for a position.
func (n *notes) mark(confirmed saga.LSN) postgres.SlotMark {
	if uint64(confirmed) <= n.bound.Load() {
		return postgres.SlotMark(confirmed)
	}
	return postgres.MarkOf(confirmed)
}

// tick looks at what there is to note, four times a second.
func (n *notes) tick(ctx context.Context) {
	confirmed, _ := n.tracker.state()
	n.rest(ctx, confirmed)
	if n.ticks++; n.ticks%progressTicks == 0 {
		n.progress(ctx, confirmed)
	}
}

// rest writes the position down once it has stood for a while after a change.
func (n *notes) rest(ctx context.Context, confirmed saga.LSN) {
	if n.resting++; confirmed != n.last {
		n.resting, n.last = 0, confirmed
	}
	bound := saga.LSN(n.bound.Load())
	if n.worked.Swap(false) || confirmed > bound+restBytes {
		n.tries = restTries
	}
	if confirmed <= bound || n.resting < restTicks || n.tries == 0 || !n.tracker.oldest().IsZero() {
		return
	}
	n.besides(ctx, func(ctx context.Context) error {
		bound, err := n.registry.SettleStream(ctx, n.slot, n.pid, n.lease.Generation, confirmed)
		if err == nil && bound > 0 {
			n.bound.Store(uint64(bound))
			n.tracker.signal()
		}
		return err
	}, func() { n.tries-- })
}

// progress reports the oldest transaction that waits when it is another one. A
// stream that keeps up has none that is worth a word, and so writes nothing.
func (n *notes) progress(ctx context.Context, confirmed saga.LSN) {
	oldest := n.tracker.oldest()
	if time.Since(oldest) < worthAWord {
		oldest = time.Time{}
	}
	if n.known.Load() && oldest.Equal(n.told) {
		return
	}
	n.besides(ctx, func(ctx context.Context) error {
		err := n.registry.ProgressStream(ctx, n.slot, n.lease.Generation, confirmed, oldest)
		n.known.Store(err == nil)
		return err
	}, func() { n.told = oldest })
}

// besides runs a note beside the stream, one at a time; taken is called when its
// turn has come.
func (n *notes) besides(ctx context.Context, write func(context.Context) error, taken func()) {
	if !n.busy.CompareAndSwap(false, true) {
		return
	}
	taken()
	n.beside.Go(func() {
		defer n.busy.Store(false)
		ctx, cancel := context.WithTimeout(ctx, queryTimeout)
		defer cancel()
		if err := write(ctx); err != nil && ctx.Err() == nil {
			n.log.Debug("cannot note the stream's position", "error", err)
		}
	})
}

// leave notes where the hold ended, and since when what is left has waited.
func (n *notes) leave() {
	n.beside.Wait()
	ctx, cancel := context.WithTimeout(context.Background(), queryTimeout/2)
	defer cancel()
	confirmed, _ := n.tracker.state()
	if err := n.registry.ProgressStream(ctx, n.slot, n.lease.Generation, confirmed, n.tracker.oldest()); err != nil {
		n.log.Debug("cannot note the stream's position", "error", err)
	}
}
