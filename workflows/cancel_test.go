package workflows_test

import (
	"context"
	"encoding/json"
	"errors"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/capsaga/capsaga/activities"
	"github.com/capsaga/capsaga/internal/activitytest"
	"github.com/capsaga/capsaga/saga"
)

func activitiesRequest(sagaID, id string) activities.CommitRequest {
	w := activitytest.Write(sagaID)
	w.Mutations[0].Row["id"] = json.RawMessage(id)
	return activities.CommitRequest{Write: w, WorkflowID: saga.WorkflowID(sagaID)}
}

func TestCancelBeforeTheCommit(t *testing.T) {
	t.Parallel()
	s := newStage(t)
	s.systems.OnCommit = func(context.Context, int) error { return activitytest.Unavailable("postgres") }
	s.RegisterDelayedCallback(s.CancelWorkflow, 10*time.Second)
	o := s.play(activitytest.Write("order-1"))
	require.Equal(t, saga.Cancelled, o.Status)
	require.Equal(t, saga.StepSkipped, o.Step(saga.StepCommit).State)
	require.Contains(t, s.patient, "CancelCommit", "the ledger must know, else a late commit could pass")
	require.Zero(t, s.systems.Redis.Calls())

	// A commit that was still under way finds its place taken.
	s.systems.OnCommit = nil
	late, err := s.systems.Commit(t.Context(), activitiesRequest("order-1", "42"))
	require.NoError(t, err)
	require.Equal(t, saga.Cancelled, late.Status)
}

func TestCancelThatComesTooLateForTheCommit(t *testing.T) {
	t.Parallel()
	s := newStage(t)
	// The commit happens, but its answer is lost until the cancellation.
	lost := true
	s.systems.OnCommit = func(ctx context.Context, call int) error {
		if !lost {
			return nil
		}
		if call == 1 {
			hook := s.systems.OnCommit
			s.systems.OnCommit = nil
			_, err := s.systems.Commit(ctx, activitiesRequest("order-1", "42"))
			s.systems.OnCommit = hook
			return errors.Join(activitytest.Unavailable("postgres"), err)
		}
		return activitytest.Unavailable("postgres")
	}
	s.RegisterDelayedCallback(func() {
		lost = false
		s.CancelWorkflow()
	}, 10*time.Second)
	o := s.play(activitytest.Write("order-1"))
	require.Equal(t, saga.Compensated, o.Status)
	require.Contains(t, s.patient, "CancelCommit")
	require.Equal(t, 1, s.systems.Changes())
}

func TestCancelAfterTheCommitUndoesTheSaga(t *testing.T) {
	t.Parallel()
	s := newStage(t)
	s.systems.Redis.Fail = activitytest.Until(8, activitytest.Unavailable("redis"))
	s.RegisterDelayedCallback(s.CancelWorkflow, 2*time.Second)
	o := s.play(activitytest.Write("order-1"))
	require.Equal(t, saga.Compensated, o.Status)
	require.Equal(t, map[saga.StepName]saga.StepState{
		saga.StepCommit: saga.StepDone, saga.StepRedis: saga.StepSkipped, saga.StepKafka: saga.StepDone, saga.StepElasticsearch: saga.StepDone,
		saga.StepUndo: saga.StepDone, "undo-redis": saga.StepDone, "undo-kafka": saga.StepDone, "undo-elasticsearch": saga.StepDone,
	}, states(o))
}

func activitiesRequestOf(w saga.Write) activities.CommitRequest {
	return activities.CommitRequest{Write: w, WorkflowID: saga.WorkflowID(w.SagaID)}
}
