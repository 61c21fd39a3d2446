package workflows

import (
	"go.temporal.io/sdk/workflow"

	"github.com/capsaga/capsaga/activities"
	"github.com/capsaga/capsaga/saga"
)

// deliver brings a row that plain SQL had committed to the sink that refused it.
// The saga ends when the ledger agrees that no later change of the row was refused
// meanwhile; else it goes on with that one. A cancellation has no effect, as there
// is nothing to undo: to give the row up is to skip the step.
func (s *story) deliver(ctx workflow.Context) saga.Status {
	for {
		s.forward(ctx)
		if !s.refusedAgain(ctx) {
			return saga.Completed
		}
	}
}

// refusedAgain records that the saga has completed, unless its row was refused
// again: then the step to its sink is a new one.
func (s *story) refusedAgain(ctx workflow.Context) bool {
	_ = workflow.Await(ctx, func() bool { return !s.recording })
	ended := s.snapshot()
	ended.Status, ended.Error = saga.Completed, nil
	var recorded activities.RecordOutput
	if err := s.persist(ctx, effects.RecordOutcome, activities.RecordInput{Outcome: ended}, &recorded, "record"); err != nil {
		workflow.GetLogger(ctx).Error("the ledger refused the outcome; the row is in its sink", "error", err)
	}
	if !recorded.Outdated {
		return false
	}
	var out activities.CommitOutput
	err := s.persist(ctx, effects.Commit, s.commitInput(ctx), &out, "what was refused since")
	if err != nil || out.Status != saga.Committed {
		workflow.GetLogger(ctx).Error("the row was refused again, and the ledger does not tell it any more: replay the saga", "error", err)
		return false
	}
	s.pivot, s.flush = out, out.FlushLSN
	s.outcome.Own(out.Version, out.Owned)
	for i, t := range s.sinks {
		if sink := saga.Sink(t.state.Name); sink == s.write.Stream.Sink {
			s.sinks[i] = s.newSink(sink)
			s.sinks[i].state.Attempts = t.state.Attempts
		}
	}
	s.settle(ctx)
	return true
}

// answering returns the context of an answer to an operator, which a cancellation
// that has no effect must not cut off.
func (s *story) answering(ctx workflow.Context) workflow.Context {
	if s.write.Stream != nil {
		ctx, _ = workflow.NewDisconnectedContext(ctx)
	}
	return ctx
}

// waived notes up to which version of its row a stream's saga gave its sink up:
// what was refused until then is over with it.
func (s *story) waived(version saga.Version) {
	if s.write.Stream != nil && version > s.outcome.Version {
		s.outcome.Own(version, s.pivot.Owned)
	}
}
