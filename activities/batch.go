package activities

import (
	"context"
	"encoding/json"
	"slices"
	"time"

	"go.temporal.io/sdk/activity"

	"github.com/capsaga/capsaga/saga"
)

// CommitBatchInput is the input of CommitBatch: the batch as JSON and, inside of
// the process that has parsed it, its writes.
type CommitBatchInput struct {
	Batch json.RawMessage `json:"batch"`
	// Writes has an entry per write; one without a Write is malformed and was
	// answered already.
	Writes []BatchWrite `json:"-"`
}

// ParseWrites parses the writes of a batch, each by itself. A malformed one has no
// Write in the list, and an error at its place.
func ParseWrites(b *saga.Batch) (writes []BatchWrite, errs map[int]error) {
	writes, errs = make([]BatchWrite, len(b.Writes)), map[int]error{}
	for i, data := range b.Writes {
		w, err := saga.ParseWrite(data)
		if err != nil {
			errs[i] = err
			continue
		}
		trace := b.Trace(i)
		writes[i] = BatchWrite{Write: w, Digest: w.Digest(), TraceParent: trace.Parent, TraceState: trace.State}
	}
	return writes, errs
}

// CommitBatchOutput is the result of CommitBatch. It holds no row's content.
type CommitBatchOutput struct {
	// Results has an entry per write, empty of a malformed one.
	Results []BatchResult `json:"results"`
	// FlushLSN is the WAL's flushed position as read after the last commit.
	FlushLSN saga.LSN `json:"flush_lsn,omitempty"`
	// Sinks and Order are as those of CommitOutput, for all writes.
	Sinks map[string][]saga.Sink `json:"sinks,omitempty"`
	Order []saga.Sink            `json:"order,omitempty"`
	// ParkAfter is the shortest of the writes' policies.
	ParkAfter saga.Duration `json:"park_after,omitempty"`
	Attempt   int           `json:"attempt"`
}

// BatchResult is what became of one write of a batch.
type BatchResult struct {
	Status    saga.Status       `json:"status,omitempty"`
	Error     *saga.ErrorInfo   `json:"error,omitempty"`
	Version   saga.Version      `json:"version,omitempty"`
	Confirmed saga.Confirmation `json:"confirmed,omitempty"`
	Owned     []saga.Owned      `json:"owned,omitempty"`
	// Alone is true of a write that needs a workflow of its own.
	Alone bool `json:"alone,omitempty"`
	// Recorded is the outcome of a saga that had ended before.
	Recorded *saga.Outcome `json:"recorded,omitempty"`
}

// Outcome is the saga's outcome as the commit leaves it.
func (r *BatchResult) Outcome(sagaID string) saga.Outcome {
	if r.Recorded != nil {
		return *r.Recorded
	}
	o := saga.Outcome{SagaID: sagaID, Status: r.Status, Error: r.Error, Confirmed: r.Confirmed}
	if r.Alone {
		o.Status = saga.Pending
	}
	if r.Version != 0 {
		o.Own(r.Version, r.Owned)
	}
	return o
}

// CommitBatch commits many writes, each as Commit does and with a result of its
// own. It is idempotent by the ledger's key.
func (a *Saga) CommitBatch(ctx context.Context, in CommitBatchInput) (CommitBatchOutput, error) {
	var out CommitBatchOutput
	err := a.attempt(ctx, saga.StepCommit, func(ctx context.Context) (err error) {
		out, err = a.commitBatch(ctx, in)
		return err
	})
	return out, err
}

