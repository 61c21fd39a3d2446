package e2e

import (
	"context"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	commonpb "go.temporal.io/api/common/v1"
	enumspb "go.temporal.io/api/enums/v1"
	workflowpb "go.temporal.io/api/workflow/v1"
	"go.temporal.io/api/workflowservice/v1"

	"github.com/capsaga/capsaga/saga"
)

// pending returns what Temporal shows of a saga's activity that is under way.
func (w *world) pending(id, activity string) *workflowpb.PendingActivityInfo {
	w.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	described, err := w.temporal.DescribeWorkflowExecution(ctx, saga.WorkflowID(id), "")
	require.NoError(w.t, err)
	for _, p := range described.GetPendingActivities() {
		if p.GetActivityType().GetName() == activity {
			return p
		}
	}
	return nil
}

// A step that is retried shows its attempts and its last failure in Temporal;
// paused there it is not tried, also when its sink is back, and reset it begins
// again with its first attempt.
func TestActivityPausedAndResetInTemporal(t *testing.T) {
	w := newWorld(t)
	s := newServers(t)
	w.startWorker()
	s.do("pause", redisServer)
	id := w.id("slow")
	w.start(saga.Write{SagaID: id, Mutations: []saga.Mutation{upsert("products", "id", 1, "title", "Lamp")}})
	require.Eventually(t, func() bool {
		p := w.pending(id, "UpdateRedis")
		return p != nil && p.GetAttempt() > 2 && p.GetLastFailure().GetMessage() != ""
	}, time.Minute, 100*time.Millisecond)
	require.Contains(t, w.pending(id, "UpdateRedis").GetLastFailure().GetMessage(), "no answer")

	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	service := w.temporal.WorkflowService()
	execution := &commonpb.WorkflowExecution{WorkflowId: saga.WorkflowID(id)}
	_, err := service.PauseActivity(ctx, &workflowservice.PauseActivityRequest{
		Namespace: "default", Execution: execution, Activity: &workflowservice.PauseActivityRequest_Type{Type: "UpdateRedis"},
	})
	require.NoError(t, err)
	// An attempt that was under way ends first.
	require.Eventually(t, func() bool {
		return w.pending(id, "UpdateRedis").GetState() == enumspb.PENDING_ACTIVITY_STATE_PAUSED
	}, 20*time.Second, 50*time.Millisecond)
	paused := w.pending(id, "UpdateRedis")
	s.do("resume", redisServer)
	// Redis may hold the row now: what an earlier attempt had sent it does when it is back.
	require.Never(t, func() bool {
		now := w.pending(id, "UpdateRedis")
		return now.GetState() != enumspb.PENDING_ACTIVITY_STATE_PAUSED || !now.GetLastStartedTime().AsTime().Equal(paused.GetLastStartedTime().AsTime())
	}, 5*time.Second, 250*time.Millisecond, "a paused activity was tried")
	require.Equal(t, paused.GetAttempt(), w.pending(id, "UpdateRedis").GetAttempt())

	_, err = service.ResetActivity(ctx, &workflowservice.ResetActivityRequest{
		Namespace: "default", Execution: execution, Activity: &workflowservice.ResetActivityRequest_Type{Type: "UpdateRedis"}, KeepPaused: true,
	})
	require.NoError(t, err)
	require.EqualValues(t, 1, w.pending(id, "UpdateRedis").GetAttempt())
	_, err = service.UnpauseActivity(ctx, &workflowservice.UnpauseActivityRequest{
		Namespace: "default", Execution: execution, Activity: &workflowservice.UnpauseActivityRequest_Type{Type: "UpdateRedis"},
	})
	require.NoError(t, err)
	require.Equal(t, saga.Completed, w.await(id).Status)
	w.requireAgree()
}
