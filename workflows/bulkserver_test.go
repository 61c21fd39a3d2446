package workflows_test

import (
	"context"
	"fmt"
	"slices"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	enumspb "go.temporal.io/api/enums/v1"
	historypb "go.temporal.io/api/history/v1"
	sdkclient "go.temporal.io/sdk/client"
	sdkworker "go.temporal.io/sdk/worker"

	"github.com/capsaga/capsaga/activities"
	"github.com/capsaga/capsaga/internal/activitytest"
	"github.com/capsaga/capsaga/internal/stacktest"
	"github.com/capsaga/capsaga/saga"
	"github.com/capsaga/capsaga/saga/client"
	"github.com/capsaga/capsaga/workflows"
)

// crowd is many parked sagas on the real Temporal, with workers of their own for
// the requests about all of them.
type crowd struct {
	*show
	requests *client.Client // of the workers that run the requests
	ids      []string

	begun  atomic.Int64                        // operations that were begun
	poison func(ctx context.Context, n string) // called before each operation
}

// newCrowd parks sagas, all of which a second try completes.
func newCrowd(t *testing.T, sagas int) *crowd {
	t.Helper()
	c := &crowd{show: newShow(t), poison: func(context.Context, string) {}}
	c.Systems.Redis.Fail = activitytest.Until(sagas, activitytest.Rejected("redis"))
	var err error
	c.requests, err = client.New(client.Options{Temporal: c.Remote, Prefix: c.Prefix + "b"})
	require.NoError(t, err)
	ids := make(chan string)
	var writers sync.WaitGroup
	for range 16 {
		writers.Go(func() {
			for id := range ids {
				o, err := c.Write(activitytest.Within(t, 60*time.Second), activitytest.Write(id), client.WaitVisible)
				if err != nil || o.Status != saga.Parked {
					t.Errorf("saga %s: %s, %v", id, o.Status, err)
				}
			}
		})
	}
	for i := range sagas {
		c.ids = append(c.ids, c.ID(fmt.Sprintf("%04d", i)))
		ids <- c.ids[i]
	}
	close(ids)
	writers.Wait()
	require.False(t, t.Failed())
	return c
}

// Find selects all of the crowd.
func (c *crowd) Find(_ context.Context, _ saga.Filter, cursor string, limit int) (activities.Found, error) {
	from, _ := strconv.Atoi(cursor)
	to := min(from+limit, len(c.ids))
	found := activities.Found{IDs: c.ids[from:to]}
	if to < len(c.ids) {
		found.Next = strconv.Itoa(to)
	}
	return found, nil
}

func (c *crowd) Operate(ctx context.Context, sagaID, request string, op saga.Operation) (saga.Answer, error) {
	c.begun.Add(1)
	c.poison(ctx, sagaID)
	return c.Client.Operate(ctx, sagaID, request, op)
}

// startWorker starts a worker for the requests.
func (c *crowd) startWorker(t *testing.T) (stop func()) {
	t.Helper()
	w := sdkworker.New(c.Temporal, (c.Prefix + "b").TaskQueue(), sdkworker.Options{WorkerStopTimeout: 20 * time.Second})
	workflows.Register(w)
	w.RegisterActivity(activities.NewBulk(activities.BulkDependencies{
		Catalog: activitytest.Catalog(), Finder: c, Operator: c, ItemTimeout: 10 * time.Second,
	}))
	require.NoError(t, w.Start())
	stop = sync.OnceFunc(w.Stop)
	t.Cleanup(stop)
	return stop
}

// ended waits for the end of a request.
func (c *crowd) ended(t *testing.T, run *client.BulkRun) (p saga.BulkProgress) {
	t.Helper()
	require.Eventually(t, func() bool {
		var err error
		p, err = run.Progress(activitytest.Within(t, 10*time.Second), 0)
		return err == nil && (p.Finished || p.Cancelled)
	}, 3*time.Minute, 200*time.Millisecond)
	return p
}

func replayRequest(name string, sagas int) saga.BulkRequest {
	return saga.BulkRequest{
		Request: name, Identity: "parked", Operation: saga.Operation{Action: saga.ActionReplay},
		Filter: saga.Filter{Statuses: []saga.Status{saga.Parked}}, Expected: sagas,
	}
}

