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

	"github.com/capsaga/capsaga/internal/activitytest"
	"github.com/capsaga/capsaga/saga"
	"github.com/capsaga/capsaga/saga/client"
)

// scene is a worker with both ways to write to it.
type scene struct {
	*activitytest.Scene
	embedded *client.Client // shares the worker's process
	remote   *client.Client // over another connection, without a notifier
}

func newScene(t testing.TB) *scene {
	t.Helper()
	s := &scene{Scene: activitytest.NewScene(t)}
	var err error
	s.embedded, err = client.New(client.Options{Temporal: s.Temporal, Prefix: s.Prefix, Notifier: s.Hub})
	require.NoError(t, err)
	s.remote, err = client.New(client.Options{Temporal: s.Remote, Prefix: s.Prefix})
	require.NoError(t, err)
	return s
}

// clients are both ways to write.
func (s *scene) clients() map[string]*client.Client {
	return map[string]*client.Client{"embedded": s.embedded, "remote": s.remote}
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
		w := activitytest.Write(s.ID(name))
		ctx := activitytest.Within(t, 60*time.Second)
		first, err := c.Write(ctx, w, client.WaitCommitted)
		require.NoError(t, err)
		require.Contains(t, []saga.Status{saga.Committed, saga.Completed}, first.Status)
		require.NotZero(t, first.Version)
		visible, err := c.Wait(ctx, w.SagaID, client.WaitVisible)
		require.NoError(t, err)
		require.Equal(t, saga.Completed, visible.Status)

		commits := s.Systems.Commits()
		for _, again := range s.clients() {
			second, err := again.Write(ctx, w, client.WaitVisible)
			require.NoError(t, err)
			require.Equal(t, saga.Completed, second.Status)
			require.Equal(t, first.Version, second.Version)
		}
		require.Equal(t, commits, s.Systems.Commits(), "a finished saga ran again")

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
	s.Systems.Redis.Fail = activitytest.Until(1000, activitytest.Rejected("redis"))
	w := activitytest.Write(s.ID("a"))
	ctx := activitytest.Within(t, 60*time.Second)
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
	s.Systems.Reject = &saga.ErrorInfo{Code: saga.CodeExpectUnmet, Class: saga.Rejected, System: "postgres", Message: "stock >= 1 does not hold"}
	for name, c := range s.clients() {
		o, err := c.Write(activitytest.Within(t, 60*time.Second), activitytest.Write(s.ID(name)), client.WaitVisible)
		require.NoError(t, err, name)
		require.Equal(t, saga.RejectedEnd, o.Status, name)
		require.Equal(t, saga.CodeExpectUnmet, o.Error.Code, name)
	}
}

func TestSameWriteFromManyCallersCommitsOnce(t *testing.T) {
	t.Parallel()
	s := newScene(t)
	w := activitytest.Write(s.ID("a"))
	ctx := activitytest.Within(t, 60*time.Second)
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
	// Several workflows may have asked for it, a batch among them: the ledger lets one
	// of them commit, and gives the others its result.
	require.Len(t, slices.Compact(versions), 1)
	require.NotZero(t, versions[0])
}

// A sink that hangs, the worst that it can do, must not hold up the answer to a
// caller who waits for the commit.
func TestCommittedIsAnsweredWhileASinkHangs(t *testing.T) {
	t.Parallel()
	s := newScene(t)
	release := make(chan struct{})
	s.Systems.Redis.Fail = func(ctx context.Context, _ int) error {
		select {
		case <-release:
			return nil
		case <-ctx.Done():
			return activitytest.Unavailable("redis")
		}
	}
	for name, c := range s.clients() {
		began := time.Now()
		o, err := c.Write(activitytest.Within(t, 60*time.Second), activitytest.Write(s.ID(name)), client.WaitCommitted)
		took := time.Since(began)
		require.NoError(t, err)
		require.Equal(t, saga.Committed, o.Status)
		require.Less(t, took, 5*time.Second, name)
		t.Logf("%s: committed after %s", name, took)
	}
	close(release)
	for name := range s.clients() {
		o, err := s.remote.Wait(activitytest.Within(t, 60*time.Second), s.ID(name), client.WaitVisible)
		require.NoError(t, err)
		require.Equal(t, saga.Completed, o.Status)
	}
}

