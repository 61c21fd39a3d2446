package worker

import (
	"context"
	"maps"
	"math/rand/v2"
	"slices"
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
	refused := refusals{}
	for failing := false; ; {
		ofRows := 0
		_, err := w.db.StartAdopted(ctx, adoptBatch, refused.recent(time.Now()), func(ctx context.Context, write saga.Write, token string) (string, error) {
			ctx, cancel := context.WithTimeout(ctx, adoptTimeout)
			defer cancel()
			runID, err := w.client.Adopt(ctx, write, token)
			switch {
			case err == nil && write.Stream != nil:
				ofRows++
			case err != nil && saga.ClassOf(err) == saga.Rejected:
				refused[write.SagaID] = time.Now()
			}
			return runID, err
		})
		if err != nil && !failing && ctx.Err() == nil {
			w.log.Warn("cannot start the workflows of all sagas that lack one: still trying", "error", err)
		}
		failing = err != nil
		if ofRows > 0 {
			w.log.Info("started sagas of rows that a sink refused: see `capsaga list --status parked`", "sagas", ofRows)
		}
		if !sleep(ctx, adoptEvery/2+rand.N(adoptEvery)) {
			return nil
		}
	}
}

// refusals are the sagas whose start Temporal has refused, and when: for a while others
// go before them.
type refusals map[string]time.Time

const (
	refusedFor  = time.Minute
	maxRefusals = 10_000
)

// recent returns those of the last while.
func (r refusals) recent(now time.Time) []string {
	maps.DeleteFunc(r, func(_ string, at time.Time) bool { return now.Sub(at) > refusedFor })
	if len(r) > maxRefusals {
		clear(r)
	}
	return slices.AppendSeq([]string{}, maps.Keys(r))
}