// One command replays a crowd. Some of its sagas never answer, its worker goes
// away half-way, and nobody waits for it; yet each saga is tried once more, and
// not again when the same is asked for twice.
func TestServerBulkReplaysACrowd(t *testing.T) {
	t.Parallel()
	const sagas, poisoned = 200, 5
	c := newCrowd(t, sagas)
	c.poison = func(ctx context.Context, id string) {
		if slices.Contains(c.ids[:poisoned], id) {
			<-ctx.Done()
		}
	}
	stop := c.startWorker(t)
	ctx := activitytest.Within(t, 4*time.Minute)
	run, err := c.requests.Bulk(ctx, replayRequest("all", sagas))
	require.NoError(t, err)
	require.Eventually(t, func() bool { return c.begun.Load() > sagas/3 }, time.Minute, time.Millisecond)
	stop()
	left := c.begun.Load()
	require.Less(t, left, int64(sagas), "the worker was stopped half-way")
	c.startWorker(t)

	p := c.ended(t, run)
	require.Equal(t, sagas, p.Done)
	require.Equal(t, poisoned, p.Failed)
	require.Len(t, p.Items, sagas)
	found := 0 // done, as the answer was lost with the worker that stopped
	for i, item := range p.Items {
		require.Equal(t, c.ids[i], item.SagaID)
		if i < poisoned {
			require.Equal(t, saga.CodeStillRunning, item.Error.Code)
			continue
		}
		if item.Did == saga.DidNothing {
			found++
		} else {
			require.Equal(t, saga.DidRetry, item.Did, "%+v", item)
		}
		o, err := c.Status(ctx, item.SagaID)
		require.NoError(t, err)
		require.Equal(t, saga.Completed, o.Status)
		require.Equal(t, 2, o.Step(saga.StepRedis).Attempts)
	}
	require.LessOrEqual(t, found, 16, "as many as are under way at once")
	calls := c.Systems.Redis.Calls()
	require.Equal(t, 2*sagas-poisoned, calls)
	t.Logf("%d operations were begun by the first worker, %d in all", left, c.begun.Load())

	again, err := c.requests.Bulk(ctx, replayRequest("all", sagas))
	require.NoError(t, err)
	require.Equal(t, run.RunID, again.RunID)
	second, err := again.Progress(ctx, 0)
	require.NoError(t, err)
	require.Equal(t, p, second)
	require.Equal(t, calls, c.Systems.Redis.Calls(), "the same request twice did something twice")

	other := replayRequest("all", sagas)
	other.Identity = "another"
	run, err = c.requests.Bulk(ctx, other)
	require.NoError(t, err)
	_, err = run.Progress(ctx, 0)
	require.ErrorContains(t, err, "choose another id")
	c.replayWorkflow(t, run.WorkflowID)
}

// A worker that is killed tells nobody how far it came: what it had done is found
// done.
func TestServerBulkOutlivesAKilledWorker(t *testing.T) {
	t.Parallel()
	const sagas = 40
	c := newCrowd(t, sagas)
	hang := make(chan struct{})
	c.poison = func(ctx context.Context, _ string) {
		if c.begun.Load() > sagas/2 {
			select {
			case <-hang: // the first worker's goroutines answer no more
			case <-ctx.Done():
			}
		}
	}
	dead := c.mute(t)
	ctx := activitytest.Within(t, 4*time.Minute)
	run, err := c.requests.Bulk(ctx, replayRequest("all", sagas))
	require.NoError(t, err)
	require.Eventually(t, func() bool { return c.begun.Load() > sagas/2 }, time.Minute, time.Millisecond)
	dead()
	c.startWorker(t)
	close(hang)
	p := c.ended(t, run)
	require.Equal(t, sagas, p.Done)
	require.Zero(t, p.Failed)
	require.Equal(t, 2*sagas, c.Systems.Redis.Calls(), "a saga was tried twice")
	c.replayWorkflow(t, run.WorkflowID)
}

