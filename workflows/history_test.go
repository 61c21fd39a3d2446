package workflows_test

import (
	"context"
	"encoding/json"
	"flag"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	historypb "go.temporal.io/api/history/v1"
	"go.temporal.io/sdk/activity"
	sdkclient "go.temporal.io/sdk/client"
	"go.temporal.io/sdk/worker"
	"google.golang.org/protobuf/encoding/protojson"

	"github.com/capsaga/capsaga/internal/activitytest"
	"github.com/capsaga/capsaga/saga"
	"github.com/capsaga/capsaga/saga/client"
	"github.com/capsaga/capsaga/workflows"
)

// recordInto is where the shapes' histories go, as a build that is about to be
// released leaves them: go test ./workflows -run Shapes -record testdata/v2.
var recordInto = flag.String("record", "", "folder to keep the histories of TestShapes in")

func record(t *testing.T, history *historypb.History) {
	t.Helper()
	if *recordInto == "" {
		return
	}
	text, err := protojson.MarshalOptions{Indent: " "}.Marshal(history)
	require.NoError(t, err)
	require.NoError(t, os.MkdirAll(*recordInto, 0o755))
	_, shape, _ := strings.Cut(t.Name(), "/")
	require.NoError(t, os.WriteFile(filepath.Join(*recordInto, shape+".json"), append(text, '\n'), 0o644))
}

// The histories of earlier builds replay: a deploy strands no saga, whatever it
// was doing.
func TestRecordedHistories(t *testing.T) {
	t.Parallel()
	files, err := filepath.Glob("testdata/*/*.json")
	require.NoError(t, err)
	require.NotEmpty(t, files, "no recorded histories")
	for _, file := range files {
		t.Run(strings.TrimSuffix(strings.TrimPrefix(file, "testdata/"), ".json"), func(t *testing.T) {
			t.Parallel()
			replayer := worker.NewWorkflowReplayer()
			workflows.Register(replayer)
			require.NoError(t, replayer.ReplayWorkflowHistoryFromJSONFile(activitytest.Quiet{}, file))
		})
	}
}

// ask sends an operator's request.
func (s *show) ask(t *testing.T, sagaID, update string, args ...any) (o saga.Outcome) {
	t.Helper()
	ctx := activitytest.Within(t, 60*time.Second)
	handle, err := s.Temporal.UpdateWorkflow(ctx, sdkclient.UpdateWorkflowOptions{
		WorkflowID: saga.WorkflowID(sagaID), UpdateName: update, Args: args, WaitForStage: sdkclient.WorkflowUpdateStageCompleted,
	})
	require.NoError(t, err)
	require.NoError(t, handle.Get(ctx, &o))
	return o
}

// wrote writes a saga and wants it to come to a status.
func (s *show) wrote(t *testing.T, w saga.Write, status saga.Status) {
	t.Helper()
	o, err := s.Write(activitytest.Within(t, 60*time.Second), w, client.WaitVisible)
	require.NoError(t, err)
	require.Equal(t, status, o.Status, "%+v", o)
}

// serve runs a service whose activities are called as the tasks of aroundTheCommit
// say; refuse names the one that says no.
func (s *show) serve(t *testing.T, refuse string) {
	t.Helper()
	w := worker.New(s.Temporal, s.service(), worker.Options{})
	for _, name := range []string{"Reserve", "Release", "Mail"} {
		w.RegisterActivityWithOptions(func(context.Context, saga.TaskInput) (json.RawMessage, error) {
			if name == refuse {
				return nil, refused("no")
			}
			return json.RawMessage(`"` + name + `"`), nil
		}, activity.RegisterOptions{Name: name})
	}
	require.NoError(t, w.Start())
	t.Cleanup(w.Stop)
}

func (s *show) service() string { return string(s.Prefix) + "-service" }

func (s *show) aroundTheCommit(sagaID string) saga.Write {
	w := activitytest.Write(sagaID)
	w.BeforeSteps = []saga.Task{{Name: "reserve", TaskQueue: s.service(), Activity: "Reserve", Compensation: "Release"}}
	w.AfterSteps = []saga.Task{{Name: "mail", TaskQueue: s.service(), Activity: "Mail"}}
	return w
}

// row is a row of the scene's own that Elasticsearch refused.
func (s *show) row(lsn saga.LSN) *saga.Refused {
	r := refusedRow(lsn)
	r.Key = string(s.Prefix)
	return &r
}

// adopted starts the saga of a refused row, as a worker does.
func (s *show) adopted(t *testing.T) (sagaID string) {
	t.Helper()
	s.Systems.OnRead = rowNow(2000)
	w := s.Systems.Adopt(nil, *s.row(1000))
	first, err := s.Adopt(activitytest.Within(t, 20*time.Second), w, "")
	require.NoError(t, err)
	again, err := s.Adopt(activitytest.Within(t, 20*time.Second), w, "")
	require.NoError(t, err)
	require.Equal(t, first, again, "it is started once")
	return w.SagaID
}

