package postgres_test

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/capsaga/capsaga/internal/postgres"
	"github.com/capsaga/capsaga/saga"
)

func (f *fixture) list(filter postgres.ListFilter) []postgres.LedgerEntry {
	f.t.Helper()
	entries, err := f.ListSagas(f.t.Context(), filter)
	require.NoError(f.t, err)
	return entries
}

// ids returns the ids of a list, joined.
func (f *fixture) ids(filter postgres.ListFilter) string {
	f.t.Helper()
	var ids []string
	for _, e := range f.list(filter) {
		ids = append(ids, e.SagaID)
	}
	return strings.Join(ids, " ")
}

// record stores that a step of a committed saga stands so.
func (f *fixture) record(id string, status saga.Status, steps ...saga.Step) {
	f.t.Helper()
	o, err := f.Recall(f.t.Context(), id)
	require.NoError(f.t, err)
	require.NotNil(f.t, o)
	o.Status, o.Steps = status, steps
	require.NoError(f.t, errorOf(f.RecordOutcome(f.t.Context(), id, *o)))
}

func TestListSagas(t *testing.T) {
	f := setup(t)
	f.exec("CREATE TABLE other (id int PRIMARY KEY)")
	f.entity("others", "public.other", "id")
	f.exec("INSERT INTO product (id, title) VALUES (1, 'one')")
	var versions []saga.Version
	for i, id := range []string{"a", "b", "c", "d"} {
		other := ""
		if i%2 == 0 {
			other = fmt.Sprintf(`,{"entity":"others","op":"insert","row":{"id":%d}}`, i)
		}
		versions = append(versions, f.committed(fmt.Sprintf(`{"saga_id":%q,"mutations":[{"entity":"products","op":"add","key":{"id":1},"add":{"stock":1}}%s]}`, id, other)).Version)
	}
	f.rejected(`{"saga_id":"e","mutations":[{"entity":"others","op":"delete","key":{"id":77}}]}`)
	_, err := f.Cancel(t.Context(), f.request(`{"saga_id":"f","mutations":[{"entity":"products","op":"delete","key":{"id":1}}]}`).Write, "saga/f", "run")
	require.NoError(t, err)
	problem := &saga.ErrorInfo{Code: saga.CodeInvalidValue, Message: "m", Class: saga.Rejected, System: "elasticsearch"}
	f.record("b", saga.Completed)
	f.record("c", saga.Parked, saga.Step{Name: saga.StepElasticsearch, State: saga.StepParked, Error: problem},
		saga.Step{Name: saga.StepRedis.Undo(), State: saga.StepParked}, saga.Step{Name: saga.StepRedis, State: saga.StepParked}, saga.Step{Name: saga.StepKafka, State: saga.StepDone})
	f.record("d", saga.Compensating, saga.Step{Name: saga.StepUndo, State: saga.StepParked, Error: &saga.ErrorInfo{Class: saga.Rejected, Code: saga.CodeConflict}})

	all := f.list(postgres.ListFilter{})
	require.Len(t, all, 6)
	assert.Equal(t, "f e d c b a", f.ids(postgres.ListFilter{}))
	c := all[3]
	assert.Equal(t, "saga/c", c.WorkflowID)
	assert.Equal(t, "run", c.RunID)
	assert.Equal(t, saga.Parked, c.Status)
	assert.Equal(t, []string{"elasticsearch", "redis"}, c.BlockedOn)
	assert.Equal(t, problem, c.Error)
	assert.Equal(t, []string{"others", "products"}, c.Entities)
	assert.Equal(t, versions[2], c.Version)
	assert.Zero(t, c.FinishedAt)
	assert.Equal(t, saga.CodeNotFound, all[1].Error.Code)
	assert.Zero(t, all[1].Version)
	assert.NotZero(t, all[1].FinishedAt)
	assert.Equal(t, []string{"postgres"}, all[2].BlockedOn)
	assert.Equal(t, saga.Completed, all[4].Status)
	assert.Empty(t, all[4].BlockedOn)

	at := func(i int) time.Time { return all[i].CreatedAt }
	for want, filter := range map[string]postgres.ListFilter{
		"c":             {Statuses: []saga.Status{saga.Parked}},
		"d c":           {Statuses: []saga.Status{saga.Parked, saga.Compensating}},
		"d c a":         {Statuses: []saga.Status{saga.Parked, saga.Compensating, saga.Committed}},
		"c ":            {BlockedOn: "redis"},
		"d":             {BlockedOn: "postgres"},
		"":              {BlockedOn: "postgres", Statuses: []saga.Status{saga.Completed}},
		" ":             {Statuses: []saga.Status{saga.Pending}},
		"e c a":         {Entity: "others"},
		"f d c b a":     {Entity: "products"},
		"e d c":         {ErrorClass: saga.Rejected},
		"c a":           {Entity: "others", Before: at(1)},
		"f e d":         {Since: at(2)},
		"d c ":          {Since: at(3), Before: at(1)},
		"f b":           {IDs: []string{"b", "f", "nothing"}},
		"  ":            {IDs: []string{}},
		"b":             {IDs: []string{"b", "f"}, Statuses: []saga.Status{saga.Completed}},
		"f e":           {Limit: 2},
		"d c  ":         {Limit: 2, After: &postgres.ListCursor{CreatedAt: at(1), ID: "e"}},
		"a b c":         {Limit: 3, OldestFirst: true},
		"d e f":         {OldestFirst: true, After: &postgres.ListCursor{CreatedAt: at(3), ID: "c"}},
		"a b c d e f":   {OldestFirst: true},
		"c    ":         {Statuses: []saga.Status{saga.Parked}, BlockedOn: "elasticsearch", Entity: "products", ErrorClass: saga.Rejected},
		"f d c b a    ": {Entity: "products", Limit: 10},
	} {
		assert.Equal(t, strings.TrimSpace(want), f.ids(filter), "%+v", filter)
	}
}

