package client_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	enumspb "go.temporal.io/api/enums/v1"
	sdkclient "go.temporal.io/sdk/client"
	"go.temporal.io/sdk/worker"

	"github.com/capsaga/capsaga/internal/activitytest"
	"github.com/capsaga/capsaga/internal/notify"
	"github.com/capsaga/capsaga/internal/stacktest"
	"github.com/capsaga/capsaga/saga"
	"github.com/capsaga/capsaga/saga/client"
	"github.com/capsaga/capsaga/workflows"
)

// scene is a worker of a prefix of its own on the real Temporal, over systems in
// memory.
type scene struct {
	systems  *activitytest.Systems
	temporal sdkclient.Client
	prefix   saga.Prefix
	embedded *client.Client // shares the worker's process
	remote   *client.Client // over another connection, without a notifier
}

func dial(t testing.TB, address string) sdkclient.Client {
	t.Helper()
	c, err := sdkclient.Dial(sdkclient.Options{HostPort: address, Logger: quiet{}})
	require.NoError(t, err)
	t.Cleanup(c.Close)
	return c
}

// quiet drops the SDK's log: failures are what these tests are about.
type quiet struct{}

func (quiet) Debug(string, ...any) {}
func (quiet) Info(string, ...any)  {}
func (quiet) Warn(string, ...any)  {}
func (quiet) Error(string, ...any) {}

var addOnce sync.Once

// attributes adds the search attributes once in a run.
func attributes(c sdkclient.Client) (err error) {
	addOnce.Do(func() { err = addAttributes(c) })
	return err
}

func newScene(t testing.TB) *scene {
	t.Helper()
	stack := stacktest.New(t)
	s := &scene{systems: activitytest.NewSystems(), prefix: stack.Prefix, temporal: dial(t, stack.TemporalAddress)}
	require.NoError(t, attributes(s.temporal))
	hub := notify.NewHub()
	w := worker.New(s.temporal, s.prefix.TaskQueue(), worker.Options{})
	workflows.Register(w)
	w.RegisterActivity(s.systems.Activities(hub))
	require.NoError(t, w.Start())
	t.Cleanup(w.Stop)
	var err error
	s.embedded, err = client.New(client.Options{Temporal: s.temporal, Prefix: s.prefix, Notifier: hub})
	require.NoError(t, err)
	s.remote, err = client.New(client.Options{Temporal: dial(t, stack.TemporalAddress), Prefix: s.prefix})
	require.NoError(t, err)
	return s
}

// id returns a saga id that no other test uses.
func (s *scene) id(name string) string { return string(s.prefix) + "-" + name }

// clients are both ways to write.
func (s *scene) clients() map[string]*client.Client {
	return map[string]*client.Client{"embedded": s.embedded, "remote": s.remote}
}

func within(t testing.TB, d time.Duration) context.Context {
	ctx, cancel := context.WithTimeout(context.Background(), d)
	t.Cleanup(cancel)
	return ctx
}

func codeOf(t testing.TB, err error) string {
	t.Helper()
	var e *saga.Error
	require.True(t, errors.As(err, &e), "not a *saga.Error: %v", err)
	return e.Code
}

func TestWriteIsIdempotent(t *testing.T) {
	t.Parallel()
	s := newScene(t)
	for name, c := range s.clients() {
		w := activitytest.Write(s.id(name))
		ctx := within(t, 30*time.Second)
		first, err := c.Write(ctx, w, client.WaitCommitted)
		require.NoError(t, err)
		require.Contains(t, []saga.Status{saga.Committed, saga.Completed}, first.Status)
		require.NotZero(t, first.Version)
		visible, err := c.Wait(ctx, w.SagaID, client.WaitVisible)
		require.NoError(t, err)
		require.Equal(t, saga.Completed, visible.Status)

		commits := s.systems.Commits()
		for _, again := range s.clients() {
			second, err := again.Write(ctx, w, client.WaitVisible)
			require.NoError(t, err)
			require.Equal(t, saga.Completed, second.Status)
			require.Equal(t, first.Version, second.Version)
		}
		require.Equal(t, commits, s.systems.Commits(), "a finished saga ran again")

		other := w
		other.Mutations = []saga.Mutation{w.Mutations[0]}
		other.Mutations[0].Row = saga.Columns{"id": json.RawMessage("43")}
		for _, again := range s.clients() {
			_, err = again.Write(ctx, other, client.WaitCommitted)
			require.Equal(t, saga.CodeSagaIDReused, codeOf(t, err))
		}
		require.Equal(t, saga.CodeSagaIDReused, codeOf(t, s.remote.Start(ctx, other)))
		require.NoError(t, s.remote.Start(ctx, w))
	}
}

