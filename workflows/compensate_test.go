package workflows_test

import (
	"context"
	"encoding/json"
	"slices"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.temporal.io/sdk/activity"
	"go.temporal.io/sdk/temporal"

	"github.com/capsaga/capsaga/activities"
	"github.com/capsaga/capsaga/internal/activitytest"
	"github.com/capsaga/capsaga/saga"
)

// service is a service with activities of its own, of which the first call or so
// may fail.
type service struct {
	calls   []string // "reserve a", in order
	results map[string]json.RawMessage
	fail    map[string]error
}

func newService(s *stage) *service {
	v := &service{results: map[string]json.RawMessage{}, fail: map[string]error{}}
	for _, name := range []string{"Reserve", "Release", "Charge", "Refund", "Mail"} {
		s.RegisterActivityWithOptions(func(_ context.Context, in saga.TaskInput) (json.RawMessage, error) {
			v.calls = append(v.calls, name)
			v.results[name] = in.Result
			if err := v.fail[name]; err != nil {
				return nil, err
			}
			return json.RawMessage(`{"of":"` + name + `"}`), nil
		}, activity.RegisterOptions{Name: name})
	}
	return v
}

// travel is a write with two steps before the commit and one after it.
func travel() saga.Write {
	w := activitytest.Write("trip-1")
	w.BeforeSteps = []saga.Task{
		{Name: "reserve", TaskQueue: "hotel", Activity: "Reserve", Compensation: "Release", Input: json.RawMessage(`{"nights":2}`)},
		{Name: "charge", TaskQueue: "bank", Activity: "Charge", Compensation: "Refund"},
	}
	w.AfterSteps = []saga.Task{{Name: "mail", TaskQueue: "post", Activity: "Mail"}}
	return w
}

func refused(message string) error {
	return temporal.NewNonRetryableApplicationError(message, "No", nil)
}

func TestStepsOfAServiceRunAroundTheCommit(t *testing.T) {
	t.Parallel()
	s := newStage(t)
	v := newService(s)
	o := s.play(travel())
	require.Equal(t, saga.Completed, o.Status)
	require.Equal(t, []string{"Reserve", "Charge", "Mail"}, v.calls)
	var names []saga.StepName
	for _, step := range o.Steps {
		names = append(names, step.Name)
		require.Equal(t, saga.StepDone, step.State)
	}
	require.Equal(t, []saga.StepName{"reserve", "charge", "commit", "redis", "kafka", "elasticsearch", "mail"}, names)
}

func TestRefusalUndoesTheStepsBeforeTheCommitInReverse(t *testing.T) {
	t.Parallel()
	t.Run("by the database", func(t *testing.T) {
		t.Parallel()
		s := newStage(t)
		v := newService(s)
		s.systems.Reject = &saga.ErrorInfo{Code: saga.CodeExpectUnmet, Class: saga.Rejected, Message: "sold out"}
		o := s.play(travel())
		require.Equal(t, saga.RejectedEnd, o.Status)
		require.Equal(t, saga.CodeExpectUnmet, o.Error.Code)
		require.Equal(t, []string{"Reserve", "Charge", "Refund", "Release"}, v.calls)
		require.JSONEq(t, `{"of":"Reserve"}`, string(v.results["Release"]))
		recorded, ok := s.systems.Recorded("trip-1")
		require.True(t, ok, "a rerun must know that the steps were undone")
		require.Equal(t, saga.StepDone, recorded.Step("undo-charge").State)
	})
	t.Run("by a step, which may have happened", func(t *testing.T) {
		t.Parallel()
		s := newStage(t)
		v := newService(s)
		v.fail["Charge"] = refused("no money")
		o := s.play(travel())
		require.Equal(t, saga.RejectedEnd, o.Status)
		require.Equal(t, saga.CodeStepRejected, o.Error.Code)
		require.Contains(t, o.Error.Message, "no money")
		require.Equal(t, []string{"Reserve", "Charge", "Refund", "Release"}, v.calls)
		require.Empty(t, v.results["Refund"])
		require.Zero(t, s.systems.Commits())
	})
	t.Run("by a cancellation", func(t *testing.T) {
		t.Parallel()
		s := newStage(t)
		v := newService(s)
		s.systems.OnCommit = activitytest.Until(1000, activitytest.Unavailable("postgres"))
		s.RegisterDelayedCallback(s.CancelWorkflow, 5*time.Second)
		o := s.play(travel())
		require.Equal(t, saga.Cancelled, o.Status)
		require.Equal(t, []string{"Reserve", "Charge", "Refund", "Release"}, v.calls)
	})
	t.Run("and what cannot be undone parks with both errors", func(t *testing.T) {
		t.Parallel()
		s := newStage(t)
		v := newService(s)
		v.fail["Charge"], v.fail["Refund"] = refused("no money"), refused("no such charge")
		skipped := s.ask(time.Hour, saga.UpdateSkip, saga.SkipInput{Step: "undo-charge"})
		s.RegisterDelayedCallback(func() {
			state := s.state()
			require.Equal(t, saga.Parked, state.Status)
			require.Contains(t, state.Error.Message, "no such charge")
			require.Contains(t, state.Step("charge").Error.Message, "no money")
		}, 30*time.Minute)
		o := s.play(travel())
		require.NoError(t, skipped.refused)
		require.Equal(t, saga.RejectedEnd, o.Status)
		require.Contains(t, o.Error.Message, "no money")
		require.Equal(t, []string{"Reserve", "Charge", "Refund", "Release"}, v.calls)
	})
}

