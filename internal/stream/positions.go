package stream

import (
	"context"
	"fmt"
	"sync"
	"time"

	"github.com/capsaga/capsaga/internal/postgres"
	"github.com/capsaga/capsaga/saga"
)

// Positions lets many goroutines wait for a slot's confirmed position. In the
// process that holds the stream they are woken by the acknowledgement itself.
// Elsewhere one poll of the slot serves all of them, and none runs while nobody
// waits.
//
// A slot that was made anew, after a gap, stands beyond what was missed: so it ends
// the wait for a transaction that was lost with the slot before. Its rows come with
// the backfill that closes the gap, which is written down before the new slot has
// confirmed anything.
type Positions struct {
	db   postgres.Querier
	slot string

	mu      sync.Mutex
	holding bool
	// confirmed is the holder's own position; it is forgotten with the hold,
	// because after a failover the WAL may have gone back.
	confirmed saga.LSN
	waiters   map[*waiter]struct{}
	polling   bool
}

type waiter struct {
	lsn   saga.LSN
	since time.Time
	done  chan error // takes one value
}

const (
	// pollEvery is the shortest pause between two looks at the slot; it grows to
	// a tenth of what the youngest waiter has waited, up to pollAtMost.
	pollEvery  = time.Millisecond
	pollAtMost = 250 * time.Millisecond
	// reportedAfter is how long a waiter waits before it is told of a problem
	// that the holder reports.
	reportedAfter = time.Second
	// nobodyAfter is how long a waiter waits while nobody holds the stream; a
	// takeover needs less than 5 s.
	nobodyAfter = 6 * time.Second
)

// NewPositions watches a slot. The reader of the same slot in this process, if
// there is one, is to be configured with the result.
func NewPositions(db postgres.Querier, slot string) *Positions {
	return &Positions{db: db, slot: slot, waiters: map[*waiter]struct{}{}}
}

// Wait returns nil when the slot's confirmed position has reached lsn. Its error
// is of class Unavailable and says why the stream does not move: nobody holds
// it, or what its holder reports, or that ctx ended first.
func (p *Positions) Wait(ctx context.Context, lsn saga.LSN) error {
	w := &waiter{lsn: lsn, since: time.Now(), done: make(chan error, 1)}
	if p.enter(w) {
		return nil
	}
	select {
	case err := <-w.done:
		return err
	case <-ctx.Done():
		p.mu.Lock()
		delete(p.waiters, w)
		p.mu.Unlock()
		return p.unavailable(lsn, "it has not come there in time")
	}
}

// enter reports whether the position is reached already; else it enters the
// waiter.
func (p *Positions) enter(w *waiter) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.holding && p.confirmed >= w.lsn {
		return true
	}
	p.waiters[w] = struct{}{}
	// The holder polls too, if slowly: so a waiter hears of a stream that
	// stands still.
	if !p.polling {
		p.polling = true
		go p.poll()
	}
	return false
}

// advance wakes the waiters of a position that the holder in this process has
// confirmed.
func (p *Positions) advance(lsn saga.LSN) {
	if p == nil {
		return
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.confirmed = max(p.confirmed, lsn)
	p.release(lsn, time.Now())
}

// release wakes those who wait for at most lsn since before a moment.
func (p *Positions) release(lsn saga.LSN, before time.Time) {
	for w := range p.waiters {
		if w.lsn <= lsn && !w.since.After(before) {
			p.tell(w, nil)
		}
	}
}

func (p *Positions) tell(w *waiter, err error) {
	delete(p.waiters, w)
	w.done <- err
}

// setHolding says whether this process holds the stream.
func (p *Positions) setHolding(holding bool) {
	if p == nil {
		return
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.holding, p.confirmed = holding, 0
}

// poll looks at the slot until nobody waits.
func (p *Positions) poll() {
	for {
		pause, ok := p.pause()
		if !ok {
			return
		}
		time.Sleep(pause)
		p.look()
	}
}

// pause returns how long to wait before the next look. It ends the poll, and
// returns false, when there is nobody to look for.
func (p *Positions) pause() (time.Duration, bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if len(p.waiters) == 0 {
		p.polling = false
		return 0, false
	}
	if p.holding {
		return pollAtMost / 5, true
	}
	youngest := pollAtMost * 10
	for w := range p.waiters {
		youngest = min(youngest, time.Since(w.since))
	}
	return min(max(youngest/10, pollEvery), pollAtMost), true
}

func (p *Positions) look() {
	ctx, cancel := context.WithTimeout(context.Background(), queryTimeout)
	defer cancel()
	asked := time.Now()
	state, err := readSlot(ctx, p.db, p.slot)
	if err == nil {
		p.mu.Lock()
		p.release(state.Confirmed.LSN(), asked)
		p.mu.Unlock()
		if !p.anyOlderThan(asked.Add(-reportedAfter)) {
			return
		}
	}
	problem, after := p.diagnose(ctx, state, err)
	if problem == "" {
		return
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	for w := range p.waiters {
		if asked.Sub(w.since) >= after {
			p.tell(w, p.unavailable(w.lsn, problem))
		}
	}
}

func (p *Positions) anyOlderThan(moment time.Time) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	for w := range p.waiters {
		if w.since.Before(moment) {
			return true
		}
	}
	return false
}

// diagnose says why the stream does not move, if a reason is known, and to whom
// to say it: to those who have waited for at least that long.
func (p *Positions) diagnose(ctx context.Context, state postgres.SlotState, err error) (string, time.Duration) {
	if err != nil {
		return err.Error(), reportedAfter
	}
	var problem string
	// The row is absent before the first holder.
	_ = p.db.QueryRow(ctx, "SELECT coalesce(error, '') FROM capsaga.stream WHERE slot = $1", p.slot).Scan(&problem)
	switch {
	case problem != "":
		return problem, reportedAfter
	case !state.Active:
		return "no worker holds the stream: start one", nobodyAfter
	}
	return "", 0
}

func (p *Positions) unavailable(lsn saga.LSN, why string) *saga.Error {
	return &saga.Error{
		Class: saga.Unavailable, System: "kafka", Code: saga.CodeUnavailable,
		Message: fmt.Sprintf("the stream of slot %s has not confirmed %s: %s", p.slot, lsn, why),
	}
}
