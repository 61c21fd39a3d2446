package workflows

import (
	"time"

	"go.temporal.io/sdk/converter"
	"go.temporal.io/sdk/temporal"
	"go.temporal.io/sdk/workflow"

	"github.com/capsaga/capsaga/activities"
	"github.com/capsaga/capsaga/saga"
)

// commit runs the pivot until its result is known: committed, rejected, failed,
// or cancelled. Only a cancellation of ctx that comes in time stops it; ledger
// work goes on in the detached context, because a commit that did not answer may
// have happened.
func (s *story) commit(ctx, detached workflow.Context) {
	began := workflow.Now(ctx)
	if ctx.Err() != nil { // cancelled before anything was tried
		s.end(saga.Cancelled, nil)
		return
	}
	in := activities.CommitInput{
		Write: s.write, TraceParent: memo(ctx, saga.HeaderTraceParent), TraceState: memo(ctx, saga.HeaderTraceState),
	}
	var out activities.CommitOutput
	quick := quickCommit
	if s.write.Consistency == saga.CP {
		quick = quickCommitCP
	}
	err := workflow.ExecuteLocalActivity(quickly(detached, quick), effects.Commit, in).Get(detached, &out)
	attempts := 1
	if err != nil {
		s.retrying(detached, &s.outcome.Steps[0], failureOf(saga.StepCommit, err))
		out, err = s.commitPatiently(ctx, in)
		if temporal.IsCanceledError(err) {
			out, err = s.cancelCommit(detached, in)
		}
		attempts += out.Attempt
	}
	if err != nil { // no adapter's answer, such as a result that Temporal refused
		e := failureOf(saga.StepCommit, err).Error
		if out, err = s.cancelCommit(detached, in); err != nil || out.Status == saga.Cancelled {
			if err != nil {
				e.Message = "PostgreSQL has the write, and its sinks may lack it, as the commit's result cannot be had: " + e.Message
			}
			s.end(saga.Failed, &e)
			return
		}
	}
	s.pivot = out
	s.outcome = out.Outcome(s.write.SagaID, workflow.Now(ctx).Sub(began), attempts)
	s.describe(detached)
}

// maxTraceBytes is what the W3C recommendation has everyone carry at least.
const maxTraceBytes = 512

// memo returns a field of the trace context that the caller put into the
// workflow's memo; what is no such text is left out, as a trace must not fail a
// saga.
func memo(ctx workflow.Context, name string) string {
	var text string
	payload, ok := workflow.GetInfo(ctx).Memo.GetFields()[name]
	if !ok || converter.GetDefaultDataConverter().FromPayload(payload, &text) != nil || len(text) > maxTraceBytes {
		return ""
	}
	return text
}

// commitPatiently tries until the result is known or ctx is cancelled.
func (s *story) commitPatiently(ctx workflow.Context, in activities.CommitInput) (out activities.CommitOutput, err error) {
	limit := commitAttempt
	if s.write.Consistency == saga.CP {
		limit = commitAttemptCP
	}
	options := patience(limit, s.write.Summary()+" → postgres")
	err = workflow.ExecuteActivity(workflow.WithActivityOptions(ctx, options), effects.Commit, in).Get(ctx, &out)
	return out, err
}

// cancelCommit settles a commit whose caller does not want it any more: the
// ledger decides whether the cancellation came in time. If not, the commit's own
// result is fetched and the saga goes on.
func (s *story) cancelCommit(detached workflow.Context, in activities.CommitInput) (activities.CommitOutput, error) {
	var cancelled activities.CancelOutput
	options := patience(commitAttempt, s.write.Summary()+" → cancel")
	err := workflow.ExecuteActivity(workflow.WithActivityOptions(detached, options), effects.CancelCommit, in).Get(detached, &cancelled)
	if err != nil || !cancelled.Committed {
		return activities.CommitOutput{Status: saga.Cancelled, Content: s.outcome.Content}, err
	}
	return s.commitPatiently(detached, in)
}

// end closes a saga that has committed nothing.
func (s *story) end(status saga.Status, e *saga.ErrorInfo) {
	s.outcome.Status, s.outcome.Error = status, e
	s.outcome.Steps[0].State, s.outcome.Steps[0].Error = activities.Unsuccessful(status), e
}

// The bounds of quick attempts, which hold the workflow task and with it every
// answer to a caller. Constants but for tests on a busy machine.
var (
	quickCommit = 2 * time.Second
	// quickCommitCP is longer than the commit's own wait for the synchronous
	// replica, which would end as "confirmed locally" when cut short.
	quickCommitCP = 12 * time.Second
	quickSink     = 500 * time.Millisecond
	// quickSinkAwaited holds while a caller waits for the commit: the answer
	// leaves with the end of the workflow task, so sinks that hang hold it up for
	// this long at most.
	quickSinkAwaited = 150 * time.Millisecond
)

// The bounds of patient attempts.
const (
	commitAttempt   = 10 * time.Second
	commitAttemptCP = 30 * time.Second
	sinkAttempt     = 10 * time.Second
)

// quickly returns a context for one local attempt.
func quickly(ctx workflow.Context, limit time.Duration) workflow.Context {
	return workflow.WithLocalActivityOptions(ctx, workflow.LocalActivityOptions{
		StartToCloseTimeout: limit,
		RetryPolicy:         &temporal.RetryPolicy{MaximumAttempts: 1},
	})
}

// patience returns the options of an activity that is tried until it succeeds or
// is rejected. The activity's own errors name jittered delays; the policy here is
// for attempts that end without an answer.
func patience(attempt time.Duration, summary string) workflow.ActivityOptions {
	return workflow.ActivityOptions{
		StartToCloseTimeout: attempt,
		RetryPolicy: &temporal.RetryPolicy{
			InitialInterval:    activities.FirstDelay,
			BackoffCoefficient: 2,
			MaximumInterval:    activities.MaxDelay,
		},
		Summary: saga.Brief(summary),
	}
}