// gone makes a sink fail until the returned function is called.
func gone(fail *func(context.Context, int) error, err error) (back func()) {
	var away atomic.Bool
	away.Store(true)
	*fail = func(context.Context, int) error {
		if away.Load() {
			return err
		}
		return nil
	}
	return func() { away.Store(false) }
}

// Each shape that a saga's history can have, on the real server; each replays.
func TestShapes(t *testing.T) {
	t.Parallel()
	shapes := map[string]func(t *testing.T, s *show, w saga.Write){
		"completed": func(t *testing.T, s *show, w saga.Write) {
			s.wrote(t, w, saga.Completed)
		},
		"rejected": func(t *testing.T, s *show, w saga.Write) {
			s.Systems.Reject = &saga.ErrorInfo{Code: saga.CodeNotFound, Class: saga.Rejected, Message: "no such row"}
			s.wrote(t, w, saga.RejectedEnd)
		},
		"patience": func(t *testing.T, s *show, w saga.Write) {
			s.Systems.Redis.Fail = activitytest.Until(3, activitytest.Unavailable("redis"))
			s.Systems.OnCommit = activitytest.Until(2, activitytest.Unavailable("postgres"))
			s.wrote(t, w, saga.Completed)
		},
		"parked-rejected": func(t *testing.T, s *show, w saga.Write) {
			gone(&s.Systems.Elasticsearch.Fail, activitytest.Rejected("elasticsearch"))
			s.wrote(t, w, saga.Parked)
		},
		"parked-rejected-retried": func(t *testing.T, s *show, w saga.Write) {
			back := gone(&s.Systems.Elasticsearch.Fail, activitytest.Rejected("elasticsearch"))
			s.wrote(t, w, saga.Parked)
			require.Equal(t, saga.Parked, s.ask(t, w.SagaID, saga.UpdateRetry).Status)
			back()
			retried := s.ask(t, w.SagaID, saga.UpdateRetry)
			require.Equal(t, saga.StepDone, retried.Step(saga.StepElasticsearch).State)
			s.end(t, w.SagaID)
		},
		"parked-unavailable-released": func(t *testing.T, s *show, w saga.Write) {
			back := gone(&s.Systems.Redis.Fail, activitytest.Unavailable("redis"))
			w.Policy.ParkAfter = saga.Duration(time.Second)
			s.wrote(t, w, saga.Parked)
			back()
			require.NoError(t, s.Temporal.SignalWorkflow(activitytest.Within(t, 20*time.Second), saga.WorkflowID(w.SagaID), "", saga.SignalRelease, "redis"))
			require.Equal(t, saga.Completed, s.end(t, w.SagaID).Status)
		},
		"parked-for-postgres": func(t *testing.T, s *show, w saga.Write) {
			gone(&s.Systems.OnCommit, activitytest.Unavailable("postgres"))
			w.Policy.ParkAfter = saga.Duration(time.Second)
			s.wrote(t, w, saga.Parked)
		},
		"skipped": func(t *testing.T, s *show, w saga.Write) {
			gone(&s.Systems.Elasticsearch.Fail, activitytest.Rejected("elasticsearch"))
			s.wrote(t, w, saga.Parked)
			s.ask(t, w.SagaID, saga.UpdateSkip, saga.SkipInput{Step: saga.StepElasticsearch})
			require.Equal(t, saga.Completed, s.end(t, w.SagaID).Status)
		},
		"edited": func(t *testing.T, s *show, w saga.Write) {
			s.Systems.Elasticsearch.Fail = activitytest.Until(1, activitytest.Rejected("elasticsearch"))
			s.wrote(t, w, saga.Parked)
			patch := saga.Mutation{Entity: "products", Op: saga.Patch, Key: saga.Columns{"id": json.RawMessage(`42`)}, Set: saga.Columns{"title": json.RawMessage(`"Lantern"`)}}
			s.ask(t, w.SagaID, saga.UpdateEdit, saga.EditInput{Mutations: []saga.Mutation{patch}})
			require.Equal(t, saga.Completed, s.end(t, w.SagaID).Status)
		},
		"compensated-by-policy": func(t *testing.T, s *show, w saga.Write) {
			s.Systems.Elasticsearch.Fail = activitytest.Until(1, activitytest.Rejected("elasticsearch"))
			w.Policy.OnReject = saga.OnRejectCompensate
			s.wrote(t, w, saga.Compensated)
		},
		"compensated-by-an-operator": func(t *testing.T, s *show, w saga.Write) {
			s.Systems.Elasticsearch.Fail = activitytest.Until(1, activitytest.Rejected("elasticsearch"))
			s.wrote(t, w, saga.Parked)
			require.Equal(t, saga.Compensated, s.ask(t, w.SagaID, saga.UpdateCompensate).Status)
		},
		"compensating-conflict": func(t *testing.T, s *show, w saga.Write) {
			s.Systems.Elasticsearch.Fail = activitytest.Until(1, activitytest.Rejected("elasticsearch"))
			s.Systems.Refuse = func() *saga.ErrorInfo {
				return &saga.ErrorInfo{Code: saga.CodeConflict, Class: saga.Rejected, System: "postgres", Message: "products/42 was changed since"}
			}
			w.Policy.OnReject = saga.OnRejectCompensate
			s.wrote(t, w, saga.Parked)
		},
		"compensating-parked-at-a-sink": func(t *testing.T, s *show, w saga.Write) {
			gone(&s.Systems.Elasticsearch.Fail, activitytest.Rejected("elasticsearch"))
			w.Policy.OnReject = saga.OnRejectCompensate
			s.wrote(t, w, saga.Parked)
		},
		"cancelled-before-the-commit": func(t *testing.T, s *show, w saga.Write) {
			gone(&s.Systems.OnCommit, activitytest.Unavailable("postgres"))
			ctx := activitytest.Within(t, 60*time.Second)
			require.NoError(t, s.Start(ctx, w))
			s.until(t, w.SagaID, func(o saga.Outcome) bool { return o.Steps[0].State == saga.StepRetrying })
			require.NoError(t, s.Temporal.CancelWorkflow(ctx, saga.WorkflowID(w.SagaID), ""))
			require.Equal(t, saga.Cancelled, s.end(t, w.SagaID).Status)
		},
		"cancelled-after-the-commit": func(t *testing.T, s *show, w saga.Write) {
			back := gone(&s.Systems.Redis.Fail, activitytest.Unavailable("redis"))
			ctx := activitytest.Within(t, 60*time.Second)
			_, err := s.Write(ctx, w, client.WaitCommitted)
			require.NoError(t, err)
			require.NoError(t, s.Temporal.CancelWorkflow(ctx, saga.WorkflowID(w.SagaID), ""))
			back()
			require.Equal(t, saga.Compensated, s.end(t, w.SagaID).Status)
		},
		"service-steps": func(t *testing.T, s *show, _ saga.Write) {
			s.serve(t, "")
			s.wrote(t, s.aroundTheCommit(s.ID("a")), saga.Completed)
		},
		"service-steps-rejected": func(t *testing.T, s *show, _ saga.Write) {
			s.serve(t, "")
			s.Systems.Reject = &saga.ErrorInfo{Code: saga.CodeNotFound, Class: saga.Rejected, Message: "no such row"}
			s.wrote(t, s.aroundTheCommit(s.ID("a")), saga.RejectedEnd)
		},
		"service-steps-compensated": func(t *testing.T, s *show, _ saga.Write) {
			s.serve(t, "Mail")
			w := s.aroundTheCommit(s.ID("a"))
			w.Policy.OnReject = saga.OnRejectCompensate
			s.wrote(t, w, saga.Compensated)
		},
		"refused-row": func(t *testing.T, s *show, _ saga.Write) {
			s.Systems.Elasticsearch.Fail = activitytest.Until(1, activitytest.Rejected("elasticsearch"))
			id := s.adopted(t)
			s.until(t, id, func(o saga.Outcome) bool { return o.Status == saga.Parked })
			s.ask(t, id, saga.UpdateRetry)
			require.Equal(t, saga.Completed, s.end(t, id).Status)
		},
		"refused-row-again": func(t *testing.T, s *show, _ saga.Write) {
			back := gone(&s.Systems.Elasticsearch.Fail, activitytest.Rejected("elasticsearch"))
			id := s.adopted(t)
			s.until(t, id, func(o saga.Outcome) bool { return o.Status == saga.Parked })
			w := s.row(1000).Write()
			s.Systems.Adopt(&w, *s.row(3000))
			back()
			s.ask(t, id, saga.UpdateRetry)
			o := s.end(t, id)
			require.Equal(t, saga.Completed, o.Status)
			require.Equal(t, saga.LSN(3000), o.Version.LSN())
		},
		"refused-row-skipped": func(t *testing.T, s *show, _ saga.Write) {
			gone(&s.Systems.Elasticsearch.Fail, activitytest.Rejected("elasticsearch"))
			id := s.adopted(t)
			s.until(t, id, func(o saga.Outcome) bool { return o.Status == saga.Parked })
			s.ask(t, id, saga.UpdateSkip, saga.SkipInput{Step: saga.StepElasticsearch})
			require.Equal(t, saga.Completed, s.end(t, id).Status)
		},
		"begun-anew": func(t *testing.T, s *show, w saga.Write) {
			back := gone(&s.Systems.Elasticsearch.Fail, activitytest.Rejected("elasticsearch"))
			s.wrote(t, w, saga.Parked)
			require.NoError(t, s.Temporal.TerminateWorkflow(activitytest.Within(t, 20*time.Second), saga.WorkflowID(w.SagaID), "", "by hand"))
			back()
			s.wrote(t, w, saga.Completed)
		},
	}
	for shape, play := range shapes {
		t.Run(shape, func(t *testing.T) {
			t.Parallel()
			s := newShow(t)
			w := activitytest.Write(s.ID("a"))
			play(t, s, w)
			if strings.HasPrefix(shape, "refused-row") {
				w = s.row(1000).Write()
			}
			s.replay(t, w.SagaID)
		})
	}
}
