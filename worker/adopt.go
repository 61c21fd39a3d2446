package worker

import (
	"context"
	"math/rand/v2"
	"time"

	"github.com/capsaga/capsaga/saga"
)

const (
	// adoptEvery is the time between two looks for sagas that have no workflow yet,
	// before jitter, and adoptBatch how many of a kind are started at each: a table that
	// its sink refuses as a whole must not crowd out new sagas.
	adoptEvery = time.Second
	adoptBatch = 50
	// adoptTimeout bounds one start.
	adoptTimeout = 5 * time.Second
)

// adopt starts the workflows of the sagas that the streams have entered into the
// ledger, and of those whose client was killed between their commit and the start.
// Every worker that runs sagas does; one of them at a time has work. Temporal may be
// away meanwhile: the ledger waits.
func (w *Worker) adopt(ctx context.Context) error {
	for failing := false; ; {
		refused := 0
		_, err := w.db.StartAdopted(ctx, adoptBatch, func(ctx context.Context, write saga.Write, token string) (string, error) {
			ctx, cancel := context.WithTimeout(ctx, adoptTimeout)
			defer cancel()
			runID, err := w.client.Adopt(ctx, write, token)
			if err == nil && write.Stream != nil {
				refused++
			}
			return runID, err
		})
		if err != nil && !failing && ctx.Err() == nil {
			w.log.Warn("cannot start the workflows of all sagas that lack one: still trying", "error", err)
		}
		failing = err != nil
		if refused > 0 {
			w.log.Info("started sagas of rows that a sink refused: see `capsaga list --status parked`", "sagas", refused)
		}
		if !sleep(ctx, adoptEvery/2+rand.N(adoptEvery)) {
			return nil
		}
	}
}
