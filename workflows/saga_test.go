package workflows_test

import (
	"context"
	"encoding/json"
	"errors"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.temporal.io/sdk/activity"
	"go.temporal.io/sdk/converter"
	"go.temporal.io/sdk/temporal"
	"go.temporal.io/sdk/testsuite"
	"go.temporal.io/sdk/workflow"

	"github.com/capsaga/capsaga/internal/activitytest"
	"github.com/capsaga/capsaga/saga"
	"github.com/capsaga/capsaga/workflows"
)

// stage is a workflow environment in memory, with what ran in it.
type stage struct {
	*testsuite.TestWorkflowEnvironment
	t       *testing.T
	systems *activitytest.Systems
	local   []string // activities in the order of their starts
	patient []string
}

func newStage(t *testing.T) *stage {
	t.Helper()
	var suite testsuite.WorkflowTestSuite
	s := &stage{TestWorkflowEnvironment: suite.NewTestWorkflowEnvironment(), t: t, systems: activitytest.NewSystems()}
	s.RegisterWorkflowWithOptions(workflows.Saga, workflow.RegisterOptions{Name: saga.WorkflowSaga})
	s.RegisterActivity(s.systems.Activities(nil))
	s.SetOnLocalActivityStartedListener(func(info *activity.Info, _ context.Context, _ []any) {
		s.local = append(s.local, info.ActivityType.Name)
	})
	s.SetOnActivityStartedListener(func(info *activity.Info, _ context.Context, _ converter.EncodedValues) {
		s.patient = append(s.patient, info.ActivityType.Name)
	})
	s.SetTestTimeout(time.Minute)
	return s
}

// play runs the write to its end.
func (s *stage) play(w saga.Write) saga.Outcome {
	s.t.Helper()
	s.ExecuteWorkflow(saga.WorkflowSaga, w)
	require.True(s.t, s.IsWorkflowCompleted())
	require.NoError(s.t, s.GetWorkflowError())
	var o saga.Outcome
	require.NoError(s.t, s.GetWorkflowResult(&o))
	return o
}

// state asks the query.
func (s *stage) state() saga.Outcome {
	s.t.Helper()
	value, err := s.QueryWorkflow(saga.QueryState)
	require.NoError(s.t, err)
	var o saga.Outcome
	require.NoError(s.t, value.Get(&o))
	return o
}

// answer is what an update came to.
type answer struct {
	refused error
	outcome saga.Outcome
	err     error
	at      time.Time
	done    bool
}

// ask sends an update when the workflow has run for that long.
func (s *stage) ask(after time.Duration, update string, args ...any) *answer {
	a := &answer{}
	s.RegisterDelayedCallback(func() {
		s.UpdateWorkflow(update, "", &testsuite.TestUpdateCallback{
			OnAccept: func() {},
			OnReject: func(err error) { a.refused, a.done = err, true },
			OnComplete: func(result any, err error) {
				a.err, a.done, a.at = err, true, s.Now()
				if o, ok := result.(saga.Outcome); ok {
					a.outcome = o
				}
			},
		}, args...)
	}, after)
	return a
}

func states(o saga.Outcome) map[saga.StepName]saga.StepState {
	all := map[saga.StepName]saga.StepState{}
	for _, step := range o.Steps {
		all[step.Name] = step.State
	}
	return all
}

var allDone = map[saga.StepName]saga.StepState{
	saga.StepCommit: saga.StepDone, saga.StepRedis: saga.StepDone,
	saga.StepKafka: saga.StepDone, saga.StepElasticsearch: saga.StepDone,
}

func TestSagaReachesAllSinksQuickly(t *testing.T) {
	t.Parallel()
	s := newStage(t)
	w := activitytest.Write("order-1")
	o := s.play(w)

	require.Equal(t, saga.Completed, o.Status)
	require.Equal(t, allDone, states(o))
	require.Equal(t, w.Digest(), o.Content)
	require.Equal(t, []saga.ETag{{Entity: "products", Key: "42", ETag: "1:100"}}, o.ETags)
	token, err := saga.ParseToken(o.Token)
	require.NoError(t, err)
	require.Equal(t, o.Version, token.Version)
	require.Empty(t, s.patient, "a regular activity ran on the fast path")
	require.ElementsMatch(t, []string{"Commit", "UpdateRedis", "PublishKafka", "IndexElasticsearch", "RecordOutcome"}, s.local)
	require.Equal(t, "Commit", s.local[0])
	require.Equal(t, "RecordOutcome", s.local[4])
	for _, sink := range []*activitytest.Sink{s.systems.Redis, s.systems.Elasticsearch} {
		doc, found := sink.Get("products", "42")
		require.True(t, found)
		require.Equal(t, o.Version, doc.Version)
		require.JSONEq(t, `{"id":42,"title":"Lamp"}`, string(doc.Row))
	}
	recorded, ok := s.systems.Recorded("order-1")
	require.True(t, ok)
	require.Equal(t, o, recorded)
}

