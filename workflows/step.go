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

// minPatience is the least time that a step is tried patiently, however short
// the policy's park_after.
const minPatience = time.Second

// step brings the saga's rows to one sink.
type step struct {
	story   *story
	sink    saga.Sink
	effect  any
	input   activities.SinkInput
	state   *saga.Step // in the outcome
	parked  bool       // stays set while a parked step is tried again
	retries int        // the operator's requests that it has answered
}

func (s *story) newStep(sink saga.Sink, rows []saga.Owned, state *saga.Step) *step {
	effect := map[saga.Sink]any{
		saga.Redis:         effects.UpdateRedis,
		saga.Kafka:         effects.PublishKafka,
		saga.Elasticsearch: effects.IndexElasticsearch,
	}[sink]
	if sink == saga.Kafka {
		rows = nil // it waits for a position; keys would only fill the history
	}
	return &step{story: s, sink: sink, effect: effect, state: state, input: activities.SinkInput{
		SagaID: s.write.SagaID, Version: s.pivot.Version, FlushLSN: s.pivot.FlushLSN, Rows: rows,
	}}
}

// run returns when the sink has the rows, or when the policy waives them.
func (t *step) run(ctx workflow.Context, quick time.Duration) {
	began := workflow.Now(ctx)
	t.state.State = saga.StepRunning
	failed := t.result(workflow.ExecuteLocalActivity(quickly(ctx, quick), t.effect, t.input).Get(ctx, new(activities.SinkOutput)), 1)
	if failed != nil && failed.Class != saga.Rejected {
		t.story.retrying(ctx, t.state, activities.Failure{Error: *failed})
		left := t.story.write.Policy.ParkAfterOrDefault() - workflow.Now(ctx).Sub(began)
		options := t.options()
		options.ScheduleToCloseTimeout = max(left, minPatience)
		failed = t.execute(ctx, options)
	}
	for failed != nil {
		t.state.Duration = saga.Duration(workflow.Now(ctx).Sub(began))
		if failed.Class == saga.Rejected && t.story.write.Policy.OnRejectOrDefault() == saga.OnRejectSkip {
			t.leave(ctx, saga.StepSkipped, failed)
			return
		}
		t.park(ctx, failed)
		failed = t.untilReleased(ctx)
	}
	t.state.Duration = saga.Duration(workflow.Now(ctx).Sub(began))
	t.leave(ctx, saga.StepDone, nil)
}

// park stops the step and says why.
func (t *step) park(ctx workflow.Context, failed *saga.ErrorInfo) {
	e := *failed
	if e.Class == saga.Rejected && t.story.write.Policy.OnRejectOrDefault() == saga.OnRejectCompensate {
		e.Message += "; the policy asks to compensate, which this version cannot do yet, so the saga is parked"
	}
	t.parked = true
	t.state.State, t.state.Error = saga.StepParked, &e
	t.story.settle(ctx)
}

// leave ends the step.
func (t *step) leave(ctx workflow.Context, state saga.StepState, failed *saga.ErrorInfo) {
	t.parked = false
	t.state.State, t.state.Error = state, failed
	t.story.settle(ctx)
}

// untilReleased waits until the step has been tried again, and returns how that
// went. What was rejected is tried when an operator asks for it. A sink that was
// away is tried about once a minute as well, by a single activity whose retries
// leave nothing in the history, so that a saga may stay parked for months.
func (t *step) untilReleased(ctx workflow.Context) *saga.ErrorInfo {
	if t.state.Error.Class != saga.Rejected {
		watched, cancel := workflow.WithCancel(ctx)
		back := workflow.ExecuteActivity(workflow.WithActivityOptions(watched, t.watchOptions()), t.effect, t.watchInput())
		_ = workflow.Await(ctx, func() bool { return t.asked() || back.IsReady() })
		if back.IsReady() {
			cancel()
			var out activities.SinkOutput
			err := back.Get(ctx, &out)
			return t.result(err, out.Attempt)
		}
		cancel()
	} else {
		_ = workflow.Await(ctx, t.asked)
	}
	answered := t.story.retries
	t.state.State = saga.StepRetrying
	t.story.describe(ctx)
	options := t.options()
	options.RetryPolicy.MaximumAttempts = 1
	failed := t.execute(ctx, options)
	t.retries = answered
	return failed
}

// asked reports whether an operator wants the step tried again.
func (t *step) asked() bool { return t.story.retries > t.retries }

func (t *step) options() workflow.ActivityOptions {
	return patience(sinkAttempt, fmt.Sprintf("%s → %s", t.story.write.Summary(), t.sink))
}

// watchOptions are those of the activity that a parked step waits with.
func (t *step) watchOptions() workflow.ActivityOptions {
	options := patience(sinkAttempt, fmt.Sprintf("parked: %s → %s", t.story.write.Summary(), t.sink))
	options.RetryPolicy.InitialInterval = activities.ParkedDelay
	options.RetryPolicy.BackoffCoefficient = 1
	options.RetryPolicy.MaximumInterval = activities.ParkedDelay
	return options
}

func (t *step) watchInput() activities.SinkInput {
	in := t.input
	in.Pace = activities.PaceParked
	return in
}

// execute runs the step as a regular activity.
func (t *step) execute(ctx workflow.Context, options workflow.ActivityOptions) *saga.ErrorInfo {
	var out activities.SinkOutput
	err := workflow.ExecuteActivity(workflow.WithActivityOptions(ctx, options), t.effect, t.input).Get(ctx, &out)
	return t.result(err, out.Attempt)
}

// result counts the attempts and returns the failure, if it is one.
func (t *step) result(err error, attempts int) *saga.ErrorInfo {
	if err == nil {
		t.state.Attempts += attempts
		return nil
	}
	f := failureOf(t.state.Name, err)
	t.state.Attempts += max(f.Attempt, 1)
	return &f.Error
}

// retrying notes that a step goes on patiently.
func (s *story) retrying(ctx workflow.Context, state *saga.Step, f activities.Failure) {
	state.State, state.Error = saga.StepRetrying, &f.Error
	state.Attempts = max(state.Attempts, 1)
	s.describe(ctx)
}

// failureOf reads what an attempt told, or says in words that it told nothing.
func failureOf(name saga.StepName, err error) activities.Failure {
	var app *temporal.ApplicationError
	if errors.As(err, &app) && app.HasDetails() {
		var f activities.Failure
		if app.Details(&f) == nil && f.Error.Class != "" {
			return f
		}
	}
	f := activities.Failure{Error: saga.ErrorInfo{Code: saga.CodeUnavailable, Class: saga.Unavailable, System: string(name)}}
	var timeout *temporal.TimeoutError
	if errors.As(err, &timeout) {
		f.Error.Class = saga.Ambiguous
		f.Error.Message = fmt.Sprintf("%s: an attempt did not answer in time", name)
		return f
	}
	f.Error.Message = fmt.Sprintf("%s: %s", name, err)
	return f
}
