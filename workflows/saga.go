package workflows

import (
	"encoding/json"
	"errors"
	"time"

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
	r.RegisterWorkflowWithOptions(Batch, workflow.RegisterOptions{Name: saga.WorkflowBatch})
	r.RegisterWorkflowWithOptions(Gate, workflow.RegisterOptions{Name: saga.WorkflowGate})
	r.RegisterWorkflowWithOptions(Bulk, workflow.RegisterOptions{Name: saga.WorkflowBulk})
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
	s := newStory(*w)
	s.waited = waitedBefore(ctx)
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
	outcome saga.Outcome // what callers are told, but for the steps
	pivot   activities.CommitOutput
	flush   saga.LSN // that Kafka's stream must reach
	phase   saga.Status

	before, sinks, after []*step
	commitStep           *step
	undone               []*step       // those of the compensation, as they come
	waited               time.Duration // before it was split off a batch
	rerun                bool          // an earlier workflow of this saga has done something

	undoing        *undoReason     // set: the saga is to be undone
	reason         *saga.ErrorInfo // why the saga ends as it does
	closing        bool
	cancelPending  workflow.CancelFunc
	round          int            // counts the edits that were taken over
	editing        int            // edits under way
	retries        int            // how often an operator asked to try again
	releases       map[string]int // how often the gate of a system let the saga go
	awaitingCommit int            // callers that wait for the commit
	published      saga.Status    // in the search attributes
	blocked        []string       // the systems that the search attributes name
	class          saga.Class     // of what blocks it, likewise
	unrecorded     bool
	recording      bool
}

func newStory(w saga.Write) *story {
	s := &story{write: w, phase: saga.Pending, releases: map[string]int{}, outcome: saga.Outcome{
		SagaID: w.SagaID, Status: saga.Pending, Content: w.Digest(), Stream: w.Stream,
	}}
	for i := range w.BeforeSteps {
		s.before = append(s.before, s.newTask(&w.BeforeSteps[i]))
	}
	s.commitStep = &step{story: s, state: saga.Step{Name: saga.StepCommit, State: saga.StepPending}}
	return s
}

// setup makes the saga ready to be asked and found.
func (s *story) setup(ctx workflow.Context) error {
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
	// What is begun is brought to its end in the detached context: a cancellation
	// is heeded where the story asks for it, and nowhere else.
	detached, _ := workflow.NewDisconnectedContext(ctx)
	pending, cancel := workflow.WithCancel(ctx)
	s.cancelPending = cancel

	final := s.reachCommit(pending, detached)
	if s.write.Stream != nil {
		if s.phase == saga.Committed {
			final = s.deliver(detached)
		}
		return s.close(detached, final)
	}
	if s.phase == saga.Committed {
		s.heedCancellation(pending, detached)
		if s.undoing == nil {
			s.forward(detached)
		}
		final = saga.Completed
	}
	if s.undoing != nil && s.phase == saga.Committed {
		final = s.compensate(detached)
	}
	return s.close(detached, final)
}

// reachCommit runs what comes before the pivot, and the pivot. Unless the saga is
// committed then, it returns how it ends: nothing of it is left.
func (s *story) reachCommit(ctx, detached workflow.Context) saga.Status {
	if len(s.write.BeforeSteps) > 0 {
		if final := s.recall(detached); final != "" {
			return final
		}
	}
	final := s.runBefore(ctx)
	if final == "" {
		final = s.commit(ctx, detached)
	}
	if final != "" && s.outcome.Version == 0 {
		s.undoBefore(detached, nil)
	}
	return final
}

// heedCancellation turns a cancellation that comes after the pivot into the wish
// to undo the saga: what is true in PostgreSQL cannot just be left.
func (s *story) heedCancellation(ctx, detached workflow.Context) {
	workflow.Go(detached, func(listening workflow.Context) {
		ctx.Done().Receive(listening, nil)
		s.undo(undoReason{by: "cancellation"})
	})
	if ctx.Err() != nil {
		s.undo(undoReason{by: "cancellation"})
	}
}

// forward brings the committed rows to all sinks and runs the after-steps. It
// returns when all is done, or when the saga is to be undone.
func (s *story) forward(ctx workflow.Context) {
	for s.undoing == nil {
		round := s.round
		phase, cancel := workflow.WithCancel(ctx)
		workflow.Go(phase, func(watching workflow.Context) {
			_ = workflow.Await(watching, func() bool { return s.undoing != nil || s.round != round })
			cancel()
		})
		done := s.reach(phase, s.sinks) && s.runAfter(phase)
		cancel()
		// What an edit is changing in PostgreSQL the sinks do not have yet.
		_ = workflow.Await(ctx, func() bool { return s.editing == 0 || s.undoing != nil })
		if done && s.round == round {
			return
		}
	}
}

// close ends the saga with its final status.
func (s *story) close(ctx workflow.Context, final saga.Status) (saga.Outcome, error) {
	s.closing = true
	// The last word in the ledger is the final one.
	_ = workflow.Await(ctx, func() bool { return !s.recording })
	s.phase = final
	s.outcome.Status, s.outcome.Error = final, s.reason
	s.describe(ctx)
	// A saga that changed nothing and ran no steps is in the ledger as it ended; one
	// whose id was taken has no place of its own there. That of a stream is recorded
	// before it may end.
	if s.write.Stream == nil && (s.outcome.Version != 0 || len(s.before) > 0 && final != saga.Failed) {
		s.record(ctx)
	}
	if err := s.publish(ctx); err != nil {
		return s.snapshot(), err
	}
	// An update that is still unanswered when the workflow closes would fail.
	err := workflow.Await(ctx, func() bool { return workflow.AllHandlersFinished(ctx) })
	return s.snapshot(), err
}

// steps lists all steps in the order in which they are shown.
func (s *story) steps() []*step {
	all := append([]*step{}, s.before...)
	all = append(append(append(all, s.commitStep), s.sinks...), s.after...)
	return append(all, s.undone...)
}

// snapshot is where the saga stands.
func (s *story) snapshot() saga.Outcome {
	o := s.outcome
	o.Steps = nil
	for _, t := range s.steps() {
		o.Steps = append(o.Steps, t.state)
	}
	return o
}
