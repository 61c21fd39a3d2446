package postgres_test

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/capsaga/capsaga/internal/postgres"
	"github.com/capsaga/capsaga/saga"
)

var noField = saga.ErrorInfo{Code: saga.CodeRejected, Class: saga.Rejected, System: "redis", Message: "WRONGTYPE"}

// refused is a row of products that Redis refused.
func (f *fixture) refused(key string, version int64) saga.Refused {
	return saga.Refused{Sink: saga.Redis, Entity: f.catalog.Entities["products"], Key: key, Version: saga.Version(version), Error: noField}
}

func (f *fixture) adopt(refused ...saga.Refused) {
	f.t.Helper()
	require.NoError(f.t, f.AdoptRefused(f.t.Context(), refused))
}

// attach is the commit of a saga that commits nothing.
func (f *fixture) attach(r saga.Refused) *postgres.CommitResult {
	f.t.Helper()
	w := r.Write()
	result, err := f.Commit(f.t.Context(), postgres.CommitRequest{Write: w, Catalog: f.catalog, WorkflowID: saga.WorkflowID(w.SagaID), RunID: "run"})
	require.NoError(f.t, err)
	return result
}

// end records that the saga of a refusal has completed with the row at a version.
func (f *fixture) end(r saga.Refused, version int64) (outdated bool) {
	f.t.Helper()
	w := r.Write()
	o := saga.Outcome{SagaID: w.SagaID, Status: saga.Completed, Version: saga.Version(version), Content: w.Digest(), Stream: w.Stream}
	outdated, err := f.RecordOutcome(f.t.Context(), w.SagaID, o)
	require.NoError(f.t, err)
	return outdated
}

func TestARefusedRowIsAParkedSaga(t *testing.T) {
	f := setup(t)
	f.catalog.Entities["products"].Kafka = &saga.KafkaSink{}
	f.catalog.Entities["products"].Elasticsearch = &saga.ElasticsearchSink{}
	r := f.refused("42", 700)
	f.adopt(r)
	listed, err := f.ListSagas(t.Context(), postgres.ListFilter{Statuses: []saga.Status{saga.Parked}, BlockedOn: "redis", Entity: "products", ErrorClass: saga.Rejected})
	require.NoError(t, err)
	require.Len(t, listed, 1)
	assert.Equal(t, "cdc-redis-products-42-700", listed[0].SagaID)
	assert.Equal(t, "saga/cdc-redis-products-42-700", listed[0].WorkflowID)
	assert.True(t, listed[0].Unstarted)
	assert.Equal(t, noField, *listed[0].Error)

	_, o, found, err := f.LedgerOutcome(t.Context(), listed[0].SagaID)
	require.NoError(t, err)
	require.True(t, found)
	assert.Equal(t, saga.Parked, o.Status)
	assert.Equal(t, []saga.ETag{{Entity: "products", Key: "42", ETag: saga.ETagUnknown}}, o.ETags)
	assert.Equal(t, &saga.StreamChange{Sink: saga.Redis, Entity: "products", Key: "42", Version: 700, Op: saga.Upsert}, o.Stream)
	for step, state := range map[saga.StepName]saga.StepState{
		saga.StepCommit: saga.StepDone, saga.StepRedis: saga.StepParked, saga.StepKafka: saga.StepDone, saga.StepElasticsearch: saga.StepDone,
	} {
		require.NotNil(t, o.Step(step), step)
		assert.Equal(t, state, o.Step(step).State, step)
	}
	assert.Equal(t, noField, *o.Step(saga.StepRedis).Error)

	attached := f.attach(r)
	assert.Equal(t, saga.Committed, attached.Status)
	assert.Equal(t, saga.Version(700), attached.Version)
	assert.Empty(t, attached.Confirmed, "the session of plain SQL knew that")
	require.Len(t, attached.Owned, 1)
	assert.False(t, attached.Owned[0].Gone())
	assert.Equal(t, *o, *attached.Recorded)
	w, _, found, err := f.LedgerWrite(t.Context(), listed[0].SagaID)
	require.NoError(t, err)
	require.True(t, found)
	assert.Equal(t, r.Write(), *w)
}

