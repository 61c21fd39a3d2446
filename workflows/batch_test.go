package workflows_test

import (
	"encoding/json"
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	sdkclient "go.temporal.io/sdk/client"
	"go.temporal.io/sdk/temporal"

	"github.com/capsaga/capsaga/internal/activitytest"
	"github.com/capsaga/capsaga/saga"
	"github.com/capsaga/capsaga/saga/client"
)

// batchOf starts a batch of writes, each of a row of its own, as any SDK can.
func (s *show) batchOf(t *testing.T, writes int, change func(i int, w *saga.Write)) (sdkclient.WorkflowRun, []saga.Write) {
	t.Helper()
	var list []saga.Write
	for i := range writes {
		w := activitytest.Write(s.ID(fmt.Sprint(i)))
		w.Mutations[0].Row["id"] = json.RawMessage(fmt.Sprint(i))
		if change != nil {
			change(i, &w)
		}
		list = append(list, w)
	}
	run, err := s.Temporal.ExecuteWorkflow(activitytest.Within(t, 60*time.Second), sdkclient.StartWorkflowOptions{
		ID: saga.BatchID(string(s.Prefix)), TaskQueue: s.Prefix.TaskQueue(),
	}, saga.WorkflowBatch, map[string]any{"writes": list})
	require.NoError(t, err)
	return run, list
}

// landed waits for the batch's end and replays it.
func (s *show) landed(t *testing.T, run sdkclient.WorkflowRun) (out saga.BatchOutcome) {
	t.Helper()
	require.NoError(t, run.Get(activitytest.Within(t, 60*time.Second), &out))
	s.replayed(t, run.GetID())
	return out
}

func TestServerBatches(t *testing.T) {
	t.Parallel()
	for name, play := range map[string]func(*testing.T, *show){
		"completed": func(t *testing.T, s *show) {
			run, writes := s.batchOf(t, 20, nil)
			out := s.landed(t, run)
			require.Empty(t, out.Split)
			require.Len(t, out.Steps, 4)
			for i, w := range writes {
				o := out.Outcome(i, w.SagaID, w.Digest())
				require.Equal(t, saga.Completed, o.Status)
				require.NotEmpty(t, o.Token)
				recorded, found := s.Systems.Recorded(writes[i].SagaID)
				require.True(t, found)
				require.Equal(t, saga.Completed, recorded.Status)
				require.Equal(t, saga.StepDone, recorded.Step(saga.StepElasticsearch).State)
			}
			require.Equal(t, 1, s.Systems.Redis.Calls())
		},
		"malformed": func(t *testing.T, s *show) {
			run, _ := s.batchOf(t, 3, func(i int, w *saga.Write) {
				if i == 1 {
					w.Mutations[0].Op = "replace"
				}
			})
			out := s.landed(t, run)
			refused := out.Outcome(1, "", "")
			require.Equal(t, saga.RejectedEnd, refused.Status)
			require.Equal(t, saga.CodeInvalidWrite, refused.Error.Code)
			require.Equal(t, saga.Completed, out.Outcome(0, "", "").Status)
			require.Equal(t, saga.Completed, out.Outcome(2, "", "").Status)
		},
		"rejected-row": func(t *testing.T, s *show) {
			s.Systems.Elasticsearch.FailRow = func(doc saga.Document) error {
				if doc.Key == "7" {
					return activitytest.Rejected("elasticsearch")
				}
				return nil
			}
			run, writes := s.batchOf(t, 10, nil)
			out := s.landed(t, run)
			require.Equal(t, []int{7}, out.Split)
			s.until(t, writes[7].SagaID, func(o saga.Outcome) bool { return o.Status == saga.Parked })
			require.Equal(t, 10, s.Systems.Commits()-1, "it found its commit in the ledger")
			o, _ := s.Status(activitytest.Within(t, 20*time.Second), writes[7].SagaID)
			require.Equal(t, saga.StepDone, o.Step(saga.StepRedis).State)
			require.Equal(t, saga.StepParked, o.Step(saga.StepElasticsearch).State)
		},
		"policy-per-write": func(t *testing.T, s *show) {
			s.Systems.Elasticsearch.FailRow = func(doc saga.Document) error {
				if doc.Key < "3" && doc.Row != nil {
					return activitytest.Rejected("elasticsearch")
				}
				return nil
			}
			policies := []saga.OnReject{saga.OnRejectSkip, saga.OnRejectCompensate, saga.OnRejectPark}
			run, writes := s.batchOf(t, 6, func(i int, w *saga.Write) { w.Policy.OnReject = policies[i%3] })
			require.ElementsMatch(t, []int{0, 1, 2}, s.landed(t, run).Split)
			for i, want := range []saga.Status{saga.Completed, saga.Compensated, saga.Parked} {
				o, err := s.Wait(activitytest.Within(t, 30*time.Second), writes[i].SagaID, client.WaitVisible)
				require.NoError(t, err)
				require.Equal(t, want, o.Status, "%d", i)
			}
		},
		"sink-away": func(t *testing.T, s *show) {
			s.Systems.Redis.Fail = activitytest.Until(3, activitytest.Unavailable("redis"))
			s.Systems.Kafka.Fail = activitytest.Until(1, activitytest.Unavailable("kafka"))
			s.Systems.OnCommit = activitytest.Until(1, activitytest.Unavailable("postgres"))
			s.Systems.OnRecord = func(call int) error {
				if call == 1 {
					return activitytest.Unavailable("postgres")
				}
				return nil
			}
			run, _ := s.batchOf(t, 5, nil)
			out := s.landed(t, run)
			require.Empty(t, out.Split)
			for i := range 5 {
				require.Equal(t, saga.Completed, out.Outcome(i, "", "").Status)
			}
		},
		"sink-away-for-long": func(t *testing.T, s *show) {
			s.Systems.Redis.Fail = activitytest.Until(1<<30, activitytest.Unavailable("redis"))
			run, writes := s.batchOf(t, 30, func(_ int, w *saga.Write) { w.Policy.ParkAfter = saga.Duration(2 * time.Second) })
			out := s.landed(t, run)
			require.Len(t, out.Split, 30)
			for _, w := range writes {
				s.until(t, w.SagaID, func(o saga.Outcome) bool { return o.Status == saga.Parked })
			}
			require.Positive(t, s.Systems.Gates("redis"))
		},
		"alone": func(t *testing.T, s *show) {
			s.Systems.OnAlone = func(id string) bool { return id == s.ID("2") }
			run, writes := s.batchOf(t, 4, nil)
			out := s.landed(t, run)
			require.Equal(t, []int{2}, out.Split)
			o := s.end(t, writes[2].SagaID)
			require.Equal(t, saga.Completed, o.Status)
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			play(t, newShow(t))
		})
	}
}