func TestOtherContentIsRefusedWhileTheSagaRuns(t *testing.T) {
	t.Parallel()
	s := newScene(t)
	s.systems.Redis.Fail = activitytest.Until(1000, activitytest.Rejected("redis"))
	w := activitytest.Write(s.id("a"))
	ctx := within(t, 30*time.Second)
	o, err := s.remote.Write(ctx, w, client.WaitVisible)
	require.NoError(t, err)
	require.Equal(t, saga.Parked, o.Status)
	other := activitytest.Write(w.SagaID)
	other.Mutations[0].Row["id"] = json.RawMessage("43")
	for name, c := range s.clients() {
		_, err := c.Write(ctx, other, client.WaitCommitted)
		require.Equal(t, saga.CodeSagaIDReused, codeOf(t, err), name)
		same, err := c.Write(ctx, w, client.WaitCommitted)
		require.NoError(t, err, name)
		require.Equal(t, saga.Parked, same.Status, name)
	}
	require.Equal(t, saga.CodeSagaIDReused, codeOf(t, s.remote.Start(ctx, other)))
}

func TestRejectionIsAnAnswer(t *testing.T) {
	t.Parallel()
	s := newScene(t)
	s.systems.Reject = &saga.ErrorInfo{Code: saga.CodeExpectUnmet, Class: saga.Rejected, System: "postgres", Message: "stock >= 1 does not hold"}
	for name, c := range s.clients() {
		o, err := c.Write(within(t, 20*time.Second), activitytest.Write(s.id(name)), client.WaitVisible)
		require.NoError(t, err, name)
		require.Equal(t, saga.RejectedEnd, o.Status, name)
		require.Equal(t, saga.CodeExpectUnmet, o.Error.Code, name)
	}
}

func TestSameWriteFromManyCallersCommitsOnce(t *testing.T) {
	t.Parallel()
	s := newScene(t)
	w := activitytest.Write(s.id("a"))
	ctx := within(t, 30*time.Second)
	versions := make([]saga.Version, 16)
	var group sync.WaitGroup
	for i := range versions {
		c := s.remote
		if i%2 == 0 {
			c = s.embedded
		}
		group.Go(func() {
			if o, err := c.Write(ctx, w, client.WaitCommitted); err == nil {
				versions[i] = o.Version
			} else {
				t.Errorf("caller %d: %v", i, err)
			}
		})
	}
	group.Wait()
	require.Len(t, slices.Compact(versions), 1)
	require.Equal(t, 1, s.systems.Commits())
}

// A sink that hangs, the worst that it can do, must not hold up the answer to a
// caller who waits for the commit.
func TestCommittedIsAnsweredWhileASinkHangs(t *testing.T) {
	t.Parallel()
	s := newScene(t)
	release := make(chan struct{})
	s.systems.Redis.Fail = func(ctx context.Context, _ int) error {
		select {
		case <-release:
			return nil
		case <-ctx.Done():
			return activitytest.Unavailable("redis")
		}
	}
	for name, c := range s.clients() {
		began := time.Now()
		o, err := c.Write(within(t, 20*time.Second), activitytest.Write(s.id(name)), client.WaitCommitted)
		took := time.Since(began)
		require.NoError(t, err)
		require.Equal(t, saga.Committed, o.Status)
		require.Less(t, took, time.Second, name)
		t.Logf("%s: committed after %s", name, took)
	}
	close(release)
	for name := range s.clients() {
		o, err := s.remote.Wait(within(t, 20*time.Second), s.id(name), client.WaitVisible)
		require.NoError(t, err)
		require.Equal(t, saga.Completed, o.Status)
	}
}

