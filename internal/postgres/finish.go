package postgres

import (
	"context"
	"encoding/json"
	"fmt"

	"github.com/jackc/pgx/v5"

	"github.com/capsaga/capsaga/saga"
)

// underWay is the SQL for a saga s that is entered as completed while its batch is
// not: it counts as committed.
const underWay = `(s.outcome IS NULL AND EXISTS (SELECT FROM capsaga.batch b
	WHERE b.workflow_id = s.workflow_id AND b.version = s.version AND b.finished_at IS NULL))`

// statusNow is the SQL for the status of a saga s.
const statusNow = "CASE WHEN s.status = 'completed' AND " + underWay + " THEN 'committed' ELSE s.status END"

// FinishBatch says that the sagas of a batch have completed, with the steps that all
// have in common, but for those that go on alone. It is idempotent.
func (db *DB) FinishBatch(ctx context.Context, workflowID string, alone []string, steps []saga.Step) error {
	body, err := json.Marshal(steps)
	if err != nil {
		return err
	}
	var batch pgx.Batch
	batch.Queue("BEGIN")
	if len(alone) > 0 {
		batch.Queue(`UPDATE capsaga.saga s SET status = 'committed', finished_at = NULL
			WHERE s.id = ANY($1) AND s.workflow_id = $2 AND s.status = 'completed' AND `+underWay, alone, workflowID)
	}
	batch.Queue("UPDATE capsaga.batch SET ids = '{}', steps = $2::text::json, finished_at = clock_timestamp() WHERE workflow_id = $1 AND finished_at IS NULL",
		workflowID, string(body))
	batch.Queue("COMMIT")
	return classify(fmt.Sprintf("record that %s has finished", workflowID), db.pool.SendBatch(ctx, &batch).Close())
}