func TestSinkThatStaysAwayParks(t *testing.T) {
	t.Parallel()
	s := newScene(t)
	var mu sync.Mutex
	away := true
	s.Systems.Elasticsearch.Fail = func(context.Context, int) error {
		mu.Lock()
		defer mu.Unlock()
		if away {
			return activitytest.Unavailable("elasticsearch")
		}
		return nil
	}
	w := activitytest.Write(s.ID("a"))
	w.Policy.ParkAfter = saga.Duration(2 * time.Second)
	ctx := activitytest.Within(t, 60*time.Second)
	o, err := s.remote.Write(ctx, w, client.WaitVisible)
	require.NoError(t, err)
	require.Equal(t, saga.Parked, o.Status)
	require.Equal(t, saga.StepParked, o.Step(saga.StepElasticsearch).State)
	require.Contains(t, o.Error.Message, "refuses connections")
	require.GreaterOrEqual(t, o.Step(saga.StepElasticsearch).Attempts, 2)

	require.Equal(t, []string{w.SagaID}, s.find(t, "SagaStatus = 'parked' AND SagaBlockedOn = 'elasticsearch' AND SagaErrorClass = 'unavailable' AND SagaKeys = 'products/42'", 1))
	details := s.details(t, w.SagaID)
	require.Contains(t, details, "**elasticsearch** is parked")
	require.Contains(t, details, "capsaga show")

	mu.Lock()
	away = false
	mu.Unlock()
	handle, err := s.Temporal.UpdateWorkflow(ctx, sdkclient.UpdateWorkflowOptions{
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
		page, err := s.Temporal.ListWorkflow(t.Context(), listRequest(fmt.Sprintf("%s AND TaskQueue = '%s'", query, s.Prefix.TaskQueue())))
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
	ctx := activitytest.Within(t, 60*time.Second)

	_, err := s.remote.Status(ctx, s.ID("nobody"))
	require.Equal(t, saga.CodeUnknownSaga, codeOf(t, err))
	_, err = s.remote.Wait(ctx, s.ID("nobody"), client.WaitVisible)
	require.Equal(t, saga.CodeUnknownSaga, codeOf(t, err))

	_, err = s.remote.Write(ctx, saga.Write{SagaID: "x"}, client.WaitVisible)
	require.Equal(t, saga.CodeInvalidWrite, codeOf(t, err))
	big := activitytest.Write(s.ID("big"))
	big.Mutations[0].Row["title"], _ = json.Marshal(strings.Repeat("x", saga.MaxWriteBytes))
	_, err = s.remote.Write(ctx, big, client.WaitVisible)
	require.Equal(t, saga.CodeInvalidWrite, codeOf(t, err))

	away, err := client.New(client.Options{Temporal: s.Temporal, Prefix: s.Prefix + "x"})
	require.NoError(t, err)
	_, err = away.Write(activitytest.Within(t, time.Second), activitytest.Write(s.ID("idle")), client.WaitVisible)
	require.Equal(t, saga.CodeStillRunning, codeOf(t, err))
	require.ErrorContains(t, err, "no worker polls task queue "+string(s.Prefix)+"x")

	s.Systems.Redis.Fail = activitytest.Until(1000, activitytest.Rejected("redis"))
	parked := activitytest.Write(s.ID("parked"))
	_, err = s.remote.Write(ctx, parked, client.WaitVisible)
	require.NoError(t, err)
	require.NoError(t, s.Temporal.TerminateWorkflow(ctx, saga.WorkflowID(parked.SagaID), "", "a test"))
	for _, c := range s.clients() {
		_, err = c.Wait(ctx, parked.SagaID, client.WaitVisible)
		require.Equal(t, saga.CodeWorkflowLost, codeOf(t, err))
		require.ErrorContains(t, err, "was terminated")
	}
}

// A saga whose workflow was terminated after the commit is finished by the same
// write, and is not committed twice.
func TestTerminatedSagaIsBegunAnew(t *testing.T) {
	t.Parallel()
	for i := range newScene(t).clients() {
		s := newScene(t)
		c := s.clients()[i]
		ctx := activitytest.Within(t, 60*time.Second)
		s.Systems.Redis.Fail = activitytest.Until(1, activitytest.Rejected("redis"))
		w := activitytest.Write(s.ID("stopped"))
		parked, err := c.Write(ctx, w, client.WaitVisible)
		require.NoError(t, err)
		require.Equal(t, saga.Parked, parked.Status)
		require.NoError(t, s.Temporal.TerminateWorkflow(ctx, saga.WorkflowID(w.SagaID), "", "a test"))
		again, err := c.Write(ctx, w, client.WaitVisible)
		require.NoError(t, err)
		require.Equal(t, saga.Completed, again.Status)
		require.Equal(t, parked.Version, again.Version)
		third, err := c.Write(ctx, w, client.WaitVisible)
		require.NoError(t, err)
		require.Equal(t, again.Steps, third.Steps, "what has an outcome is not begun again")
	}
}

func TestStatusBeforeAndAfterTheEnd(t *testing.T) {
	t.Parallel()
	s := newScene(t)
	s.Systems.Kafka.Fail = activitytest.Until(1, activitytest.Rejected("kafka"))
	w := activitytest.Write(s.ID("a"))
	ctx := activitytest.Within(t, 60*time.Second)
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
		w := activitytest.Write(s.ID(name))
		w.Mutations[0].Row = saga.Columns{
			"id": json.RawMessage("42"), "big": json.RawMessage("12345678901234567890.10"), "tiny": json.RawMessage("1e-400"),
			"huge": json.RawMessage("1e400"), "html": json.RawMessage(`"<a & b>"`), "nested": json.RawMessage(`{ "z": 1.0, "a": [1E+2] }`),
		}
		o, err := c.Write(activitytest.Within(t, 60*time.Second), w, client.WaitVisible)
		require.NoError(t, err)
		require.Equal(t, w.Digest(), o.Content)
		doc, found := s.Systems.Redis.Get("products", "42")
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
		// On a busy machine a quick attempt can be too slow; that is not the path
		// that is looked at here.
		var tasks, events int
		for try := 0; tasks != 1 && try < 20; try++ {
			w := activitytest.Write(s.ID(fmt.Sprint(name, try)))
			_, err := c.Write(activitytest.Within(t, 60*time.Second), w, client.WaitVisible)
			require.NoError(t, err)
			tasks, events = s.history(t, w.SagaID)
		}
		t.Logf("%s: %d workflow tasks, %d events", name, tasks, events)
		require.Equal(t, 1, tasks, "the fast path is one workflow task")
		require.LessOrEqual(t, events, 13)
	}
}

// history counts a finished saga's workflow tasks and all its events.
func (s *scene) history(t testing.TB, sagaID string) (tasks, events int) {
	t.Helper()
	ctx := activitytest.Within(t, 60*time.Second)
	require.NoError(t, s.Temporal.GetWorkflow(ctx, saga.WorkflowID(sagaID), "").Get(ctx, new(saga.Outcome)))
	history := s.Temporal.GetWorkflowHistory(ctx, saga.WorkflowID(sagaID), "", false, enumspb.HISTORY_EVENT_FILTER_TYPE_ALL_EVENT)
	for history.HasNext() {
		event, err := history.Next()
		require.NoError(t, err)
		events++
		if event.GetEventType() == enumspb.EVENT_TYPE_WORKFLOW_TASK_COMPLETED {
			tasks++
		}
	}
	return tasks, events
}