func TestSinkThatStaysAwayParks(t *testing.T) {
	t.Parallel()
	s := newScene(t)
	var mu sync.Mutex
	away := true
	s.systems.Elasticsearch.Fail = func(context.Context, int) error {
		mu.Lock()
		defer mu.Unlock()
		if away {
			return activitytest.Unavailable("elasticsearch")
		}
		return nil
	}
	w := activitytest.Write(s.id("a"))
	w.Policy.ParkAfter = saga.Duration(2 * time.Second)
	ctx := within(t, 30*time.Second)
	o, err := s.remote.Write(ctx, w, client.WaitVisible)
	require.NoError(t, err)
	require.Equal(t, saga.Parked, o.Status)
	require.Equal(t, saga.StepParked, o.Step(saga.StepElasticsearch).State)
	require.Contains(t, o.Error.Message, "refuses connections")
	require.Greater(t, o.Step(saga.StepElasticsearch).Attempts, 2)

	require.Equal(t, []string{w.SagaID}, s.find(t, "SagaStatus = 'parked' AND SagaBlockedOn = 'elasticsearch' AND SagaErrorClass = 'unavailable' AND SagaKeys = 'products/42'", 1))
	details := s.details(t, w.SagaID)
	require.Contains(t, details, "elasticsearch is parked")
	require.Contains(t, details, "capsaga show")

	mu.Lock()
	away = false
	mu.Unlock()
	handle, err := s.temporal.UpdateWorkflow(ctx, sdkclient.UpdateWorkflowOptions{
		WorkflowID: saga.WorkflowID(w.SagaID), UpdateName: saga.UpdateRetry, WaitForStage: sdkclient.WorkflowUpdateStageCompleted,
	})
	require.NoError(t, err)
	require.NoError(t, handle.Get(ctx, &o))
	require.Equal(t, saga.StepDone, o.Step(saga.StepElasticsearch).State)
	o, err = s.remote.Wait(ctx, w.SagaID, client.WaitVisible)
	require.NoError(t, err)
	require.Equal(t, saga.Completed, o.Status)
	require.Equal(t, []string{w.SagaID}, s.find(t, "SagaStatus = 'completed' AND SagaEntities = 'products' AND SagaBlockedOn IS NULL AND SagaErrorClass IS NULL", 1))
}

// find lists sagas of the scene by search attributes, once there are that many.
func (s *scene) find(t testing.TB, query string, count int) []string {
	t.Helper()
	var ids []string
	require.Eventually(t, func() bool {
		ids = nil
		page, err := s.temporal.ListWorkflow(t.Context(), listRequest(fmt.Sprintf("%s AND TaskQueue = '%s'", query, s.prefix.TaskQueue())))
		require.NoError(t, err)
		for _, execution := range page.GetExecutions() {
			ids = append(ids, strings.TrimPrefix(execution.GetExecution().GetWorkflowId(), "saga/"))
		}
		return len(ids) == count
	}, 10*time.Second, 50*time.Millisecond)
	return ids
}

func TestErrorsSayWhatToDo(t *testing.T) {
	t.Parallel()
	s := newScene(t)
	ctx := within(t, 30*time.Second)

	_, err := s.remote.Status(ctx, s.id("nobody"))
	require.Equal(t, saga.CodeUnknownSaga, codeOf(t, err))
	_, err = s.remote.Wait(ctx, s.id("nobody"), client.WaitVisible)
	require.Equal(t, saga.CodeUnknownSaga, codeOf(t, err))

	_, err = s.remote.Write(ctx, saga.Write{SagaID: "x"}, client.WaitVisible)
	require.Equal(t, saga.CodeInvalidWrite, codeOf(t, err))
	big := activitytest.Write(s.id("big"))
	big.Mutations[0].Row["title"], _ = json.Marshal(strings.Repeat("x", saga.MaxWriteBytes))
	_, err = s.remote.Write(ctx, big, client.WaitVisible)
	require.Equal(t, saga.CodeInvalidWrite, codeOf(t, err))

	away, err := client.New(client.Options{Temporal: s.temporal, Prefix: s.prefix + "x"})
	require.NoError(t, err)
	_, err = away.Write(within(t, time.Second), activitytest.Write(s.id("idle")), client.WaitVisible)
	require.Equal(t, saga.CodeStillRunning, codeOf(t, err))
	require.ErrorContains(t, err, "no worker polls task queue "+string(s.prefix)+"x")

	s.systems.Redis.Fail = activitytest.Until(1000, activitytest.Rejected("redis"))
	parked := activitytest.Write(s.id("parked"))
	_, err = s.remote.Write(ctx, parked, client.WaitVisible)
	require.NoError(t, err)
	require.NoError(t, s.temporal.TerminateWorkflow(ctx, saga.WorkflowID(parked.SagaID), "", "a test"))
	for _, c := range s.clients() {
		_, err = c.Write(ctx, parked, client.WaitVisible)
		require.Equal(t, saga.CodeWorkflowLost, codeOf(t, err))
		require.ErrorContains(t, err, "was terminated")
	}
}

