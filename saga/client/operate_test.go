package client_test

import (
	"context"
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.opentelemetry.io/otel/propagation"

	"github.com/capsaga/capsaga/activities"
	"github.com/capsaga/capsaga/internal/activitytest"
	"github.com/capsaga/capsaga/saga"
	"github.com/capsaga/capsaga/saga/client"
)

// ledger is what PostgreSQL would remember.
type ledger struct {
	err      error
	writes   map[string]saga.Write
	outcomes map[string]saga.Outcome
}

func (l *ledger) LedgerWrite(_ context.Context, sagaID string) (*saga.Write, string, bool, error) {
	w, found := l.writes[sagaID]
	return &w, saga.WorkflowID(sagaID), found, l.err
}

func (l *ledger) Recall(_ context.Context, sagaID string) (*saga.Outcome, error) {
	if o, found := l.outcomes[sagaID]; found {
		return &o, l.err
	}
	return nil, l.err
}

// park writes a saga whose Redis refuses the row that many times.
func (s *scene) park(t *testing.T, sagaID string) saga.Write {
	t.Helper()
	w := activitytest.Write(sagaID)
	o, err := s.remote.Write(activitytest.Within(t, 60*time.Second), w, client.WaitVisible)
	require.NoError(t, err)
	require.Equal(t, saga.Parked, o.Status)
	return w
}

func TestRetryHappensOncePerRequest(t *testing.T) {
	t.Parallel()
	s := newScene(t)
	s.Systems.Redis.Fail = activitytest.Until(2, activitytest.Rejected("redis"))
	w := s.park(t, s.ID("a"))
	ctx := activitytest.Within(t, 60*time.Second)
	o, err := s.remote.Retry(ctx, w.SagaID, "first")
	require.NoError(t, err)
	require.Equal(t, saga.Parked, o.Status)
	again, err := s.remote.Retry(ctx, w.SagaID, "first")
	require.NoError(t, err)
	require.Equal(t, o, again)
	require.Equal(t, 2, s.Systems.Redis.Calls(), "the same request tried twice")
	_, err = s.remote.Retry(ctx, w.SagaID, "second")
	require.NoError(t, err)
	require.Equal(t, 3, s.Systems.Redis.Calls())
}

// An id that was used for something else does not make one request pass for
// another that was never done.
func TestRequestsOfOneNameAreToldApart(t *testing.T) {
	t.Parallel()
	s := newScene(t)
	s.Systems.Redis.Fail = activitytest.Until(2, activitytest.Rejected("redis"))
	w := s.park(t, s.ID("a"))
	ctx := activitytest.Within(t, 60*time.Second)
	o, err := s.remote.Retry(ctx, w.SagaID, "night")
	require.NoError(t, err)
	require.Equal(t, saga.Parked, o.Status)
	o, err = s.remote.Compensate(ctx, w.SagaID, "night")
	require.NoError(t, err)
	require.Equal(t, saga.Compensated, o.Status)
}

func TestOperatorsErrors(t *testing.T) {
	t.Parallel()
	s := newScene(t)
	ctx := activitytest.Within(t, 60*time.Second)
	_, err := s.remote.Retry(ctx, s.ID("nobody"), "")
	require.Equal(t, saga.CodeUnknownSaga, codeOf(t, err))
	_, err = s.remote.Replay(ctx, s.ID("nobody"), "", "")
	require.Equal(t, saga.CodeUnknownSaga, codeOf(t, err))

	done := activitytest.Write(s.ID("done"))
	_, err = s.remote.Write(ctx, done, client.WaitVisible)
	require.NoError(t, err)
	for _, op := range []saga.Operation{{Action: saga.ActionSkip}, {Action: saga.ActionSkip, Step: saga.StepRedis}, {Action: saga.ActionCompensate}} {
		a, err := s.remote.Operate(ctx, done.SagaID, "", op)
		require.Equal(t, saga.CodeNotParked, codeOf(t, err))
		require.ErrorContains(t, err, "completed")
		require.Equal(t, saga.Completed, a.Status)
	}
	_, err = s.remote.Edit(ctx, done.SagaID, "", saga.EditInput{Mutations: []saga.Mutation{{Op: "x"}}})
	require.Equal(t, saga.CodeInvalidWrite, codeOf(t, err))

	s.Systems.Redis.Fail = activitytest.Until(1000, activitytest.Rejected("redis"))
	lost := s.park(t, s.ID("lost"))
	require.NoError(t, s.Temporal.TerminateWorkflow(ctx, saga.WorkflowID(lost.SagaID), "", "a test"))
	_, err = s.remote.Retry(ctx, lost.SagaID, "")
	require.Equal(t, saga.CodeWorkflowLost, codeOf(t, err))
	require.ErrorContains(t, err, "capsaga replay")
}