func TestSagaUsesOnlyTheSinksOfItsEntities(t *testing.T) {
	t.Parallel()
	s := newStage(t)
	w := activitytest.Write("user-1")
	w.Mutations[0].Entity = "users"
	o := s.play(w)
	require.Equal(t, saga.Completed, o.Status)
	require.Nil(t, o.Step(saga.StepElasticsearch))
	require.Zero(t, s.systems.Elasticsearch.Calls())
}

func TestRejectionEndsTheSaga(t *testing.T) {
	t.Parallel()
	s := newStage(t)
	s.systems.Reject = &saga.ErrorInfo{Code: saga.CodeExpectUnmet, Class: saga.Rejected, Message: "stock >= 1 does not hold"}
	o := s.play(activitytest.Write("order-1"))
	require.Equal(t, saga.RejectedEnd, o.Status)
	require.Equal(t, saga.CodeExpectUnmet, o.Error.Code)
	require.Equal(t, []string{"Commit"}, s.local)
	require.Empty(t, s.patient)
	require.Zero(t, s.systems.Redis.Calls())
}

func TestInvalidWriteIsRejected(t *testing.T) {
	t.Parallel()
	s := newStage(t)
	o := s.play(saga.Write{SagaID: "order-1"})
	require.Equal(t, saga.RejectedEnd, o.Status)
	require.Equal(t, saga.CodeInvalidWrite, o.Error.Code)
	require.Zero(t, s.systems.Commits())
}

// What comes from other SDKs is read as strictly as a line of the CLI.
func TestInputIsParsedStrictly(t *testing.T) {
	t.Parallel()
	for input, says := range map[string]string{
		`{"saga_id":"a","mutations":"x"}`: "mutations",
		`{"saga_id":"a","mutations":[{"entity":"products","op":"patch","key":{"id":1},"set":{"a":1},"expects":{"exists":true}}]}`: "mutations[0].expects",
		`{"saga_id":"a","mutations":[{"entity":"products","op":"upsert","row":{"id":1,"id":2}}]}`:                                 "twice",
		`"a"`: "JSON object",
	} {
		s := newStage(t)
		s.ExecuteWorkflow(saga.WorkflowSaga, json.RawMessage(input))
		var o saga.Outcome
		require.NoError(t, s.GetWorkflowResult(&o))
		require.Equal(t, saga.RejectedEnd, o.Status, input)
		require.Equal(t, saga.CodeInvalidWrite, o.Error.Code)
		require.Contains(t, o.Error.Message, says)
		require.Zero(t, s.systems.Commits())
	}
}

func TestCommitIsTriedUntilItsResultIsKnown(t *testing.T) {
	t.Parallel()
	s := newStage(t)
	s.systems.OnCommit = activitytest.Until(9, activitytest.Unavailable("postgres"))
	o := s.play(activitytest.Write("order-1"))
	require.Equal(t, saga.Completed, o.Status)
	require.Equal(t, 10, o.Step(saga.StepCommit).Attempts)
	require.Contains(t, s.patient, "Commit")
}

func TestSinkThatIsAwayGetsPatience(t *testing.T) {
	t.Parallel()
	s := newStage(t)
	s.systems.Redis.Fail = activitytest.Until(4, activitytest.Unavailable("redis"))
	o := s.play(activitytest.Write("order-1"))
	require.Equal(t, saga.Completed, o.Status)
	require.Nil(t, o.Error)
	require.Equal(t, 5, o.Step(saga.StepRedis).Attempts)
	require.Nil(t, o.Step(saga.StepRedis).Error)
	require.Equal(t, 1, o.Step(saga.StepElasticsearch).Attempts)
	for _, name := range s.patient {
		require.Equal(t, "UpdateRedis", name, "only the sink that is away needs patience")
	}
	require.Len(t, s.patient, 4)
}

