package stream

import (
	"context"
	"errors"
	"fmt"

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
	state, there := slots[slot]
	switch {
	case !there:
		return state, gone("replication slot %s does not exist: `capsaga catalog apply` creates a stream's first; one that is gone is made anew by a worker with the role stream, and what was missed is backfilled", slot)
	case state.Lost != "":
		return state, gone("replication slot %s was invalidated by the server (%s): a worker with the role stream makes it anew, and what was missed is backfilled", slot, state.Lost)
	}
	return state, state.Check(slot)
}

func gone(format string, args ...any) *saga.Error {
	e := refused(format, args...)
	e.Err = errGone
	return e
}

func refused(format string, args ...any) *saga.Error {
	return &saga.Error{Class: saga.Rejected, System: "postgres", Code: saga.CodeRejected, Message: fmt.Sprintf(format, args...)}
}
