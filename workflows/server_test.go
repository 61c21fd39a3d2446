package workflows_test

import (
	"context"
	"encoding/json"
	"fmt"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	enumspb "go.temporal.io/api/enums/v1"
	historypb "go.temporal.io/api/history/v1"
	sdkclient "go.temporal.io/sdk/client"
	"go.temporal.io/sdk/worker"

	"github.com/capsaga/capsaga/internal/activitytest"
	"github.com/capsaga/capsaga/saga"
	"github.com/capsaga/capsaga/saga/client"
	"github.com/capsaga/capsaga/workflows"
)

// show is a scene with a client.
type show struct {
	*activitytest.Scene
	*client.Client
}

func newShow(t *testing.T) *show {
	t.Helper()
	s := &show{Scene: activitytest.NewScene(t)}
	var err error
	s.Client, err = client.New(client.Options{Temporal: s.Remote, Prefix: s.Prefix})
	require.NoError(t, err)
	return s
}

// end waits for the workflow's end and replays its history against the code.
func (s *show) end(t *testing.T, sagaID string) saga.Outcome {
	t.Helper()
	ctx := activitytest.Within(t, 60*time.Second)
	var o saga.Outcome
	require.NoError(t, s.Temporal.GetWorkflow(ctx, saga.WorkflowID(sagaID), "").Get(ctx, &o))
	s.replay(t, sagaID)
	return o
}

func (s *show) replay(t *testing.T, sagaID string) {
	t.Helper()
	ctx := activitytest.Within(t, 60*time.Second)
	history := &historypb.History{}
	events := s.Temporal.GetWorkflowHistory(ctx, saga.WorkflowID(sagaID), "", false, enumspb.HISTORY_EVENT_FILTER_TYPE_ALL_EVENT)
	for events.HasNext() {
		event, err := events.Next()
		require.NoError(t, err)
		history.Events = append(history.Events, event)
	}
	replayer := worker.NewWorkflowReplayer()
	workflows.Register(replayer)
	require.NoError(t, replayer.ReplayWorkflowHistory(activitytest.Quiet{}, history))
}

// until waits for the saga to be as the condition wants it.
func (s *show) until(t *testing.T, sagaID string, condition func(o saga.Outcome) bool) {
	t.Helper()
	require.Eventually(t, func() bool {
		o, err := s.Status(activitytest.Within(t, 10*time.Second), sagaID)
		return err == nil && condition(o)
	}, 60*time.Second, 20*time.Millisecond)
}

func TestServerHistoriesReplay(t *testing.T) {
	t.Parallel()
	t.Run("completed", func(t *testing.T) {
		t.Parallel()
		s := newShow(t)
		w := activitytest.Write(s.ID("a"))
		_, err := s.Write(activitytest.Within(t, 60*time.Second), w, client.WaitVisible)
		require.NoError(t, err)
		require.Equal(t, saga.Completed, s.end(t, w.SagaID).Status)
	})
	t.Run("rejected", func(t *testing.T) {
		t.Parallel()
		s := newShow(t)
		s.Systems.Reject = &saga.ErrorInfo{Code: saga.CodeNotFound, Class: saga.Rejected, Message: "no such row"}
		w := activitytest.Write(s.ID("a"))
		_, err := s.Write(activitytest.Within(t, 60*time.Second), w, client.WaitVisible)
		require.NoError(t, err)
		require.Equal(t, saga.RejectedEnd, s.end(t, w.SagaID).Status)
	})
	t.Run("patience", func(t *testing.T) {
		t.Parallel()
		s := newShow(t)
		s.Systems.Redis.Fail = activitytest.Until(4, activitytest.Unavailable("redis"))
		s.Systems.Kafka.Fail = activitytest.Until(2, activitytest.Unavailable("kafka"))
		s.Systems.OnCommit = activitytest.Until(2, activitytest.Unavailable("postgres"))
		w := activitytest.Write(s.ID("a"))
		_, err := s.Write(activitytest.Within(t, 60*time.Second), w, client.WaitCommitted)
		require.NoError(t, err)
		o := s.end(t, w.SagaID)
		require.Equal(t, saga.Completed, o.Status)
		require.Equal(t, 5, o.Step(saga.StepRedis).Attempts)
		require.Equal(t, 3, o.Step(saga.StepCommit).Attempts)
	})
	t.Run("parked and released", func(t *testing.T) {
		t.Parallel()
		s := newShow(t)
		s.Systems.Elasticsearch.Fail = activitytest.Until(2, activitytest.Rejected("elasticsearch"))
		w := activitytest.Write(s.ID("a"))
		ctx := activitytest.Within(t, 60*time.Second)
		o, err := s.Write(ctx, w, client.WaitVisible)
		require.NoError(t, err)
		require.Equal(t, saga.Parked, o.Status)
		for _, want := range []saga.StepState{saga.StepParked, saga.StepDone} {
			handle, err := s.Temporal.UpdateWorkflow(ctx, sdkclient.UpdateWorkflowOptions{
				WorkflowID: saga.WorkflowID(w.SagaID), UpdateName: saga.UpdateRetry, WaitForStage: sdkclient.WorkflowUpdateStageCompleted,
			})
			require.NoError(t, err)
			require.NoError(t, handle.Get(ctx, &o))
			require.Equal(t, want, o.Step(saga.StepElasticsearch).State)
			s.replay(t, w.SagaID)
		}
		require.Equal(t, saga.Completed, s.end(t, w.SagaID).Status)
	})
	t.Run("cancelled before the commit", func(t *testing.T) {
		t.Parallel()
		s := newShow(t)
		s.Systems.OnCommit = activitytest.Until(1000, activitytest.Unavailable("postgres"))
		w := activitytest.Write(s.ID("a"))
		ctx := activitytest.Within(t, 60*time.Second)
		require.NoError(t, s.Start(ctx, w))
		s.until(t, w.SagaID, func(o saga.Outcome) bool { return o.Steps[0].State == saga.StepRetrying })
		require.NoError(t, s.Temporal.CancelWorkflow(ctx, saga.WorkflowID(w.SagaID), ""))
		require.Equal(t, saga.Cancelled, s.end(t, w.SagaID).Status)
	})
	t.Run("cancelled after the commit", func(t *testing.T) {
		t.Parallel()
		s := newShow(t)
		var away atomic.Bool
		away.Store(true)
		s.Systems.Redis.Fail = func(context.Context, int) error {
			if away.Load() {
				return activitytest.Unavailable("redis")
			}
			return nil
		}
		w := activitytest.Write(s.ID("a"))
		ctx := activitytest.Within(t, 60*time.Second)
		_, err := s.Write(ctx, w, client.WaitCommitted)
		require.NoError(t, err)
		require.NoError(t, s.Temporal.CancelWorkflow(ctx, saga.WorkflowID(w.SagaID), ""))
		away.Store(false)
		require.Equal(t, saga.Compensated, s.end(t, w.SagaID).Status)
	})
}