func TestRejectedStepParksTheSaga(t *testing.T) {
	t.Parallel()
	s := newStage(t)
	rejecting := true
	s.systems.Elasticsearch.Fail = func(context.Context, int) error {
		if rejecting {
			return activitytest.Rejected("elasticsearch")
		}
		return nil
	}
	w := activitytest.Write("order-1")
	visible := s.ask(time.Hour, saga.UpdateVisible, saga.WaitInput{Content: w.Digest()})
	first := s.ask(48*time.Hour, saga.UpdateRetry)
	s.RegisterDelayedCallback(func() {
		state := s.state()
		require.Equal(t, saga.Parked, state.Status)
		require.Equal(t, saga.StepParked, state.Step(saga.StepElasticsearch).State)
		require.Equal(t, saga.CodeRejected, state.Error.Code)
		require.Equal(t, saga.StepDone, state.Step(saga.StepRedis).State)
		require.Equal(t, 2, s.systems.Elasticsearch.Calls(), "nothing is tried without being asked")
		rejecting = false
	}, 72*time.Hour)
	second := s.ask(73*time.Hour, saga.UpdateRetry)
	o := s.play(w)

	require.Equal(t, saga.Parked, visible.outcome.Status)
	require.Equal(t, saga.Parked, first.outcome.Status, "the sink still rejects")
	require.True(t, second.done)
	require.Equal(t, saga.StepDone, second.outcome.Step(saga.StepElasticsearch).State)
	require.Equal(t, saga.Completed, o.Status)
	require.Nil(t, o.Error)
	require.Equal(t, 3, o.Step(saga.StepElasticsearch).Attempts)
}

func TestPolicyOnRejection(t *testing.T) {
	t.Parallel()
	t.Run("skip", func(t *testing.T) {
		t.Parallel()
		s := newStage(t)
		s.systems.Elasticsearch.Fail = activitytest.Until(1000, activitytest.Rejected("elasticsearch"))
		w := activitytest.Write("order-1")
		w.Policy.OnReject = saga.OnRejectSkip
		o := s.play(w)
		require.Equal(t, saga.Completed, o.Status)
		require.Equal(t, saga.StepSkipped, o.Step(saga.StepElasticsearch).State)
		require.Equal(t, saga.CodeRejected, o.Step(saga.StepElasticsearch).Error.Code)
	})
	t.Run("compensate", func(t *testing.T) {
		t.Parallel()
		s := newStage(t)
		s.systems.Elasticsearch.Fail = activitytest.Until(1, activitytest.Rejected("elasticsearch"))
		w := activitytest.Write("order-1")
		w.Policy.OnReject = saga.OnRejectCompensate
		o := s.play(w)
		require.Equal(t, saga.Compensated, o.Status)
		require.Equal(t, saga.CodeRejected, o.Error.Code, "why it was undone")
		require.Equal(t, saga.StepRejected, o.Step(saga.StepElasticsearch).State)
		require.Equal(t, 1, s.systems.Changes())
	})
}

func TestSinkThatStaysAwayParksAndComesBackByItself(t *testing.T) {
	t.Parallel()
	s := newStage(t)
	away := true
	s.systems.Redis.Fail = func(context.Context, int) error {
		if away {
			return activitytest.Unavailable("redis")
		}
		return nil
	}
	w := activitytest.Write("order-1")
	early := s.ask(10*time.Second, saga.UpdateRetry)
	// The test environment ends an activity after ten attempts.
	visible := s.ask(11*time.Second, saga.UpdateVisible, saga.WaitInput{Content: w.Digest()})
	s.RegisterDelayedCallback(func() {
		before := s.systems.Redis.Calls()
		require.Equal(t, saga.Parked, s.state().Status)
		require.Equal(t, 1, s.systems.Gates("redis"), "nobody watches redis")
		s.RegisterDelayedCallback(func() { s.SignalWorkflow(saga.SignalRelease, "elasticsearch") }, 100*24*time.Hour)
		s.RegisterDelayedCallback(func() {
			require.Equal(t, before, s.systems.Redis.Calls(), "a parked saga tries nothing by itself")
			away = false
			s.SignalWorkflow(saga.SignalRelease, "redis")
		}, 200*24*time.Hour)
	}, 10*time.Minute)
	o := s.play(w)

	require.ErrorContains(t, early.refused, "no parked step")
	require.Equal(t, saga.Parked, visible.outcome.Status)
	require.Equal(t, saga.Completed, o.Status)
}

