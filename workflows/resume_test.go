package workflows_test

import (
	"context"
	"encoding/json"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/mock"
	"github.com/stretchr/testify/require"
	"go.temporal.io/sdk/testsuite"

	"github.com/capsaga/capsaga/activities"
	"github.com/capsaga/capsaga/internal/activitytest"
	"github.com/capsaga/capsaga/saga"
)

// begunAnew is the stage of a saga that an earlier run has committed. The steps
// are those that it had recorded, if it had recorded anything.
func begunAnew(t *testing.T, w saga.Write, status saga.Status, steps ...saga.Step) (*stage, *service) {
	t.Helper()
	s := newStage(t)
	v := newService(s)
	_, err := s.systems.Commit(t.Context(), activitiesRequestOf(w))
	require.NoError(t, err)
	if status != "" {
		o, err := s.systems.Recall(t.Context(), w.SagaID)
		require.NoError(t, err)
		o.Status, o.Steps = status, steps
		require.NoError(t, errorOf(s.systems.RecordOutcome(t.Context(), w.SagaID, *o)))
	}
	return s, v
}

// printed is a write with an after-step that can be undone.
func printed() saga.Write {
	w := activitytest.Write("order-1")
	w.AfterSteps = []saga.Task{{Name: "print", TaskQueue: "post", Activity: "Charge", Compensation: "Refund"}}
	return w
}

func lantern() []saga.Mutation {
	return []saga.Mutation{{
		Entity: "products", Op: saga.Patch, Key: saga.Columns{"id": json.RawMessage(`42`)},
		Set: saga.Columns{"title": json.RawMessage(`"Lantern"`)},
	}}
}

// The undo of an after-step was parked when the workflow was terminated: the undo
// in PostgreSQL had not been begun.
func TestRerunOfAnUndoThatWasParkedBeforePostgres(t *testing.T) {
	t.Parallel()
	s, v := begunAnew(t, printed(), saga.Parked,
		saga.Step{Name: "print", State: saga.StepDone}, saga.Step{Name: "undo-print", State: saga.StepParked})
	o := s.play(printed())
	require.Equal(t, saga.Compensated, o.Status)
	require.Equal(t, []string{"Refund"}, v.calls)
	require.Equal(t, 1, s.systems.Changes())
}

func TestRerunUndoesAnAfterStepThatMayHaveHappened(t *testing.T) {
	t.Parallel()
	t.Run("before it was refused", func(t *testing.T) {
		t.Parallel()
		s, v := begunAnew(t, printed(), saga.Compensating, saga.Step{Name: "print", State: saga.StepRejected})
		require.Equal(t, saga.Compensated, s.play(printed()).Status)
		require.Equal(t, []string{"Refund"}, v.calls)
	})
	t.Run("but not one that never began", func(t *testing.T) {
		t.Parallel()
		s, v := begunAnew(t, printed(), saga.Compensating, saga.Step{Name: "print", State: saga.StepPending})
		require.Equal(t, saga.Compensated, s.play(printed()).Status)
		require.Empty(t, v.calls)
	})
	for name, recorded := range map[string]saga.Status{"without a record": "", "after the last record": saga.Parked} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s, v := begunAnew(t, printed(), recorded)
			s.systems.Elasticsearch.Fail = activitytest.Until(1000, activitytest.Rejected("elasticsearch"))
			s.RegisterDelayedCallback(func() { s.systems.Elasticsearch.Fail = nil }, time.Hour)
			s.ask(time.Hour, saga.UpdateCompensate)
			require.Equal(t, saga.Compensated, s.play(printed()).Status)
			require.Equal(t, []string{"Refund"}, v.calls)
		})
	}
}

