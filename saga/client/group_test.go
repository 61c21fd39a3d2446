package client_test

import (
	"context"
	"encoding/json"
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	enumspb "go.temporal.io/api/enums/v1"
	"go.temporal.io/api/workflowservice/v1"

	"github.com/capsaga/capsaga/internal/activitytest"
	"github.com/capsaga/capsaga/saga"
	"github.com/capsaga/capsaga/saga/client"
)

// writeOf is a write of a row of its own.
func (s *scene) writeOf(name string, i int) saga.Write {
	w := activitytest.Write(s.ID(fmt.Sprintf("%s-%d", name, i)))
	w.Mutations[0].Row["id"] = json.RawMessage(fmt.Sprint(i))
	return w
}

// workflows counts those of the scene by type.
func (s *scene) workflows(t *testing.T) map[string]int {
	t.Helper()
	counts := map[string]int{}
	var token []byte
	for {
		page, err := s.Temporal.ListWorkflow(activitytest.Within(t, 20*time.Second), &workflowservice.ListWorkflowExecutionsRequest{
			Query: fmt.Sprintf("TaskQueue = '%s'", s.Prefix.TaskQueue()), NextPageToken: token,
		})
		require.NoError(t, err)
		for _, e := range page.Executions {
			counts[e.GetType().GetName()]++
		}
		if token = page.NextPageToken; len(token) == 0 {
			return counts
		}
	}
}

// Many callers share workflows, a lone one has its own, and each gets the answer to
// its own write.
func TestConcurrentWritesShareWorkflows(t *testing.T) {
	t.Parallel()
	s := newScene(t)
	for name, c := range s.clients() {
		for _, level := range []client.Level{client.WaitCommitted, client.WaitVisible} {
			var all sync.WaitGroup
			for caller := range 64 {
				all.Go(func() {
					for round := range 3 {
						w := s.writeOf(fmt.Sprintf("%s-%s-%d", name, level, round), caller)
						o, err := c.Write(activitytest.Within(t, 60*time.Second), w, level)
						if !assert.NoError(t, err) {
							return
						}
						assert.Equal(t, w.SagaID, o.SagaID)
						assert.Equal(t, w.Digest(), o.Content)
						assert.NotEmpty(t, o.Token)
						assert.Equal(t, fmt.Sprint(caller), o.ETags[0].Key)
						if level == client.WaitVisible {
							assert.Equal(t, saga.Completed, o.Status)
						}
					}
				})
			}
			all.Wait()
		}
	}
	require.Eventually(t, func() bool {
		counts := s.workflows(t)
		return counts[saga.WorkflowBatch] > 4 && counts[saga.WorkflowBatch]+counts[saga.WorkflowSaga] < 64*12/3
	}, 20*time.Second, 200*time.Millisecond, "%v", s.workflows(t))
	lone := s.writeOf("lone", 1)
	_, err := s.embedded.Write(activitytest.Within(t, 20*time.Second), lone, client.WaitVisible)
	require.NoError(t, err)
	_, err = s.Temporal.DescribeWorkflowExecution(activitytest.Within(t, 20*time.Second), saga.WorkflowID(lone.SagaID), "")
	require.NoError(t, err, "it has a workflow of its own")
}

