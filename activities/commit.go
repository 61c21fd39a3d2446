package activities

import (
	"context"
	"time"

	"go.temporal.io/sdk/activity"

	"github.com/capsaga/capsaga/saga"
)

// CommitInput is the input of Commit and of CancelCommit.
type CommitInput struct {
	Write saga.Write `json:"write"`
	// The W3C trace context that the caller gave, which the saga's Kafka records
	// carry on; empty without one.
	TraceParent string `json:"traceparent,omitempty"`
	TraceState  string `json:"tracestate,omitempty"`
}

// CommitOutput is the result of Commit. It holds no row's content: that must not
// enter a workflow's history.
type CommitOutput struct {
	Status      saga.Status       `json:"status"`
	Error       *saga.ErrorInfo   `json:"error,omitempty"`
	WorkflowID  string            `json:"workflow_id,omitempty"`
	Content     string            `json:"content,omitempty"`
	Version     saga.Version      `json:"version,omitempty"`
	Confirmed   saga.Confirmation `json:"confirmed,omitempty"`
	CommittedAt time.Time         `json:"committed_at,omitzero"`
	FlushLSN    saga.LSN          `json:"flush_lsn,omitempty"`
	Owned       []saga.Owned      `json:"owned,omitempty"`
	// Sinks says where each entity's rows go, as the catalog had it at the commit.
	// So a saga finishes as it began, whatever the catalog becomes.
	Sinks   map[string][]saga.Sink `json:"sinks,omitempty"`
	Attempt int                    `json:"attempt"`
}

// Commit writes the saga's rows and its ledger entry in one transaction. It is
// idempotent by the ledger's key. A rejection by the business or by the database
// is a result, not an error.
func (a *Saga) Commit(ctx context.Context, in CommitInput) (CommitOutput, error) {
	var out CommitOutput
	err := a.attempt(ctx, saga.StepCommit, PaceRetry, func(ctx context.Context) error {
		var err error
		out, err = a.commit(ctx, in)
		return err
	})
	return out, err
}

func (a *Saga) commit(ctx context.Context, in CommitInput) (CommitOutput, error) {
	w := in.Write
	info := activity.GetInfo(ctx)
	// Callers in other languages have validated nothing.
	if err := w.Validate(); err != nil {
		return a.refused(w, err, info.Attempt), nil
	}
	began := a.Now()
	r, err := a.Committer.Commit(ctx, CommitRequest{
		Write: w, Catalog: a.Catalog,
		WorkflowID: info.WorkflowExecution.ID, RunID: info.WorkflowExecution.RunID,
		TraceParent: in.TraceParent, TraceState: in.TraceState,
	})
	if err != nil && saga.ClassOf(err) == saga.Rejected {
		return a.refused(w, err, info.Attempt), nil
	}
	if err != nil {
		return CommitOutput{}, err
	}
	out := CommitOutput{
		Status: r.Status, Error: r.Error, WorkflowID: r.WorkflowID, Content: r.Content,
		Version: r.Version, Confirmed: r.Confirmed, CommittedAt: r.CommittedAt, FlushLSN: r.FlushLSN,
		Owned: r.Owned, Sinks: a.sinks(r.Owned), Attempt: int(info.Attempt),
	}
	if out.Status == saga.Committed {
		a.images.put(w.SagaID, r.Version, began, r.Owned)
	}
	a.Notifier.Publish(out.Outcome(w.SagaID, a.Now().Sub(began), out.Attempt))
	return out, nil
}

// refused is the result of a write that reached no transaction.
func (a *Saga) refused(w saga.Write, err error, attempt int32) CommitOutput {
	e := errorInfo(saga.StepCommit, err)
	return CommitOutput{Status: saga.RejectedEnd, Error: &e, Content: w.Digest(), Attempt: int(attempt)}
}

func (a *Saga) sinks(owned []saga.Owned) map[string][]saga.Sink {
	sinks := map[string][]saga.Sink{}
	for _, o := range owned {
		if _, done := sinks[o.Entity]; done {
			continue
		}
		if e, err := a.Catalog.Entity(o.Entity); err == nil {
			sinks[o.Entity] = e.Sinks()
		}
	}
	return sinks
}

// Rows returns the owned rows that go to the sink.
func (o *CommitOutput) Rows(sink saga.Sink) []saga.Owned {
	var rows []saga.Owned
	for _, row := range o.Owned {
		for _, s := range o.Sinks[row.Entity] {
			if s == sink {
				rows = append(rows, row)
			}
		}
	}
	return rows
}

// Outcome returns the saga's outcome as the commit leaves it.
func (o *CommitOutput) Outcome(sagaID string, took time.Duration, attempts int) saga.Outcome {
	commit := saga.Step{Name: saga.StepCommit, State: saga.StepDone, Attempts: attempts, Duration: saga.Duration(took)}
	out := saga.Outcome{SagaID: sagaID, Status: o.Status, Error: o.Error, Content: o.Content}
	if o.Status != saga.Committed {
		commit.State, commit.Error = Unsuccessful(o.Status), o.Error
		out.Steps = []saga.Step{commit}
		return out
	}
	out.Version, out.Confirmed = o.Version, o.Confirmed
	out.Token = saga.NewToken(o.Version, o.Owned).String()
	for _, row := range o.Owned {
		out.ETags = append(out.ETags, saga.ETag{Entity: row.Entity, Key: row.Key, ETag: row.ETag})
	}
	out.Steps = []saga.Step{commit}
	for _, sink := range saga.Sinks {
		if len(o.Rows(sink)) > 0 {
			out.Steps = append(out.Steps, saga.Step{Name: saga.StepName(sink), State: saga.StepPending})
		}
	}
	return out
}

// Unsuccessful returns the state of the commit of a saga that ended without one.
func Unsuccessful(status saga.Status) saga.StepState {
	if status == saga.Cancelled {
		return saga.StepSkipped
	}
	return saga.StepRejected
}

// What metrics call the work on the ledger that is no step of the saga.
const (
	stepCancel saga.StepName = "cancel"
	stepRecord saga.StepName = "record"
)

// CancelOutput is the result of CancelCommit.
type CancelOutput struct {
	// Committed is true when the cancellation came too late.
	Committed bool `json:"committed"`
}

// CancelCommit makes sure that a saga whose commit did not answer never commits,
// or finds that it has. It is idempotent by the ledger's key.
func (a *Saga) CancelCommit(ctx context.Context, in CommitInput) (CancelOutput, error) {
	var out CancelOutput
	err := a.attempt(ctx, stepCancel, PaceRetry, func(ctx context.Context) error {
		execution := activity.GetInfo(ctx).WorkflowExecution
		var err error
		out.Committed, err = a.Ledger.Cancel(ctx, in.Write, execution.ID, execution.RunID)
		return err
	})
	return out, err
}

// RecordInput is the input of RecordOutcome.
type RecordInput struct {
	Outcome saga.Outcome `json:"outcome"`
}

// RecordOutput is the result of RecordOutcome.
type RecordOutput struct{}

// RecordOutcome stores a committed saga's final outcome in the ledger, which
// outlives the workflow's history, and tells the waiters of this process. It is
// idempotent: a final outcome never changes.
func (a *Saga) RecordOutcome(ctx context.Context, in RecordInput) (RecordOutput, error) {
	a.images.drop(in.Outcome.SagaID)
	a.Notifier.Publish(in.Outcome)
	return RecordOutput{}, a.attempt(ctx, stepRecord, PaceRetry, func(ctx context.Context) error {
		return a.Ledger.RecordOutcome(ctx, in.Outcome.SagaID, in.Outcome)
	})
}