// mute starts a worker over a connection of its own; the returned function cuts
// it, after which the worker's answers reach nobody.
func (c *crowd) mute(t *testing.T) (cut func()) {
	t.Helper()
	connection, err := sdkclient.Dial(sdkclient.Options{HostPort: fmt.Sprintf("127.0.0.1:%d", stacktest.PortBase(t)+233), Logger: activitytest.Quiet{}})
	require.NoError(t, err)
	w := sdkworker.New(connection, (c.Prefix + "b").TaskQueue(), sdkworker.Options{})
	workflows.Register(w)
	w.RegisterActivity(activities.NewBulk(activities.BulkDependencies{
		Catalog: activitytest.Catalog(), Finder: c, Operator: c, ItemTimeout: time.Minute,
	}))
	require.NoError(t, w.Start())
	t.Cleanup(w.Stop)
	return connection.Close
}

// untilCancelIsHeard waits for a heartbeat after the cancellation, whose answer
// tells of it.
func (c *crowd) untilCancelIsHeard(t *testing.T, run *client.BulkRun) {
	t.Helper()
	var asked time.Time
	require.Eventually(t, func() bool {
		d, err := c.Temporal.DescribeWorkflowExecution(activitytest.Within(t, 10*time.Second), run.WorkflowID, "")
		require.NoError(t, err)
		for _, pending := range d.GetPendingActivities() {
			if pending.GetState() != enumspb.PENDING_ACTIVITY_STATE_CANCEL_REQUESTED {
				continue
			}
			if asked.IsZero() {
				asked = time.Now()
			}
			return pending.GetLastHeartbeatTime().AsTime().After(asked)
		}
		return false
	}, time.Minute, 50*time.Millisecond)
}

// replayWorkflow replays the history of a workflow against the code.
func (c *crowd) replayWorkflow(t *testing.T, workflowID string) {
	t.Helper()
	history := &historypb.History{}
	events := c.Temporal.GetWorkflowHistory(activitytest.Within(t, 60*time.Second), workflowID, "", false, enumspb.HISTORY_EVENT_FILTER_TYPE_ALL_EVENT)
	for events.HasNext() {
		event, err := events.Next()
		require.NoError(t, err)
		history.Events = append(history.Events, event)
	}
	replayer := sdkworker.NewWorkflowReplayer()
	workflows.Register(replayer)
	require.NoError(t, replayer.ReplayWorkflowHistory(activitytest.Quiet{}, history))
}

// A request without a name is joined while it runs, and made anew afterwards.
func TestServerBulkCancelledAndMadeAnew(t *testing.T) {
	t.Parallel()
	const sagas = 150
	c := newCrowd(t, sagas)
	release := make(chan struct{})
	c.poison = func(context.Context, string) {
		if c.begun.Load() > 20 {
			<-release
		}
	}
	c.startWorker(t)
	ctx := activitytest.Within(t, 4*time.Minute)
	run, err := c.requests.Bulk(ctx, replayRequest("", sagas))
	require.NoError(t, err)
	require.Eventually(t, func() bool { return c.begun.Load() > 20 }, time.Minute, time.Millisecond)
	joined, err := c.requests.Bulk(ctx, replayRequest("", sagas))
	require.NoError(t, err)
	require.Equal(t, run.RunID, joined.RunID)
	require.NoError(t, run.Cancel(ctx))
	c.untilCancelIsHeard(t, run)
	close(release)
	p := c.ended(t, run)
	require.True(t, p.Cancelled)
	require.Less(t, p.Done, activities.BulkPage)
	require.Equal(t, int(c.begun.Load()), p.Done, "what was begun is told")

	anew, err := c.requests.Bulk(ctx, replayRequest("", sagas))
	require.NoError(t, err)
	require.NotEqual(t, run.RunID, anew.RunID)
	p = c.ended(t, anew)
	require.Equal(t, sagas, p.Done)
	require.Zero(t, p.Failed, "%+v", p.Items)
	require.Equal(t, 2*sagas, c.Systems.Redis.Calls())
	nothing := 0
	for _, item := range p.Items {
		if item.Did == saga.DidNothing {
			nothing++
		}
	}
	require.NotZero(t, nothing, "what had completed is left alone")
}
