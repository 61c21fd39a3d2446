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
func (db *DB) Waive(ctx context.Context, w Waiver) error {
	rows, err := json.Marshal(w.Rows)
	if err != nil {
		return err
	}
	tag, err := db.pool.Exec(ctx, `
		INSERT INTO capsaga.waiver AS old (saga_id, step, version, rows, reason)
		SELECT id, $2, $3, $4::text::json, $5 FROM capsaga.saga WHERE id = $1
		ON CONFLICT (saga_id, step) DO UPDATE SET reason = excluded.reason,
		    version = greatest(old.version, excluded.version),
		    rows = CASE WHEN excluded.version > old.version THEN excluded.rows ELSE old.rows END`,
		w.SagaID, string(w.Step), int64(w.Version), string(rows), w.Reason)
	if err == nil && tag.RowsAffected() == 0 {
		return unknownSaga(w.SagaID)
	}
	return classify("waive step "+string(w.Step)+" of saga "+w.SagaID, err)
}

func unknownSaga(id string) *saga.Error {
	return refuse(saga.CodeUnknownSaga, "saga %q is not in the ledger: it never committed, or its row was pruned", id)
}