// refused enters a row that Redis refused into the ledger, as its stream does.
func (s *scene) refused(name string) saga.Write {
	return s.Systems.Adopt(nil, saga.Refused{
		Sink: saga.Redis, Entity: activitytest.Catalog().Entities["users"], Key: s.ID(name), Version: 1<<53 + 1000,
		Error: saga.ErrorInfo{Code: saga.CodeRejected, Class: saga.Rejected, System: "redis", Message: "WRONGTYPE"},
	})
}

// An operator does not have to wait until a worker has started the saga of a
// refused row.
func TestOperatingOnTheSagaOfARefusedRowStartsIt(t *testing.T) {
	t.Parallel()
	s := newScene(t)
	s.Systems.Redis.Fail = activitytest.Until(2, activitytest.Rejected("redis"))
	s.Systems.OnRead = func(string, string) (activities.Row, error) {
		return activities.Row{Found: true, Row: []byte("{}"), ETag: "1-1", Version: 1<<53 + 2000}, nil
	}
	skipped, replayed, left := s.refused("skipped"), s.refused("replayed"), s.refused("left")
	known := &ledger{writes: map[string]saga.Write{skipped.SagaID: skipped, replayed.SagaID: replayed}}
	sagas, err := client.New(client.Options{Temporal: s.Remote, Prefix: s.Prefix, Ledger: known})
	require.NoError(t, err)
	ctx := activitytest.Within(t, 60*time.Second)
	a, err := sagas.Operate(ctx, skipped.SagaID, "", saga.Operation{Action: saga.ActionSkip})
	require.NoError(t, err)
	require.Equal(t, saga.DidSkip, a.Did)
	require.Equal(t, saga.Completed, a.Status)
	require.Equal(t, saga.StepSkipped, a.Step(saga.StepRedis).State)

	a, err = sagas.Operate(ctx, replayed.SagaID, "", saga.Operation{Action: saga.ActionReplay})
	require.NoError(t, err)
	require.Equal(t, saga.DidStart, a.Did)
	require.Equal(t, saga.Parked, a.Status)
	_, err = sagas.Operate(ctx, replayed.SagaID, "", saga.Operation{Action: saga.ActionCompensate})
	require.Equal(t, saga.CodeNotParked, codeOf(t, err))
	require.ErrorContains(t, err, "plain SQL has written users/")
	a, err = sagas.Operate(ctx, replayed.SagaID, "", saga.Operation{Action: saga.ActionReplay})
	require.NoError(t, err)
	require.Equal(t, saga.Completed, a.Status)

	_, err = sagas.Operate(ctx, left.SagaID, "", saga.Operation{Action: saga.ActionSkip})
	require.Equal(t, saga.CodeUnknownSaga, codeOf(t, err), "the ledger does not know it")
	for name, c := range s.clients() {
		_, err = c.Write(ctx, left, client.WaitVisible)
		require.ErrorContains(t, err, "stream is not for clients", name)
		require.ErrorContains(t, c.Start(ctx, left), "stream is not for clients", name)
	}
}

