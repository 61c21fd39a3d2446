package worker

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	enumspb "go.temporal.io/api/enums/v1"
	historypb "go.temporal.io/api/history/v1"
	sdkclient "go.temporal.io/sdk/client"
	sdkworker "go.temporal.io/sdk/worker"
	"go.temporal.io/sdk/workflow"

	"github.com/capsaga/capsaga/activities"
	"github.com/capsaga/capsaga/internal/activitytest"
	"github.com/capsaga/capsaga/internal/attribute"
	"github.com/capsaga/capsaga/internal/stacktest"
	"github.com/capsaga/capsaga/saga"
	"github.com/capsaga/capsaga/workflows"
)

// waiting is a saga that is parked until its gate releases it.
func waiting(ctx workflow.Context, stubborn bool) error {
	err := workflow.UpsertTypedSearchAttributes(ctx,
		attribute.Status.ValueSet(string(saga.Parked)),
		attribute.BlockedOn.ValueSet([]string{"redis"}),
		attribute.ErrorClass.ValueSet(string(saga.Unavailable)))
	if err != nil {
		return err
	}
	for {
		var system string
		workflow.GetSignalChannel(ctx, saga.SignalRelease).Receive(ctx, &system)
		if !stubborn {
			return workflow.UpsertTypedSearchAttributes(ctx, attribute.Status.ValueSet(string(saga.Completed)))
		}
	}
}

// watch is a gate over a system of the test's, on the real Temporal.
type watch struct {
	*gates
	*parkedSagas
	temporal sdkclient.Client
	prefix   saga.Prefix
	away     atomic.Bool
	probes   atomic.Int64

	mu    sync.Mutex
	waves []int
}

func (w *watch) List(ctx context.Context, system string, before time.Time, limit int) ([]activities.ParkedSaga, error) {
	sagas, err := w.parkedSagas.List(ctx, system, before, limit)
	w.mu.Lock()
	defer w.mu.Unlock()
	if len(sagas) > 0 {
		w.waves = append(w.waves, len(sagas))
	}
	return sagas, err
}

func newWatch(t *testing.T) *watch {
	t.Helper()
	stack := stacktest.New(t)
	temporal, err := sdkclient.Dial(sdkclient.Options{HostPort: stack.TemporalAddress, Logger: activitytest.Quiet{}})
	require.NoError(t, err)
	t.Cleanup(temporal.Close)
	require.NoError(t, activitytest.AddAttributes(temporal))
	w := &watch{temporal: temporal, prefix: stack.Prefix, parkedSagas: &parkedSagas{temporal, "default", stack.Prefix}}
	w.away.Store(true)
	probers := map[string]func(context.Context) error{"redis": func(context.Context) error {
		w.probes.Add(1)
		if w.away.Load() {
			return errors.New("nobody listens")
		}
		return nil
	}}
	w.gates = newGates(temporal, stack.Prefix, probers)
	worker := sdkworker.New(temporal, stack.Prefix.TaskQueue(), sdkworker.Options{})
	workflows.Register(worker)
	worker.RegisterWorkflow(waiting)
	worker.RegisterActivity(&activities.Gate{Probers: probers, Parked: w})
	require.NoError(t, worker.Start())
	t.Cleanup(worker.Stop)
	return w
}

// park starts sagas that wait for redis; they end with the test.
func (w *watch) park(t *testing.T, n int, name string, stubborn bool) {
	t.Helper()
	ctx := activitytest.Within(t, 2*time.Minute)
	for i := range n {
		id := saga.WorkflowID(fmt.Sprintf("%s-%s-%d", w.prefix, name, i))
		_, err := w.temporal.ExecuteWorkflow(ctx, sdkclient.StartWorkflowOptions{ID: id, TaskQueue: w.prefix.TaskQueue()}, waiting, stubborn)
		require.NoError(t, err)
		w.terminated(t, id)
	}
}

// terminated ends a workflow with the test.
func (w *watch) terminated(t *testing.T, id string) {
	t.Helper()
	t.Cleanup(func() { _ = w.temporal.TerminateWorkflow(context.Background(), id, "", "the test is over") })
}

// until waits until so many sagas are parked.
func (w *watch) until(t *testing.T, parked int) {
	t.Helper()
	stacktest.Eventually(t, 2*time.Minute, func() error {
		n, err := w.Count(activitytest.Within(t, 10*time.Second), "redis", time.Time{}, time.Time{})
		if err == nil && n != parked {
			err = fmt.Errorf("%d sagas are parked, not %d", n, parked)
		}
		return err
	})
}

