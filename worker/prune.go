package worker

import (
	"context"
	"math/rand/v2"
	"time"
)

const (
	// pruneEvery is the time between two rounds of a worker, before jitter, which
	// keeps workers that started together from working together.
	pruneEvery = 10 * time.Minute
	// pruneBatch is how many sagas one statement forgets, and pruneSpare the time
	// that the database has for others between two.
	pruneBatch = 1000
	pruneSpare = 100 * time.Millisecond
)

// prune forgets finished sagas when the ledger's retention is over. Every worker
// does; they skip each other's rows.
func (w *Worker) prune(ctx context.Context) error {
	for {
		n, err := pruneAll(ctx, w.config.Catalog.Retention(), w.db.Prune)
		switch {
		case err != nil && ctx.Err() == nil:
			w.log.Warn("cannot prune the ledger", "error", err)
		case n > 0:
			w.log.Info("pruned the ledger", "sagas", n, "older_than", w.config.Catalog.Retention())
		}
		if !sleep(ctx, pruneEvery/2+rand.N(pruneEvery)) {
			return nil
		}
	}
}

// pruneAll forgets all that is old enough, in batches, and returns how many.
func pruneAll(ctx context.Context, retention time.Duration, prune func(context.Context, time.Duration, int) (int, error)) (total int, err error) {
	for {
		n, err := prune(ctx, retention, pruneBatch)
		total += n
		if err != nil || n < pruneBatch || !sleep(ctx, pruneSpare) {
			return total, err
		}
	}
}
