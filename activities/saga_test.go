package activities_test

import (
	"context"
	"encoding/json"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.temporal.io/sdk/temporal"
	"go.temporal.io/sdk/testsuite"

	"github.com/capsaga/capsaga/activities"
	"github.com/capsaga/capsaga/internal/activitytest"
	"github.com/capsaga/capsaga/internal/notify"
	"github.com/capsaga/capsaga/saga"
)

// bench runs activities over systems in memory.
type bench struct {
	*testsuite.TestActivityEnvironment
	systems    *activitytest.Systems
	activities *activities.Saga
	hub        *notify.Hub
}

func newBench() *bench {
	var suite testsuite.WorkflowTestSuite
	b := &bench{TestActivityEnvironment: suite.NewTestActivityEnvironment(), systems: activitytest.NewSystems(), hub: notify.NewHub()}
	b.activities = b.systems.Activities(b.hub)
	b.RegisterActivity(b.activities)
	return b
}

func (b *bench) commit(t *testing.T, w saga.Write) activities.CommitOutput {
	t.Helper()
	value, err := b.ExecuteActivity(b.activities.Commit, activities.CommitInput{Write: w})
	require.NoError(t, err)
	var out activities.CommitOutput
	require.NoError(t, value.Get(&out))
	return out
}

func input(out activities.CommitOutput, sagaID string) activities.SinkInput {
	return activities.SinkInput{SagaID: sagaID, Version: out.Version, FlushLSN: out.FlushLSN, Rows: out.Rows(out.Owned, saga.Redis)}
}

func failureOf(t *testing.T, err error) activities.Failure {
	t.Helper()
	var app *temporal.ApplicationError
	require.ErrorAs(t, err, &app)
	var f activities.Failure
	require.NoError(t, app.Details(&f))
	return f
}

func TestCommitNamesTheSinksAndTellsWaiters(t *testing.T) {
	t.Parallel()
	b := newBench()
	w := activitytest.Write("order-1")
	heard, cancel := b.hub.Subscribe("order-1")
	defer cancel()
	out := b.commit(t, w)
	require.Equal(t, map[string][]saga.Sink{"products": saga.Sinks}, out.Sinks)
	require.Nil(t, out.Owned[0].Row, "a row's content entered the history")
	told := <-heard
	require.Equal(t, saga.Committed, told.Status)
	require.Equal(t, w.Digest(), told.Content)
	require.Equal(t, out.Version, told.Version)
}

// Of what plain SQL wrote nothing can be undone, whatever the catalog says; and the
// row goes to the sink that refused it, also if the catalog has it elsewhere by now.
func TestCommitOfARefusedRow(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		entity string
		want   map[saga.Sink]saga.OnReject
		order  []saga.Sink
	}{
		"as the catalog has it": {"products", map[saga.Sink]saga.OnReject{
			saga.Redis: saga.OnRejectPark, saga.Kafka: saga.OnRejectSkip, saga.Elasticsearch: saga.OnRejectPark,
		}, saga.Sinks},
		"to a sink that the entity has no more": {"users", map[saga.Sink]saga.OnReject{
			saga.Redis: "", saga.Kafka: "", saga.Elasticsearch: "",
		}, saga.Sinks},
		"of an entity that is not there": {"orders", map[saga.Sink]saga.OnReject{saga.Elasticsearch: ""}, []saga.Sink{saga.Elasticsearch}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			b := newBench()
			products := b.activities.Catalog.Entities["products"]
			products.Policy.OnReject, products.Kafka.Policy.OnReject = saga.OnRejectCompensate, saga.OnRejectSkip
			w := b.systems.Adopt(nil, saga.Refused{Sink: saga.Elasticsearch, Entity: &saga.Entity{Name: test.entity}, Key: "42", Version: 1 << 53})
			out := b.commit(t, w)
			require.Equal(t, saga.Committed, out.Status)
			require.Equal(t, test.order, out.Order)
			got := map[saga.Sink]saga.OnReject{}
			for sink, policy := range out.Policies {
				got[sink] = policy.OnReject
				require.Len(t, out.Rows(out.Owned, sink), 1)
			}
			require.Equal(t, test.want, got)
		})
	}
}

