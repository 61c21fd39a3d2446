package stream

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/capsaga/capsaga/internal/postgres"
	"github.com/capsaga/capsaga/saga"
)

// errGone is part of the errors of readSlot that say that there is no slot to read.
var errGone = errors.New("the slot is gone")

// readSlot looks at a slot. That it is not there, or was invalidated, is an error
// of class Rejected: somebody has to make it anew.
func readSlot(ctx context.Context, db postgres.Querier, slot string) (postgres.SlotState, error) {
	slots, err := postgres.ReadSlots(ctx, db, slot)
	if err != nil {
		return postgres.SlotState{}, err
	}
	return pickSlot(slots, slot)
}

func pickSlot(slots map[string]postgres.SlotState, slot string) (postgres.SlotState, error) {
	state, there := slots[slot]
	switch {
	case !there:
		return state, gone("replication slot %s does not exist: `capsaga catalog apply` creates a stream's first; one that is gone is made anew by a worker with the role stream, and what was missed is backfilled", slot)
	case state.Lost != "":
		return state, gone("replication slot %s was invalidated by the server (%s): a worker with the role stream makes it anew, and what was missed is backfilled", slot, state.Lost)
	}
	return state, state.Check(slot)
}

// Watch looks at the slots of several readers in one query, so that a worker that
// stands by for all streams asks no more often than for one.
type Watch struct {
	db    postgres.Querier
	mu    sync.Mutex
	names []string
	at    time.Time
	slots map[string]postgres.SlotState
	err   error
}

// NewWatch returns a watch for the readers that are configured with it.
func NewWatch(db postgres.Querier) *Watch { return &Watch{db: db} }

func (w *Watch) add(slot string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.names = append(w.names, slot)
}

// look returns a slot as it was at most one poll ago.
func (w *Watch) look(ctx context.Context, slot string) (postgres.SlotState, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if time.Since(w.at) >= standbyPoll-standbyPoll/10 {
		ctx, cancel := context.WithTimeout(ctx, queryTimeout)
		defer cancel()
		slots, err := postgres.ReadSlots(ctx, w.db, w.names...)
		if ctx.Err() != nil && err != nil {
			return postgres.SlotState{}, err // one reader's end is nothing to tell the others
		}
		w.slots, w.err, w.at = slots, err, time.Now()
	}
	if w.err != nil {
		return postgres.SlotState{}, w.err
	}
	return pickSlot(w.slots, slot)
}

func gone(format string, args ...any) *saga.Error {
	e := refused(format, args...)
	e.Err = errGone
	return e
}

func refused(format string, args ...any) *saga.Error {
	return &saga.Error{Class: saga.Rejected, System: "postgres", Code: saga.CodeRejected, Message: fmt.Sprintf(format, args...)}
}