func TestCompensateUndoesAllStepsInReverse(t *testing.T) {
	t.Parallel()
	s := newStage(t)
	v := newService(s)
	w := travel()
	w.AfterSteps = append(w.AfterSteps, saga.Task{Name: "print", TaskQueue: "post", Activity: "Charge", Compensation: "Refund"})
	v.fail["Mail"] = refused("no such address")
	compensated := s.ask(time.Hour, saga.UpdateCompensate)
	o := s.play(w)
	require.Equal(t, saga.Compensated, compensated.outcome.Status)
	require.Equal(t, saga.Compensated, o.Status)
	require.Equal(t, []string{"Reserve", "Charge", "Mail", "Refund", "Release"}, v.calls, "a step that never ran needs no undo")
	committed, _ := s.systems.Commit(t.Context(), activitiesRequest("trip-1", "42"))
	require.Greater(t, o.Version, committed.Version)
	for _, sink := range []*activitytest.Sink{s.systems.Redis, s.systems.Elasticsearch} {
		doc, _ := sink.Get("products", "42")
		require.Nil(t, doc.Row)
		require.Equal(t, o.Version, doc.Version)
	}
	recorded, _ := s.systems.Recorded("trip-1")
	require.Equal(t, saga.Compensated, recorded.Status)
}

// An apply that was thought lost lands after the compensation.
func TestLateApplyAfterTheCompensationChangesNothing(t *testing.T) {
	t.Parallel()
	s := newStage(t)
	s.systems.Elasticsearch.Fail = activitytest.Until(1, activitytest.Rejected("elasticsearch"))
	w := activitytest.Write("order-1")
	w.Policy.OnReject = saga.OnRejectCompensate
	o := s.play(w)
	require.Equal(t, saga.Compensated, o.Status)
	committed, err := s.systems.Commit(t.Context(), activitiesRequest("order-1", "42"))
	require.NoError(t, err)
	before, _ := s.systems.Redis.Get("products", "42")
	applied, err := s.systems.Redis.Apply(t.Context(), []saga.Document{{Entity: "products", Key: "42", Version: committed.Version, Row: json.RawMessage(`{"id":42}`)}})
	require.NoError(t, err)
	require.False(t, applied[0].Changed)
	after, _ := s.systems.Redis.Get("products", "42")
	require.Equal(t, before, after)
	require.Nil(t, after.Row)
}

func TestConflictParksTheUndo(t *testing.T) {
	t.Parallel()
	s := newStage(t)
	conflict := true
	s.systems.Refuse = func() *saga.ErrorInfo {
		if !conflict {
			return nil
		}
		return &saga.ErrorInfo{Code: saga.CodeConflict, Class: saga.Rejected, System: "postgres", Message: "products/42 was changed since"}
	}
	s.systems.Elasticsearch.Fail = activitytest.Until(1, activitytest.Rejected("elasticsearch"))
	w := activitytest.Write("order-1")
	w.Policy.OnReject = saga.OnRejectCompensate
	edit := s.ask(time.Hour, saga.UpdateEdit, saga.EditInput{Mutations: w.Mutations})
	still := s.ask(2*time.Hour, saga.UpdateRetry)
	s.RegisterDelayedCallback(func() { conflict = false }, 3*time.Hour)
	released := s.ask(4*time.Hour, saga.UpdateRetry)
	o := s.play(w)
	require.ErrorContains(t, edit.refused, "being undone")
	require.Equal(t, saga.Parked, still.outcome.Status)
	require.Equal(t, saga.CodeConflict, still.outcome.Error.Code)
	require.Equal(t, saga.StepDone, released.outcome.Step(saga.StepUndo).State)
	require.Equal(t, saga.Compensated, o.Status)
	require.Equal(t, 1, s.systems.Changes())
}