func TestReplayOfWhatRunsOrHasEnded(t *testing.T) {
	t.Parallel()
	s := newScene(t)
	s.Systems.Redis.Fail = activitytest.Until(1, activitytest.Rejected("redis"))
	w := s.park(t, s.ID("parked"))
	ctx := activitytest.Within(t, 60*time.Second)
	a, err := s.remote.Replay(ctx, w.SagaID, "", client.WaitVisible)
	require.NoError(t, err)
	require.Equal(t, saga.DidRetry, a.Did)
	require.Equal(t, saga.Completed, a.Status)
	a, err = s.remote.Replay(ctx, w.SagaID, "", client.WaitVisible)
	require.NoError(t, err)
	require.Equal(t, saga.DidNothing, a.Did)
	require.Equal(t, "it has ended: completed", a.Note)

	s.Systems.OnCommit = activitytest.Until(1000, activitytest.Unavailable("postgres"))
	running := activitytest.Write(s.ID("running"))
	require.NoError(t, s.remote.Start(ctx, running))
	a, err = s.remote.Replay(ctx, running.SagaID, "", client.WaitVisible)
	require.NoError(t, err)
	require.Equal(t, saga.DidNothing, a.Did)
	require.Equal(t, saga.Pending, a.Status)
	require.NoError(t, s.Temporal.TerminateWorkflow(ctx, saga.WorkflowID(running.SagaID), "", "a test"))
}

// A workflow that was terminated is begun anew with its own input and its
// caller's trace, also when PostgreSQL is away.
func TestReplayOfATerminatedSaga(t *testing.T) {
	t.Parallel()
	for name, known := range map[string]*ledger{"not in the ledger": {}, "PostgreSQL is away": {err: activitytest.Unavailable("postgres")}} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := newScene(t)
			s.Systems.OnCommit = activitytest.Until(2, activitytest.Unavailable("postgres"))
			w := activitytest.Write(s.ID("a"))
			const trace = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
			traced := propagation.TraceContext{}.Extract(activitytest.Within(t, 60*time.Second), propagation.MapCarrier{"traceparent": trace})
			require.NoError(t, s.remote.Start(traced, w))
			ctx := activitytest.Within(t, 60*time.Second)
			require.NoError(t, s.Temporal.TerminateWorkflow(ctx, saga.WorkflowID(w.SagaID), "", "a test"))
			c := s.client(t, known)
			a, err := c.Replay(ctx, w.SagaID, "", client.WaitVisible)
			require.NoError(t, err)
			require.Equal(t, saga.DidStart, a.Did)
			require.Equal(t, saga.Completed, a.Status)
			require.Equal(t, w.Digest(), a.Content)
			described, err := s.Temporal.DescribeWorkflowExecution(ctx, saga.WorkflowID(w.SagaID), "")
			require.NoError(t, err)
			memo := described.GetWorkflowExecutionInfo().GetMemo().GetFields()
			require.Equal(t, `"`+trace+`"`, string(memo["traceparent"].GetData()))
		})
	}
}

func (s *scene) client(t testing.TB, known client.Ledger) *client.Client {
	t.Helper()
	c, err := client.New(client.Options{Temporal: s.Remote, Prefix: s.Prefix, Ledger: known})
	require.NoError(t, err)
	return c
}

