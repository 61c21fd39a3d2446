package worker

import (
	"context"

	"github.com/capsaga/capsaga/activities"
	"github.com/capsaga/capsaga/internal/postgres"
	"github.com/capsaga/capsaga/saga"
)

// pivot gives the activities PostgreSQL in their own terms.
type pivot struct{ *postgres.DB }

func (p pivot) Commit(ctx context.Context, r activities.CommitRequest) (*activities.CommitResult, error) {
	result, err := p.DB.Commit(ctx, postgres.CommitRequest(r))
	if err != nil {
		return nil, err
	}
	converted := activities.CommitResult(*result)
	return &converted, nil
}

func (p pivot) ReadRow(ctx context.Context, e *saga.Entity, key string) (activities.Row, error) {
	row, err := p.DB.ReadRow(ctx, e, key)
	return activities.Row(row), err
}