// An edit had happened in PostgreSQL, and the workflow was terminated before it
// could record that.
func TestRerunAfterAnEdit(t *testing.T) {
	t.Parallel()
	w := activitytest.Write("order-1")
	s, _ := begunAnew(t, w, saga.Parked,
		saga.Step{Name: saga.StepRedis, State: saga.StepDone}, saga.Step{Name: saga.StepElasticsearch, State: saga.StepParked})
	edit, err := s.systems.Edit(t.Context(), activities.EditRequest{SagaID: w.SagaID, RequestID: "e", Mutations: lantern()})
	require.NoError(t, err)
	o := s.play(w)
	require.Equal(t, saga.Completed, o.Status)
	require.Equal(t, edit.Version, o.Version)
	require.Equal(t, edit.Owned[0].ETag, o.ETags[0].ETag)
	for _, sink := range []*activitytest.Sink{s.systems.Redis, s.systems.Elasticsearch} {
		doc, _ := sink.Get("products", "42")
		require.JSONEq(t, `{"title":"Lantern"}`, string(doc.Row))
		require.Equal(t, edit.Version, doc.Version)
	}
}

func TestRerunThatIsCancelledAtOnceIsUndone(t *testing.T) {
	t.Parallel()
	w := activitytest.Write("order-1")
	s, _ := begunAnew(t, w, "")
	s.RegisterDelayedCallback(s.CancelWorkflow, 0)
	o := s.play(w)
	require.Equal(t, saga.Compensated, o.Status)
	require.Equal(t, 1, s.systems.Changes())
}

func TestCancelledBeforeTheFirstAttemptTakesItsPlaceInTheLedger(t *testing.T) {
	t.Parallel()
	s := newStage(t)
	s.RegisterDelayedCallback(s.CancelWorkflow, 0)
	require.Equal(t, saga.Cancelled, s.play(activitytest.Write("order-1")).Status)
	late, err := s.systems.Commit(t.Context(), activitiesRequest("order-1", "42"))
	require.NoError(t, err)
	require.Equal(t, saga.Cancelled, late.Status)
}

// A request to undo that comes while a saga that has ended finds that out.
func TestRerunOfACompletedSagaIsNotUndone(t *testing.T) {
	t.Parallel()
	w := activitytest.Write("order-1")
	s, _ := begunAnew(t, w, saga.Completed, saga.Step{Name: saga.StepRedis, State: saga.StepDone})
	s.systems.OnCommit = activitytest.Until(6, activitytest.Unavailable("postgres"))
	asked := s.ask(time.Millisecond, saga.UpdateCompensate)
	o := s.play(w)
	require.Equal(t, saga.Completed, o.Status)
	require.Equal(t, saga.Completed, asked.outcome.Status)
	require.Zero(t, s.systems.Changes())
}

// The last sink takes the row while PostgreSQL is busy with an edit.
func TestEditThatEndsAfterTheSinksReachesThem(t *testing.T) {
	t.Parallel()
	s := newStage(t)
	s.systems.Elasticsearch.Fail = activitytest.Until(1, activitytest.Rejected("elasticsearch"))
	s.systems.OnEdit = func(call int) error {
		if call < 6 {
			return activitytest.Unavailable("postgres")
		}
		return nil
	}
	edited := s.ask(time.Hour, saga.UpdateEdit, saga.EditInput{Mutations: lantern()})
	s.ask(time.Hour, saga.UpdateRetry)
	o := s.play(activitytest.Write("order-1"))
	require.NoError(t, edited.err)
	require.Equal(t, saga.Completed, o.Status)
	require.Equal(t, saga.Completed, edited.outcome.Status)
	for _, sink := range []*activitytest.Sink{s.systems.Redis, s.systems.Elasticsearch} {
		doc, _ := sink.Get("products", "42")
		require.JSONEq(t, `{"title":"Lantern"}`, string(doc.Row))
		require.Equal(t, o.Version, doc.Version)
	}
}

