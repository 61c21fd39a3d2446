package postgres

import (
	"context"
	"fmt"

	"github.com/capsaga/capsaga/saga"
)

// StreamLease is what the holder of a slot stamps on its records.
type StreamLease struct {
	// Epoch is the newest epoch; Epochs tells that of each position.
	Epoch  saga.Epoch
	Epochs Epochs
	// Generation counts the holders of the slot.
	Generation int64
}

// AcquireStream counts a new holder of a slot. The caller has started
// replication already; the count rises only while its walsender still holds the
// slot, so that a holder that fell asleep on the way cannot get a number above
// its successor's.
func (db *DB) AcquireStream(ctx context.Context, slot string, backendPID uint32, holder string) (StreamLease, error) {
	epoch, err := db.Epoch(ctx)
	if err != nil {
		return StreamLease{}, err
	}
	lease := StreamLease{Epoch: epoch}
	err = db.pool.QueryRow(ctx, `
		INSERT INTO capsaga.stream AS s (slot, generation, holder)
		SELECT $1::text, 1, $3::text FROM pg_replication_slots WHERE slot_name = $1::text AND active_pid = $2
		ON CONFLICT (slot) DO UPDATE SET generation = s.generation + 1, holder = excluded.holder,
		    started_at = clock_timestamp(), error = NULL, error_at = NULL
		RETURNING generation`, slot, int64(backendPID), holder).Scan(&lease.Generation)
	if noRows(err) {
		return StreamLease{}, &saga.Error{
			Class: saga.Unavailable, System: "postgres", Code: saga.CodeUnavailable,
			Message: fmt.Sprintf("slot %s is no longer held by this worker's connection", slot),
		}
	}
	if err != nil {
		return StreamLease{}, classify("count the holder of slot "+slot, err)
	}
	lease.Epochs, err = readEpochs(ctx, db.pool)
	return lease, classify("read the epochs", err)
}

// ReportStream keeps why a stream stands still, for all workers and the CLI to
// see; the empty string says that it moves.
func (db *DB) ReportStream(ctx context.Context, slot, problem string) error {
	_, err := db.pool.Exec(ctx, `
		INSERT INTO capsaga.stream AS s (slot, generation, holder, error, error_at)
		VALUES ($1, 0, '', nullif($2, ''), clock_timestamp())
		ON CONFLICT (slot) DO UPDATE SET error = nullif($2, ''), error_at = clock_timestamp()`, slot, problem)
	return classify("report the state of slot "+slot, err)
}
