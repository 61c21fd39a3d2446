package bench

import (
	"context"
	"fmt"
	"sync"
	"time"

	enumspb "go.temporal.io/api/enums/v1"
	sdkactivity "go.temporal.io/sdk/activity"
	sdkclient "go.temporal.io/sdk/client"
	"go.temporal.io/sdk/temporal"
	sdkworker "go.temporal.io/sdk/worker"
	"go.temporal.io/sdk/workflow"

	"github.com/capsaga/capsaga/saga"
)

// bare is the floor of the engine: a workflow with as many local activities as a
// saga has, which do nothing, started in the same way, and whose caller is told in
// the same way. It has no search attributes, no updates and no summary.
type bare struct {
	temporal sdkclient.Client
	worker   sdkworker.Worker
	queue    string
	prefix   saga.Prefix // in the ids: the namespace has those of other runs, too

	mu      sync.Mutex
	waiters map[string]bareWaiter
}

// bareWaiter is told of a workflow's first and last activity.
type bareWaiter struct{ committed, visible chan time.Time }

const (
	bareWorkflow = "capsaga.bench.Bare"
	bareCommit   = "capsaga.bench.Commit"
	bareSink     = "capsaga.bench.Sink"
	bareRecord   = "capsaga.bench.Record"
	bareSinks    = 3
)

func bareQueue(p saga.Prefix) string { return p.TaskQueue() + "-bare" }

func startBare(i *instance) (*bare, error) {
	b := &bare{queue: bareQueue(i.config.Prefix), prefix: i.config.Prefix, waiters: map[string]bareWaiter{}}
	var err error
	if b.temporal, err = sdkclient.NewLazyClient(i.config.Temporal); err != nil {
		return nil, err
	}
	// The pollers are those of a worker of sagas.
	b.worker = sdkworker.New(b.temporal, b.queue, sdkworker.Options{
		WorkflowTaskPollerBehavior: sdkworker.NewPollerBehaviorAutoscaling(sdkworker.PollerBehaviorAutoscalingOptions{}),
		ActivityTaskPollerBehavior: sdkworker.NewPollerBehaviorAutoscaling(sdkworker.PollerBehaviorAutoscalingOptions{}),
	})
	b.worker.RegisterWorkflowWithOptions(runBare, workflow.RegisterOptions{Name: bareWorkflow})
	for name, activity := range map[string]any{
		bareCommit: func(_ context.Context, id string) error { return b.tell(id, false) },
		bareSink:   func(context.Context, string) error { return nil },
		bareRecord: func(_ context.Context, id string) error { return b.tell(id, true) },
	} {
		b.worker.RegisterActivityWithOptions(activity, sdkactivity.RegisterOptions{Name: name})
	}
	if err := b.worker.Start(); err != nil {
		b.temporal.Close()
		return nil, fmt.Errorf("start the bare workflow's worker: %w", err)
	}
	return b, nil
}

func (b *bare) close() {
	b.worker.Stop()
	b.temporal.Close()
}

// runBare is the story of a saga without its effects.
func runBare(ctx workflow.Context, id string) error {
	ctx = workflow.WithLocalActivityOptions(ctx, workflow.LocalActivityOptions{
		StartToCloseTimeout: 5 * time.Second, RetryPolicy: &temporal.RetryPolicy{MaximumAttempts: 1},
	})
	if err := workflow.ExecuteLocalActivity(ctx, bareCommit, id).Get(ctx, nil); err != nil {
		return err
	}
	var sinks [bareSinks]workflow.Future
	for i := range sinks {
		sinks[i] = workflow.ExecuteLocalActivity(ctx, bareSink, id)
	}
	for _, sink := range sinks {
		if err := sink.Get(ctx, nil); err != nil {
			return err
		}
	}
	return workflow.ExecuteLocalActivity(ctx, bareRecord, id).Get(ctx, nil)
}

func (b *bare) tell(id string, last bool) error {
	b.mu.Lock()
	waiter := b.waiters[id]
	b.mu.Unlock()
	to := waiter.committed
	if last {
		to = waiter.visible
	}
	select {
	case to <- time.Now():
	default: // told before: a local activity may run again
	}
	return nil
}

// bareTimeout bounds one workflow.
const bareTimeout = 30 * time.Second

func (b *bare) write(ctx context.Context, w work) (s sample, err error) {
	ctx, cancel := context.WithTimeout(ctx, bareTimeout)
	defer cancel()
	id := "bare/" + sagaOf(b.prefix, w.rows[0].ID)
	waiter := bareWaiter{make(chan time.Time, 1), make(chan time.Time, 1)}
	b.mu.Lock()
	b.waiters[id] = waiter
	b.mu.Unlock()
	defer func() {
		b.mu.Lock()
		delete(b.waiters, id)
		b.mu.Unlock()
	}()
	began := time.Now()
	_, err = b.temporal.ExecuteWorkflow(ctx, sdkclient.StartWorkflowOptions{
		ID: id, TaskQueue: b.queue, EnableEagerStart: true,
		WorkflowIDReusePolicy: enumspb.WORKFLOW_ID_REUSE_POLICY_ALLOW_DUPLICATE_FAILED_ONLY,
	}, bareWorkflow, id)
	if err != nil {
		return s, fmt.Errorf("start a bare workflow: %w", err)
	}
	select {
	case <-waiter.visible:
		s.visible = time.Since(began)
		s.committed = (<-waiter.committed).Sub(began)
		return s, nil
	case <-ctx.Done():
		return s, fmt.Errorf("a bare workflow has not ended: %w", ctx.Err())
	}
}
