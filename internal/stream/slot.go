package stream

import (
	"context"
	"errors"
	"fmt"

	"github.com/jackc/pgx/v5"

	"github.com/capsaga/capsaga/internal/postgres"
	"github.com/capsaga/capsaga/saga"
)

// slotState is a slot as PostgreSQL shows it.
type slotState struct {
	active    bool
	pid       uint32 // of the walsender, 0 when there is none
	confirmed saga.LSN
}

// readSlot looks at a slot. That it is not there, or was invalidated, is an
// error of class Rejected: somebody has to make it anew.
func readSlot(ctx context.Context, db postgres.Querier, slot string) (slotState, error) {
	var state slotState
	var confirmed string
	var pid int64
	var status, reason string
	err := db.QueryRow(ctx, `
		SELECT active, coalesce(active_pid, 0), coalesce(confirmed_flush_lsn, '0/0')::text,
		       coalesce(wal_status, ''), coalesce(invalidation_reason, '')
		FROM pg_replication_slots WHERE slot_name = $1`, slot).
		Scan(&state.active, &pid, &confirmed, &status, &reason)
	switch {
	case errors.Is(err, pgx.ErrNoRows):
		return state, refused("replication slot %s does not exist: `capsaga catalog apply` creates it; what was written in between has to be backfilled", slot)
	case err != nil:
		return state, classify("look at slot "+slot, err)
	case status == "lost":
		return state, refused("replication slot %s was invalidated by the server (%s): drop it, run `capsaga catalog apply`, and backfill what was written in between", slot, reason)
	}
	state.pid = uint32(pid)
	state.confirmed, err = saga.ParseLSN(confirmed)
	return state, err
}

func refused(format string, args ...any) *saga.Error {
	return &saga.Error{Class: saga.Rejected, System: "postgres", Code: saga.CodeRejected, Message: fmt.Sprintf(format, args...)}
}
