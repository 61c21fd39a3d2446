package workflows

import (
	"fmt"

	"go.temporal.io/sdk/temporal"
	"go.temporal.io/sdk/workflow"

	"github.com/capsaga/capsaga/activities"
	"github.com/capsaga/capsaga/saga"
)

// handle registers what the saga can be asked.
func (s *story) handle(ctx workflow.Context) error {
	err := workflow.SetQueryHandlerWithOptions(ctx, saga.QueryState, func() (saga.Outcome, error) {
		return s.snapshot(), nil
	}, workflow.QueryHandlerOptions{Description: "The saga's outcome so far, with each step."})
	if err != nil {
		return err
	}
	for _, u := range []struct {
		name, description  string
		handler, validator any
	}{
		{saga.UpdateCommitted, "Waits for the commit.", s.waitCommitted, s.sameContent},
		{saga.UpdateVisible, "Waits for all sinks, or until the saga parks.", s.waitVisible, s.sameContent},
		{saga.UpdateRetry, "Tries the parked steps once more.", s.retry, s.mayRetry},
		{saga.UpdateSkip, `Gives up a parked step: {"step":"elasticsearch","reason":"…"}.`, s.giveUpStep, s.maySkip},
		{saga.UpdateCompensate, "Undoes the saga.", s.compensateNow, s.mayCompensate},
		{saga.UpdateEdit, `Changes the saga's rows in PostgreSQL and brings them to all sinks: {"mutations":[…]}.`, s.edit, s.mayEdit},
	} {
		err := workflow.SetUpdateHandlerWithOptions(ctx, u.name, u.handler, workflow.UpdateHandlerOptions{
			Validator: u.validator, Description: u.description,
		})
		if err != nil {
			return err
		}
	}
	workflow.Go(ctx, func(ctx workflow.Context) {
		listening, _ := workflow.NewDisconnectedContext(ctx)
		released := workflow.GetSignalChannel(listening, saga.SignalRelease)
		for {
			var system string
			released.Receive(listening, &system)
			s.releases[system]++
		}
	})
	return nil
}

// sameContent refuses a caller who uses the saga's id for another write.
func (s *story) sameContent(in saga.WaitInput) error {
	if in.Content == "" || in.Content == s.outcome.Content {
		return nil
	}
	return refusal(saga.CodeSagaIDReused, "saga id %q is in use with other content: give each write its own id", s.write.SagaID)
}

func refusal(code, format string, args ...any) error {
	return temporal.NewNonRetryableApplicationError(fmt.Sprintf(format, args...), code, nil)
}

func (s *story) waitCommitted(ctx workflow.Context, _ saga.WaitInput) (saga.Outcome, error) {
	ctx = s.answering(ctx)
	s.awaitingCommit++
	err := workflow.Await(ctx, func() bool { return s.outcome.Version != 0 || s.atRest() })
	s.awaitingCommit--
	return s.snapshot(), err
}

func (s *story) waitVisible(ctx workflow.Context, _ saga.WaitInput) (saga.Outcome, error) {
	err := workflow.Await(s.answering(ctx), s.atRest)
	return s.snapshot(), err
}

// atRest reports whether the saga has ended, or is parked with no step's first
// attempt under way, whose end a caller wants to know.
func (s *story) atRest() bool {
	if s.outcome.Status.Final() {
		return true
	}
	if s.outcome.Status != saga.Parked {
		return false
	}
	for _, t := range s.steps() {
		if t.state.State == saga.StepRunning {
			return false
		}
	}
	return true
}

func (s *story) parkedSteps() []*step {
	var parked []*step
	for _, t := range s.steps() {
		if t.parked {
			parked = append(parked, t)
		}
	}
	return parked
}

// notParked says why a request has no effect.
func (s *story) notParked() error {
	return refusal(saga.CodeNotParked, "saga %q has no parked step: it is %s", s.write.SagaID, s.outcome.Status)
}

// mayRetry refuses what would have no effect.
func (s *story) mayRetry() error {
	if len(s.parkedSteps()) == 0 {
		return s.notParked()
	}
	return nil
}

// retry tries each parked step once more and answers when all have been tried.
func (s *story) retry(ctx workflow.Context) (saga.Outcome, error) {
	ctx = s.answering(ctx)
	parked := s.parkedSteps()
	s.retries++
	request := s.retries
	err := workflow.Await(ctx, func() bool {
		for _, t := range parked {
			if t.parked && t.answers < request {
				return false
			}
		}
		return true
	})
	return s.snapshot(), err
}

