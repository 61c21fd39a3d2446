package workflows

import (
	"errors"
	"time"

	"go.temporal.io/sdk/converter"
	"go.temporal.io/sdk/temporal"
	"go.temporal.io/sdk/workflow"

	"github.com/capsaga/capsaga/activities"
	"github.com/capsaga/capsaga/saga"
)

// commit runs the pivot until its result is known. It returns how the saga ends
// if that is not as committed. Only a cancellation of ctx that comes in time stops
// it; ledger work goes on in the detached context, because a commit that did not
// answer may have happened.
func (s *story) commit(ctx, detached workflow.Context) (final saga.Status) {
	t := s.commitStep
	began := workflow.Now(ctx)
	t.state.State, t.state.StartedAt = saga.StepRunning, began
	in := s.commitInput(ctx)
	var out activities.CommitOutput
	quick := quickCommit
	if s.write.Consistency == saga.CP {
		quick = quickCommitCP
	}
	attempts := 1
	var err error
	if ctx.Err() != nil && !s.rerun { // cancelled before this run tried anything; an earlier one may have committed
		out, err = s.cancelCommit(detached, in)
	} else if err = workflow.ExecuteLocalActivity(quickly(detached, quick), effects.Commit, in).Get(detached, &out); err != nil {
		t.retrying(detached, failureOf(t.state.Name, err))
		out, err = s.commitPatiently(ctx, detached, in)
		attempts += out.Attempt
	}
	if err != nil { // no adapter's answer, such as a result that Temporal refused
		e := failureOf(saga.StepCommit, err).Error
		if out, err = s.cancelCommit(detached, in); err != nil || out.Status == saga.Cancelled {
			if err != nil {
				e.Message = "PostgreSQL has the write, and its sinks may lack it, as the commit's result cannot be had: " + e.Message
			}
			return s.refuse(saga.Failed, &e)
		}
	}
	return s.committed(detached, out, workflow.Now(ctx).Sub(began), attempts)
}

// committed takes over the pivot's result.
func (s *story) committed(ctx workflow.Context, out activities.CommitOutput, took time.Duration, attempts int) saga.Status {
	s.pivot, s.flush = out, out.FlushLSN
	s.outcome = out.Outcome(s.write.SagaID, took, attempts)
	s.outcome.Stream = s.write.Stream
	started := s.commitStep.state.StartedAt
	s.commitStep.state = s.outcome.Steps[0]
	s.commitStep.state.StartedAt = started
	if out.Status != saga.Committed {
		s.outcome.Status, s.reason = s.phase, s.outcome.Error
		return out.Status
	}
	s.phase = saga.Committed
	for _, sink := range out.Order {
		s.sinks = append(s.sinks, s.newSink(sink))
	}
	for i := range s.write.AfterSteps {
		s.after = append(s.after, s.newTask(&s.write.AfterSteps[i]))
	}
	if out.Recorded == nil && out.Rerun {
		out.Recorded = &saga.Outcome{} // it had come to nothing that it recorded
	}
	if out.Recorded != nil {
		if final := s.resume(out.Recorded); final != "" {
			return final
		}
	}
	s.describe(ctx)
	return ""
}

func (s *story) commitInput(ctx workflow.Context) activities.CommitInput {
	return activities.CommitInput{
		Write: s.write, TraceParent: memo(ctx, saga.HeaderTraceParent), TraceState: memo(ctx, saga.HeaderTraceState),
		Early: memo(ctx, saga.MemoEarly),
	}
}

// waitedBefore is for how long the batch that the saga was split off had tried: its
// patience goes on from there.
func waitedBefore(ctx workflow.Context) time.Duration {
	var began time.Time
	if !memoField(ctx, saga.MemoBegan, &began) {
		return 0
	}
	return max(workflow.Now(ctx).Sub(began), 0)
}

// maxTraceBytes is what the W3C recommendation has everyone carry at least.
const maxTraceBytes = 512

// memo returns a field of the trace context that the caller put into the
// workflow's memo; what is no such text is left out, as a trace must not fail a
// saga.
func memo(ctx workflow.Context, name string) string {
	var text string
	if !memoField(ctx, name, &text) || len(text) > maxTraceBytes {
		return ""
	}
	return text
}

// memoField reads a field of the workflow's memo, and reports whether it is there
// and of that type.
func memoField(ctx workflow.Context, name string, into any) bool {
	payload, ok := workflow.GetInfo(ctx).Memo.GetFields()[name]
	return ok && converter.GetDefaultDataConverter().FromPayload(payload, into) == nil
}

// commitPatiently tries until the result is known or ctx is cancelled. While
// PostgreSQL is away for long the saga is parked, like one whose sink is away.
func (s *story) commitPatiently(ctx, detached workflow.Context, in activities.CommitInput) (out activities.CommitOutput, err error) {
	limit := commitAttempt
	if s.write.Consistency == saga.CP {
		limit = commitAttemptCP
	}
	t := s.commitStep
	options := patience(limit, s.write.Summary()+" → postgres")
	options.ScheduleToCloseTimeout = max(s.write.Policy.ParkAfterOrDefault()-s.waited, limit)
	for {
		asked := s.retries
		err = workflow.ExecuteActivity(workflow.WithActivityOptions(ctx, options), effects.Commit, in).Get(ctx, &out)
		if t.parked {
			t.parked, t.answers = false, asked
			s.settle(detached)
		}
		if temporal.IsCanceledError(err) {
			return s.cancelCommit(detached, in)
		}
		if err == nil || !mayPass(err) {
			return out, err
		}
		f := failureOf(t.state.Name, err)
		t.state.Attempts += f.Attempt
		t.park(detached, &f.Error)
		t.untilWoken(ctx) // a cancellation ends the wait, and then the attempt
		t.state.State = saga.StepRetrying
		s.describe(detached)
		options = t.again(options)
	}
}

// mayPass reports whether an activity ended because its attempts were used up,
// and not because it can never succeed.
func mayPass(err error) bool {
	var timeout *temporal.TimeoutError
	var app *temporal.ApplicationError
	return errors.As(err, &timeout) || errors.As(err, &app) && !app.NonRetryable()
}

// cancelCommit settles a commit whose caller does not want it any more: the
// ledger decides whether the cancellation came in time. If not, the commit's own
// result is fetched and the saga is undone.
func (s *story) cancelCommit(detached workflow.Context, in activities.CommitInput) (out activities.CommitOutput, err error) {
	var cancelled activities.CancelOutput
	options := patience(commitAttempt, "cancel: "+s.write.Summary())
	err = workflow.ExecuteActivity(workflow.WithActivityOptions(detached, options), effects.CancelCommit, in).Get(detached, &cancelled)
	if err != nil || !cancelled.Committed {
		return activities.CommitOutput{Status: saga.Cancelled, Content: s.outcome.Content}, err
	}
	options = patience(commitAttempt, s.write.Summary()+" → postgres")
	err = workflow.ExecuteActivity(workflow.WithActivityOptions(detached, options), effects.Commit, in).Get(detached, &out)
	return out, err
}

// refuse notes why a saga has committed nothing.
func (s *story) refuse(status saga.Status, e *saga.ErrorInfo) saga.Status {
	s.reason = e
	s.commitStep.state.State = activities.Unsuccessful(status)
	if status == saga.Failed {
		s.commitStep.state.Error = e
	}
	return status
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
	// minPatience is the least time that a step is tried patiently, however short
	// the policy's park_after.
	minPatience = time.Second
	// releasePatience is for how long a step is tried when its system is said to be
	// back.
	releasePatience = time.Minute
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
