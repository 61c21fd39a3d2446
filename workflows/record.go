package workflows

import (
	"go.temporal.io/sdk/workflow"

	"github.com/capsaga/capsaga/activities"
	"github.com/capsaga/capsaga/saga"
)

// note has the ledger learn where the saga stands, without waiting for it: the
// ledger may be what is away. What changes meanwhile is recorded after it.
func (s *story) note(ctx workflow.Context) {
	if s.outcome.Version == 0 {
		return // the ledger does not know the saga yet
	}
	s.unrecorded = true
	if s.recording {
		return
	}
	s.recording = true
	detached, _ := workflow.NewDisconnectedContext(ctx)
	workflow.Go(detached, func(ctx workflow.Context) {
		for s.unrecorded {
			s.unrecorded = false
			s.record(ctx)
		}
		s.recording = false
	})
}

// settleRecord returns when the ledger knows where the saga stands now.
func (s *story) settleRecord(ctx workflow.Context) {
	s.note(ctx)
	_ = workflow.Await(ctx, func() bool { return !s.recording })
}

// record stores the outcome in the ledger, however long that takes: the ledger
// answers for the saga when the workflow's history is gone.
func (s *story) record(ctx workflow.Context) {
	in := activities.RecordInput{Outcome: s.snapshot()}
	if err := s.persist(ctx, effects.RecordOutcome, in, nil, "record"); err != nil {
		workflow.GetLogger(ctx).Error("the ledger refused the outcome; the saga itself is not touched by that", "error", err)
	}
}

// persist runs an activity on the ledger until it is done or refused.
func (s *story) persist(ctx workflow.Context, activity, in, out any, what string) error {
	err := workflow.ExecuteLocalActivity(quickly(ctx, quickSink), activity, in).Get(ctx, out)
	if err == nil {
		return nil
	}
	options := patience(sinkAttempt, what+": "+s.write.Summary())
	return workflow.ExecuteActivity(workflow.WithActivityOptions(ctx, options), activity, in).Get(ctx, out)
}

// recall asks the ledger, before any step runs, what an earlier workflow of this
// saga came to, and takes over from there. It returns a status when the saga has
// ended with nothing left to undo.
func (s *story) recall(ctx workflow.Context) saga.Status {
	var out activities.RecallOutput
	in := activities.RecallInput{SagaID: s.write.SagaID}
	if err := s.persist(ctx, effects.Recall, in, &out, "recall"); err != nil || out.Outcome == nil {
		return ""
	}
	if out.Outcome.Content != s.outcome.Content {
		s.before = nil // the commit will refuse the id, which is another saga's
		return ""
	}
	s.rerun = true
	known := out.Outcome
	for _, t := range s.before {
		t.began, t.state.State = true, saga.StepDone // it was before what the ledger knows
		if was := known.Step(t.state.Name); was != nil {
			t.state = *was
		}
	}
	if known.Version != 0 {
		return "" // the commit says the rest
	}
	s.reason = known.Error
	s.undoBefore(ctx, known)
	return known.Status
}

// resume takes over what an earlier workflow of this saga had recorded: it skips
// what was done, and goes on with an undo that had begun. It returns a status when
// the saga has ended.
func (s *story) resume(known *saga.Outcome) (final saga.Status) {
	s.rerun = true
	// The last edit may have come after the last record. Then what the sinks had got
	// until then is not what they are to have.
	current := known.Version >= s.outcome.Version
	if current {
		s.outcome.Version, s.outcome.Token, s.outcome.ETags = known.Version, known.Token, known.ETags
	}
	for _, t := range s.sinks {
		if was := known.Step(t.state.Name); was != nil && was.State.Over() && current {
			t.state = *was
		}
	}
	for _, t := range s.after {
		was := known.Step(t.state.Name)
		if was != nil && was.State.Over() {
			t.state = *was
		}
		// Unless the saga had turned by then, a step may have begun after the record.
		t.began = !known.Undoing() || was != nil && was.State != saga.StepPending
	}
	switch {
	case known.Status.Final():
		s.phase, s.reason = known.Status, known.Error
		for _, was := range known.Steps {
			if was.Name.Undoes() {
				s.undone = append(s.undone, &step{story: s, state: was})
			}
		}
		return known.Status
	case known.Undoing():
		s.undo(undoReason{by: "an earlier run", known: known})
	}
	return ""
}