func (a *Saga) commitBatch(ctx context.Context, in CommitBatchInput) (CommitBatchOutput, error) {
	if in.Writes == nil { // it has come through the history
		batch, err := saga.ParseBatch(in.Batch)
		if err != nil {
			return CommitBatchOutput{}, err
		}
		in.Writes, _ = ParseWrites(batch)
	}
	info, began := activity.GetInfo(ctx), a.Now()
	request := BatchRequest{Catalog: a.Catalog, WorkflowID: info.WorkflowExecution.ID, RunID: info.WorkflowExecution.RunID}
	var places []int
	for i, w := range in.Writes {
		if w.Write != nil {
			request.Writes, places = append(request.Writes, w), append(places, i)
		}
	}
	results, err := a.Batches.CommitBatch(ctx, request)
	if err != nil {
		return CommitBatchOutput{}, err
	}
	out := CommitBatchOutput{Results: make([]BatchResult, len(in.Writes)), Sinks: map[string][]saga.Sink{}, Attempt: int(info.Attempt)}
	for k, r := range results {
		w := request.Writes[k]
		out.Results[places[k]] = batchResult(r)
		if r == nil || r.Status != saga.Committed {
			continue
		}
		out.FlushLSN = max(out.FlushLSN, r.FlushLSN)
		a.routeBatch(&out, w.Write, r.Owned)
		a.images.put(w.Write.SagaID, r.Version, began, r.Owned)
	}
	a.tellBatch(&out, request.Writes, places, began)
	return out, nil
}

// batchResult is what the workflow is told. A saga that is somewhere else between
// its commit and its end, as one that is parked or being undone, is for its own
// workflow.
func batchResult(r *CommitResult) BatchResult {
	if r == nil {
		return BatchResult{Alone: true}
	}
	out := BatchResult{Status: r.Status, Error: r.Error, Version: r.Version, Confirmed: r.Confirmed, Owned: r.Owned}
	switch {
	case r.Recorded == nil:
	case r.Recorded.Status.Final():
		out = BatchResult{Status: r.Recorded.Status, Recorded: r.Recorded}
	default:
		out.Alone = true
	}
	return out
}

// routeBatch says where the rows of a write go, and for how long that is tried.
func (a *Saga) routeBatch(out *CommitBatchOutput, w *saga.Write, owned []saga.Owned) {
	for _, o := range owned {
		e, err := a.Catalog.Entity(o.Entity)
		if err != nil {
			continue
		}
		if _, known := out.Sinks[o.Entity]; !known {
			out.Sinks[o.Entity] = e.Sinks()
			for _, sink := range saga.Sinks {
				if slices.Contains(e.Sinks(), sink) && !slices.Contains(out.Order, sink) {
					out.Order = append(out.Order, sink)
				}
			}
		}
		for _, sink := range out.Sinks[o.Entity] {
			patience := saga.Duration(w.Policy.Or(e.PolicyFor(sink)).ParkAfterOrDefault())
			if out.ParkAfter == 0 || patience < out.ParkAfter {
				out.ParkAfter = patience
			}
		}
	}
}

// tellBatch tells the waiters of this process what became of the writes.
func (a *Saga) tellBatch(out *CommitBatchOutput, writes []BatchWrite, places []int, began time.Time) {
	if a.Notifier == nil {
		return
	}
	step := saga.Step{Name: saga.StepCommit, State: saga.StepDone, Attempts: out.Attempt, Duration: saga.Duration(a.Now().Sub(began))}
	for k, w := range writes {
		r := &out.Results[places[k]]
		if r.Alone {
			continue
		}
		o := r.Outcome(w.Write.SagaID)
		o.Content = w.Digest
		if o.Status == saga.Committed {
			o.Steps = []saga.Step{step}
		}
		a.Notifier.Publish(o)
	}
}

// BatchRow is a row of a batch on its way to a sink. Version is set in each.
type BatchRow struct {
	At     int    `json:"at"` // the write's place in the batch
	SagaID string `json:"saga_id"`
	saga.Owned
}

// BatchSinkInput is the input of a sink's activity for a batch.
type BatchSinkInput struct {
	Rows []BatchRow `json:"rows"`
}

// BatchSinkOutput is the result of a sink's activity for a batch.
type BatchSinkOutput struct {
	Attempt int `json:"attempt"`
	Changed int `json:"changed"`
	// Failed names the writes whose rows the sink did not take, while it took others.
	Failed []BatchFailure `json:"failed,omitempty"`
}

// BatchFailure is one write that a sink did not take.
type BatchFailure struct {
	At    int            `json:"at"`
	Error saga.ErrorInfo `json:"error"`
}

// UpdateRedisBatch brings rows of many sagas to Redis, in one pipeline. It is
// idempotent by compare-and-set on the version.
func (a *Saga) UpdateRedisBatch(ctx context.Context, in BatchSinkInput) (BatchSinkOutput, error) {
	return a.batchSink(ctx, saga.StepRedis, in, a.Redis.Apply)
}