// The answer to the first of two edits comes after that to the second, which has
// deleted the row.
func TestEditWhoseAnswerComesLateIsNotTheLastWord(t *testing.T) {
	t.Parallel()
	s := newStage(t)
	s.systems.Elasticsearch.Fail = activitytest.Until(1, activitytest.Rejected("elasticsearch"))
	s.systems.OnRead = func(string, string) (activities.Row, error) { return activities.Row{}, nil }
	row := saga.Owned{Entity: "products", Key: "42"}
	first, second := activities.ChangeOutput{Version: 1 << 60, Owned: []saga.Owned{row}}, activities.ChangeOutput{Version: 1<<60 + 1, Owned: []saga.Owned{row}}
	first.Owned[0].ETag = "1-1"
	var answered atomic.Bool
	s.OnActivity("Edit", mock.Anything, mock.Anything).Return(func(_ context.Context, in activities.ChangeInput) (activities.ChangeOutput, error) {
		if in.RequestID == "second" {
			answered.Store(true)
			return second, nil
		}
		if !answered.Load() {
			return activities.ChangeOutput{}, activitytest.Unavailable("postgres")
		}
		return first, nil
	})
	s.RegisterDelayedCallback(func() {
		for _, request := range []string{"first", "second"} {
			s.UpdateWorkflow(saga.UpdateEdit, request, &testsuite.TestUpdateCallback{
				OnAccept: func() {}, OnReject: func(err error) { t.Error(err) }, OnComplete: func(any, error) {},
			}, saga.EditInput{Mutations: lantern()})
		}
	}, time.Hour)
	o := s.play(activitytest.Write("order-1"))
	require.Equal(t, saga.Completed, o.Status)
	require.Equal(t, second.Version, o.Version)
	for _, sink := range []*activitytest.Sink{s.systems.Redis, s.systems.Elasticsearch} {
		doc, _ := sink.Get("products", "42")
		require.Nil(t, doc.Row)
		require.Equal(t, second.Version, doc.Version)
	}
}

// The edit happens while the saga turns, and the undo is given up.
func TestSkippedUndoOfAnEditBringsTheSinksTheEdit(t *testing.T) {
	t.Parallel()
	s := newStage(t)
	s.systems.Elasticsearch.Fail = activitytest.Until(1, activitytest.Rejected("elasticsearch"))
	s.systems.Refuse = func() *saga.ErrorInfo {
		return &saga.ErrorInfo{Code: saga.CodeConflict, Class: saga.Rejected, System: "postgres", Message: "products/42 was changed since"}
	}
	s.systems.OnRead = func(string, string) (activities.Row, error) { return activities.Row{}, nil }
	deleted := activities.ChangeOutput{Version: 1 << 60, Owned: []saga.Owned{{Entity: "products", Key: "42"}}}
	s.OnActivity("Edit", mock.Anything, mock.Anything).Return(deleted, nil)
	edited := s.ask(time.Hour, saga.UpdateEdit, saga.EditInput{Mutations: lantern()})
	s.ask(time.Hour, saga.UpdateCompensate)
	s.ask(2*time.Hour, saga.UpdateSkip, saga.SkipInput{Step: saga.StepUndo})
	o := s.play(activitytest.Write("order-1"))
	require.NoError(t, edited.err)
	require.Equal(t, saga.Compensated, o.Status)
	for _, sink := range []*activitytest.Sink{s.systems.Redis, s.systems.Elasticsearch} {
		doc, _ := sink.Get("products", "42")
		require.Nil(t, doc.Row)
		require.Equal(t, deleted.Version, doc.Version)
	}
}

// The undo happened, and PostgreSQL was away before it could say so.
func TestUndoThatMayHaveHappenedIsNotSkipped(t *testing.T) {
	t.Parallel()
	s := newStage(t)
	s.systems.Elasticsearch.Fail = activitytest.Until(1, activitytest.Rejected("elasticsearch"))
	away := true
	s.systems.OnUndo = func(int) error {
		if away {
			return activitytest.Unavailable("postgres")
		}
		return nil
	}
	w := activitytest.Write("order-1")
	w.Policy = saga.Policy{OnReject: saga.OnRejectCompensate, ParkAfter: saga.Duration(10 * time.Second)}
	skipped := s.ask(time.Hour, saga.UpdateSkip, saga.SkipInput{Step: saga.StepUndo})
	s.RegisterDelayedCallback(func() {
		away = false
		s.SignalWorkflow(saga.SignalRelease, "postgres")
	}, 2*time.Hour)
	o := s.play(w)
	require.ErrorContains(t, skipped.refused, "may have happened")
	require.Equal(t, saga.StepDone, o.Step(saga.StepUndo).State)
}

// errorOf drops what a call returns beside its error.
func errorOf[T any](_ T, err error) error { return err }
