package backfill

import (
	"context"

	"github.com/jackc/pgx/v5"

	"github.com/capsaga/capsaga/internal/postgres"
	"github.com/capsaga/capsaga/saga"
)

// Known is what was provisioned of an entity, whether or not the catalog still has
// it.
type Known struct {
	Table saga.Table
	Sinks []saga.Sink
}

// Provisions returns what was provisioned of an entity, nil if nothing was.
func Provisions(ctx context.Context, db postgres.Querier, entity string) (*Known, error) {
	rows, err := db.Query(ctx, "SELECT table_name, sink FROM capsaga.entity WHERE entity = $1 ORDER BY applied_at, sink", entity)
	if err != nil {
		return nil, postgres.Classify("read what was provisioned", err)
	}
	var known *Known
	var table string
	var sink saga.Sink
	_, err = pgx.ForEachRow(rows, []any{&table, &sink}, func() (err error) {
		if known == nil {
			known = &Known{}
		}
		known.Sinks = append(known.Sinks, sink)
		known.Table, err = saga.ParseTable(table)
		return err
	})
	return known, postgres.Classify("read what was provisioned", err)
}

// Retire ends an entity's backfills, and has it count as new if it comes back.
func Retire(ctx context.Context, db postgres.Querier, entity string) error {
	if _, err := Cancel(ctx, db, entity); err != nil {
		return err
	}
	_, err := db.Exec(ctx, "UPDATE capsaga.entity SET retired = true WHERE entity = $1", entity)
	return postgres.Classify("retire entity "+entity, err)
}

// Forget removes what is known of an entity.
func Forget(ctx context.Context, db Beginner, entity string) error {
	err := pgx.BeginFunc(ctx, db, func(tx pgx.Tx) error {
		if _, err := tx.Exec(ctx, "DELETE FROM capsaga.backfill WHERE entity = $1", entity); err != nil {
			return err
		}
		_, err := tx.Exec(ctx, "DELETE FROM capsaga.entity WHERE entity = $1", entity)
		return err
	})
	return postgres.Classify("forget entity "+entity, err)
}
