package backfill

import (
	"context"

	"github.com/jackc/pgx/v5"

	"github.com/capsaga/capsaga/internal/postgres"
	"github.com/capsaga/capsaga/saga"
)

// Resync requests a backfill of one sink that also removes what is no row: all that
// the sink holds from before now, and that the backfill does not find.
func Resync(ctx context.Context, db Beginner, e *saga.Entity, sink saga.Sink, why Reason) error {
	err := pgx.BeginFunc(ctx, db, func(tx pgx.Tx) error {
		floor, err := currentVersion(ctx, tx)
		if err != nil {
			return err
		}
		_, err = Submit(ctx, tx, Request{Entity: e, Sinks: []saga.Sink{sink}, Reason: why, Floor: floor})
		return err
	})
	return postgres.Classify("request a backfill of "+e.Name, err)
}
