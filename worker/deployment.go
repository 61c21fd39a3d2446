package worker

import (
	"context"
	"errors"
	"fmt"
	"time"

	"go.temporal.io/api/serviceerror"
	sdkclient "go.temporal.io/sdk/client"
)

// deploymentEvery is the time between two looks at which version is current.
const deploymentEvery = 30 * time.Second

// watchDeployment says loudly when a worker that has a version will get no work:
// Temporal hands the work of a versioned deployment to its current version alone,
// and to nobody while there is none. Only sagas that start eagerly would run then,
// up to their first wait.
func (w *Worker) watchDeployment(ctx context.Context) error {
	for told := ""; ; {
		problem := w.deploymentProblem(ctx)
		if problem != "" && ctx.Err() == nil {
			w.log.Warn(problem, "deployment", w.config.Systems.Deployment.Name, "build_id", w.config.Systems.Deployment.BuildID)
		} else if told != "" {
			w.log.Info("this build takes sagas now", "build_id", w.config.Systems.Deployment.BuildID)
		}
		told = problem
		if !sleep(ctx, deploymentEvery) {
			return nil
		}
	}
}

// deploymentProblem says why this worker gets no work, or nothing.
func (w *Worker) deploymentProblem(ctx context.Context) string {
	ctx, cancel := context.WithTimeout(ctx, pingTimeout)
	defer cancel()
	d := w.config.Systems.Deployment
	command := fmt.Sprintf("temporal worker deployment set-current-version --deployment-name %s --build-id %s", d.Name, d.BuildID)
	described, err := w.temporal.WorkerDeploymentClient().GetHandle(d.Name).Describe(ctx, sdkclient.WorkerDeploymentDescribeOptions{})
	var unknown *serviceerror.NotFound
	switch routing := described.Info.RoutingConfig; {
	case errors.As(err, &unknown), err == nil && routing.CurrentVersion == nil:
		return "NO VERSION IS CURRENT, SO NO WORKER GETS ANY SAGA: run " + command
	case err != nil:
		return "" // Temporal is away, which others say
	case routing.CurrentVersion.BuildID == d.BuildID || routing.RampingVersion != nil && routing.RampingVersion.BuildID == d.BuildID:
		return ""
	default:
		return fmt.Sprintf("build %s is current, so this worker gets no saga until you run %s", routing.CurrentVersion.BuildID, command)
	}
}