// The stream was killed before it could confirm its position, maybe after the saga
// had ended, and brings the rows again.
func TestAdoptingAgainChangesNothing(t *testing.T) {
	f := setup(t)
	deleted := f.refused("2", 701)
	deleted.Deleted = true
	rows := []saga.Refused{f.refused("1", 700), deleted}
	f.adopt(rows...)
	ledger := func() string {
		return f.text("SELECT json_agg(s ORDER BY id)::text FROM capsaga.saga s")
	}
	before := ledger()
	f.adopt(rows...)
	f.adopt(rows[1])
	f.adopt()
	assert.Equal(t, before, ledger())
	assert.True(t, f.attach(deleted).Owned[0].Gone())

	require.False(t, f.end(rows[0], 700))
	require.False(t, f.end(deleted, 701))
	before = ledger()
	f.adopt(rows...)
	assert.Equal(t, before, ledger())
}

func TestARowThatIsRefusedAgainStaysOneSaga(t *testing.T) {
	f := setup(t)
	first, later := f.refused("1", 700), f.refused("1", 800)
	f.adopt(first)
	later.Deleted, later.Error.Message = true, "still WRONGTYPE"
	between := f.refused("1", 750)
	f.adopt(between, later)
	f.adopt(between) // a holder of the slot that did not know of its successor
	assert.Equal(t, "1", f.text("SELECT count(*)::text FROM capsaga.saga"))
	attached := f.attach(first)
	assert.Equal(t, saga.Version(800), attached.Version)
	assert.True(t, attached.Owned[0].Gone())
	assert.Equal(t, "still WRONGTYPE", attached.Recorded.Error.Message)
	assert.Equal(t, first.Write().SagaID, attached.Recorded.SagaID)
	assert.Equal(t, saga.Version(700), attached.Recorded.Stream.Version, "the content stays, by which the saga is known")

	// The workflow knew of the first refusal alone.
	require.True(t, f.end(first, 700))
	assert.Equal(t, string(saga.Parked), f.text("SELECT status FROM capsaga.saga"))
	note := *attached.Recorded
	note.Version, note.Error = 700, &saga.ErrorInfo{Class: saga.Unavailable, Message: "away"}
	outdated, err := f.RecordOutcome(t.Context(), note.SagaID, note)
	require.NoError(t, err)
	assert.True(t, outdated, "what the stream saw is later")
	require.False(t, f.end(first, 800))

	// Ended, the saga is not opened again: the next refusal is another's.
	f.adopt(later)
	assert.Equal(t, "1", f.text("SELECT count(*)::text FROM capsaga.saga"))
	f.adopt(f.refused("1", 900))
	assert.Equal(t, "cdc-redis-products-1-700 completed, cdc-redis-products-1-900 parked",
		f.text("SELECT string_agg(id || ' ' || status, ', ' ORDER BY id) FROM capsaga.saga"))
}

func TestWaiverOfARowThatWasRefusedAgain(t *testing.T) {
	f := setup(t)
	first := f.refused("1", 700)
	f.adopt(first)
	f.adopt(f.refused("1", 800))
	version, err := f.Waive(t.Context(), postgres.Waiver{SagaID: first.Write().SagaID, Step: saga.StepRedis, Version: 700, Reason: "r"})
	require.NoError(t, err)
	assert.Equal(t, saga.Version(800), version)
	f.adopt(f.refused("1", 900))
	assert.True(t, f.end(first, 800), "who gave it up did not know of this one")
}

