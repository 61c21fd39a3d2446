package workflows

import (
	"encoding/json"
	"errors"

	"go.temporal.io/sdk/workflow"

	"github.com/capsaga/capsaga/activities"
	"github.com/capsaga/capsaga/internal/attribute"
	"github.com/capsaga/capsaga/saga"
)

// effects names the activities; it is never called.
var effects *activities.Saga

// Registry is what a worker offers to register workflows.
type Registry interface {
	RegisterWorkflowWithOptions(w any, options workflow.RegisterOptions)
}

// Register makes the workflows known to a worker.
func Register(r Registry) {
	r.RegisterWorkflowWithOptions(Saga, workflow.RegisterOptions{Name: saga.WorkflowSaga})
}

// Saga is the workflow of one saga, whose input is the JSON of a write. It ends
// with the saga's outcome whatever that is: a rejected, cancelled or failed saga
// is an answer, not an error of the workflow.
//
// The input is parsed here, strictly, and not by the SDK: callers in other
// languages have checked nothing, and an "expect" that is misspelt must not
// become a write without one.
func Saga(ctx workflow.Context, input json.RawMessage) (saga.Outcome, error) {
	w, err := saga.ParseWrite(input)
	if err != nil {
		return malformed(input, err), nil
	}
	s := &story{write: *w}
	if err := s.setup(ctx); err != nil {
		return saga.Outcome{}, err
	}
	return s.run(ctx)
}

// malformed is the outcome of an input that is no write.
func malformed(input json.RawMessage, err error) saga.Outcome {
	var named struct {
		SagaID string `json:"saga_id"`
	}
	_ = json.Unmarshal(input, &named) // what has no id is answered without
	e := saga.ErrorInfo{Code: saga.CodeInvalidWrite, Class: saga.Rejected, System: "capsaga", Message: err.Error()}
	var refused *saga.Error
	if errors.As(err, &refused) {
		e.Code, e.Message = refused.Code, refused.Message
	}
	return saga.Outcome{SagaID: named.SagaID, Status: saga.RejectedEnd, Error: &e}
}

// story is one saga's state.
type story struct {
	write   saga.Write
	outcome saga.Outcome // what callers are told
	pivot   activities.CommitOutput
	steps   []*step

	awaitingCommit int      // callers that wait for the commit
	retries        int      // how often an operator asked to retry
	blocked        []string // the sinks that the search attributes name
}

// setup makes the saga ready to be asked and found.
func (s *story) setup(ctx workflow.Context) error {
	s.outcome = saga.Outcome{
		SagaID: s.write.SagaID, Status: saga.Pending, Content: s.write.Digest(),
		Steps: []saga.Step{{Name: saga.StepCommit, State: saga.StepRunning}},
	}
	s.describe(ctx)
	if err := s.handle(ctx); err != nil {
		return err
	}
	// Callers in other languages may have started us without attributes.
	if !workflow.GetTypedSearchAttributes(ctx).ContainsKey(attribute.Status) {
		return workflow.UpsertTypedSearchAttributes(ctx, attribute.Start(&s.write)...)
	}
	return nil
}

// run is the story.
func (s *story) run(ctx workflow.Context) (saga.Outcome, error) {
	// From the commit on, a cancellation of the workflow is not obeyed: what is
	// true in PostgreSQL has to reach the sinks.
	detached, _ := workflow.NewDisconnectedContext(ctx)
	s.commit(ctx, detached)
	if s.outcome.Status == saga.Committed {
		s.reachSinks(detached)
		s.outcome.Status = saga.Completed
		s.describe(detached)
		s.record(detached)
	}
	if err := s.publish(detached); err != nil {
		return s.outcome, err
	}
	// An update that is still unanswered when the workflow closes would fail.
	err := workflow.Await(detached, func() bool { return workflow.AllHandlersFinished(detached) })
	return s.outcome, err
}

// reachSinks brings the committed rows to all sinks, side by side, and returns
// when all have them.
func (s *story) reachSinks(ctx workflow.Context) {
	left := workflow.NewWaitGroup(ctx)
	quick := quickSink
	if s.awaitingCommit > 0 {
		quick = quickSinkAwaited
	}
	for i := range s.outcome.Steps {
		sink := saga.Sink(s.outcome.Steps[i].Name)
		if rows := s.pivot.Rows(sink); len(rows) > 0 {
			s.steps = append(s.steps, s.newStep(sink, rows, &s.outcome.Steps[i]))
		}
	}
	for _, t := range s.steps {
		left.Add(1)
		workflow.Go(ctx, func(ctx workflow.Context) {
			defer left.Done()
			t.run(ctx, quick)
		})
	}
	left.Wait(ctx)
}

// record stores the outcome in the ledger, however long that takes: the ledger
// answers for the saga when the workflow's history is gone.
func (s *story) record(ctx workflow.Context) {
	in := activities.RecordInput{Outcome: s.outcome}
	err := workflow.ExecuteLocalActivity(quickly(ctx, quickSink), effects.RecordOutcome, in).Get(ctx, nil)
	if err != nil {
		options := patience(sinkAttempt, s.write.Summary()+" → ledger")
		err = workflow.ExecuteActivity(workflow.WithActivityOptions(ctx, options), effects.RecordOutcome, in).Get(ctx, nil)
	}
	if err != nil {
		workflow.GetLogger(ctx).Error("the ledger refused the outcome; the saga itself is complete", "error", err)
	}
}