func TestGateReleasesParkedSagasInWaves(t *testing.T) {
	t.Parallel()
	w := newWatch(t)
	w.park(t, 300, "saga", false)
	w.until(t, 300)
	ctx := activitytest.Within(t, 2*time.Minute)
	for range 50 { // they all park at once
		require.NoError(t, w.OpenGate(ctx, "redis"))
	}
	require.NoError(t, w.OpenGate(ctx, "reserve"), "a step of a service's own has no gate")
	gate := w.prefix.GateID("redis")
	w.terminated(t, gate)
	stacktest.Eventually(t, time.Minute, func() error {
		if n := w.probes.Load(); n < 3 {
			return fmt.Errorf("%d probes", n)
		}
		return nil
	})
	description, err := w.temporal.DescribeWorkflowExecution(ctx, gate, "")
	require.NoError(t, err)
	require.Less(t, description.GetWorkflowExecutionInfo().GetHistoryLength(), int64(20), "attempts leave nothing in the history")
	require.Len(t, description.GetPendingActivities(), 1)
	require.Contains(t, description.GetPendingActivities()[0].GetLastFailure().GetMessage(), "nobody listens")
	w.until(t, 300)

	began := time.Now()
	w.away.Store(false)
	w.until(t, 0)
	w.mu.Lock()
	defer w.mu.Unlock()
	require.Equal(t, []int{10, 20, 40, 80, 150}, w.waves)
	t.Logf("300 sagas left within %s of the return", time.Since(began).Round(time.Millisecond))
}

// Of the sagas that are released some stay parked. The others leave all the same.
func TestGateLeavesNobodyBehindAPoisonSaga(t *testing.T) {
	t.Parallel()
	w := newWatch(t)
	w.away.Store(false)
	w.park(t, 20, "saga", false)
	w.park(t, 5, "poison", true)
	w.until(t, 25)
	require.NoError(t, w.OpenGate(activitytest.Within(t, time.Minute), "redis"))
	w.terminated(t, w.prefix.GateID("redis"))
	w.until(t, 5)
}

// However a signal falls into the gate's end, somebody hears it.
func TestGateThatClosesHearsTheLastSignal(t *testing.T) {
	t.Parallel()
	w := newWatch(t)
	w.away.Store(false)
	ctx := activitytest.Within(t, 2*time.Minute)
	gate := w.prefix.GateID("redis")
	w.terminated(t, gate)
	options := sdkclient.StartWorkflowOptions{
		ID: gate, TaskQueue: w.prefix.TaskQueue(), WorkflowIDConflictPolicy: enumspb.WORKFLOW_ID_CONFLICT_POLICY_TERMINATE_EXISTING,
	}
	// A gate that has heard of nobody closes at once, after some twenty events.
	for event := int64(1); event <= 30; event++ {
		_, err := w.temporal.ExecuteWorkflow(ctx, options, saga.WorkflowGate, workflows.GateState{System: "redis"})
		require.NoError(t, err)
		w.follow(ctx, gate, func(e *historypb.HistoryEvent) bool { return e.GetEventId() >= event })
		_, err = w.temporal.SignalWithStartWorkflow(ctx, gate, saga.SignalParked, nil,
			sdkclient.StartWorkflowOptions{ID: gate, TaskQueue: w.prefix.TaskQueue()}, saga.WorkflowGate, workflows.GateState{System: "redis"})
		require.NoError(t, err)
		signalled := false
		require.True(t, w.follow(ctx, gate, func(e *historypb.HistoryEvent) bool {
			signalled = signalled || e.GetEventType() == enumspb.EVENT_TYPE_WORKFLOW_EXECUTION_SIGNALED
			return signalled && e.GetEventType() == enumspb.EVENT_TYPE_TIMER_STARTED // it rests after a sweep
		}), "signalled after event %d", event)
	}
}

// follow reads the history of the present run until an event that is wanted, and
// reports false when the run ended before.
func (w *watch) follow(ctx context.Context, id string, wanted func(*historypb.HistoryEvent) bool) bool {
	events := w.temporal.GetWorkflowHistory(ctx, id, "", true, enumspb.HISTORY_EVENT_FILTER_TYPE_ALL_EVENT)
	for events.HasNext() {
		if event, err := events.Next(); err != nil || wanted(event) {
			return err == nil
		}
	}
	return false
}
