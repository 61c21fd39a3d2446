package workflows_test

import (
	"context"
	"encoding/json"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/capsaga/capsaga/activities"
	"github.com/capsaga/capsaga/internal/activitytest"
	"github.com/capsaga/capsaga/saga"
)

// refusedRow is products/42 as Elasticsearch refused it.
func refusedRow(lsn saga.LSN) saga.Refused {
	version, _ := saga.NewVersion(1, lsn)
	return saga.Refused{
		Sink: saga.Elasticsearch, Entity: activitytest.Catalog().Entities["products"], Key: "42", Version: version,
		Error: saga.ErrorInfo{Code: saga.CodeRejected, Class: saga.Rejected, System: "elasticsearch", Message: "field title is a number"},
	}
}

// rowNow is products/42 as PostgreSQL has it.
func rowNow(lsn saga.LSN) func(entity, key string) (activities.Row, error) {
	version, _ := saga.NewVersion(1, lsn)
	return func(string, string) (activities.Row, error) {
		return activities.Row{Found: true, Row: json.RawMessage(`{"id":42,"title":"Lamp"}`), ETag: "1-9", Version: version}, nil
	}
}

func rowGone(string, string) (activities.Row, error) { return activities.Row{}, nil }

// refusedStage is the stage of the saga of a refused row.
func refusedStage(t *testing.T, r saga.Refused) (*stage, saga.Write) {
	t.Helper()
	s := newStage(t)
	s.systems.OnRead = rowNow(2000)
	return s, s.systems.Adopt(nil, r)
}

func TestSagaOfARefusedRowBringsItToThatSinkAlone(t *testing.T) {
	t.Parallel()
	s, w := refusedStage(t, refusedRow(1000))
	o := s.play(w)
	require.Equal(t, saga.Completed, o.Status)
	require.Equal(t, allDone, states(o))
	require.Equal(t, []string{"Commit", "IndexElasticsearch", "RecordOutcome"}, s.local)
	require.Empty(t, s.patient)
	require.Equal(t, w.Stream, o.Stream)
	require.Empty(t, o.Confirmed)
	doc, _ := s.systems.Elasticsearch.Get("products", "42")
	require.JSONEq(t, `{"id":42,"title":"Lamp"}`, string(doc.Row))
	require.Equal(t, saga.LSN(2000), doc.Version.LSN(), "the row as it is now, as of now")
	recorded, _ := s.systems.Recorded(w.SagaID)
	require.Equal(t, o, recorded)
}

func TestSagaOfARefusedRowThatIsGone(t *testing.T) {
	t.Parallel()
	s, w := refusedStage(t, refusedRow(1000))
	s.systems.OnRead = rowGone
	require.Equal(t, saga.Completed, s.play(w).Status)
	require.Zero(t, s.systems.Elasticsearch.Calls(), "whoever deleted it tells the sinks")
}

func TestSagaOfARefusedDelete(t *testing.T) {
	t.Parallel()
	r := refusedRow(1000)
	r.Deleted = true
	s, w := refusedStage(t, r)
	s.systems.OnRead = rowGone
	require.Equal(t, saga.Completed, s.play(w).Status)
	doc, ok := s.systems.Elasticsearch.Get("products", "42")
	require.True(t, ok)
	require.True(t, doc.Deleted())
	require.Equal(t, r.Version, doc.Version)
}

func TestSagaOfARefusedRowParksAgainAndIsRetried(t *testing.T) {
	t.Parallel()
	s, w := refusedStage(t, refusedRow(1000))
	s.systems.Elasticsearch.Fail = activitytest.Until(1, activitytest.Rejected("elasticsearch"))
	var parked saga.Outcome
	s.RegisterDelayedCallback(func() { parked = s.state() }, time.Hour)
	undone := s.ask(time.Hour, saga.UpdateCompensate)
	s.RegisterDelayedCallback(s.CancelWorkflow, time.Hour)
	retried := s.ask(2*time.Hour, saga.UpdateRetry)
	o := s.play(w)
	require.Equal(t, saga.Parked, parked.Status)
	require.Equal(t, saga.StepParked, parked.Step(saga.StepElasticsearch).State)
	for _, command := range saga.Commands(&parked) {
		require.NotContains(t, command.Line, "compensate")
	}
	require.ErrorContains(t, undone.refused, "cannot be undone: plain SQL has written products/42")
	require.NoError(t, retried.err)
	require.Equal(t, saga.Completed, o.Status, "a cancellation has nothing to undo")
	require.Zero(t, s.systems.Changes())
	require.Zero(t, s.systems.Redis.Calls())
}

