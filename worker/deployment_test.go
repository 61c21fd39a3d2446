package worker

import (
	"fmt"
	"log/slog"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	sdkclient "go.temporal.io/sdk/client"
	sdkworker "go.temporal.io/sdk/worker"

	"github.com/capsaga/capsaga/internal/activitytest"
	"github.com/capsaga/capsaga/internal/config"
	"github.com/capsaga/capsaga/internal/stacktest"
	"github.com/capsaga/capsaga/saga"
	"github.com/capsaga/capsaga/workflows"
)

// deploy starts a build over systems in memory.
func deploy(t *testing.T, temporal sdkclient.Client, prefix saga.Prefix, build string, systems *activitytest.Systems) (w *Worker, stop func()) {
	t.Helper()
	w = &Worker{temporal: temporal, log: slog.New(slog.DiscardHandler), config: Config{
		DrainTimeout: time.Second,
		Systems:      Systems{Prefix: prefix, Deployment: config.Deployment{Name: string(prefix), BuildID: build}},
	}}
	worker := sdkworker.New(temporal, prefix.TaskQueue(), w.pollOptions(nil))
	workflows.Register(worker)
	worker.RegisterActivity(systems.Activities(nil))
	require.NoError(t, worker.Start())
	t.Cleanup(worker.Stop)
	return w, worker.Stop
}

// setCurrent waits until Temporal knows the build, and makes it the current one.
func setCurrent(t *testing.T, w *Worker) {
	t.Helper()
	d := w.config.Systems.Deployment
	stacktest.Eventually(t, time.Minute, func() error {
		ctx := activitytest.Within(t, 10*time.Second)
		_, err := w.temporal.WorkerDeploymentClient().GetHandle(d.Name).SetCurrentVersion(ctx, sdkclient.WorkerDeploymentSetCurrentVersionOptions{BuildID: d.BuildID})
		return err
	})
}

// stands waits until a saga has a status.
func stands(t *testing.T, temporal sdkclient.Client, id string, want saga.Status) {
	t.Helper()
	stacktest.Eventually(t, time.Minute, func() error {
		value, err := temporal.QueryWorkflow(activitytest.Within(t, 10*time.Second), saga.WorkflowID(id), "", saga.QueryState)
		if err != nil {
			return err
		}
		var o saga.Outcome
		if err := value.Get(&o); err != nil || o.Status != want {
			return fmt.Errorf("it is %s, not %s: %w", o.Status, want, err)
		}
		return nil
	})
}

// A saga that parked under one build is finished by the next one. Until a version
// is current nothing runs, which the worker says.
func TestVersionedWorkersHandParkedSagasOver(t *testing.T) {
	t.Parallel()
	stack := stacktest.New(t)
	temporal, err := sdkclient.Dial(sdkclient.Options{HostPort: stack.TemporalAddress, Logger: activitytest.Quiet{}})
	require.NoError(t, err)
	t.Cleanup(temporal.Close)
	require.NoError(t, activitytest.AddAttributes(temporal))
	ctx := activitytest.Within(t, 2*time.Minute)

	systems := activitytest.NewSystems()
	systems.Redis.Fail = activitytest.Until(1_000_000, activitytest.Unavailable("redis"))
	old, stop := deploy(t, temporal, stack.Prefix, "one", systems)
	require.Contains(t, old.deploymentProblem(ctx), "NO VERSION IS CURRENT")

	write := activitytest.Write(string(stack.Prefix) + "-order")
	write.Policy.ParkAfter = saga.Duration(time.Second)
	_, err = temporal.ExecuteWorkflow(ctx, sdkclient.StartWorkflowOptions{ID: saga.WorkflowID(write.SagaID), TaskQueue: stack.Prefix.TaskQueue()}, saga.WorkflowSaga, write)
	require.NoError(t, err)
	setCurrent(t, old)
	require.Empty(t, old.deploymentProblem(ctx))
	stands(t, temporal, write.SagaID, saga.Parked)

	stop()
	systems.Redis.Fail = nil
	next, _ := deploy(t, temporal, stack.Prefix, "two", systems)
	require.Contains(t, next.deploymentProblem(ctx), "build one is current, so this worker gets no saga until you run temporal worker deployment set-current-version")
	require.NoError(t, temporal.SignalWorkflow(ctx, saga.WorkflowID(write.SagaID), "", saga.SignalRelease, "redis"))
	setCurrent(t, next)
	stands(t, temporal, write.SagaID, saga.Completed)
	require.Empty(t, next.deploymentProblem(ctx))
	require.NotEmpty(t, old.deploymentProblem(ctx))
}

func TestWorkerSaysThatNoVersionIsCurrent(t *testing.T) {
	t.Parallel()
	stack := stacktest.New(t)
	temporal, err := sdkclient.Dial(sdkclient.Options{HostPort: stack.TemporalAddress, Logger: activitytest.Quiet{}})
	require.NoError(t, err)
	t.Cleanup(temporal.Close)
	w, _ := deploy(t, temporal, stack.Prefix, "one", activitytest.NewSystems())
	lines := make(lines, 10)
	w.log = slog.New(slog.NewTextHandler(lines, nil))
	var parts parts
	parts.start(activitytest.Within(t, time.Minute), w.watchDeployment)
	require.Contains(t, <-lines, "NO VERSION IS CURRENT")
	require.NoError(t, parts.stop(nil))
}

// lines is a log that a test waits for.
type lines chan string

func (l lines) Write(b []byte) (int, error) {
	l <- string(b)
	return len(b), nil
}
