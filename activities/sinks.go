package activities

import (
	"context"
	"fmt"

	"go.temporal.io/sdk/activity"

	"github.com/capsaga/capsaga/saga"
)

// SinkInput is the input of a sink's activity: the rows that go there.
type SinkInput struct {
	SagaID  string       `json:"saga_id"`
	Version saga.Version `json:"version"`
	// FlushLSN is the position that Kafka's stream must reach.
	FlushLSN saga.LSN     `json:"flush_lsn,omitempty"`
	Rows     []saga.Owned `json:"rows,omitempty"`
}

// SinkOutput is the result of a sink's activity.
type SinkOutput struct {
	Attempt int `json:"attempt"`
	// Changed counts the rows that the sink did not have yet, or only older.
	Changed int `json:"changed"`
}

// UpdateRedis brings the rows to Redis. It is idempotent by compare-and-set on
// the version.
func (a *Saga) UpdateRedis(ctx context.Context, in SinkInput) (SinkOutput, error) {
	return a.sink(ctx, saga.StepRedis, func(ctx context.Context) (int, error) {
		docs, err := a.documents(ctx, in)
		if err != nil || len(docs) == 0 {
			return 0, err
		}
		var applied []saga.Applied
		err = a.request(ctx, saga.StepRedis, func() (err error) {
			applied, err = a.Redis.Apply(ctx, docs)
			return err
		})
		return verdict(saga.StepRedis, docs, applied, err)
	})
}

// IndexElasticsearch brings the rows to Elasticsearch. It is idempotent by
// external versions.
func (a *Saga) IndexElasticsearch(ctx context.Context, in SinkInput) (SinkOutput, error) {
	return a.sink(ctx, saga.StepElasticsearch, func(ctx context.Context) (int, error) {
		docs, err := a.documents(ctx, in)
		if err != nil || len(docs) == 0 {
			return 0, err
		}
		var applied []saga.Applied
		err = a.request(ctx, saga.StepElasticsearch, func() (err error) {
			applied, err = a.Elasticsearch.Apply(ctx, docs)
			return err
		})
		return verdict(saga.StepElasticsearch, docs, applied, err)
	})
}

// PublishKafka waits until the stream has brought the saga's events to Kafka. It
// is idempotent, as it writes nothing: the stream publishes from the WAL.
func (a *Saga) PublishKafka(ctx context.Context, in SinkInput) (SinkOutput, error) {
	return a.sink(ctx, saga.StepKafka, func(ctx context.Context) (int, error) {
		return 0, a.request(ctx, saga.StepKafka, func() error { return a.Positions.Wait(ctx, in.FlushLSN) })
	})
}

// sink runs one attempt of a sink's step.
func (a *Saga) sink(ctx context.Context, step saga.StepName, effect func(ctx context.Context) (int, error)) (SinkOutput, error) {
	info := activity.GetInfo(ctx)
	out := SinkOutput{Attempt: int(info.Attempt)}
	err := a.attempt(ctx, step, func(ctx context.Context) error {
		if err := a.breakers[step].admit(step, a.Now(), info.IsLocalActivity); err != nil {
			return err
		}
		changed, err := effect(ctx)
		out.Changed = changed
		return err
	})
	return out, err
}

// documents returns what the sink is to hold: the rows as the saga left them, or
// as they are now. Rows that are gone by now are left out: whoever deleted them
// has a newer version than ours to tell the sinks.
func (a *Saga) documents(ctx context.Context, in SinkInput) ([]saga.Document, error) {
	img := a.images.get(in.SagaID, in.Version, a.Now())
	docs := make([]saga.Document, 0, len(in.Rows))
	for _, o := range in.Rows {
		doc := saga.Document{Entity: o.Entity, Key: o.Key, Version: in.Version}
		if o.Gone() {
			if o.Version != 0 {
				doc.Version = o.Version // an earlier transaction of the saga deleted it
			}
			docs = append(docs, doc) // our deletion stays true at our version, however late
			continue
		}
		e, err := a.Catalog.Entity(o.Entity)
		if err != nil {
			return nil, &saga.Error{
				Class: saga.Unavailable, System: "catalog", Code: saga.CodeUnknownEntity, Err: err,
				Message: fmt.Sprintf("entity %s is not in this worker's catalog, though it was when saga %s committed: give all workers a catalog that has it", o.Entity, in.SagaID),
			}
		}
		if doc.Row = img.row(e, o.Key, a.Now()); doc.Row == nil {
			found, err := a.reread(ctx, e, o, &doc)
			if err != nil {
				return nil, err
			}
			if !found {
				continue
			}
		}
		docs = append(docs, doc)
	}
	return docs, nil
}

// reread fills the document from PostgreSQL, with a version that is sound for
// what it found.
func (a *Saga) reread(ctx context.Context, e *saga.Entity, o saga.Owned, doc *saga.Document) (found bool, err error) {
	row, err := a.Rows.ReadRow(ctx, e, o.Key)
	switch {
	case err != nil:
		return false, err
	case !row.Found:
		return false, nil
	case row.ETag == o.ETag: // still as the saga left it
		doc.Row = row.Row
	case row.Version != 0:
		doc.Row, doc.Version = row.Row, row.Version
	default:
		return false, &saga.Error{
			Class: saga.Unavailable, System: "postgres", Code: saga.CodeUnavailable,
			Message: fmt.Sprintf("row %s/%s is locked by another transaction, so its version is not known yet", o.Entity, o.Key),
		}
	}
	return true, nil
}

// verdict sums up an apply: whatever can pass later is tried again first, so a
// rejection is final only when all other rows have arrived.
func verdict(step saga.StepName, docs []saga.Document, applied []saga.Applied, err error) (changed int, _ error) {
	if err != nil {
		return 0, err
	}
	var worst error
	failed := 0
	for i, result := range applied {
		if result.Changed {
			changed++
		}
		if result.Err == nil {
			continue
		}
		failed++
		if worst == nil || saga.ClassOf(worst) == saga.Rejected && saga.ClassOf(result.Err) != saga.Rejected {
			worst = rowError(step, docs[i], result.Err)
		}
	}
	if failed > 1 {
		e := errorInfo(step, worst)
		worst = &saga.Error{
			Class: e.Class, System: e.System, Code: e.Code, Err: worst,
			Message: fmt.Sprintf("%s (and %d more of %d rows failed)", e.Message, failed-1, len(docs)),
		}
	}
	return changed, worst
}

// rowError names the row in its error.
func rowError(step saga.StepName, doc saga.Document, err error) error {
	e := errorInfo(step, err)
	return &saga.Error{
		Class: e.Class, System: e.System, Code: e.Code, Err: err,
		Message: fmt.Sprintf("%s/%s: %s", doc.Entity, doc.Key, e.Message),
	}
}
