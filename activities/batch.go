package activities

import (
	"context"
	"encoding/json"
	"slices"

	"go.temporal.io/sdk/activity"

	"github.com/capsaga/capsaga/saga"
)

// CommitBatchInput is the input of CommitBatch: the batch as JSON and, inside of
// the process that has parsed it, its writes.
type CommitBatchInput struct {
	Batch json.RawMessage `json:"batch"`
	// Writes has an entry per write; one without a Write is malformed, and answered
	// already.
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
		writes[i] = BatchWrite{Write: w, Encoded: data, Digest: w.Digest(), TraceParent: trace.Parent, TraceState: trace.State}
	}
	return writes, errs
}

// CommitBatchOutput is the result of CommitBatch. It holds no row's content.
type CommitBatchOutput struct {
	// The table has an entry per write, which is empty of a malformed one and of one
	// that needs a workflow of its own.
	saga.BatchTable
	// Single lists the writes of whose end the ledger has to be told one by one.
	Single []int `json:"single,omitempty"`
	// FlushLSN is the WAL's flushed position as read after the last commit.
	FlushLSN saga.LSN `json:"flush_lsn,omitempty"`
	// Sinks and Order are as those of CommitOutput, for all writes.
	Sinks map[string][]saga.Sink `json:"sinks,omitempty"`
	Order []saga.Sink            `json:"order,omitempty"`
	// ParkAfter is the shortest of the writes' policies.
	ParkAfter saga.Duration `json:"park_after,omitempty"`
	Attempt   int           `json:"attempt"`
	told      int           // bytes of outcomes
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
	for _, w := range in.Writes {
		if w.Write != nil {
			request.Writes = append(request.Writes, w)
		}
	}
	results, err := a.Batches.CommitBatch(ctx, request)
	if err != nil {
		return CommitBatchOutput{}, err
	}
	out := CommitBatchOutput{Sinks: map[string][]saga.Sink{}, Attempt: int(info.Attempt)}
	for i, w := range in.Writes {
		if w.Write == nil {
			out.Writes = append(out.Writes, saga.BatchWrite{})
			continue
		}
		r := results[0]
		results = results[1:]
		if out.enter(r); out.Committed(i) == 0 {
			continue
		}
		if !r.InBatch || r.WorkflowID != request.WorkflowID {
			out.Single = append(out.Single, i)
		}
		out.FlushLSN = max(out.FlushLSN, r.FlushLSN)
		a.routeBatch(&out, w.Write, r.Owned)
		a.images.put(w.Write.SagaID, r.Version, began, r.Owned)
	}
	a.tellBatch(&out.BatchTable, in.Writes, saga.Committed, []saga.Step{{
		Name: saga.StepCommit, State: saga.StepDone, Attempts: out.Attempt, Duration: saga.Duration(a.Now().Sub(began)),
	}})
	return out, nil
}

// enter tells the workflow what became of the next write. A saga that is somewhere
// between its commit and its end already, as one that is parked or being undone, is
// for its own workflow.
func (o *CommitBatchOutput) enter(r *CommitResult) {
	switch {
	case r == nil || r.Recorded != nil && !r.Recorded.Status.Final():
		o.Writes = append(o.Writes, saga.BatchWrite{})
	case r.Recorded != nil:
		o.tell(*r.Recorded)
	case r.Status != saga.Committed:
		o.tell(saga.Outcome{Status: r.Status, Error: r.Error, Content: r.Content})
	default:
		o.Add(r.Version, r.Confirmed, r.Owned)
	}
}

// The result of a commit is in the history, in each answer to who waits for it, and
// in the workflow's result; of each Temporal takes 2 MB, and 4 MB of all that one
// task brings.
const (
	maxToldBytes  = 600_000 // of the outcomes that are told one by one
	maxErrorBytes = 1_000
)

// tell enters an outcome that has nothing in common with others. Where there is no
// room for it, the saga's own workflow tells it.
func (o *CommitBatchOutput) tell(outcome saga.Outcome) {
	outcome.Error = brief(outcome.Error)
	outcome.Steps = slices.Clone(outcome.Steps)
	for i := range outcome.Steps {
		outcome.Steps[i].Error = brief(outcome.Steps[i].Error)
	}
	body, err := json.Marshal(outcome)
	if o.told += len(body); err != nil || o.told > maxToldBytes {
		o.Writes = append(o.Writes, saga.BatchWrite{})
		return
	}
	o.Writes = append(o.Writes, saga.BatchWrite{Outcome: &outcome})
}