// A row as the ledger's first version wrote it, also by a worker that was not yet
// replaced when the schema was.
func TestRowsOfTheLedgersFirstVersion(t *testing.T) {
	f := setup(t)
	f.exec("INSERT INTO product (id, title) VALUES (1, 'uno')")
	w := f.request(`{"saga_id":"old","mutations":[{"entity":"products","op":"patch","key":{"id":1},"set":{"title":"uno"}}]}`).Write
	f.exec(`INSERT INTO capsaga.saga (id, workflow_id, run_id, content, write, status) VALUES ('old', 'saga/old', 'run', $1, $2::text::json, 'pending')`,
		w.Digest(), `{"saga_id":"old","mutations":[{"entity":"products","op":"patch","key":{"id":1},"set":{"title":"uno"}}]}`)
	f.exec(`UPDATE capsaga.saga SET status = 'committed', version = 9007199254740993, before = '[{"id":1,"title":"one","stock":7,"price":1.10,"rate":null,"tags":["a","b"],"info":{"x":null}}]',
		result = json_build_array(json_build_object('entity', 'products', 'key', '1', 'etag', '1-' || (SELECT xmin FROM product))) WHERE id = 'old'`)
	entry := f.list(postgres.ListFilter{Entity: "products"})[0]
	assert.Equal(t, []string{"products"}, entry.Entities)
	assert.Equal(t, "old", f.ids(postgres.ListFilter{Statuses: []saga.Status{saga.Committed}}))
	got, workflowID, found, err := f.LedgerWrite(t.Context(), "old")
	require.NoError(t, err)
	assert.True(t, found)
	assert.Equal(t, "saga/old", workflowID)
	assert.Equal(t, w.Digest(), got.Digest())
	_, _, found, err = f.LedgerWrite(t.Context(), "nothing")
	require.NoError(t, err)
	assert.False(t, found)

	f.undone("old")
	assert.Equal(t, `(1,one,7,1.10,,"{a,b}","{""x"": null}")`, f.products())
	f.record("old", saga.Compensated)
	n, err := f.Prune(t.Context(), 0, 10)
	require.NoError(t, err)
	assert.Equal(t, 1, n)
}

