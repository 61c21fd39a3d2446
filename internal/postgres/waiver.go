package postgres

import (
	"context"
	"encoding/json"

	"github.com/capsaga/capsaga/saga"
)

// Waiver says that a saga's rows are not wanted in a sink any more.
type Waiver struct {
	SagaID  string
	Step    saga.StepName
	Version saga.Version
	Rows    []saga.Owned
	Reason  string
}

// Waive remembers that a step was given up, until the saga's row of the ledger is
// pruned. It is idempotent; of two waivers of one step the newer version's stays.
// It returns the version that is waived, which is above the given one where the
// ledger knows that the sink has refused later changes of a stream's saga.
func (db *DB) Waive(ctx context.Context, w Waiver) (saga.Version, error) {
	rows, err := json.Marshal(w.Rows)
	if err != nil {
		return 0, err
	}
	var version int64
	err = db.pool.QueryRow(ctx, `
		INSERT INTO capsaga.waiver AS old (saga_id, step, version, rows, reason)
		SELECT id, $2, greatest($3, CASE WHEN stream_row IS NOT NULL THEN version END), $4::text::json, $5 FROM capsaga.saga WHERE id = $1
		ON CONFLICT (saga_id, step) DO UPDATE SET reason = excluded.reason,
		    version = greatest(old.version, excluded.version),
		    rows = CASE WHEN excluded.version > old.version THEN excluded.rows ELSE old.rows END
		RETURNING version`,
		w.SagaID, string(w.Step), int64(w.Version), string(rows), w.Reason).Scan(&version)
	if noRows(err) {
		return 0, unknownSaga(w.SagaID)
	}
	return saga.Version(version), classify("waive step "+string(w.Step)+" of saga "+w.SagaID, err)
}

func unknownSaga(id string) *saga.Error {
	return refuse(saga.CodeUnknownSaga, "saga %q is not in the ledger: it never committed, or its row was pruned", id)
}
