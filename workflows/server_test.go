package workflows_test

import (
	"encoding/json"
	"fmt"

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
	s.Client, err = client.New(client.Options{Temporal: s.Remote, Prefix: s.Prefix, Group: client.Group{Off: true}})
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

// replay runs the saga's history against the code, and keeps it as a recorded one
// when that is wanted.
func (s *show) replay(t *testing.T, sagaID string) {
	t.Helper()
	s.replayed(t, saga.WorkflowID(sagaID))
}

// replayed is replay of any workflow.
func (s *show) replayed(t *testing.T, workflowID string) {
	t.Helper()
	ctx := activitytest.Within(t, 60*time.Second)
	history := &historypb.History{}
	events := s.Temporal.GetWorkflowHistory(ctx, workflowID, "", false, enumspb.HISTORY_EVENT_FILTER_TYPE_ALL_EVENT)
	for events.HasNext() {
		event, err := events.Next()
		require.NoError(t, err)
		history.Events = append(history.Events, event)
	}
	replayer := worker.NewWorkflowReplayer()
	workflows.Register(replayer)
	require.NoError(t, replayer.ReplayWorkflowHistory(activitytest.Quiet{}, history))
	record(t, history)
}

// until waits for the saga to be as the condition wants it.
func (s *show) until(t *testing.T, sagaID string, condition func(o saga.Outcome) bool) {
	t.Helper()
	require.Eventually(t, func() bool {
		o, err := s.Status(activitytest.Within(t, 10*time.Second), sagaID)
		return err == nil && condition(o)
	}, 60*time.Second, 20*time.Millisecond)
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