// Any SDK can start a saga by name with plain JSON, without attributes.
func TestServerSagaStartedByAnotherSDK(t *testing.T) {
	t.Parallel()
	s := newShow(t)
	ctx := activitytest.Within(t, 60*time.Second)
	id := s.ID("a")
	plain := map[string]any{"saga_id": id, "mutations": []any{map[string]any{
		"entity": "products", "op": "upsert", "row": map[string]any{"id": 42, "title": "Lamp"},
	}}}
	_, err := s.Temporal.ExecuteWorkflow(ctx, sdkclient.StartWorkflowOptions{ID: saga.WorkflowID(id), TaskQueue: s.Prefix.TaskQueue()}, saga.WorkflowSaga, plain)
	require.NoError(t, err)
	o := s.end(t, id)
	require.Equal(t, saga.Completed, o.Status)
	again, err := s.Write(ctx, activitytest.Write(id), client.WaitVisible)
	require.NoError(t, err)
	require.Equal(t, o, again, "the same content, whoever wrote it")
}

// A worker that stops in the middle strands nothing.
func TestServerAnotherWorkerFinishesTheSaga(t *testing.T) {
	t.Parallel()
	s := newShow(t)
	stop := s.StartWorker(t)
	s.Systems.Kafka.Fail = activitytest.Until(6, activitytest.Unavailable("kafka"))
	ctx := activitytest.Within(t, 60*time.Second)
	var writes []saga.Write
	for i := range 10 {
		w := activitytest.Write(s.ID(fmt.Sprint(i)))
		writes = append(writes, w)
		_, err := s.Write(ctx, w, client.WaitCommitted)
		require.NoError(t, err)
	}
	stop()
	for _, w := range writes {
		o, err := s.Wait(ctx, w.SagaID, client.WaitVisible)
		require.NoError(t, err)
		require.Equal(t, saga.Completed, o.Status)
		s.end(t, w.SagaID)
	}
}

// The most rows that a write can have, in the most expensive way: all sinks away
// at first, so that the rows' keys enter the history for each.
func TestServerTakesTheLargestWrite(t *testing.T) {
	t.Parallel()
	s := newShow(t)
	s.Systems.OnCommit = activitytest.Until(1, activitytest.Unavailable("postgres"))
	s.Systems.Redis.Fail = activitytest.Until(1, activitytest.Unavailable("redis"))
	s.Systems.Kafka.Fail = activitytest.Until(1, activitytest.Unavailable("kafka"))
	s.Systems.Elasticsearch.Fail = activitytest.Until(1, activitytest.Unavailable("elasticsearch"))
	w := saga.Write{SagaID: s.ID("large")}
	for size := 0; size < saga.MaxWriteBytes-200; {
		m := saga.Mutation{Entity: "products", Op: saga.Upsert, Row: saga.Columns{"id": json.RawMessage(fmt.Sprint(len(w.Mutations)))}}
		encoded, err := json.Marshal(m)
		require.NoError(t, err)
		size += len(encoded) + 1
		w.Mutations = append(w.Mutations, m)
	}
	o, err := s.Write(activitytest.Within(t, 60*time.Second), w, client.WaitVisible)
	require.NoError(t, err)
	require.Equal(t, saga.Completed, o.Status)
	require.Len(t, o.ETags, len(w.Mutations))
	for _, step := range o.Steps {
		require.Equal(t, 2, step.Attempts, step.Name)
	}
	t.Logf("%d mutations", len(w.Mutations))
}