func TestSkippedUndoBringsTheSinksWhatPostgresHas(t *testing.T) {
	t.Parallel()
	s := newStage(t)
	s.systems.Refuse = func() *saga.ErrorInfo {
		return &saga.ErrorInfo{Code: saga.CodeConflict, Class: saga.Rejected, System: "postgres", Message: "products/42 was changed since"}
	}
	s.systems.Redis.Fail = activitytest.Until(1, activitytest.Rejected("redis"))
	w := activitytest.Write("order-1")
	w.Policy.OnReject = saga.OnRejectCompensate
	commit := s.ask(time.Hour, saga.UpdateSkip, saga.SkipInput{Step: saga.StepCommit})
	skipped := s.ask(time.Hour, saga.UpdateSkip, saga.SkipInput{Step: saga.StepUndo, Reason: "mended by hand"})
	o := s.play(w)
	require.Error(t, commit.refused)
	require.NoError(t, skipped.refused)
	require.Equal(t, saga.Compensated, o.Status)
	require.Equal(t, saga.StepSkipped, o.Step(saga.StepUndo).State)
	doc, found := s.systems.Redis.Get("products", "42")
	require.True(t, found)
	require.JSONEq(t, `{"id":42,"title":"Lamp"}`, string(doc.Row))
}

func TestEditIsANewTruthForAllSinks(t *testing.T) {
	t.Parallel()
	s := newStage(t)
	s.systems.Elasticsearch.Fail = activitytest.Until(1, activitytest.Rejected("elasticsearch"))
	w := activitytest.Write("order-1")
	patch := []saga.Mutation{{Entity: "products", Op: saga.Patch, Key: saga.Columns{"id": json.RawMessage(`42`)}, Set: saga.Columns{"title": json.RawMessage(`"Lantern"`)}}}
	empty := s.ask(time.Hour, saga.UpdateEdit, saga.EditInput{})
	edited := s.ask(time.Hour, saga.UpdateEdit, saga.EditInput{Mutations: patch})
	o := s.play(w)
	require.ErrorContains(t, empty.refused, "at least one")
	require.NoError(t, edited.err)
	require.Equal(t, saga.Completed, o.Status)
	require.Equal(t, allDone, states(o))
	require.Equal(t, 1, s.systems.Changes())
	for _, sink := range []*activitytest.Sink{s.systems.Redis, s.systems.Elasticsearch} {
		doc, _ := sink.Get("products", "42")
		require.JSONEq(t, `{"title":"Lantern"}`, string(doc.Row))
		require.Equal(t, o.Version, doc.Version)
	}
}

func TestSkipIsAWaiver(t *testing.T) {
	t.Parallel()
	s := newStage(t)
	s.systems.Elasticsearch.Fail = activitytest.Until(1000, activitytest.Rejected("elasticsearch"))
	w := activitytest.Write("order-1")
	other := s.ask(time.Hour, saga.UpdateSkip, saga.SkipInput{Step: saga.StepRedis})
	s.ask(2*time.Hour, saga.UpdateSkip, saga.SkipInput{Step: saga.StepElasticsearch, Reason: "no search needed"})
	o := s.play(w)
	require.ErrorContains(t, other.refused, "these are: elasticsearch")
	require.Equal(t, saga.Completed, o.Status)
	require.Equal(t, saga.StepSkipped, o.Step(saga.StepElasticsearch).State)
	waivers := s.systems.Waivers()
	require.Len(t, waivers, 1)
	require.Equal(t, "no search needed", waivers[0].Reason)
	require.Equal(t, "42", waivers[0].Rows[0].Key)
}