func TestRefusalsThatTheCatalogSkips(t *testing.T) {
	f := setup(t)
	f.catalog.Entities["products"].Redis.Policy.OnReject = saga.OnRejectSkip
	for version := range int64(5) {
		f.adopt(f.refused("1", 700+version), f.refused("2", 700+version))
	}
	f.adopt(f.refused("1", 701))
	assert.Equal(t, "cdc-redis-products-1-skipped completed 704, cdc-redis-products-2-skipped completed 704",
		f.text("SELECT string_agg(id || ' ' || status || ' ' || version, ', ' ORDER BY id) FROM capsaga.saga WHERE finished_at IS NOT NULL"))
	assert.Equal(t, "cdc-redis-products-1-skipped redis 704, cdc-redis-products-2-skipped redis 704",
		f.text("SELECT string_agg(saga_id || ' ' || step || ' ' || version, ', ' ORDER BY saga_id) FROM capsaga.waiver"))
	_, o, _, err := f.LedgerOutcome(t.Context(), "cdc-redis-products-1-skipped")
	require.NoError(t, err)
	assert.Equal(t, saga.StepSkipped, o.Step(saga.StepRedis).State)
	assert.Equal(t, noField, *o.Step(saga.StepRedis).Error)
	n, err := f.StartAdopted(t.Context(), 10, []string{}, nil)
	require.NoError(t, err)
	assert.Zero(t, n, "it has ended")

	// A saga from before the catalog said so is still an operator's.
	f.catalog.Entities["products"].Redis.Policy.OnReject = saga.OnRejectCompensate
	f.adopt(f.refused("1", 800))
	f.catalog.Entities["products"].Redis.Policy.OnReject = saga.OnRejectSkip
	f.adopt(f.refused("1", 900))
	assert.Equal(t, "cdc-redis-products-1-800 900", f.text("SELECT id || ' ' || version FROM capsaga.saga WHERE status = 'parked'"))
}

// Whoever terminates the workflow and waits until the ledger has forgotten the saga
// cannot make it write anything.
func TestASagaOfAStreamNeverCommits(t *testing.T) {
	f := setup(t)
	f.exec("INSERT INTO product (id, title) VALUES (1, 'one')")
	r := f.refused("1", 700)
	w := r.Write()
	size := func() string {
		return f.text("SELECT (SELECT count(*) FROM capsaga.saga) || ' ' || (SELECT count(*) FROM product)")
	}
	for range 2 {
		result := f.attach(r)
		assert.Equal(t, saga.RejectedEnd, result.Status)
		assert.Equal(t, saga.CodeUnknownSaga, result.Error.Code)
		committed, err := f.Cancel(t.Context(), w, "w", "r")
		require.NoError(t, err)
		assert.False(t, committed)
	}
	assert.Equal(t, "0 1", size())
	f.adopt(r)
	committed, err := f.Cancel(t.Context(), w, "w", "r")
	require.NoError(t, err)
	assert.True(t, committed, "it is for the saga to go on")
	assert.Equal(t, "1 1", size())
	other := f.refused("1", 701)
	otherWrite := other.Write()
	otherWrite.SagaID = w.SagaID
	result, err := f.Commit(t.Context(), postgres.CommitRequest{Write: otherWrite})
	require.NoError(t, err)
	assert.Equal(t, saga.Failed, result.Status)
	assert.Equal(t, saga.CodeSagaIDReused, result.Error.Code)
}

func TestEditOfARefusedRow(t *testing.T) {
	f := setup(t)
	f.exec("INSERT INTO product (id, title) VALUES (1, 'one')")
	at := f.version()
	r := f.refused("1", at)
	f.adopt(r)
	id := r.Write().SagaID
	undone, err := f.Undo(t.Context(), postgres.UndoRequest{SagaID: id, Catalog: f.catalog})
	require.NoError(t, err)
	require.NotNil(t, undone.Refused)
	assert.Contains(t, undone.Refused.Message, "plain SQL wrote products/1")

	edit := f.edited(id, "e1", `{"entity":"products","op":"patch","key":{"id":1},"set":{"title":"uno"}}`)
	assert.Greater(t, edit.Version, saga.Version(at))
	assert.Contains(t, string(edit.Owned[0].Row), "uno")
	refusal := f.edit(id, "e2", `{"entity":"products","op":"insert","row":{"id":2,"title":"two"}}`)
	require.NotNil(t, refusal.Refused, "not its row")

	// What was refused before the edit is not the row any more.
	f.adopt(f.refused("1", at+1))
	attached := f.attach(r)
	assert.Equal(t, edit.Version, attached.Version)
	assert.Equal(t, edit.Owned[0].ETag, attached.Owned[0].ETag)
	later := f.refused("1", int64(edit.Version)+1000)
	later.Deleted = true
	f.adopt(later)
	attached = f.attach(r)
	assert.Equal(t, later.Version, attached.Version)
	assert.True(t, attached.Owned[0].Gone())
	assert.True(t, f.end(r, int64(edit.Version)))
}

