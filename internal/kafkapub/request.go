package kafkapub

import (
	"context"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/capsaga/capsaga/internal/postgres"
)

// Diversion is a topic whose records are parked, as operators see it.
type Diversion struct {
	Topic string `json:"topic"`
	// Table is empty for the topic of transactions.
	Table  string    `json:"table"`
	Since  time.Time `json:"since"`
	Reason string    `json:"reason"`
	// Position is the offset in the parked topic from which its records have not been
	// brought back.
	Position int64 `json:"position"`
	// Requested says that somebody asked to bring them back, and Refused why the last
	// such request did not succeed.
	Requested bool   `json:"requested"`
	Refused   string `json:"refused,omitempty"`
}

// Diversions returns the diverted topics of the stream of a slot, by name.
func Diversions(ctx context.Context, db postgres.Querier, slot string) ([]Diversion, error) {
	const action = "read the diverted topics"
	rows, err := db.Query(ctx, `
		SELECT topic, table_name, diverted_at, coalesce(reason, ''), coalesce(position, 0), drain_at IS NOT NULL, coalesce(drain_error, '')
		FROM capsaga.topic WHERE slot = $1 AND diverted_at IS NOT NULL ORDER BY topic`, slot)
	if err != nil {
		return nil, registerError(action, err)
	}
	diversions, err := pgx.CollectRows(rows, pgx.RowToStructByPos[Diversion])
	return diversions, registerError(action, err)
}

// RequestDrain asks the holder of a slot's stream to bring parked records back.
// Asking twice is the same as once.
func RequestDrain(ctx context.Context, db postgres.Querier, slot string, topics []string) error {
	_, err := db.Exec(ctx, `
		UPDATE capsaga.topic SET drain_at = clock_timestamp(), drain_error = NULL
		WHERE slot = $1 AND topic = ANY ($2) AND diverted_at IS NOT NULL AND drain_at IS NULL`, slot, topics)
	return registerError("ask to drain topics", err)
}