func TestRetryReleasesASagaWhoseSinkWasAway(t *testing.T) {
	t.Parallel()
	s := newStage(t)
	away := true
	s.systems.Redis.Fail = func(context.Context, int) error {
		if away {
			return activitytest.Unavailable("redis")
		}
		return nil
	}
	w := activitytest.Write("order-1")
	w.Policy.ParkAfter = saga.Duration(10 * time.Second)
	still := s.ask(31*time.Second, saga.UpdateRetry)
	s.RegisterDelayedCallback(func() { away = false }, 32*time.Second)
	released := s.ask(33*time.Second, saga.UpdateRetry)
	began := s.Now()
	o := s.play(w)
	require.Equal(t, saga.Parked, still.outcome.Status)
	require.Equal(t, saga.StepDone, released.outcome.Step(saga.StepRedis).State)
	require.Equal(t, saga.Completed, o.Status)
	require.WithinDuration(t, began.Add(33*time.Second), s.Now(), 5*time.Second)
}

func TestUpdatesRefuseOtherContent(t *testing.T) {
	t.Parallel()
	s := newStage(t)
	s.systems.OnCommit = activitytest.Until(8, activitytest.Unavailable("postgres"))
	w, other := activitytest.Write("order-1"), activitytest.Write("order-1")
	other.Mutations[0].Row["id"] = []byte("43")
	same := s.ask(time.Second, saga.UpdateCommitted, saga.WaitInput{Content: w.Digest()})
	refused := map[string]*answer{
		saga.UpdateCommitted: s.ask(time.Second, saga.UpdateCommitted, saga.WaitInput{Content: other.Digest()}),
		saga.UpdateVisible:   s.ask(time.Second, saga.UpdateVisible, saga.WaitInput{Content: other.Digest()}),
	}
	s.play(w)
	require.NoError(t, same.err)
	require.True(t, same.done)
	require.NotZero(t, same.outcome.Version)
	for name, a := range refused {
		var refusal *temporal.ApplicationError
		require.True(t, errors.As(a.refused, &refusal), name)
		require.Equal(t, saga.CodeSagaIDReused, refusal.Type(), name)
	}
}

func TestCommittedIsAnsweredWhileASinkIsAway(t *testing.T) {
	t.Parallel()
	s := newStage(t)
	s.systems.Redis.Fail = activitytest.Until(9, activitytest.Unavailable("redis"))
	w := activitytest.Write("order-1")
	committed := s.ask(0, saga.UpdateCommitted, saga.WaitInput{Content: w.Digest()})
	visible := s.ask(0, saga.UpdateVisible, saga.WaitInput{Content: w.Digest()})
	began := s.Now()
	s.play(w)
	require.Equal(t, saga.Committed, committed.outcome.Status)
	require.WithinDuration(t, began, committed.at, time.Second)
	require.Equal(t, saga.Completed, visible.outcome.Status)
	require.Greater(t, visible.at.Sub(began), 10*time.Second)
}

func TestOtherContentInTheLedgerFailsTheSaga(t *testing.T) {
	t.Parallel()
	s := newStage(t)
	_, err := s.systems.Commit(t.Context(), activitiesRequest("order-1", "7"))
	require.NoError(t, err)
	o := s.play(activitytest.Write("order-1"))
	require.Equal(t, saga.Failed, o.Status)
	require.Equal(t, saga.CodeSagaIDReused, o.Error.Code)
	_, recorded := s.systems.Recorded("order-1")
	require.False(t, recorded, "the other saga's outcome was overwritten")
}

func TestOutcomeIsRecordedHoweverLongItTakes(t *testing.T) {
	t.Parallel()
	s := newStage(t)
	s.systems.OnRecord = func(call int) error { return activitytest.Until(6, activitytest.Unavailable("postgres"))(nil, call) }
	w := activitytest.Write("order-1")
	visible := s.ask(time.Second, saga.UpdateVisible, saga.WaitInput{Content: w.Digest()})
	o := s.play(w)
	recorded, ok := s.systems.Recorded("order-1")
	require.True(t, ok)
	require.Equal(t, saga.Completed, recorded.Status)
	require.Equal(t, saga.Completed, o.Status)
	require.Equal(t, saga.Completed, visible.outcome.Status)
}