// IndexElasticsearchBatch brings rows of many sagas to Elasticsearch, in one bulk
// request. It is idempotent by external versions.
func (a *Saga) IndexElasticsearchBatch(ctx context.Context, in BatchSinkInput) (BatchSinkOutput, error) {
	return a.batchSink(ctx, saga.StepElasticsearch, in, a.Elasticsearch.Apply)
}

func (a *Saga) batchSink(ctx context.Context, step saga.StepName, in BatchSinkInput, apply func(context.Context, []saga.Document) ([]saga.Applied, error)) (BatchSinkOutput, error) {
	var failed []BatchFailure
	out, err := a.sink(ctx, step, func(ctx context.Context) (int, error) {
		docs, rows, err := a.batchDocuments(ctx, in)
		if err != nil || len(docs) == 0 {
			return 0, err
		}
		var applied []saga.Applied
		err = a.request(ctx, step, func() (err error) {
			applied, err = apply(ctx, docs)
			return err
		})
		if err != nil {
			return 0, err
		}
		changed, worst := verdict(step, docs, applied, nil)
		if worst != nil && saga.ClassOf(worst) != saga.Rejected && allFailed(applied) {
			return changed, worst // the sink's trouble and not the rows'
		}
		failed = failures(step, docs, rows, applied)
		return changed, nil
	})
	return BatchSinkOutput{Attempt: out.Attempt, Changed: out.Changed, Failed: failed}, err
}

func allFailed(applied []saga.Applied) bool {
	return !slices.ContainsFunc(applied, func(a saga.Applied) bool { return a.Err == nil })
}

// failures names the writes whose documents were not taken.
func failures(step saga.StepName, docs []saga.Document, rows [][]int, applied []saga.Applied) []BatchFailure {
	var failed []BatchFailure
	for i, result := range applied {
		if result.Err == nil {
			continue
		}
		e := errorInfo(step, rowError(step, docs[i], result.Err))
		for _, at := range rows[i] {
			failed = append(failed, BatchFailure{At: at, Error: e})
		}
	}
	return failed
}

// batchDocuments returns what the sink is to hold, the last change of each row, and
// for each the writes that it is of. An earlier write of the row is done when the
// last one is.
func (a *Saga) batchDocuments(ctx context.Context, in BatchSinkInput) (docs []saga.Document, writes [][]int, err error) {
	index := make(map[rowKey]int, len(in.Rows))
	var last []BatchRow
	for _, row := range in.Rows {
		key := rowKey{row.Entity, row.Key}
		at, known := index[key]
		if !known {
			at = len(last)
			index[key] = at
			last, writes = append(last, row), append(writes, nil)
		}
		if row.Version >= last[at].Version {
			last[at] = row
		}
		writes[at] = append(writes[at], row.At)
	}
	kept := writes[:0]
	for i, row := range last {
		one := SinkInput{SagaID: row.SagaID, Version: row.Version, Rows: []saga.Owned{row.Owned}}
		found, err := a.documents(ctx, one)
		if err != nil {
			return nil, nil, err
		}
		if len(found) > 0 {
			docs, kept = append(docs, found[0]), append(kept, writes[i])
		}
	}
	return docs, kept, nil
}

// RecordBatchInput is the input of RecordBatch.
type RecordBatchInput struct {
	Completed []saga.Outcome `json:"completed"`
}

// RecordBatchOutput is the result of RecordBatch.
type RecordBatchOutput struct{}

// RecordBatch stores that sagas of a batch have completed, and tells the waiters of
// this process. It is idempotent.
func (a *Saga) RecordBatch(ctx context.Context, in RecordBatchInput) (RecordBatchOutput, error) {
	for i := range in.Completed {
		a.images.drop(in.Completed[i].SagaID)
		a.Notifier.Publish(in.Completed[i])
	}
	return RecordBatchOutput{}, a.attempt(ctx, stepRecord, func(ctx context.Context) error {
		return a.Ledger.RecordOutcomes(ctx, in.Completed)
	})
}
