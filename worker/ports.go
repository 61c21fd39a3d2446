package worker

import (
	"context"

	"github.com/capsaga/capsaga/activities"
	"github.com/capsaga/capsaga/internal/elastic"
	"github.com/capsaga/capsaga/internal/gather"
	"github.com/capsaga/capsaga/internal/postgres"
	"github.com/capsaga/capsaga/internal/redis"
	"github.com/capsaga/capsaga/internal/sinkpub"
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

func (p pivot) CommitBatch(ctx context.Context, r activities.BatchRequest) ([]*activities.CommitResult, error) {
	request := postgres.BatchRequest{Catalog: r.Catalog, WorkflowID: r.WorkflowID, RunID: r.RunID, Writes: make([]postgres.BatchWrite, len(r.Writes))}
	for i, w := range r.Writes {
		request.Writes[i] = postgres.BatchWrite(w)
	}
	results, err := p.DB.CommitBatch(ctx, request)
	if err != nil {
		return nil, err
	}
	converted := make([]*activities.CommitResult, len(results))
	for i, result := range results {
		if result != nil {
			c := activities.CommitResult(*result)
			converted[i] = &c
		}
	}
	return converted, nil
}

func (p pivot) ReadRow(ctx context.Context, e *saga.Entity, key string) (activities.Row, error) {
	row, err := p.DB.ReadRow(ctx, e, key)
	return activities.Row(row), err
}

func (p pivot) Waive(ctx context.Context, w activities.Waiver) (saga.Version, error) {
	return p.DB.Waive(ctx, postgres.Waiver(w))
}

func (p pivot) Undo(ctx context.Context, r activities.UndoRequest) (*activities.ChangeResult, error) {
	return changed(p.DB.Undo(ctx, postgres.UndoRequest(r)))
}

func (p pivot) Edit(ctx context.Context, r activities.EditRequest) (*activities.ChangeResult, error) {
	return changed(p.DB.Edit(ctx, postgres.EditRequest(r)))
}

func changed(r *postgres.ChangeResult, err error) (*activities.ChangeResult, error) {
	if err != nil {
		return nil, err
	}
	converted := activities.ChangeResult(*r)
	return &converted, nil
}

// gatherRedis lets the sagas' rows share pipelines.
func gatherRedis(store *redis.Store, c *saga.Catalog) activities.Sink {
	return gather.New(string(saga.Redis), sinkpub.Redis(store, c), gather.Limits{Documents: 1000})
}

// gatherElasticsearch lets the sagas' rows share bulk requests. A request waits for an
// index whose primary shard is away, and must not keep other entities' rows waiting.
func gatherElasticsearch(store *elastic.Store) activities.Sink {
	return gather.New(string(saga.Elasticsearch), store, gather.Limits{Documents: 2000, ByEntity: true})
}
