package attack

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/capsaga/capsaga/internal/stacktest"
)

// TestRecordPositionsRunBackwards plays by hand the race that makes record
// positions useless as versions, and that the attack meets by chance.
func TestRecordPositionsRunBackwards(t *testing.T) {
	a := newArena(t)
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	o, err := observe(ctx, a.stack.PostgresURL, a.slot("observer"))
	require.NoError(t, err)

	holder, err := a.db.Pool().Begin(ctx)
	require.NoError(t, err)
	_, err = holder.Exec(ctx, "UPDATE tally SET n = 1 WHERE id = 1")
	require.NoError(t, err)

	inserted := make(chan error, 1)
	go func() {
		_, err := a.db.Pool().Exec(ctx, "INSERT INTO tally (id) VALUES (1)")
		inserted <- err
	}()
	stacktest.Eventually(t, 20*time.Second, func() error { return a.waits(ctx, "INSERT INTO tally%") })

	// The insert's record is written; this one's comes after it.
	_, err = holder.Exec(ctx, "DELETE FROM tally WHERE id = 1")
	require.NoError(t, err)
	require.NoError(t, holder.Commit(ctx))
	require.NoError(t, <-inserted, "the insert goes on when the row is gone")

	a.exec("SELECT pg_logical_emit_message(true, $1, '')", lastMessage)
	require.NoError(t, o.run(ctx))
	h, err := newHistories(1, o.transactions)
	require.NoError(t, err)
	none(t, h.checkOrder(), "commit positions rise")
	assert.Equal(t, 1, h.falls(byRecord), "record positions fall from the delete to the insert after it")
}

// waits returns nil when a statement waits for a lock.
func (a *arena) waits(ctx context.Context, statement string) error {
	var pid int
	err := a.db.Pool().QueryRow(ctx, `SELECT pid FROM pg_stat_activity
		WHERE datname = current_database() AND wait_event_type = 'Lock' AND query LIKE $1`, statement).Scan(&pid)
	if errors.Is(err, pgx.ErrNoRows) {
		return errors.New("no such statement waits for a lock")
	}
	return err
}
