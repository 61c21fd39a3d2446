package worker

import (
	"context"
	"fmt"

	"github.com/capsaga/capsaga/internal/backfill"
	"github.com/capsaga/capsaga/internal/stream"
	"github.com/capsaga/capsaga/saga"
)

// backfills runs what is requested of backfills, beside the streams that carry
// their rows.
func (w *Worker) backfills() *backfill.Service {
	return backfill.NewService(backfill.Config{
		DB: w.db, Prefix: w.config.Systems.Prefix, Catalog: w.config.Catalog, Logger: w.log,
	})
}

// closeGap requests what brings a sink the changes that its stream has missed: all
// rows of all of its entities, and the floor below which what it has is no row any
// more. Asked again, it begins again.
func (w *Worker) closeGap(ctx context.Context, gap stream.Gap) error {
	for _, name := range w.config.Catalog.Names() {
		e := w.config.Catalog.Entities[name]
		if !e.HasSink(gap.Sink) {
			continue
		}
		_, err := backfill.Submit(ctx, w.db.Pool(), backfill.Request{
			Entity: e, Sinks: []saga.Sink{gap.Sink}, Reason: backfill.Gap, Floor: gap.Floor,
		})
		if err != nil {
			return fmt.Errorf("entity %s: %w", name, err)
		}
	}
	return nil
}