func TestPostgresThatStaysAwayParksTheSaga(t *testing.T) {
	t.Parallel()
	s := newStage(t)
	away := true
	s.systems.OnCommit = func(context.Context, int) error {
		if away {
			return activitytest.Unavailable("postgres")
		}
		return nil
	}
	w := activitytest.Write("order-1")
	w.Policy.ParkAfter = saga.Duration(10 * time.Second)
	committed := s.ask(0, saga.UpdateCommitted, saga.WaitInput{})
	retried := s.ask(time.Hour, saga.UpdateRetry)
	s.RegisterDelayedCallback(func() {
		require.Positive(t, s.systems.Gates("postgres"))
		away = false
		s.SignalWorkflow(saga.SignalRelease, "postgres")
	}, 2*time.Hour)
	o := s.play(w)
	require.Equal(t, saga.Parked, committed.outcome.Status)
	require.Zero(t, committed.outcome.Version)
	require.Equal(t, saga.Parked, retried.outcome.Status)
	require.Equal(t, saga.Completed, o.Status)
	require.Equal(t, allDone, states(o))
}

func TestCancelWhileParkedForPostgres(t *testing.T) {
	t.Parallel()
	s := newStage(t)
	s.systems.OnCommit = activitytest.Until(1000, activitytest.Unavailable("postgres"))
	w := activitytest.Write("order-1")
	w.Policy.ParkAfter = saga.Duration(10 * time.Second)
	s.RegisterDelayedCallback(s.CancelWorkflow, time.Hour)
	o := s.play(w)
	require.Equal(t, saga.Cancelled, o.Status)
	require.Nil(t, o.Error)
	require.Contains(t, s.patient, "CancelCommit")
}

// A workflow that was terminated is begun anew and goes on where it stood.
func TestRerun(t *testing.T) {
	t.Parallel()
	rerun := func(t *testing.T, w saga.Write, prepare func(s *stage)) (*stage, *service, saga.Outcome) {
		first := newStage(t)
		newService(first)
		s := newStage(t)
		v := newService(s)
		s.systems = first.systems
		_, err := s.systems.Commit(t.Context(), activitiesRequestOf(w))
		require.NoError(t, err)
		s.RegisterActivity(s.systems.Activities(nil))
		prepare(s)
		o := s.play(w)
		return s, v, o
	}
	recordedAs := func(s *stage, w saga.Write, status saga.Status, steps ...saga.Step) {
		o, err := s.systems.Recall(t.Context(), w.SagaID)
		require.NoError(t, err)
		o.Status, o.Steps = status, steps
		require.NoError(t, errorOf(s.systems.RecordOutcome(t.Context(), w.SagaID, *o)))
	}
	t.Run("skips what was done", func(t *testing.T) {
		t.Parallel()
		w := travel()
		s, v, o := rerun(t, w, func(s *stage) {
			recordedAs(s, w, saga.Parked, saga.Step{Name: saga.StepRedis, State: saga.StepDone}, saga.Step{Name: saga.StepElasticsearch, State: saga.StepParked})
		})
		require.Equal(t, saga.Completed, o.Status)
		require.Equal(t, []string{"Mail"}, v.calls, "the steps before the commit were done")
		require.Zero(t, s.systems.Redis.Calls())
		require.Equal(t, 1, s.systems.Elasticsearch.Calls())
	})
	t.Run("goes on with an undo", func(t *testing.T) {
		t.Parallel()
		w := travel()
		_, v, o := rerun(t, w, func(s *stage) {
			recordedAs(s, w, saga.Compensating, saga.Step{Name: "undo-charge", State: saga.StepDone})
		})
		require.Equal(t, saga.Compensated, o.Status)
		require.Equal(t, []string{"Release"}, v.calls)
	})
	t.Run("returns what has ended", func(t *testing.T) {
		t.Parallel()
		w := travel()
		s, v, o := rerun(t, w, func(s *stage) {
			recordedAs(s, w, saga.Compensated, saga.Step{Name: saga.StepUndo, State: saga.StepDone})
		})
		require.Equal(t, saga.Compensated, o.Status)
		require.NotNil(t, o.Step(saga.StepUndo))
		require.Empty(t, v.calls)
		require.Zero(t, s.systems.Redis.Calls())
		require.Zero(t, s.systems.Changes())
	})
	t.Run("undoes the steps of a commit that was refused", func(t *testing.T) {
		t.Parallel()
		w := travel()
		s, v, o := rerun(t, w, func(s *stage) {
			require.NoError(t, errorOf(s.systems.RecordOutcome(t.Context(), w.SagaID, saga.Outcome{
				SagaID: w.SagaID, Status: saga.RejectedEnd, Content: w.Digest(), Error: &saga.ErrorInfo{Code: saga.CodeExpectUnmet},
			})))
		})
		require.Equal(t, saga.RejectedEnd, o.Status)
		require.Equal(t, saga.CodeExpectUnmet, o.Error.Code)
		require.Equal(t, []string{"Refund", "Release"}, v.calls)
		require.Equal(t, 1, s.systems.Commits(), "only the earlier workflow's")
	})
}