func TestCommitThatFailsTellsNobody(t *testing.T) {
	t.Parallel()
	b := newBench()
	b.systems.OnCommit = activitytest.Until(1, activitytest.Unavailable("postgres"))
	heard, cancel := b.hub.Subscribe("order-1")
	defer cancel()
	_, err := b.ExecuteActivity(b.activities.Commit, activities.CommitInput{Write: activitytest.Write("order-1")})
	require.Equal(t, saga.Unavailable, failureOf(t, err).Error.Class)
	require.Empty(t, heard)
}

func TestRowsComeFromMemoryFirst(t *testing.T) {
	t.Parallel()
	b := newBench()
	out := b.commit(t, activitytest.Write("order-1"))
	b.systems.OnRead = func(string, string) (activities.Row, error) {
		t.Error("a row in memory was read again")
		return activities.Row{}, nil
	}
	_, err := b.ExecuteActivity(b.activities.UpdateRedis, input(out, "order-1"))
	require.NoError(t, err)
	doc, _ := b.systems.Redis.Get("products", "42")
	require.JSONEq(t, `{"id":42,"title":"Lamp"}`, string(doc.Row))
}

// The rules of a late apply, by what PostgreSQL says of the row now.
func TestRowsAreReadAgain(t *testing.T) {
	t.Parallel()
	now := json.RawMessage(`{"id":42,"title":"as it is now"}`)
	const later = saga.Version(1<<53 + 5000)
	for _, test := range []struct {
		name    string
		row     activities.Row
		err     error
		version saga.Version // zero: nothing is sent; -1: the saga's own
		class   saga.Class
	}{
		{name: "still as the saga left it", row: activities.Row{Found: true, Row: now, ETag: "1:100", Version: later}, version: -1},
		{name: "as the saga left it, and locked", row: activities.Row{Found: true, Row: now, ETag: "1:100"}, version: -1},
		{name: "changed since", row: activities.Row{Found: true, Row: now, ETag: "1:999", Version: later}, version: later},
		{name: "changed since and locked", row: activities.Row{Found: true, Row: now, ETag: "1:999"}, class: saga.Unavailable},
		{name: "gone"},
		{name: "postgres away", err: activitytest.Unavailable("postgres"), class: saga.Unavailable},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			b := newBench()
			out := b.commit(t, activitytest.Write("order-1"))
			// Another process: its memory knows nothing of the commit.
			other := b.systems.Activities(nil)
			b.systems.OnRead = func(string, string) (activities.Row, error) { return test.row, test.err }
			b.RegisterActivity(other)
			_, err := b.ExecuteActivity(other.UpdateRedis, input(out, "order-1"))
			doc, found := b.systems.Redis.Get("products", "42")
			if test.class != "" {
				require.Equal(t, test.class, failureOf(t, err).Error.Class)
				require.False(t, found)
				return
			}
			require.NoError(t, err)
			want := test.version
			if want == -1 {
				want = out.Version
			}
			require.Equal(t, want != 0, found)
			require.Equal(t, want, doc.Version)
			if found {
				require.Equal(t, string(now), string(doc.Row))
			}
		})
	}
}

func TestDeletedRowLeavesATombstone(t *testing.T) {
	t.Parallel()
	b := newBench()
	w := saga.Write{SagaID: "order-1", Mutations: []saga.Mutation{{Entity: "products", Op: saga.Delete, Key: saga.Columns{"id": json.RawMessage("42")}}}}
	out := b.commit(t, w)
	_, err := b.ExecuteActivity(b.activities.IndexElasticsearch, input(out, "order-1"))
	require.NoError(t, err)
	doc, found := b.systems.Elasticsearch.Get("products", "42")
	require.True(t, found)
	require.True(t, doc.Deleted())
	require.Equal(t, out.Version, doc.Version)

	// After an edit of other rows the deletion stays at the version it has.
	edited := input(out, "order-1")
	edited.Version += 100
	edited.Rows[0].Version = out.Version
	_, err = b.ExecuteActivity(b.activities.UpdateRedis, edited)
	require.NoError(t, err)
	doc, _ = b.systems.Redis.Get("products", "42")
	require.Equal(t, out.Version, doc.Version)
}