// brief cuts an error's text.
func brief(e *saga.ErrorInfo) *saga.ErrorInfo {
	if e == nil || len(e.Message) <= maxErrorBytes {
		return e
	}
	cut := *e
	cut.Message = saga.Shorten(e.Message, maxErrorBytes)
	return &cut
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
func (a *Saga) tellBatch(table *saga.BatchTable, writes []BatchWrite, status saga.Status, steps []saga.Step) {
	out := saga.BatchOutcome{Status: status, Steps: steps, BatchTable: *table}
	for i, w := range writes {
		if w.Write == nil || !a.Notifier.Waits(w.Write.SagaID) {
			continue
		}
		o := out.Outcome(i, w.Write.SagaID, w.Digest)
		o.SagaID = w.Write.SagaID
		a.Notifier.Publish(o) // one that is pending will be split off
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
		docs, writes, err := a.batchDocuments(ctx, in)
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
		if worst != nil && saga.ClassOf(worst) != saga.Rejected && (allFailed(applied) || overloaded(applied)) {
			return changed, worst // the sink's trouble and not the rows'
		}
		failed = failures(step, docs, writes, applied)
		return changed, nil
	})
	return BatchSinkOutput{Attempt: out.Attempt, Changed: out.Changed, Failed: failed}, err
}

func allFailed(applied []saga.Applied) bool {
	return !slices.ContainsFunc(applied, func(a saga.Applied) bool { return a.Err == nil })
}

// fewFailures is how many rows may fail for now and have their sagas split off: more
// would add to the load of a sink that asks for less.
const fewFailures = 20

func overloaded(applied []saga.Applied) bool {
	failed := 0
	for _, a := range applied {
		if a.Err != nil && saga.ClassOf(a.Err) != saga.Rejected {
			failed++
		}
	}
	return failed > fewFailures
}

// failures names the writes whose documents were not taken.
func failures(step saga.StepName, docs []saga.Document, writes [][]int, applied []saga.Applied) []BatchFailure {
	var failed []BatchFailure
	for i, result := range applied {
		if result.Err == nil {
			continue
		}
		e := errorInfo(step, rowError(step, docs[i], result.Err))
		for _, at := range writes[i] {
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

// FinishBatchInput is the input of FinishBatch.
type FinishBatchInput struct {
	// Alone are the sagas that have committed in the batch and go on alone.
	Alone []string `json:"alone,omitempty"`
	// Steps are those of all sagas that have completed.
	Steps []saga.Step `json:"steps"`
	// Completed are the outcomes of those of whose end the ledger has to be told one
	// by one.
	Completed []saga.Outcome `json:"completed,omitempty"`
	// Writes and Table, inside of the workflow's process, are for the waiters there.
	// Without a table they have to ask for the batch's result.
	Writes []BatchWrite     `json:"-"`
	Table  *saga.BatchTable `json:"-"`
}

// FinishBatchOutput is the result of FinishBatch.
type FinishBatchOutput struct{}

// FinishBatch stores that the sagas of a batch have completed, and tells the waiters
// of this process. It is idempotent.
func (a *Saga) FinishBatch(ctx context.Context, in FinishBatchInput) (FinishBatchOutput, error) {
	for i := range in.Writes {
		if in.Writes[i].Write != nil {
			a.images.drop(in.Writes[i].Write.SagaID)
		}
	}
	if in.Table != nil {
		a.tellBatch(in.Table, in.Writes, saga.Completed, in.Steps)
	} else {
		a.tellBatch(&saga.BatchTable{}, in.Writes, saga.Pending, nil)
	}
	return FinishBatchOutput{}, a.attempt(ctx, stepRecord, func(ctx context.Context) error {
		if len(in.Completed) > 0 {
			if err := a.Ledger.RecordOutcomes(ctx, in.Completed); err != nil {
				return err
			}
		}
		return a.Ledger.FinishBatch(ctx, activity.GetInfo(ctx).WorkflowExecution.ID, in.Alone, in.Steps)
	})
}
