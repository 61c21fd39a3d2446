package backfill

import (
	"context"

	"github.com/capsaga/capsaga/saga"
)

// Resync requests a backfill of one sink that also sweeps it.
func Resync(ctx context.Context, db Beginner, e *saga.Entity, sink saga.Sink, why Reason) error {
	_, err := Submit(ctx, db, Request{Entity: e, Sinks: []saga.Sink{sink}, Reason: why, Sweep: true})
	return err
}