// mixed answers per row.
type mixed []saga.Applied

func (m mixed) Apply(context.Context, []saga.Document) ([]saga.Applied, error) { return m, nil }

func TestRowsThatMayPassLaterAreTriedBeforeARejectionIsFinal(t *testing.T) {
	t.Parallel()
	rejected := saga.Applied{Err: activitytest.Rejected("elasticsearch")}
	away := saga.Applied{Err: activitytest.Unavailable("elasticsearch")}
	for _, test := range []struct {
		name    string
		answers mixed
		class   saga.Class
		message string
	}{
		{"one rejected", mixed{{Changed: true}, rejected}, saga.Rejected, "products/2: elasticsearch refuses"},
		{"rejected and away", mixed{rejected, away}, saga.Unavailable, "products/2: elasticsearch at 127.0.0.1 refuses connections: is it running? (and 1 more of 2 rows failed)"},
		{"away and rejected", mixed{away, rejected}, saga.Unavailable, "products/1"},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			var suite testsuite.WorkflowTestSuite
			env := suite.NewTestActivityEnvironment()
			a := activities.New(activities.Dependencies{Catalog: activitytest.Catalog(), Elasticsearch: test.answers})
			env.RegisterActivity(a)
			in := activities.SinkInput{SagaID: "order-1", Version: 7, Rows: []saga.Owned{{Entity: "products", Key: "1"}, {Entity: "products", Key: "2"}}}
			_, err := env.ExecuteActivity(a.IndexElasticsearch, in)
			f := failureOf(t, err)
			require.Equal(t, test.class, f.Error.Class)
			require.Contains(t, f.Error.Message, test.message)
		})
	}
}

func TestQuickAttemptsAreSparedASinkThatIsAway(t *testing.T) {
	t.Parallel()
	b := newBench()
	out := b.commit(t, activitytest.Write("order-1"))
	b.systems.Redis.Fail = activitytest.Until(1, activitytest.Unavailable("redis"))
	_, err := b.ExecuteLocalActivity(b.activities.UpdateRedis, input(out, "order-1"))
	require.Error(t, err)
	_, err = b.ExecuteLocalActivity(b.activities.UpdateRedis, input(out, "order-1"))
	require.ErrorContains(t, err, "no attempt was made")
	require.Equal(t, 1, b.systems.Redis.Calls())
	_, err = b.ExecuteActivity(b.activities.UpdateRedis, input(out, "order-1"))
	require.NoError(t, err, "a patient attempt is made")
	_, err = b.ExecuteLocalActivity(b.activities.UpdateRedis, input(out, "order-1"))
	require.NoError(t, err, "its success closes the breaker")
}

// watcher notes what an observer is told.
type watcher struct {
	mu   sync.Mutex
	seen []saga.Class
}

func (w *watcher) StepAttempt(_ saga.StepName, _ bool, _ time.Duration, class saga.Class) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.seen = append(w.seen, class)
}

func TestObserverHearsOfEachAttempt(t *testing.T) {
	t.Parallel()
	b := newBench()
	w := &watcher{}
	b.activities.Observer = w
	b.systems.Redis.Fail = activitytest.Until(1, activitytest.Unavailable("redis"))
	out := b.commit(t, activitytest.Write("order-1"))
	_, err := b.ExecuteActivity(b.activities.UpdateRedis, input(out, "order-1"))
	require.Error(t, err)
	_, err = b.ExecuteActivity(b.activities.UpdateRedis, input(out, "order-1"))
	require.NoError(t, err)
	require.Equal(t, []saga.Class{"", saga.Unavailable, ""}, w.seen)
}
