package workflows

import (
	"errors"
	"fmt"
	"time"

	"go.temporal.io/sdk/temporal"
	"go.temporal.io/sdk/workflow"

	"github.com/capsaga/capsaga/activities"
	"github.com/capsaga/capsaga/saga"
)

// step is one effect of a saga, tried until it is done: quickly at first, then
// patiently, and parked when it cannot go on by itself.
type step struct {
	story  *story
	state  saga.Step
	policy saga.Policy
	// call starts one activity, locally inside the workflow task or as a regular
	// one. The returned function waits for it and says how many attempts it took.
	call func(ctx workflow.Context, local bool, options workflow.ActivityOptions) func() (attempts int, err error)
	// options are those of the regular activity.
	options func() workflow.ActivityOptions
	quick   time.Duration // bounds the local attempt; zero: there is none
	// ends says that a rejection ends the saga: nothing is committed yet.
	ends bool
	// waives says that giving the step up is remembered for whoever compares the
	// systems later.
	waives bool
	began  bool // it may have happened
	task   *saga.Task
	result []byte // of a task, as JSON

	parked  bool            // stays set while a parked step is tried again
	answers int             // the operator's requests that it has answered
	seen    int             // the gate's releases that it has heeded
	skip    *saga.SkipInput // an operator gives the step up
}

// run returns true when the step is done, or given up as the policy or an
// operator wants it; false when ctx is cancelled, or when its rejection has ended
// or turned the saga.
func (t *step) run(ctx workflow.Context) bool {
	began := workflow.Now(ctx)
	t.began, t.state.State, t.state.StartedAt = true, saga.StepRunning, began
	failed := t.try(ctx, began)
	for {
		t.state.Duration = saga.Duration(workflow.Now(ctx).Sub(began))
		switch {
		case failed == nil:
			t.leave(ctx, saga.StepDone, nil)
			return true
		case ctx.Err() != nil:
			t.interrupt(ctx, failed)
			return false
		case failed.Class == saga.Rejected && t.ends:
			t.leave(ctx, saga.StepRejected, failed)
			return false
		case failed.Class == saga.Rejected && t.policy.OnRejectOrDefault() == saga.OnRejectSkip:
			t.giveUp(ctx, failed, "policy on_reject: skip")
			return true
		case failed.Class == saga.Rejected && t.policy.OnRejectOrDefault() == saga.OnRejectCompensate:
			t.leave(ctx, saga.StepRejected, failed)
			t.story.undo(undoReason{by: "policy on_reject: compensate", cause: failed})
			return false
		}
		t.park(ctx, failed)
		t.untilWoken(ctx)
		if t.skip != nil {
			t.giveUp(ctx, failed, t.skip.Reason)
			return true
		}
		if ctx.Err() == nil {
			failed = t.tryAgain(ctx)
		}
	}
}

// try is the first round: quickly, and then patiently for as long as the policy
// says.
func (t *step) try(ctx workflow.Context, began time.Time) *saga.ErrorInfo {
	if t.quick > 0 {
		failed := t.attempt(ctx, true, workflow.ActivityOptions{})
		if failed == nil || failed.Class == saga.Rejected || ctx.Err() != nil {
			return failed
		}
		t.retrying(ctx, activities.Failure{Error: *failed})
	}
	left := t.policy.ParkAfterOrDefault() - workflow.Now(ctx).Sub(began)
	if t.task == nil && t.story.undoing == nil { // what the batch has tried as well
		left -= t.story.waited
	}
	options := t.options()
	options.ScheduleToCloseTimeout = max(left, minPatience, options.ScheduleToCloseTimeout)
	return t.attempt(ctx, false, options)
}

// tryAgain is a round after the step was parked.
func (t *step) tryAgain(ctx workflow.Context) *saga.ErrorInfo {
	t.state.State = saga.StepRetrying
	t.story.describe(ctx)
	asked := t.story.retries
	failed := t.attempt(ctx, false, t.again(t.options()))
	t.answers = asked
	return failed
}

// again bounds a round after the step was parked: one attempt for an operator, who
// wants an answer, and some when the system is said to be back.
func (t *step) again(options workflow.ActivityOptions) workflow.ActivityOptions {
	retry := *options.RetryPolicy
	options.RetryPolicy, retry.MaximumAttempts = &retry, 0
	if t.story.retries > t.answers {
		retry.MaximumAttempts = 1
	}
	options.ScheduleToCloseTimeout = max(releasePatience, options.ScheduleToCloseTimeout)
	return options
}

// attempt runs one activity and returns the failure, if it is one.
func (t *step) attempt(ctx workflow.Context, local bool, options workflow.ActivityOptions) *saga.ErrorInfo {
	attempts, err := t.call(ctx, local, options)()
	if err == nil {
		t.state.Attempts += max(attempts, 1)
		return nil
	}
	f := failureOf(t.state.Name, err)
	t.state.Attempts += max(f.Attempt, 1)
	return &f.Error
}