func TestReplayOfWhatTemporalHasForgotten(t *testing.T) {
	t.Parallel()
	s := newScene(t)
	ctx := activitytest.Within(t, 60*time.Second)
	open, over := activitytest.Write(s.ID("open")), activitytest.Write(s.ID("over"))
	known := &ledger{
		writes: map[string]saga.Write{open.SagaID: open, over.SagaID: over},
		outcomes: map[string]saga.Outcome{
			open.SagaID: {SagaID: open.SagaID, Status: saga.Parked}, over.SagaID: {SagaID: over.SagaID, Status: saga.Compensated},
		},
	}
	c := s.client(t, known)
	a, err := c.Replay(ctx, open.SagaID, "", client.WaitVisible)
	require.NoError(t, err)
	require.Equal(t, saga.DidStart, a.Did)
	require.Equal(t, saga.Completed, a.Status)
	a, err = c.Replay(ctx, over.SagaID, "", client.WaitVisible)
	require.NoError(t, err)
	require.Equal(t, saga.DidNothing, a.Did)
	require.Equal(t, saga.Compensated, a.Status)

	_, err = s.remote.Replay(ctx, over.SagaID, "", client.WaitVisible)
	require.Equal(t, saga.CodeUnknownSaga, codeOf(t, err), "a client without a ledger")
	known.err = activitytest.Unavailable("postgres")
	_, err = c.Replay(ctx, over.SagaID, "", client.WaitVisible)
	require.Equal(t, saga.CodeUnavailable, codeOf(t, err))
}

// Replays of one terminated saga, beside its caller who writes it again, begin
// one workflow and commit once.
func TestReplaysAtOnce(t *testing.T) {
	t.Parallel()
	s := newScene(t)
	s.Systems.Redis.Fail = activitytest.Until(1, activitytest.Rejected("redis"))
	w := s.park(t, s.ID("a"))
	ctx := activitytest.Within(t, 60*time.Second)
	require.NoError(t, s.Temporal.TerminateWorkflow(ctx, saga.WorkflowID(w.SagaID), "", "a test"))
	var group sync.WaitGroup
	for i := range 12 {
		group.Go(func() {
			var o saga.Outcome
			var err error
			switch i % 3 {
			case 0:
				o, err = s.remote.Write(ctx, w, client.WaitVisible)
			default:
				level := client.WaitVisible
				if i%3 == 1 {
					level = ""
				}
				var a saga.Answer
				a, err = s.remote.Replay(ctx, w.SagaID, fmt.Sprint(i), level)
				if o = a.Outcome; level == "" {
					o.Status = saga.Completed // it did not wait
				}
			}
			if err != nil || o.Status != saga.Completed {
				t.Errorf("caller %d: %s, %v", i, o.Status, err)
			}
		})
	}
	group.Wait()
	require.Equal(t, 2, s.runs(t, w.SagaID), "the terminated one and one more")
}

// runs counts the runs of a saga's workflow.
func (s *scene) runs(t testing.TB, sagaID string) int {
	t.Helper()
	ctx := activitytest.Within(t, 20*time.Second)
	var count int64
	require.Eventually(t, func() bool {
		counted, err := s.Temporal.CountWorkflow(ctx, countRequest(fmt.Sprintf("WorkflowId = '%s'", saga.WorkflowID(sagaID))))
		require.NoError(t, err)
		stable := counted.GetCount() == count && count > 0
		count = counted.GetCount()
		return stable
	}, 15*time.Second, time.Second)
	return int(count)
}

// A saga whose worker is away is asked for as long as the caller waits, and the
// request goes on.
func TestRequestOutlivesItsCaller(t *testing.T) {
	t.Parallel()
	s := newScene(t)
	s.Systems.Redis.Fail = func(ctx context.Context, call int) error {
		if call > 1 {
			<-ctx.Done()
		}
		return activitytest.Rejected("redis")
	}
	w := s.park(t, s.ID("a"))
	_, err := s.remote.Retry(activitytest.Within(t, time.Second), w.SagaID, "r")
	require.Equal(t, saga.CodeStillRunning, codeOf(t, err))
	o, err := s.remote.Retry(activitytest.Within(t, 60*time.Second), w.SagaID, "r")
	require.NoError(t, err)
	require.Equal(t, 2, s.Systems.Redis.Calls(), "the same request tried twice")
	require.Equal(t, saga.Parked, o.Status)
}
