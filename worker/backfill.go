package worker

import "github.com/capsaga/capsaga/internal/backfill"

// backfills runs what is requested of backfills, beside the streams that carry
// their rows.
func (w *Worker) backfills() *backfill.Service {
	return backfill.NewService(backfill.Config{
		DB: w.db, Prefix: w.config.Systems.Prefix, Catalog: w.config.Catalog, Logger: w.log,
	})
}