// The answer to who waits for the commit does not wait for a sink that is away.
func TestServerBatchAnswersAtTheCommit(t *testing.T) {
	t.Parallel()
	s := newShow(t)
	s.Systems.Redis.Fail = activitytest.Until(1<<30, activitytest.Unavailable("redis"))
	run, _ := s.batchOf(t, 3, nil)
	ctx := activitytest.Within(t, 20*time.Second)
	handle, err := s.Temporal.UpdateWorkflow(ctx, sdkclient.UpdateWorkflowOptions{
		WorkflowID: run.GetID(), UpdateName: saga.UpdateCommitted, WaitForStage: sdkclient.WorkflowUpdateStageCompleted,
	})
	require.NoError(t, err)
	var out saga.BatchOutcome
	require.NoError(t, handle.Get(ctx, &out))
	o := out.Outcome(0, "", "")
	require.Equal(t, saga.Committed, o.Status)
	require.Positive(t, o.Version)
}

func TestServerRefusesWhatIsNoBatch(t *testing.T) {
	t.Parallel()
	s := newShow(t)
	for name, input := range map[string]any{
		"nothing":       map[string]any{},
		"not-a-list":    map[string]any{"writes": 5},
		"too-many":      map[string]any{"writes": make([]struct{}, saga.MaxBatchWrites+1)},
		"traces-differ": map[string]any{"writes": []any{1}, "traces": []any{map[string]string{}, map[string]string{}}},
	} {
		run, err := s.Temporal.ExecuteWorkflow(activitytest.Within(t, 20*time.Second), sdkclient.StartWorkflowOptions{
			ID: saga.BatchID(string(s.Prefix) + name), TaskQueue: s.Prefix.TaskQueue(),
		}, saga.WorkflowBatch, input)
		require.NoError(t, err)
		err = run.Get(activitytest.Within(t, 20*time.Second), nil)
		var refused *temporal.ApplicationError
		require.True(t, errors.As(err, &refused), "%s: %v", name, err)
		require.Equal(t, saga.CodeInvalidWrite, refused.Type())
	}
}