// While the saga waits, the row is refused again, as it is deleted by then.
func TestSagaOfARowThatIsRefusedAgain(t *testing.T) {
	t.Parallel()
	r := refusedRow(1000)
	s, w := refusedStage(t, r)
	s.systems.Elasticsearch.Fail = activitytest.Until(1, activitytest.Rejected("elasticsearch"))
	later := refusedRow(3000)
	later.Deleted = true
	s.RegisterDelayedCallback(func() {
		s.systems.OnRead = rowGone
		s.systems.Adopt(&w, later)
	}, time.Hour)
	retried := s.ask(2*time.Hour, saga.UpdateRetry)
	o := s.play(w)
	require.NoError(t, retried.err)
	require.Equal(t, saga.Completed, o.Status)
	require.Equal(t, later.Version, o.Version)
	doc, ok := s.systems.Elasticsearch.Get("products", "42")
	require.True(t, ok)
	require.True(t, doc.Deleted())
	require.Equal(t, later.Version, doc.Version)
	require.Zero(t, s.systems.Redis.Calls())
}

// The row is refused again just when the sink has taken it, and then once more.
func TestSagaOfARowThatIsRefusedAgainAtTheEndGoesOn(t *testing.T) {
	t.Parallel()
	s, w := refusedStage(t, refusedRow(1000))
	s.systems.Elasticsearch.Fail = func(_ context.Context, call int) error {
		switch call {
		case 1:
			s.systems.Adopt(&w, refusedRow(3000))
		case 2:
			return activitytest.Rejected("elasticsearch")
		}
		return nil
	}
	var parked saga.Outcome
	s.RegisterDelayedCallback(func() { parked = s.state() }, time.Hour)
	s.ask(2*time.Hour, saga.UpdateRetry)
	o := s.play(w)
	require.Equal(t, saga.Parked, parked.Status)
	require.Equal(t, saga.Completed, o.Status)
	require.Equal(t, refusedRow(3000).Version, o.Version)
	require.Equal(t, 3, o.Step(saga.StepElasticsearch).Attempts)
}

func TestSkippedSagaOfARefusedRowIsWaivedWithAllThatWasRefused(t *testing.T) {
	t.Parallel()
	s, w := refusedStage(t, refusedRow(1000))
	s.systems.Elasticsearch.Fail = activitytest.Until(1000, activitytest.Rejected("elasticsearch"))
	s.RegisterDelayedCallback(func() { s.systems.Adopt(&w, refusedRow(3000)) }, time.Hour)
	s.ask(2*time.Hour, saga.UpdateSkip, saga.SkipInput{Step: saga.StepElasticsearch, Reason: "a test row"})
	o := s.play(w)
	require.Equal(t, saga.Completed, o.Status)
	require.Equal(t, saga.StepSkipped, o.Step(saga.StepElasticsearch).State)
	require.Equal(t, []activities.Waiver{{
		SagaID: w.SagaID, Step: saga.StepElasticsearch, Version: refusedRow(3000).Version, Reason: "a test row",
		Rows: []saga.Owned{{Entity: "products", Key: "42", ETag: saga.ETagUnknown}},
	}}, s.systems.Waivers())
	require.Equal(t, 1, s.systems.Elasticsearch.Calls())
}

func TestEditOfARefusedRowReachesAllSinks(t *testing.T) {
	t.Parallel()
	s, w := refusedStage(t, refusedRow(1000))
	s.systems.Elasticsearch.Fail = activitytest.Until(1, activitytest.Rejected("elasticsearch"))
	s.RegisterDelayedCallback(func() {
		s.systems.After(4000)
		s.systems.OnRead = nil // from here on, as the edit leaves it
	}, time.Minute)
	edited := s.ask(time.Hour, saga.UpdateEdit, saga.EditInput{Mutations: lantern()})
	o := s.play(w)
	require.NoError(t, edited.err)
	require.Equal(t, saga.Completed, o.Status)
	for _, sink := range []*activitytest.Sink{s.systems.Redis, s.systems.Elasticsearch} {
		doc, _ := sink.Get("products", "42")
		require.JSONEq(t, `{"title":"Lantern"}`, string(doc.Row))
		require.Equal(t, o.Version, doc.Version)
	}
	require.NotEqual(t, saga.ETagUnknown, o.ETags[0].ETag)
}

// Its row of the ledger was pruned, or nobody ever refused such a row.
func TestSagaOfARefusedRowThatTheLedgerDoesNotKnow(t *testing.T) {
	t.Parallel()
	s := newStage(t)
	r := refusedRow(1000)
	o := s.play(r.Write())
	require.Equal(t, saga.RejectedEnd, o.Status)
	require.Equal(t, saga.CodeUnknownSaga, o.Error.Code)
	require.Equal(t, []string{"Commit"}, s.local)
	_, recorded := s.systems.Recorded(o.SagaID)
	require.False(t, recorded)
}
