package worker

import (
	"context"
	"time"

	sdkworker "go.temporal.io/sdk/worker"
	"go.temporal.io/sdk/workflow"

	"github.com/capsaga/capsaga/workflows"
)

// deadlockTimeout leaves room for the largest write, which takes a tenth of a
// second of a core, and more on a busy one.
const deadlockTimeout = 5 * time.Second

// sagasInMemory bounds how many open workflows a process keeps ready to go on, at
// about 100 KB each. The others go on from their history: while a sink is away,
// thousands wait for whom memory would only grow.
const sagasInMemory = 250

// runSagas polls until ctx ends and then lets running activities finish.
func (w *Worker) runSagas(ctx context.Context) error {
	// The SDK has one such bound for the process.
	sdkworker.SetStickyWorkflowCacheSize(sagasInMemory)
	fatal := make(chan error, 1)
	for {
		worker := sdkworker.New(w.temporal, w.config.Systems.Prefix.TaskQueue(), w.pollOptions(fatal))
		w.register(worker)
		if err := worker.Start(); err != nil {
			w.log.Error("cannot poll Temporal yet", "address", w.config.Systems.Temporal.HostPort, "namespace", w.config.Systems.Temporal.Namespace, "error", err)
			if !sleep(ctx, retryEvery) {
				return nil
			}
			continue
		}
		w.health.polling.Store(true)
		w.log.Info("takes sagas", "task_queue", w.config.Systems.Prefix.TaskQueue(), "entities", w.config.Catalog.Names())
		var err error
		select {
		case <-ctx.Done():
			w.log.Info("drains", "timeout", w.config.DrainTimeout)
		case err = <-fatal:
		}
		w.health.polling.Store(false)
		worker.Stop()
		return err
	}
}

// register makes known to a worker all that it can run.
func (w *Worker) register(worker sdkworker.Registry) {
	workflows.Register(worker)
	worker.RegisterActivity(w.saga)
	worker.RegisterActivity(w.gate)
	worker.RegisterActivity(w.bulk)
}

// pollOptions say how the worker takes its work. What ends it goes to fatal.
func (w *Worker) pollOptions(fatal chan<- error) sdkworker.Options {
	options := sdkworker.Options{
		WorkerStopTimeout: w.config.DrainTimeout,
		// A fixed number of pollers can all wait on the sticky queue, after a stale
		// hint of a backlog there: then new sagas stand still until the poll ends, a
		// minute later. The autoscaled ones always keep one on the normal queue.
		WorkflowTaskPollerBehavior: sdkworker.NewPollerBehaviorAutoscaling(sdkworker.PollerBehaviorAutoscalingOptions{}),
		ActivityTaskPollerBehavior: sdkworker.NewPollerBehaviorAutoscaling(sdkworker.PollerBehaviorAutoscalingOptions{}),
		DeadlockDetectionTimeout:   deadlockTimeout,
		OnFatalError: func(err error) {
			select {
			case fatal <- err:
			default:
			}
		},
	}
	if d := w.config.Systems.Deployment; d.BuildID != "" {
		options.DeploymentOptions = sdkworker.DeploymentOptions{
			UseVersioning: true,
			Version:       sdkworker.WorkerDeploymentVersion{DeploymentName: d.Name, BuildID: d.BuildID},
			// Pinned sagas would stay with a build that nobody runs any more, and a
			// parked one may wait for weeks.
			DefaultVersioningBehavior: workflow.VersioningBehaviorAutoUpgrade,
		}
	}
	return options
}
