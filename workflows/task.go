package workflows

import (
	"encoding/json"
	"fmt"

	"go.temporal.io/sdk/workflow"

	"github.com/capsaga/capsaga/saga"
)

// newTask is a step of the service's own.
func (s *story) newTask(task *saga.Task) *step {
	t := &step{
		story: s, task: task, policy: s.write.Policy,
		state: saga.Step{Name: saga.StepName(task.Name), State: saga.StepPending},
	}
	t.options = func() workflow.ActivityOptions { return taskOptions(task, task.Name) }
	t.call = func(ctx workflow.Context, _ bool, options workflow.ActivityOptions) func() (int, error) {
		in := saga.TaskInput{SagaID: s.write.SagaID, Step: task.Name, Input: task.Input}
		future := workflow.ExecuteActivity(workflow.WithActivityOptions(ctx, options), task.Activity, in)
		return func() (int, error) {
			var result json.RawMessage
			err := future.Get(ctx, &result)
			t.result = result
			return 1, err
		}
	}
	return t
}

// undoTask is the step that undoes a task. It is never given up by a policy.
func (s *story) undoTask(done *step) *step {
	task := done.task
	t := &step{
		story: s, task: task, policy: saga.Policy{ParkAfter: s.write.Policy.ParkAfter},
		state: saga.Step{Name: done.state.Name.Undo(), State: saga.StepPending},
	}
	t.options = func() workflow.ActivityOptions { return taskOptions(task, "undo "+task.Name) }
	t.call = func(ctx workflow.Context, _ bool, options workflow.ActivityOptions) func() (int, error) {
		in := saga.TaskInput{SagaID: s.write.SagaID, Step: task.Name, Input: task.Input, Result: done.result}
		future := workflow.ExecuteActivity(workflow.WithActivityOptions(ctx, options), task.Compensation, in)
		return func() (int, error) { return 1, future.Get(ctx, nil) }
	}
	return t
}

func taskOptions(task *saga.Task, summary string) workflow.ActivityOptions {
	options := patience(task.TimeoutOrDefault(), fmt.Sprintf("%s (%s)", summary, task.TaskQueue))
	options.TaskQueue = task.TaskQueue
	// What still runs must not be undone beside itself.
	options.WaitForCancellation = true
	options.ScheduleToCloseTimeout = options.StartToCloseTimeout // at least
	return options
}

// runBefore runs the before-steps one after the other. It returns how the saga
// ends if one of them is refused, or ctx is cancelled.
func (s *story) runBefore(ctx workflow.Context) (final saga.Status) {
	for _, t := range s.before {
		if t.state.State.Over() {
			continue
		}
		if ctx.Err() != nil {
			return s.refuse(saga.Cancelled, nil)
		}
		t.ends = true
		if t.run(ctx) && ctx.Err() == nil {
			continue
		}
		if t.state.State == saga.StepRejected {
			return s.refuse(saga.RejectedEnd, t.state.Error)
		}
		return s.refuse(saga.Cancelled, nil)
	}
	return ""
}

// runAfter runs the after-steps one after the other and reports whether all have
// come to their end.
func (s *story) runAfter(ctx workflow.Context) bool {
	for _, t := range s.after {
		if !t.state.State.Over() && !t.run(ctx) {
			return false
		}
	}
	return true
}