func TestStatusBeforeAndAfterTheEnd(t *testing.T) {
	t.Parallel()
	s := newScene(t)
	s.systems.Kafka.Fail = activitytest.Until(1, activitytest.Rejected("kafka"))
	w := activitytest.Write(s.id("a"))
	ctx := within(t, 30*time.Second)
	require.NoError(t, s.remote.Start(ctx, w))
	o, err := s.remote.Wait(ctx, w.SagaID, client.WaitVisible)
	require.NoError(t, err)
	require.Equal(t, saga.Parked, o.Status)
	status, err := s.remote.Status(ctx, w.SagaID)
	require.NoError(t, err)
	require.Equal(t, o, status)
}

// The numbers of a write must reach the workflow, and the commit, as they were
// written: JSON readers that hold numbers as doubles would change them.
func TestNumbersTravelAsTheirText(t *testing.T) {
	t.Parallel()
	s := newScene(t)
	for name, c := range s.clients() {
		w := activitytest.Write(s.id(name))
		w.Mutations[0].Row = saga.Columns{
			"id": json.RawMessage("42"), "big": json.RawMessage("12345678901234567890.10"), "tiny": json.RawMessage("1e-400"),
			"huge": json.RawMessage("1e400"), "html": json.RawMessage(`"<a & b>"`), "nested": json.RawMessage(`{ "z": 1.0, "a": [1E+2] }`),
		}
		o, err := c.Write(within(t, 20*time.Second), w, client.WaitVisible)
		require.NoError(t, err)
		require.Equal(t, w.Digest(), o.Content)
		doc, found := s.systems.Redis.Get("products", "42")
		require.True(t, found)
		for column, text := range map[string]string{"big": "12345678901234567890.10", "tiny": "1e-400", "huge": "1e400", "nested": `{"z":1.0,"a":[1E+2]}`} {
			var row map[string]json.RawMessage
			require.NoError(t, json.Unmarshal(doc.Row, &row))
			require.Equal(t, text, string(row[column]))
		}
	}
}

func TestFastPathKeepsTheHistorySmall(t *testing.T) {
	t.Parallel()
	s := newScene(t)
	for name, c := range s.clients() {
		w := activitytest.Write(s.id(name))
		_, err := c.Write(within(t, 20*time.Second), w, client.WaitVisible)
		require.NoError(t, err)
		ctx := within(t, 20*time.Second)
		var ignored saga.Outcome
		require.NoError(t, s.temporal.GetWorkflow(ctx, saga.WorkflowID(w.SagaID), "").Get(ctx, &ignored))
		var events []string
		history := s.temporal.GetWorkflowHistory(ctx, saga.WorkflowID(w.SagaID), "", false, enumspb.HISTORY_EVENT_FILTER_TYPE_ALL_EVENT)
		for history.HasNext() {
			event, err := history.Next()
			require.NoError(t, err)
			events = append(events, event.GetEventType().String())
		}
		t.Logf("%s: %d events: %s", name, len(events), strings.Join(events, " "))
		tasks := 0
		for _, event := range events {
			if event == enumspb.EVENT_TYPE_WORKFLOW_TASK_COMPLETED.String() {
				tasks++
			}
		}
		require.Equal(t, 1, tasks, "the fast path is one workflow task")
		require.LessOrEqual(t, len(events), 14)
	}
}
