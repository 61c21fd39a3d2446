package activities

import (
	"context"
	"slices"
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
	// Early is the token of the commit that the client made beside the start of the
	// workflow; empty without one.
	Early string `json:"early,omitempty"`
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
	Sinks map[string][]saga.Sink `json:"sinks,omitempty"`
	// Order names the sinks that the saga has rows for. A workflow walks them in
	// this order, so that a build that orders its sinks otherwise replays it.
	Order []saga.Sink `json:"order,omitempty"`
	// Policies are the write's, with what it left out from the catalog.
	Policies map[saga.Sink]saga.Policy `json:"policies,omitempty"`
	// Recorded is where an earlier workflow of the saga had got to.
	Recorded *saga.Outcome `json:"recorded,omitempty"`
	// Rerun is true when another run of the workflow has committed: it may have gone
	// further than it recorded.
	Rerun   bool `json:"rerun,omitempty"`
	Attempt int  `json:"attempt"`
}

// Commit writes the saga's rows and its ledger entry in one transaction. It is
// idempotent by the ledger's key. A rejection by the business or by the database
// is a result, not an error.
func (a *Saga) Commit(ctx context.Context, in CommitInput) (CommitOutput, error) {
	var out CommitOutput
	err := a.attempt(ctx, saga.StepCommit, func(ctx context.Context) error {
		var err error
		out, err = a.commit(ctx, in)
		return err
	})
	return out, err
}

func (a *Saga) commit(ctx context.Context, in CommitInput) (CommitOutput, error) {
	info, began := activity.GetInfo(ctx), a.Now()
	out, ok := a.early.take(ctx, in.Write.SagaID, in.Early)
	if !ok {
		var err error
		if out, err = a.commitAs(ctx, in, info.WorkflowExecution.ID, info.WorkflowExecution.RunID, int(info.Attempt)); err != nil {
			return CommitOutput{}, err
		}
	}
	if out.WorkflowID != "" { // else no database knows of it
		a.Notifier.Publish(out.Outcome(in.Write.SagaID, a.Now().Sub(began), out.Attempt))
	}
	return out, nil
}

// commitAs commits in the name of a workflow's run.
func (a *Saga) commitAs(ctx context.Context, in CommitInput, workflowID, runID string, attempt int) (CommitOutput, error) {
	w := in.Write
	// Callers in other languages have validated nothing.
	if err := w.Validate(); err != nil {
		return a.refused(w, err, attempt), nil
	}
	began := a.Now()
	r, err := a.Committer.Commit(ctx, CommitRequest{
		Write: w, Catalog: a.Catalog, WorkflowID: workflowID, RunID: runID,
		TraceParent: in.TraceParent, TraceState: in.TraceState,
	})
	if err != nil && saga.ClassOf(err) == saga.Rejected {
		return a.refused(w, err, attempt), nil
	}
	if err != nil {
		return CommitOutput{}, err
	}
	out := CommitOutput{
		Status: r.Status, Error: r.Error, WorkflowID: r.WorkflowID, Content: r.Content,
		Version: r.Version, Confirmed: r.Confirmed, CommittedAt: r.CommittedAt, FlushLSN: r.FlushLSN,
		Owned: r.Owned, Recorded: r.Recorded, Attempt: attempt,
		Rerun: r.RunID != runID && (in.Early == "" || r.RunID != in.Early),
	}
	a.route(&out, w)
	if out.Status == saga.Committed {
		a.images.put(w.SagaID, r.Version, began, r.Owned)
	}
	return out, nil
}

// refused is the result of a write that reached no transaction.
func (a *Saga) refused(w saga.Write, err error, attempt int) CommitOutput {
	e := errorInfo(saga.StepCommit, err)
	return CommitOutput{Status: saga.RejectedEnd, Error: &e, Content: w.Digest(), Attempt: attempt}
}

// route says where the rows go and what holds of each sink's step.
func (a *Saga) route(out *CommitOutput, w saga.Write) {
	out.Sinks, out.Policies = map[string][]saga.Sink{}, map[saga.Sink]saga.Policy{}
	for _, o := range out.Owned {
		e, err := a.Catalog.Entity(o.Entity)
		if _, done := out.Sinks[o.Entity]; done || err != nil {
			continue
		}
		out.Sinks[o.Entity] = e.Sinks()
		for _, sink := range e.Sinks() {
			policy := w.Policy.Or(e.PolicyFor(sink))
			if other, ok := out.Policies[sink]; ok {
				policy = policy.Cautious(other)
			}
			out.Policies[sink] = policy
		}
	}
	if w.Stream != nil && out.Status == saga.Committed {
		out.refusedBy(w.Stream)
	}
	for _, sink := range saga.Sinks {
		if _, used := out.Policies[sink]; used {
			out.Order = append(out.Order, sink)
		}
	}
}

// refusedBy makes the route that of a stream's saga. The row goes to the sink that
// refused it, also when this worker's catalog does not say so: whether that is as it
// should be is for an operator to decide. And nothing of it can be undone.
func (o *CommitOutput) refusedBy(c *saga.StreamChange) {
	if sinks := o.Sinks[c.Entity]; !slices.Contains(sinks, c.Sink) {
		o.Sinks[c.Entity] = append(slices.Clone(sinks), c.Sink)
		o.Policies[c.Sink] = saga.Policy{}
	}
	for sink, policy := range o.Policies {
		if policy.OnReject == saga.OnRejectCompensate {
			policy.OnReject = saga.OnRejectPark
			o.Policies[sink] = policy
		}
	}
}

// Rows returns those of the owned rows that go to the sink.
func (o *CommitOutput) Rows(owned []saga.Owned, sink saga.Sink) []saga.Owned {
	var rows []saga.Owned
	for _, row := range owned {
		if slices.Contains(o.Sinks[row.Entity], sink) {
			rows = append(rows, row)
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
	out.Confirmed = o.Confirmed
	out.Own(o.Version, o.Owned)
	out.Steps = []saga.Step{commit}
	for _, sink := range o.Order {
		out.Steps = append(out.Steps, saga.Step{Name: saga.StepName(sink), State: saga.StepPending})
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