func TestOperatorsRequestsThatDoNotFit(t *testing.T) {
	t.Parallel()
	s := newStage(t)
	s.systems.Redis.Fail = activitytest.Until(8, activitytest.Unavailable("redis"))
	w := activitytest.Write("order-1")
	patch := saga.EditInput{Mutations: w.Mutations}
	answers := []*answer{
		s.ask(time.Second, saga.UpdateRetry), s.ask(time.Second, saga.UpdateEdit, patch),
		s.ask(time.Second, saga.UpdateSkip, saga.SkipInput{Step: saga.StepRedis}),
	}
	o := s.play(w)
	require.Equal(t, saga.Completed, o.Status)
	for _, a := range answers {
		require.ErrorContains(t, a.refused, "no parked step: it is committed")
		var refusal *temporal.ApplicationError
		require.ErrorAs(t, a.refused, &refusal)
		require.Equal(t, saga.CodeNotParked, refusal.Type())
	}
	require.False(t, slices.Contains(s.patient, "Edit"))
}

// A step that parks after an earlier retry of another waits for a request of its
// own.
func TestEarlierRetriesAreNotForALaterStep(t *testing.T) {
	t.Parallel()
	s := newStage(t)
	s.systems.Elasticsearch.Fail = activitytest.Until(2, activitytest.Rejected("elasticsearch"))
	conflict := &saga.ErrorInfo{Code: saga.CodeConflict, Class: saga.Rejected, System: "postgres", Message: "products/42 was changed since"}
	s.systems.Refuse = func() *saga.ErrorInfo { return conflict }
	s.ask(time.Hour, saga.UpdateRetry)
	undone := s.ask(2*time.Hour, saga.UpdateCompensate)
	s.RegisterDelayedCallback(func() {
		o := s.state()
		require.Equal(t, saga.StepParked, o.Step(saga.StepUndo).State)
		require.Equal(t, 1, o.Step(saga.StepUndo).Attempts)
	}, 3*time.Hour)
	s.ask(4*time.Hour, saga.UpdateSkip, saga.SkipInput{Step: saga.StepUndo})
	require.Equal(t, saga.Compensated, s.play(activitytest.Write("order-1")).Status)
	require.Equal(t, saga.StepParked, undone.outcome.Step(saga.StepUndo).State)
}

// A sink that cannot be brought its rows because PostgreSQL is away waits for
// PostgreSQL's gate.
func TestSinkThatWaitsForPostgres(t *testing.T) {
	t.Parallel()
	s := newStage(t)
	away := true
	s.systems.OnRead = func(string, string) (activities.Row, error) {
		if away {
			return activities.Row{}, activitytest.Unavailable("postgres")
		}
		return activities.Row{Found: true, Row: json.RawMessage(`{"id":42}`), ETag: "1:100"}, nil
	}
	// Ten minutes later the row's image is too old to send.
	s.systems.Redis.Fail = func(context.Context, int) error { return activitytest.Rejected("redis") }
	s.RegisterDelayedCallback(func() { s.systems.Redis.Fail = nil }, 10*time.Minute)
	retried := s.ask(11*time.Minute, saga.UpdateRetry)
	s.RegisterDelayedCallback(func() {
		require.Positive(t, s.systems.Gates("postgres"))
		away = false
		s.SignalWorkflow(saga.SignalRelease, "postgres")
	}, time.Hour)
	o := s.play(activitytest.Write("order-1"))
	require.Equal(t, "postgres", retried.outcome.Error.System)
	require.Equal(t, saga.Completed, o.Status)
}