// version is that of a change made just now.
func (f *fixture) version() int64 {
	f.t.Helper()
	read, err := f.ReadRow(f.t.Context(), f.catalog.Entities["products"], "1")
	require.NoError(f.t, err)
	require.NotZero(f.t, read.Version)
	return int64(read.Version)
}

func TestStartAdopted(t *testing.T) {
	f := setup(t)
	away := &saga.Error{Class: saga.Unavailable, Message: "away"}
	for key := range 5 {
		f.adopt(f.refused(fmt.Sprint(key), 700))
	}
	f.committed(`{"saga_id":"a","mutations":[{"entity":"products","op":"insert","row":{"id":1,"title":"x"}}]}`)
	var seen []string
	start := func(_ context.Context, w saga.Write, _ string) (string, error) {
		require.NoError(t, w.Validate())
		switch key := w.Stream.Key; key {
		case "1":
			return "", &saga.Error{Class: saga.Rejected, Message: "no"}
		case "3":
			return "", away
		default:
			seen = append(seen, key)
			return "run-" + key, nil
		}
	}
	n, err := f.StartAdopted(t.Context(), 10, []string{}, start)
	require.ErrorIs(t, err, away, "the others would fail as well")
	assert.Equal(t, 2, n)
	assert.Equal(t, []string{"0", "2"}, seen)
	assert.Equal(t, "run-2", f.text("SELECT run_id FROM capsaga.saga WHERE id = 'cdc-redis-products-2-700'"))
	require.False(t, f.end(f.refused("1", 700), 700))
	require.False(t, f.end(f.refused("3", 700), 700))
	n, err = f.StartAdopted(t.Context(), 10, []string{}, start)
	require.NoError(t, err)
	assert.Equal(t, 1, n)
	n, err = f.StartAdopted(t.Context(), 10, []string{}, start)
	require.NoError(t, err)
	assert.Zero(t, n)

	// Of two workers one starts, and the other comes when that one is gone.
	f.adopt(f.refused("6", 700))
	_, err = f.StartAdopted(t.Context(), 10, []string{}, func(context.Context, saga.Write, string) (string, error) {
		n, err := f.StartAdopted(t.Context(), 10, []string{}, start)
		require.NoError(t, err)
		assert.Zero(t, n)
		return "", errors.New("gone")
	})
	require.EqualError(t, err, "gone")
	n, err = f.StartAdopted(t.Context(), 10, []string{}, start)
	require.NoError(t, err)
	assert.Equal(t, 1, n)
}

// Whatever is refused in whatever order, by holders of the slot that overlap, while
// sagas end: a row has one open saga at most, and the latest refusal is never lost.
func TestAdoptersRace(t *testing.T) {
	f := setup(t)
	const rows, versions = 5, 40
	var group sync.WaitGroup
	for adopter := range 3 {
		group.Go(func() {
			for version := range versions {
				var batch []saga.Refused
				for key := range rows {
					batch = append(batch, f.refused(fmt.Sprint((key+adopter)%rows), int64(1+version)))
				}
				assert.NoError(t, f.AdoptRefused(t.Context(), batch))
			}
		})
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		for range 60 {
			listed, err := f.ListSagas(t.Context(), postgres.ListFilter{Statuses: []saga.Status{saga.Parked}})
			assert.NoError(t, err)
			for _, s := range listed {
				w, _, _, err := f.LedgerWrite(t.Context(), s.SagaID)
				assert.NoError(t, err)
				o := saga.Outcome{SagaID: s.SagaID, Status: saga.Completed, Version: s.Version, Content: w.Digest(), Stream: w.Stream}
				_, err = f.RecordOutcome(t.Context(), s.SagaID, o)
				assert.NoError(t, err)
			}
		}
	}()
	group.Wait()
	<-done
	assert.Equal(t, "0", f.text("SELECT count(*)::text FROM (SELECT FROM capsaga.saga WHERE finished_at IS NULL GROUP BY stream_row HAVING count(*) > 1) x"))
	assert.Equal(t, fmt.Sprintf("%d %d", rows, versions),
		f.text("SELECT count(*) || ' ' || min(v) FROM (SELECT max(version) v FROM capsaga.saga GROUP BY stream_row) x"))
}