func TestPrune(t *testing.T) {
	f := setup(t)
	for i := range 6 {
		id := fmt.Sprint("s", i)
		f.committed(fmt.Sprintf(`{"saga_id":%q,"mutations":[{"entity":"products","op":"insert","row":{"id":%d,"title":"x"}}]}`, id, i))
		require.NoError(t, errorOf(f.Waive(t.Context(), postgres.Waiver{SagaID: id, Step: saga.StepRedis, Version: 5, Reason: "r"})))
		f.edited(id, "e", fmt.Sprintf(`{"entity":"products","op":"patch","key":{"id":%d},"set":{"title":"y"}}`, i))
		if i%2 == 0 {
			f.exec("UPDATE product SET title = 'theirs' WHERE id = $1", i)
			f.conflict(id)
		}
		if i > 0 {
			f.record(id, saga.Completed)
		}
	}
	f.exec("UPDATE capsaga.saga SET finished_at = finished_at - interval '1 hour' WHERE id < 's4'")
	tx, err := f.Pool().Begin(t.Context())
	require.NoError(t, err)
	_, err = tx.Exec(t.Context(), "SELECT FROM capsaga.saga WHERE id = 's1' FOR NO KEY UPDATE")
	require.NoError(t, err)
	prune := func(limit int) int {
		n, err := f.Prune(t.Context(), time.Minute, limit)
		require.NoError(t, err)
		return n
	}
	assert.Equal(t, 1, prune(1))
	assert.Equal(t, 1, prune(10), "one is being changed")
	require.NoError(t, tx.Rollback(t.Context()))
	assert.Equal(t, 1, prune(10))
	assert.Zero(t, prune(10))
	assert.Equal(t, "s0 s4 s5", f.ids(postgres.ListFilter{OldestFirst: true}))
	assert.Equal(t, "3 3 2", f.text("SELECT concat_ws(' ', (SELECT count(*) FROM capsaga.waiver), (SELECT count(*) FROM capsaga.change), (SELECT count(*) FROM capsaga.conflict))"))
}

func TestWaive(t *testing.T) {
	f := setup(t)
	var e *saga.Error
	require.ErrorAs(t, errorOf(f.Waive(t.Context(), postgres.Waiver{SagaID: "nothing", Step: saga.StepRedis})), &e)
	assert.Equal(t, saga.CodeUnknownSaga, e.Code)
	r := f.committed(`{"saga_id":"a","mutations":[{"entity":"products","op":"insert","row":{"id":1,"title":"x"}}]}`)
	w := postgres.Waiver{SagaID: "a", Step: saga.StepRedis, Version: r.Version, Rows: r.Owned, Reason: "first"}
	for _, reason := range []string{"first", "second"} {
		w.Reason = reason
		require.NoError(t, errorOf(f.Waive(t.Context(), w)))
	}
	w.Version--
	w.Rows = nil
	require.NoError(t, errorOf(f.Waive(t.Context(), w)))
	assert.Equal(t, "second "+r.Version.String()+" 1", f.text("SELECT concat_ws(' ', reason, version, rows->0->>'key') FROM capsaga.waiver"))
}

func TestAttachTellsWhatWasRecorded(t *testing.T) {
	f := setup(t)
	line := `{"saga_id":"a","mutations":[{"entity":"products","op":"insert","row":{"id":1,"title":"x"}}]}`
	f.committed(line)
	assert.Nil(t, f.commit(line).Recorded)
	for _, status := range []saga.Status{saga.Parked, saga.Compensating, saga.Compensated} {
		f.record("a", status, saga.Step{Name: saga.StepRedis, State: saga.StepParked})
		again := f.commit(line)
		assert.Equal(t, saga.Committed, again.Status)
		require.NotNil(t, again.Recorded)
		assert.Equal(t, status, again.Recorded.Status)
		assert.Len(t, again.Recorded.Steps, 1)
	}
	f.record("a", saga.Completed)
	o, err := f.Recall(t.Context(), "a")
	require.NoError(t, err)
	assert.Equal(t, saga.Compensated, o.Status, "a late record of before the compensation changes nothing")
	none, err := f.Recall(t.Context(), "nothing")
	require.NoError(t, err)
	assert.Nil(t, none)
}