// retrying notes that a step goes on patiently.
func (t *step) retrying(ctx workflow.Context, f activities.Failure) {
	t.state.State, t.state.Error = saga.StepRetrying, &f.Error
	t.state.Attempts = max(t.state.Attempts, 1)
	t.story.describe(ctx)
}

// park stops the step and says why. A system that is away is watched by its gate.
func (t *step) park(ctx workflow.Context, failed *saga.ErrorInfo) {
	e := *failed
	if !t.parked { // what was asked before was not meant for this step
		t.answers = t.story.retries
	}
	t.parked = true
	t.state.State, t.state.Error = saga.StepParked, &e
	t.seen = t.story.releases[t.state.WaitsFor()]
	t.story.settle(ctx)
	if e.Class != saga.Rejected && t.task == nil {
		t.openGate(ctx)
	}
}

// openGate does not hold the step up: an operator may wake it meanwhile.
func (t *step) openGate(ctx workflow.Context) {
	in := activities.GateInput{System: t.state.WaitsFor()}
	workflow.Go(ctx, func(ctx workflow.Context) {
		if err := t.story.persist(ctx, effects.OpenGate, in, nil, "gate of "+in.System); err != nil && ctx.Err() == nil {
			workflow.GetLogger(ctx).Error("nobody watches the system that the saga waits for: retry it by hand", "system", in.System, "error", err)
		}
	})
}

// untilWoken waits until an operator wants the step tried again or given up, or
// the gate says that its system is back. What was rejected is not the gate's.
func (t *step) untilWoken(ctx workflow.Context) {
	system := t.state.WaitsFor()
	_ = workflow.Await(ctx, func() bool {
		released := t.story.releases[system] > t.seen && t.state.Error.Class != saga.Rejected
		return t.skip != nil || released || t.story.retries > t.answers
	})
	t.seen = t.story.releases[system]
}

// giveUp ends the step undone. Whoever compares the systems later must know that
// it is wanted so.
func (t *step) giveUp(ctx workflow.Context, failed *saga.ErrorInfo, reason string) {
	if t.waives {
		sink := saga.Sink(t.state.Name.System())
		in := activities.WaiveInput{
			SagaID: t.story.write.SagaID, Step: t.state.Name, Version: t.story.outcome.Version,
			Rows: t.story.pivot.Rows(t.story.pivot.Owned, sink), Reason: reason,
		}
		var waived activities.WaiveOutput
		if err := t.story.persist(ctx, effects.Waive, in, &waived, "waive"); err != nil {
			workflow.GetLogger(ctx).Error("the ledger refused the waiver", "step", t.state.Name, "error", err)
		}
		t.story.waived(waived.Version)
	}
	t.skip = nil
	t.leave(ctx, saga.StepSkipped, failed)
}

// interrupt stops the step because the saga turned: it is not wanted any more, or
// will be run again in another form.
func (t *step) interrupt(ctx workflow.Context, failed *saga.ErrorInfo) {
	if t.story.undoing != nil {
		t.leave(ctx, saga.StepSkipped, failed)
		return
	}
	t.leave(ctx, saga.StepPending, failed)
}

// leave ends the step, or its wait.
func (t *step) leave(ctx workflow.Context, state saga.StepState, failed *saga.ErrorInfo) {
	t.parked = false
	t.state.State, t.state.Error = state, failed
	t.story.settle(ctx)
}

// failureOf reads what an attempt told, or says in words that it told nothing.
func failureOf(name saga.StepName, err error) activities.Failure {
	var app *temporal.ApplicationError
	var f activities.Failure
	if errors.As(err, &app) {
		if app.HasDetails() && app.Details(&f) == nil && f.Error.Class != "" {
			return f
		}
		return activities.Failure{Error: refusalOf(name, app)}
	}
	f = activities.Failure{Error: saga.ErrorInfo{Code: saga.CodeUnavailable, Class: saga.Unavailable, System: name.System()}}
	var timeout *temporal.TimeoutError
	if errors.As(err, &timeout) {
		f.Error.Class = saga.Ambiguous
		f.Error.Message = fmt.Sprintf("%s: an attempt did not answer in time", name)
		return f
	}
	f.Error.Message = fmt.Sprintf("%s: %s", name, err)
	return f
}

// refusalOf reads the error of an activity that is not Capsaga's own: what
// Temporal would not retry is a rejection.
func refusalOf(name saga.StepName, app *temporal.ApplicationError) saga.ErrorInfo {
	e := saga.ErrorInfo{Code: saga.CodeUnavailable, Class: saga.Unavailable, System: name.System()}
	if app.NonRetryable() {
		e.Code, e.Class = saga.CodeStepRejected, saga.Rejected
	}
	e.Message = fmt.Sprintf("step %s: %s", name, app.Message())
	return e
}
