package workflows

import (
	"go.temporal.io/sdk/workflow"

	"github.com/capsaga/capsaga/activities"
	"github.com/capsaga/capsaga/saga"
)

// undoReason says why a saga is undone.
type undoReason struct {
	by    string
	cause *saga.ErrorInfo // the failure that it is undone for
	known *saga.Outcome   // what an earlier workflow has undone already
}

// undo asks for the saga to be undone. The first reason counts.
func (s *story) undo(reason undoReason) {
	if s.undoing == nil {
		s.undoing = &reason
	}
}

// compensate takes the saga back, as a newer truth: PostgreSQL's rows in one
// transaction, and then the sinks by the same compare-and-set as ever. Each step
// is run until it is done; what cannot be undone parks.
func (s *story) compensate(ctx workflow.Context) saga.Status {
	s.phase = saga.Compensating
	s.settle(ctx)
	// A workflow that begins anew must go on with the undo, and not with the saga.
	s.settleRecord(ctx)
	known := s.undoing.known
	s.undoTasks(ctx, s.after, known)
	version, owned := s.undoCommit(ctx)
	var sinks []*step
	for _, sink := range s.pivot.Order {
		sinks = append(sinks, s.undoneSink(sink, version, owned))
	}
	s.undone = append(s.undone, sinks...)
	s.reach(ctx, sinks)
	s.undoTasks(ctx, s.before, known)
	s.reason = s.undoing.cause
	return saga.Compensated
}

// undoCommit undoes what the saga did in PostgreSQL and returns what the sinks
// are to hold. When an operator gives that up, they are brought what PostgreSQL
// has.
func (s *story) undoCommit(ctx workflow.Context) (saga.Version, []saga.Owned) {
	trace := s.commitInput(ctx)
	in := activities.ChangeInput{SagaID: s.write.SagaID, TraceParent: trace.TraceParent, TraceState: trace.TraceState}
	var out activities.ChangeOutput
	t := &step{
		story: s, policy: saga.Policy{ParkAfter: s.write.Policy.ParkAfter}, quick: quickCommit,
		state: saga.Step{Name: saga.StepUndo, State: saga.StepPending},
		options: func() workflow.ActivityOptions {
			return patience(commitAttempt, "undo: "+s.write.Summary()+" → postgres")
		},
	}
	t.call = func(ctx workflow.Context, local bool, options workflow.ActivityOptions) func() (int, error) {
		future := t.start(ctx, local, options, effects.Undo, in)
		return func() (int, error) {
			err := future.Get(ctx, &out)
			if err == nil {
				s.flush = out.FlushLSN
				s.outcome.Own(out.Version, out.Owned)
			}
			return out.Attempt, err
		}
	}
	s.undone = append(s.undone, t)
	t.run(ctx)
	if t.state.State != saga.StepDone { // an edit may have come before the undo was given up
		return s.pivot.Version, s.pivot.Owned
	}
	return out.Version, out.Owned
}

// undoTasks undoes in reverse the tasks that may have happened, but for those
// that an earlier workflow has undone.
func (s *story) undoTasks(ctx workflow.Context, tasks []*step, known *saga.Outcome) {
	for i := len(tasks) - 1; i >= 0; i-- {
		done := tasks[i]
		if happened := done.began || done.state.State.Over(); !happened || done.task.Compensation == "" {
			continue
		}
		t := s.undoTask(done)
		s.undone = append(s.undone, t)
		if known != nil {
			if was := known.Step(t.state.Name); was != nil && was.State.Over() {
				t.state = *was
				continue
			}
		}
		t.run(ctx)
	}
}

// undoBefore undoes the before-steps of a saga that has committed nothing.
func (s *story) undoBefore(ctx workflow.Context, known *saga.Outcome) {
	for _, t := range s.before {
		if t.began {
			s.phase = saga.Compensating
		}
	}
	if s.phase == saga.Compensating {
		s.settle(ctx)
		s.undoTasks(ctx, s.before, known)
	}
}
