package listing

import (
	"context"

	"github.com/capsaga/capsaga/activities"
	"github.com/capsaga/capsaga/saga"
)

// Find selects sagas for a request about many. Without Temporal there is no
// selection, as only Temporal can act on it; without the ledger it is of those that
// Temporal knows.
func (l *Lister) Find(ctx context.Context, f saga.Filter, after string, limit int) (activities.Found, error) {
	page, err := l.List(ctx, f, after, limit)
	if err != nil {
		return activities.Found{}, err
	}
	if page.TemporalErr != nil {
		return activities.Found{}, page.TemporalErr
	}
	found := activities.Found{IDs: make([]string, len(page.Sagas)), Next: page.Next}
	for i := range page.Sagas {
		found.IDs[i] = page.Sagas[i].SagaID
	}
	if page.LedgerErr != nil {
		found.Note = page.LedgerErr.Error()
	}
	return found, nil
}