// maySkip refuses a step that is not parked, and the commit: a saga without one
// is cancelled. An undo is given up only where PostgreSQL has refused it: without
// an answer it may have happened, and the sinks would lack it.
func (s *story) maySkip(in saga.SkipInput) error {
	parked := s.parkedSteps()
	if len(parked) == 0 {
		return s.notParked()
	}
	names := ""
	for _, t := range parked {
		switch {
		case t.state.Name != in.Step || in.Step == saga.StepCommit:
		case in.Step == saga.StepUndo && t.state.Error.Class != saga.Rejected:
			return refusal(saga.CodeNotParked, "saga %q: PostgreSQL has not answered, so the undo may have happened: it is skipped only when PostgreSQL refuses it", s.write.SagaID)
		default:
			return nil
		}
		names += " " + string(t.state.Name)
	}
	if in.Step == saga.StepCommit {
		return refusal(saga.CodeNotParked, "saga %q: the commit cannot be skipped: compensate cancels a saga that has not committed", s.write.SagaID)
	}
	return refusal(saga.CodeNotParked, "saga %q: step %q is not parked: these are:%s", s.write.SagaID, in.Step, names)
}

// giveUpStep skips a parked step and answers when the saga has gone on without
// it.
func (s *story) giveUpStep(ctx workflow.Context, in saga.SkipInput) (saga.Outcome, error) {
	ctx = s.answering(ctx)
	for _, t := range s.parkedSteps() {
		if t.state.Name != in.Step {
			continue
		}
		if in.Reason == "" {
			in.Reason = "an operator skipped it"
		}
		t.skip = &in
		if err := workflow.Await(ctx, func() bool { return !t.parked }); err != nil {
			return s.snapshot(), err
		}
	}
	return s.snapshot(), nil
}

// mayCompensate refuses what comes after the end. Asked again, a saga that is
// being undone answers as the first time.
func (s *story) mayCompensate() error {
	if c := s.write.Stream; c != nil {
		return refusal(saga.CodeNotParked, "saga %q cannot be undone: plain SQL has written %s, and nobody knows what was before: change the row, by SQL or with `capsaga edit`, or give %s up with `capsaga skip`", s.write.SagaID, c.Target(), c.Sink)
	}
	if s.closing {
		return refusal(saga.CodeNotParked, "saga %q has ended: it is %s; to take a completed one back, write the change as a new saga", s.write.SagaID, s.outcome.Status)
	}
	return nil
}

// compensateNow undoes the saga, or cancels it before its commit, and answers when
// it has ended or parked.
func (s *story) compensateNow(ctx workflow.Context) (saga.Outcome, error) {
	s.undo(undoReason{by: "an operator"})
	s.cancelPending()
	err := workflow.Await(ctx, func() bool {
		return s.outcome.Status.Final() || s.phase == saga.Compensating && s.atRest()
	})
	return s.snapshot(), err
}

// mayEdit wants a saga that is parked after its commit, and mutations of rows that
// it owns.
func (s *story) mayEdit(in saga.EditInput) error {
	switch {
	case s.outcome.Version == 0:
		return refusal(saga.CodeNotParked, "saga %q has not committed: cancel it, by compensate, and give the mended write a new id", s.write.SagaID)
	case s.undoing != nil:
		return refusal(saga.CodeNotParked, "saga %q is being undone, and cannot be edited", s.write.SagaID)
	case len(s.parkedSteps()) == 0:
		return s.notParked()
	case len(in.Mutations) == 0:
		return refusal(saga.CodeInvalidWrite, "an edit needs mutations: at least one")
	}
	if err := saga.ValidateMutations(in.Mutations); err != nil {
		return refusal(saga.CodeInvalidWrite, "%s", err)
	}
	return nil
}

// edit changes rows of the saga in PostgreSQL, as a newer truth, and brings them
// to all sinks. It answers when they have them, or when the saga parks again.
func (s *story) edit(ctx workflow.Context, in saga.EditInput) (saga.Outcome, error) {
	ctx = s.answering(ctx)
	trace := s.commitInput(ctx)
	var out activities.ChangeOutput
	s.editing++
	err := s.persist(ctx, effects.Edit, activities.ChangeInput{
		SagaID: s.write.SagaID, RequestID: workflow.GetCurrentUpdateInfo(ctx).ID, Mutations: in.Mutations,
		TraceParent: trace.TraceParent, TraceState: trace.TraceState,
	}, &out, "edit")
	s.editing--
	if err != nil {
		e := failureOf("edit", err).Error
		return s.snapshot(), refusal(e.Code, "%s", e.Message)
	}
	if out.Version > s.pivot.Version { // else a later edit has been taken over, with this one's rows in it
		s.takeEdit(ctx, out)
	}
	if s.undoing == nil {
		err = workflow.Await(ctx, s.atRest)
	}
	return s.snapshot(), err
}

// takeEdit has the forward phase begin anew with the rows as the edit left them. A
// saga that has turned meanwhile takes the edit back as well, unless its undo is
// given up.
func (s *story) takeEdit(ctx workflow.Context, out activities.ChangeOutput) {
	s.pivot.Version, s.pivot.Owned = out.Version, out.Owned
	if s.undoing != nil {
		return
	}
	s.flush = out.FlushLSN
	s.outcome.Own(out.Version, out.Owned)
	for i, sink := range s.pivot.Order {
		attempts := s.sinks[i].state.Attempts
		s.sinks[i] = s.newSink(sink)
		s.sinks[i].state.Attempts = attempts
	}
	s.round++
	s.settle(ctx)
}