// However many rows there are, a page and a batch of pruning read a few hundred
// blocks.
func TestListAndPruneReadLittle(t *testing.T) {
	f := setup(t)
	db, err := postgres.Open(t.Context(), f.url+"&pool_max_conns=1") // whose statistics blocksRead has
	require.NoError(t, err)
	t.Cleanup(db.Close)
	f.DB = db
	total := 200_000
	f.exec(`INSERT INTO capsaga.saga (id, workflow_id, run_id, content, write, entities, status, blocked_on, error_class, version, created_at, finished_at)
		SELECT 's' || i, 'w', 'r', 'c', '{"mutations":[]}', CASE WHEN i % 40000 = 7 THEN '{rare}' ELSE ARRAY['e' || i % 5] END,
		       CASE WHEN i % 5000 = 3 THEN 'parked' WHEN i % 10000 = 4 THEN 'compensated' ELSE 'completed' END,
		       CASE WHEN i % 5000 = 3 THEN '{redis}' ELSE '{}' END::text[], CASE WHEN i % 5000 = 3 THEN 'rejected' END, i,
		       now() - ($1 - i) * interval '1 second', CASE WHEN i % 5000 <> 3 THEN now() - ($1 - i) * interval '1 second' END
		FROM generate_series(1, $1) i`, total)
	f.exec("VACUUM ANALYZE capsaga.saga")
	for i, filter := range []postgres.ListFilter{
		{},
		{OldestFirst: true},
		{Statuses: []saga.Status{saga.Parked}},
		{Statuses: []saga.Status{saga.Compensated, saga.Failed}},
		{BlockedOn: "redis"},
		{ErrorClass: saga.Rejected},
		{Entity: "e3"},
		{Entity: "rare"},
		{Entity: "nothing"},
		{Entity: "rare", Statuses: []saga.Status{saga.Parked}},
		{After: &postgres.ListCursor{CreatedAt: time.Now().Add(-100000 * time.Second), ID: "s5"}},
		{Since: time.Now().Add(-180000 * time.Second), Before: time.Now().Add(-160000 * time.Second), OldestFirst: true},
		{IDs: []string{"s77", "s88"}},
	} {
		f.list(filter) // reads the pages in
		reads := f.blocksRead(func() { f.list(filter) })
		t.Logf("%d blocks: %+v", reads, filter)
		assert.Positive(t, reads)
		assert.Less(t, reads, 800, "%d %+v", i, filter)
	}
	reads := f.blocksRead(func() {
		n, err := f.Prune(t.Context(), time.Hour, 500)
		require.NoError(t, err)
		assert.Equal(t, 500, n)
	})
	t.Logf("%d blocks: prune", reads)
	assert.Less(t, reads, 12000, "500 rows, each found and taken from its indexes")
}

// blocksRead returns how many blocks of the ledger and its indexes a call looks at.
func (f *fixture) blocksRead(call func()) int {
	f.t.Helper()
	count := func() (n int) {
		ctx := context.WithoutCancel(f.t.Context())
		conn, err := f.Pool().Acquire(ctx)
		require.NoError(f.t, err)
		defer conn.Release()
		_, err = conn.Exec(ctx, "SELECT pg_stat_force_next_flush()")
		require.NoError(f.t, err)
		require.NoError(f.t, conn.QueryRow(ctx, `SELECT heap_blks_read + heap_blks_hit + idx_blks_read + idx_blks_hit FROM pg_statio_all_tables WHERE relid = 'capsaga.saga'::regclass`).Scan(&n))
		return n
	}
	before := count()
	call()
	return count() - before
}

// errorOf drops what a call returns beside its error.
func errorOf[T any](_ T, err error) error { return err }
