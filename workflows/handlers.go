package workflows

import (
	"fmt"

	"go.temporal.io/sdk/temporal"
	"go.temporal.io/sdk/workflow"

	"github.com/capsaga/capsaga/saga"
)

// handle registers what the saga can be asked.
func (s *story) handle(ctx workflow.Context) error {
	err := workflow.SetQueryHandlerWithOptions(ctx, saga.QueryState, func() (saga.Outcome, error) {
		return s.outcome, nil
	}, workflow.QueryHandlerOptions{Description: "The saga's outcome so far, with each step."})
	if err != nil {
		return err
	}
	if err := s.update(ctx, saga.UpdateCommitted, "Waits for the commit.", s.waitCommitted, s.sameContent); err != nil {
		return err
	}
	if err := s.update(ctx, saga.UpdateVisible, "Waits for all sinks, or until the saga parks.", s.waitVisible, s.sameContent); err != nil {
		return err
	}
	return s.update(ctx, saga.UpdateRetry, "Tries the parked steps once more.", s.retry, s.mayRetry)
}

func (s *story) update(ctx workflow.Context, name, description string, handler, validator any) error {
	return workflow.SetUpdateHandlerWithOptions(ctx, name, handler, workflow.UpdateHandlerOptions{
		Validator: validator, Description: description,
	})
}

// sameContent refuses a caller who uses the saga's id for another write.
func (s *story) sameContent(in saga.WaitInput) error {
	if in.Content == "" || in.Content == s.outcome.Content {
		return nil
	}
	message := fmt.Sprintf("saga id %q is in use with other content: give each write its own id", s.write.SagaID)
	return temporal.NewNonRetryableApplicationError(message, saga.CodeSagaIDReused, nil)
}

func (s *story) waitCommitted(ctx workflow.Context, _ saga.WaitInput) (saga.Outcome, error) {
	s.awaitingCommit++
	err := workflow.Await(ctx, func() bool { return s.outcome.Status != saga.Pending })
	s.awaitingCommit--
	return s.outcome, err
}

func (s *story) waitVisible(ctx workflow.Context, _ saga.WaitInput) (saga.Outcome, error) {
	err := workflow.Await(ctx, func() bool {
		return s.outcome.Status.Final() || s.outcome.Status == saga.Parked && !s.attemptingQuickly()
	})
	return s.outcome, err
}

// attemptingQuickly reports whether a step's first attempt is still under way,
// which a caller who is told of a parked neighbour wants to know the end of.
func (s *story) attemptingQuickly() bool {
	for _, t := range s.steps {
		if t.state.State == saga.StepRunning {
			return true
		}
	}
	return false
}

// mayRetry refuses what would have no effect.
func (s *story) mayRetry() error {
	if len(s.parkedSteps()) > 0 {
		return nil
	}
	message := fmt.Sprintf("saga %q has no parked step: it is %s", s.write.SagaID, s.outcome.Status)
	return temporal.NewNonRetryableApplicationError(message, saga.CodeNotParked, nil)
}

// retry tries each parked step once more and answers when all have been tried.
func (s *story) retry(ctx workflow.Context) (saga.Outcome, error) {
	parked := s.parkedSteps()
	s.retries++
	request := s.retries
	err := workflow.Await(ctx, func() bool {
		for _, t := range parked {
			if t.parked && t.retries < request {
				return false
			}
		}
		return true
	})
	return s.outcome, err
}

func (s *story) parkedSteps() []*step {
	var parked []*step
	for _, t := range s.steps {
		if t.parked {
			parked = append(parked, t)
		}
	}
	return parked
}