// What becomes of one write is told to its own caller and to no other.
func TestEachCallerHasTheAnswerToItsWrite(t *testing.T) {
	t.Parallel()
	s := newScene(t)
	s.Systems.Elasticsearch.FailRow = func(doc saga.Document) error {
		if doc.Key == "3" {
			return activitytest.Rejected("elasticsearch")
		}
		return nil
	}
	s.Systems.OnAlone = func(id string) bool { return id == s.ID("remote-5") || id == s.ID("embedded-5") }
	for name, c := range s.clients() {
		t.Run(name, func(t *testing.T) {
			var writes []saga.Write
			for i := range 12 {
				writes = append(writes, s.writeOf(name, i))
			}
			writes[7].Mutations[0].Op = "replace"
			other := writes[8]
			other.Mutations = []saga.Mutation{writes[9].Mutations[0]}
			writes = append(writes, other, writes[4])
			results := c.WriteBatch(activitytest.Within(t, 60*time.Second), writes, client.WaitVisible)
			for i, r := range results {
				switch i {
				case 3:
					require.NoError(t, r.Err)
					require.Equal(t, saga.Parked, r.Outcome.Status)
					require.Equal(t, saga.StepParked, r.Outcome.Step(saga.StepElasticsearch).State)
				case 7:
					require.Error(t, r.Err)
				case 12:
					var e *saga.Error
					require.ErrorAs(t, r.Err, &e)
					require.Equal(t, saga.CodeSagaIDReused, e.Code)
				default:
					require.NoError(t, r.Err, "%d", i)
					require.Equal(t, saga.Completed, r.Outcome.Status, "%d: %+v", i, r.Outcome)
					require.Equal(t, saga.StepDone, r.Outcome.Step(saga.StepRedis).State)
				}
			}
			require.Equal(t, results[4].Outcome.Version, results[13].Outcome.Version)
			again := c.WriteBatch(activitytest.Within(t, 60*time.Second), writes[:3], client.WaitVisible)
			for i, r := range again {
				require.NoError(t, r.Err)
				require.Equal(t, results[i].Outcome.Version, r.Outcome.Version)
				require.Equal(t, saga.Completed, r.Outcome.Status)
			}
		})
	}
}

// A caller who leaves neither loses nor doubles a write: one that was taken goes on,
// and one that had not left was never written.
func TestCallersWhoLeave(t *testing.T) {
	t.Parallel()
	s := newScene(t)
	hold := make(chan struct{})
	s.Systems.OnCommit = func(ctx context.Context, _ int) error {
		select {
		case <-hold:
		case <-ctx.Done():
			return activitytest.Unavailable("postgres")
		}
		return nil
	}
	c, err := client.New(client.Options{Temporal: s.Temporal, Prefix: s.Prefix, Notifier: s.Hub, Group: client.Group{Flights: 1}})
	require.NoError(t, err)
	var left sync.WaitGroup
	for i := range 20 {
		left.Go(func() {
			ctx, cancel := context.WithTimeout(context.Background(), 300*time.Millisecond)
			defer cancel()
			_, err := c.Write(ctx, s.writeOf("leaving", i), client.WaitVisible)
			assert.Error(t, err)
		})
	}
	left.Wait()
	close(hold)
	for i := range 20 { // whatever had become of it, the same write makes it one
		o, err := c.Write(activitytest.Within(t, 60*time.Second), s.writeOf("leaving", i), client.WaitVisible)
		require.NoError(t, err)
		require.Equal(t, saga.Completed, o.Status)
	}
}

// Without a worker nobody waits for a place: each write is durable in Temporal soon.
func TestWritesLeaveWithoutAWorker(t *testing.T) {
	t.Parallel()
	s := newScene(t)
	prefix := s.Prefix + "x"
	c, err := client.New(client.Options{Temporal: s.Remote, Prefix: prefix})
	require.NoError(t, err)
	for round := range 3 {
		var left sync.WaitGroup
		for i := range 20 {
			left.Go(func() {
				ctx, cancel := context.WithTimeout(context.Background(), 3*time.Second)
				defer cancel()
				_, err := c.Write(ctx, s.writeOf(fmt.Sprint("r", round), i), client.WaitVisible)
				assert.ErrorContains(t, err, "no worker polls")
			})
		}
		left.Wait()
	}
	counted, err := s.Temporal.CountWorkflow(activitytest.Within(t, 20*time.Second), &workflowservice.CountWorkflowExecutionsRequest{
		Query: fmt.Sprintf("TaskQueue = '%s' AND ExecutionStatus = '%s'", prefix.TaskQueue(), enumspb.WORKFLOW_EXECUTION_STATUS_RUNNING),
	})
	require.NoError(t, err)
	require.GreaterOrEqual(t, counted.GetCount(), int64(6))
}
