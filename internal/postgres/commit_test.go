package postgres_test

import (
	"context"
	"encoding/json"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/capsaga/capsaga/internal/postgres"
	"github.com/capsaga/capsaga/internal/stacktest"
	"github.com/capsaga/capsaga/saga"
)

// fixture is a database with Capsaga's schema and a few tables.
type fixture struct {
	*postgres.DB
	t       *testing.T
	catalog *saga.Catalog
	url     string
}

func setup(t *testing.T, options ...postgres.Option) *fixture {
	t.Helper()
	t.Parallel()
	return open(t, options...)
}

// open is setup of another database for the same test.
func open(t *testing.T, options ...postgres.Option) *fixture {
	t.Helper()
	stack := stacktest.New(t)
	_, err := postgres.Migrate(t.Context(), stack.PostgresURL)
	require.NoError(t, err)
	db, err := postgres.Open(t.Context(), stack.PostgresURL, options...)
	require.NoError(t, err)
	t.Cleanup(db.Close)
	f := &fixture{DB: db, t: t, url: stack.PostgresURL, catalog: &saga.Catalog{Entities: map[string]*saga.Entity{}}}
	f.exec(`CREATE TABLE product (id bigint PRIMARY KEY, title text NOT NULL, stock bigint DEFAULT 0 CHECK (stock >= 0),
		price numeric(12,2), rate double precision, tags text[], info jsonb)`)
	f.entity("products", "public.product", "id")
	return f
}

func (f *fixture) exec(sql string, args ...any) {
	f.t.Helper()
	_, err := f.Pool().Exec(context.WithoutCancel(f.t.Context()), sql, args...)
	require.NoError(f.t, err)
}

func (f *fixture) text(sql string, args ...any) string {
	f.t.Helper()
	var s string
	require.NoError(f.t, f.Pool().QueryRow(f.t.Context(), sql, args...).Scan(&s))
	return s
}

func (f *fixture) entity(name, table string, key ...string) {
	parsed, err := saga.ParseTable(table)
	require.NoError(f.t, err)
	f.catalog.Entities[name] = &saga.Entity{Name: name, Table: parsed, Key: key, Redis: &saga.RedisSink{}}
}

func (f *fixture) request(line string) postgres.CommitRequest {
	f.t.Helper()
	w, err := saga.ParseWrite([]byte(line))
	require.NoError(f.t, err)
	return postgres.CommitRequest{Write: *w, Catalog: f.catalog, WorkflowID: saga.WorkflowID(w.SagaID), RunID: "run"}
}

func (f *fixture) commit(line string) *postgres.CommitResult {
	f.t.Helper()
	r, err := f.Commit(f.t.Context(), f.request(line))
	require.NoError(f.t, err)
	return r
}

func (f *fixture) committed(line string) *postgres.CommitResult {
	f.t.Helper()
	r := f.commit(line)
	require.Equal(f.t, saga.Committed, r.Status, "%+v", r.Error)
	return r
}

func (f *fixture) rejected(line string) *saga.ErrorInfo {
	f.t.Helper()
	before := f.text("SELECT coalesce(json_agg(p ORDER BY id), '[]')::text FROM product p")
	r := f.commit(line)
	require.Equal(f.t, saga.RejectedEnd, r.Status)
	assert.Equal(f.t, before, f.text("SELECT coalesce(json_agg(p ORDER BY id), '[]')::text FROM product p"), "a rejected write changes nothing")
	return r.Error
}

func TestEachOperation(t *testing.T) {
	f := setup(t)
	insert := f.committed(`{"saga_id":"a","mutations":[{"entity":"products","op":"insert","row":{"id":9007199254740993,"title":"one","price":1.10}}]}`)
	assert.Equal(t, "9007199254740993", insert.Owned[0].Key)
	assert.JSONEq(t, `{"id":9007199254740993,"title":"one","stock":0,"price":1.10,"rate":null,"tags":null,"info":null}`, string(insert.Owned[0].Row))
	assert.Contains(t, string(insert.Owned[0].Row), "9007199254740993", "the digits stay")

	upsert := f.committed(`{"saga_id":"b","mutations":[{"entity":"products","op":"upsert","row":{"id":9007199254740993,"stock":5}}]}`)
	assert.Contains(t, string(upsert.Owned[0].Row), `"title":"one"`, "an upsert changes the named columns only")
	patch := f.committed(`{"saga_id":"c","mutations":[{"entity":"products","op":"patch","key":{"id":9007199254740993},"set":{"title":"two"},"add":{"stock":-2,"price":0.05}}]}`)
	assert.Contains(t, string(patch.Owned[0].Row), `"title":"two","stock":3,"price":1.15`)
	add := f.committed(`{"saga_id":"d","mutations":[{"entity":"products","op":"add","key":{"id":9007199254740993},"add":{"stock":7}}]}`)
	assert.Contains(t, string(add.Owned[0].Row), `"stock":10`)
	del := f.committed(`{"saga_id":"e","mutations":[{"entity":"products","op":"delete","key":{"id":9007199254740993}}]}`)
	assert.True(t, del.Owned[0].Gone())

	for _, pair := range [][2]saga.Version{{insert.Version, upsert.Version}, {upsert.Version, patch.Version}, {patch.Version, add.Version}, {add.Version, del.Version}} {
		assert.Less(t, pair[0], pair[1])
	}
	assert.Equal(t, saga.Epoch(1), del.Version.Epoch())
	assert.GreaterOrEqual(t, del.FlushLSN, del.Version.LSN(), "the flushed position covers the commit")
	assert.Equal(t, "5", f.text("SELECT count(*)::text FROM capsaga.saga WHERE status = 'committed'"))
}

func TestRejections(t *testing.T) {
	f := setup(t)
	f.committed(`{"saga_id":"seed","mutations":[{"entity":"products","op":"insert","row":{"id":1,"title":"one","stock":1}}]}`)
	for i, c := range []struct{ mutation, code, says string }{
		{`{"entity":"nothing","op":"delete","key":{"id":1}}`, saga.CodeUnknownEntity, "products"},
		{`{"entity":"products","op":"upsert","row":{"id":1,"colour":"red"}}`, saga.CodeUnknownColumn, `"colour"`},
		{`{"entity":"products","op":"upsert","row":{"title":"x"}}`, saga.CodeMissingKey, `"id"`},
		{`{"entity":"products","op":"patch","key":{"id":null},"set":{"title":"x"}}`, saga.CodeMissingKey, `"id"`},
		{`{"entity":"products","op":"patch","key":{"id":1,"title":"one"},"set":{"stock":1}}`, saga.CodeInvalidValue, `"title" is not of the key`},
		{`{"entity":"products","op":"patch","key":{"id":1},"set":{"id":2}}`, saga.CodeInvalidValue, "cannot change"},
		{`{"entity":"products","op":"upsert","row":{"id":1,"title":"x","stock":"many"}}`, saga.CodeInvalidValue, `column "stock"`},
		{`{"entity":"products","op":"upsert","row":{"id":1,"title":"x","stock":1e400}}`, saga.CodeInvalidValue, `column "stock"`},
		{`{"entity":"products","op":"upsert","row":{"id":1,"title":"x","rate":1e400}}`, saga.CodeInvalidValue, `column "rate"`},
		{`{"entity":"products","op":"insert","row":{"id":99999999999999999999,"title":"x"}}`, saga.CodeInvalidValue, `column "id"`},
		{`{"entity":"products","op":"insert","row":{"id":2,"title":"nul \u0000"}}`, saga.CodeInvalidValue, `column "title"`},
		{`{"entity":"products","op":"insert","row":{"id":2,"title":{"a":1}}}`, saga.CodeInvalidValue, `"title" is a JSON object`},
		{`{"entity":"products","op":"insert","row":{"id":2,"title":["a"]}}`, saga.CodeInvalidValue, `"title" is a JSON object`},
		{`{"entity":"products","op":"insert","row":{"id":2}}`, saga.CodeConstraintViolation, "title"},
		{`{"entity":"products","op":"insert","row":{"id":1,"title":"again"}}`, saga.CodeConstraintViolation, "product_pkey"},
		{`{"entity":"products","op":"add","key":{"id":1},"add":{"stock":-5}}`, saga.CodeConstraintViolation, "product_stock_check"},
		{`{"entity":"products","op":"add","key":{"id":1},"add":{"rate":1}}`, saga.CodeInvalidValue, "integers and numerics"},
		{`{"entity":"products","op":"add","key":{"id":1},"add":{"price":1}}`, saga.CodeInvalidValue, "is null"},
		{`{"entity":"products","op":"add","key":{"id":1},"add":{"stock":"1"}}`, saga.CodeInvalidValue, "wants a number"},
		{`{"entity":"products","op":"patch","key":{"id":77},"set":{"title":"x"}}`, saga.CodeNotFound, "products/77"},
		{`{"entity":"products","op":"delete","key":{"id":77}}`, saga.CodeNotFound, "products/77"},
		{`{"entity":"products","op":"patch","key":{"id":1},"add":{"stock":-1},"expect":{"where":[["stock",">=",2]]}}`, saga.CodeExpectUnmet, "stock >= 2"},
		{`{"entity":"products","op":"patch","key":{"id":1},"add":{"stock":-2},"expect":{"where":[["stock",">=",2]]}}`, saga.CodeExpectUnmet, "stock >= 2"},
		{`{"entity":"products","op":"patch","key":{"id":1},"set":{"stock":1},"expect":{"etag":"1-1"}}`, saga.CodeExpectUnmet, "1-1"},
		{`{"entity":"products","op":"upsert","row":{"id":1,"title":"x"},"expect":{"exists":false}}`, saga.CodeExpectUnmet, "no such row"},
		{`{"entity":"products","op":"upsert","row":{"id":5,"title":"x"},"expect":{"exists":true}}`, saga.CodeExpectUnmet, "there is none"},
		{`{"entity":"products","op":"patch","key":{"id":1},"set":{"stock":1},"expect":{"where":[["stock",">=","abc"]]}}`, saga.CodeInvalidValue, `column "stock"`},
	} {
		t.Run(fmt.Sprintf("%d %s", i, c.code), func(t *testing.T) {
			got := f.rejected(fmt.Sprintf(`{"saga_id":"r%d","mutations":[%s]}`, i, c.mutation))
			assert.Equal(t, c.code, got.Code, got.Message)
			assert.Contains(t, got.Message, c.says)
		})
	}
}

func TestAllOrNothing(t *testing.T) {
	f := setup(t)
	f.rejected(`{"saga_id":"x","mutations":[
		{"entity":"products","op":"insert","row":{"id":1,"title":"one"}},
		{"entity":"products","op":"delete","key":{"id":2}}]}`)
}

func TestExpectationsThatHold(t *testing.T) {
	f := setup(t)
	first := f.committed(`{"saga_id":"a","mutations":[{"entity":"products","op":"upsert","row":{"id":1,"title":"one","stock":3,"price":1.005},"expect":{"exists":false}}]}`)
	second := f.committed(fmt.Sprintf(`{"saga_id":"b","mutations":[{"entity":"products","op":"patch","key":{"id":1},"add":{"stock":-3},
		"expect":{"etag":%q,"exists":true,"where":[["stock",">=",3],["price","<",1.011],["rate","=",null],["title","<>","two"]]}}]}`, first.Owned[0].ETag))
	assert.NotEqual(t, first.Owned[0].ETag, second.Owned[0].ETag)
}

func TestSameSagaTwice(t *testing.T) {
	f := setup(t)
	line := `{"saga_id":"a","mutations":[{"entity":"products","op":"insert","row":{"id":1,"title":"one"}}]}`
	first := f.committed(line)
	again := f.committed(line)
	assert.Equal(t, first.Version, again.Version)
	assert.Equal(t, first.Owned[0].ETag, again.Owned[0].ETag)
	assert.Equal(t, "1", f.text("SELECT count(*)::text FROM product"))

	other := f.commit(`{"saga_id":"a","mutations":[{"entity":"products","op":"insert","row":{"id":2,"title":"one"}}]}`)
	assert.Equal(t, saga.Failed, other.Status)
	assert.Equal(t, saga.CodeSagaIDReused, other.Error.Code)
	assert.Equal(t, "1", f.text("SELECT count(*)::text FROM product"))

	refused := `{"saga_id":"n","mutations":[{"entity":"products","op":"delete","key":{"id":5}}]}`
	assert.Equal(t, saga.CodeNotFound, f.rejected(refused).Code)
	f.committed(`{"saga_id":"m","mutations":[{"entity":"products","op":"insert","row":{"id":5,"title":"five"}}]}`)
	assert.Equal(t, saga.CodeNotFound, f.rejected(refused).Code, "a rejection is remembered too")
}

func TestSameSagaAtOnce(t *testing.T) {
	f := setup(t)
	f.committed(`{"saga_id":"seed","mutations":[{"entity":"products","op":"insert","row":{"id":1,"title":"one"}}]}`)
	request := f.request(`{"saga_id":"a","mutations":[{"entity":"products","op":"add","key":{"id":1},"add":{"stock":1}}]}`)
	var wg sync.WaitGroup
	versions := make([]saga.Version, 16)
	for i := range versions {
		wg.Go(func() {
			r, err := f.Commit(t.Context(), request)
			if assert.NoError(t, err) {
				versions[i] = r.Version
			}
		})
	}
	wg.Wait()
	for _, v := range versions {
		assert.Equal(t, versions[0], v)
	}
	assert.Equal(t, "1", f.text("SELECT stock::text FROM product"))
}

func TestCrossedWritesDoNotDeadlock(t *testing.T) {
	f := setup(t)
	for id := range 4 {
		f.committed(fmt.Sprintf(`{"saga_id":"seed%d","mutations":[{"entity":"products","op":"insert","row":{"id":%d,"title":"x"}}]}`, id, id))
	}
	var wg sync.WaitGroup
	for i := range 40 {
		request := f.request(fmt.Sprintf(`{"saga_id":"s%d","mutations":[
			{"entity":"products","op":"add","key":{"id":%d},"add":{"stock":1}},
			{"entity":"products","op":"add","key":{"id":%d},"add":{"stock":1}}]}`, i, i%4, (i+1+i/4%3)%4))
		wg.Go(func() {
			r, err := f.Commit(t.Context(), request)
			if assert.NoError(t, err) {
				assert.Equal(t, saga.Committed, r.Status)
			}
		})
	}
	wg.Wait()
	assert.Equal(t, "80", f.text("SELECT sum(stock)::text FROM product"))
}

// What triggers and savepoints change after the statement is in the image and in
// the etag.
func TestTriggersAreSeen(t *testing.T) {
	f := setup(t)
	f.exec(`CREATE FUNCTION bump() RETURNS trigger LANGUAGE plpgsql AS $$
		BEGIN
		  IF NEW.stock < 100 THEN
		    BEGIN UPDATE product SET stock = stock + 100 WHERE id = NEW.id; EXCEPTION WHEN division_by_zero THEN NULL; END;
		  END IF;
		  RETURN NULL;
		END $$;
		CREATE CONSTRAINT TRIGGER bump AFTER INSERT OR UPDATE ON product DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION bump()`)
	r := f.committed(`{"saga_id":"a","mutations":[{"entity":"products","op":"insert","row":{"id":1,"title":"one","stock":1}}]}`)
	assert.Contains(t, string(r.Owned[0].Row), `"stock":101`)
	assert.Equal(t, "1-"+f.text("SELECT xmin::text FROM product"), r.Owned[0].ETag)
}

func TestAnyTypeAndCompositeKeys(t *testing.T) {
	f := setup(t)
	f.exec(`CREATE TYPE mood AS ENUM ('sad', 'happy'); CREATE DOMAIN cents AS bigint CHECK (VALUE >= 0);
		CREATE TABLE odd ("Tenant ID" text, flag boolean, code char(4), addr inet, n int GENERATED ALWAYS AS IDENTITY,
		  m mood, c cents, ts timestamptz, d date, i interval, b bytea, j json, jb jsonb, u uuid, num numeric, r int4range, arr int[][],
		  f4 real, f8 double precision, bits bit(3), twice text GENERATED ALWAYS AS ("Tenant ID" || '!') STORED, virt double precision GENERATED ALWAYS AS (f8 * 3) VIRTUAL,
		  PRIMARY KEY ("Tenant ID", flag, code, addr))`)
	f.entity("odd", "public.odd", "Tenant ID", "flag", "code", "addr")
	r := f.committed(`{"saga_id":"a","mutations":[{"entity":"odd","op":"insert","row":{"Tenant ID":"a:b%/é","flag":true,"code":"x","addr":"10.0.0.1","m":"happy","c":7,
		"ts":"2026-01-02 03:04:05+02","d":"infinity","i":"1 day 02:00","b":"\\x00ff","j":{"z":1, "a":[1.10,9007199254740993]},"jb":{"n":1e20},"u":"A0EEBC99-9C0B-4EF8-BB6D-6BB9BD380A11",
		"num":"NaN","r":"[1,5)","arr":[[1,2],[3,4]],"f4":"Infinity","f8":0.1,"bits":"101"}}]}`)
	assert.Equal(t, "a%3Ab%25%2F%C3%A9:t:x%20%20%20:10.0.0.1", r.Owned[0].Key, "the types' output forms, as in the WAL")
	var row map[string]json.RawMessage
	require.NoError(t, json.Unmarshal(r.Owned[0].Row, &row))
	for name, want := range map[string]string{
		"n": "1", "c": "7", "twice": `"a:b%/é!"`, "m": `"happy"`, "ts": `"2026-01-02T01:04:05+00:00"`, "d": `"infinity"`, "num": `"NaN"`,
		"arr": "[[1,2],[3,4]]", "f4": `"Infinity"`, "f8": "0.1", "b": `"\\x00ff"`, "j": `{"z":1, "a":[1.10,9007199254740993]}`,
	} {
		assert.Equal(t, want, string(row[name]), name)
	}
	assert.NotContains(t, row, "virt", "virtual columns never appear in the WAL")

	read, err := f.ReadRow(t.Context(), f.catalog.Entities["odd"], r.Owned[0].Key)
	require.NoError(t, err)
	assert.Equal(t, string(r.Owned[0].Row), string(read.Row))
	assert.Equal(t, r.Owned[0].ETag, read.ETag)
	assert.Greater(t, read.Version, r.Version)

	f.committed(`{"saga_id":"b","mutations":[{"entity":"odd","op":"upsert","row":{"Tenant ID":"a:b%/é","flag":true,"code":"x","addr":"10.0.0.1","num":1e100}}]}`)
	assert.Equal(t, "1", f.text("SELECT count(*)::text FROM odd"))
}

// Two keys that a naive join would merge stay two, and nothing in a name or a
// value reaches SQL as SQL.
func TestNothingIsInjected(t *testing.T) {
	f := setup(t)
	f.exec(`CREATE TABLE "we""ird; DROP TABLE product; --" ("a""); DROP TABLE product; --" text, "b'" text, v text, PRIMARY KEY ("a""); DROP TABLE product; --", "b'"))`)
	f.entity("weird", `public.we"ird; DROP TABLE product; --`, `a"); DROP TABLE product; --`, "b'")
	line := `{"saga_id":"%s","mutations":[{"entity":"weird","op":"upsert","row":{"a\"); DROP TABLE product; --":%q,"b'":%q,"v":"'); DROP TABLE product; --"}}]}`
	one := f.committed(fmt.Sprintf(line, "'; DROP TABLE product; --", "x:y", "z"))
	two := f.committed(fmt.Sprintf(line, "b", "x", "y:z"))
	assert.NotEqual(t, one.Owned[0].Key, two.Owned[0].Key)
	assert.Equal(t, "0", f.text("SELECT count(*)::text FROM product"))
}

func TestReadOfLockedRowIsNotForFilling(t *testing.T) {
	f := setup(t)
	f.committed(`{"saga_id":"a","mutations":[{"entity":"products","op":"insert","row":{"id":1,"title":"one"}}]}`)
	e := f.catalog.Entities["products"]
	tx, err := f.Pool().Begin(t.Context())
	require.NoError(t, err)
	_, err = tx.Exec(t.Context(), "UPDATE product SET title = 'two'")
	require.NoError(t, err)
	read, err := f.ReadRow(t.Context(), e, "1")
	require.NoError(t, err)
	assert.True(t, read.Found)
	assert.Zero(t, read.Version)
	require.NoError(t, tx.Rollback(t.Context()))

	read, err = f.ReadRow(t.Context(), e, "1")
	require.NoError(t, err)
	assert.NotZero(t, read.Version, "a lock that is over, whose xmax stays, is read under a lock of our own")
	assert.Contains(t, string(read.Row), `"one"`)

	read, err = f.ReadRow(t.Context(), e, "2")
	require.NoError(t, err)
	assert.False(t, read.Found)
}

func TestCommitAfterAlterTable(t *testing.T) {
	f := setup(t)
	f.committed(`{"saga_id":"a","mutations":[{"entity":"products","op":"insert","row":{"id":1,"title":"one"}}]}`)
	f.exec("ALTER TABLE product ADD COLUMN colour text DEFAULT 'red'")
	f.committed(`{"saga_id":"b","mutations":[{"entity":"products","op":"upsert","row":{"id":1,"title":"one","colour":"blue"}}]}`)
	f.exec("ALTER TABLE product ALTER price TYPE numeric(14,4), ALTER rate TYPE numeric, ADD COLUMN extra text DEFAULT 'new'")
	wide := f.committed(`{"saga_id":"wide","mutations":[{"entity":"products","op":"patch","key":{"id":1},"set":{"price":1.2345,"rate":0.10}}]}`)
	assert.Contains(t, string(wide.Owned[0].Row), `"price":1.2345,"rate":0.10`, "nothing is rounded to the old type")
	assert.Contains(t, string(wide.Owned[0].Row), `"extra":"new"`, "a column that the write does not name is in the image")
	f.exec("ALTER TABLE product ALTER stock TYPE numeric")
	f.committed(`{"saga_id":"far","mutations":[{"entity":"products","op":"patch","key":{"id":1},"set":{"stock":99999999999999999999}}]}`)
	f.exec("ALTER TABLE product ALTER id TYPE text, ADD COLUMN more int DEFAULT 7")
	f.committed(`{"saga_id":"key","mutations":[{"entity":"products","op":"patch","key":{"id":"1"},"set":{"stock":1}}]}`)
	f.exec("ALTER TABLE product ADD COLUMN last int DEFAULT 8")
	read, err := f.ReadRow(t.Context(), f.catalog.Entities["products"], "1")
	require.NoError(t, err)
	assert.Contains(t, string(read.Row), `"more":7,"last":8`)
	f.exec("ALTER TABLE product DROP COLUMN tags")
	r := f.committed(`{"saga_id":"c","mutations":[{"entity":"products","op":"upsert","row":{"id":1,"title":"two"}}]}`)
	assert.Contains(t, string(r.Owned[0].Row), `"colour":"blue"`)
}

func TestBusyRowIsUnavailable(t *testing.T) {
	f := setup(t)
	f.committed(`{"saga_id":"a","mutations":[{"entity":"products","op":"insert","row":{"id":1,"title":"one"}}]}`)
	tx, err := f.Pool().Begin(t.Context())
	require.NoError(t, err)
	defer func() { _ = tx.Rollback(context.WithoutCancel(t.Context())) }()
	_, err = tx.Exec(t.Context(), "UPDATE product SET title = 'two'")
	require.NoError(t, err)
	ctx, cancel := context.WithTimeout(t.Context(), 500*time.Millisecond)
	defer cancel()
	_, err = f.Commit(ctx, f.request(`{"saga_id":"b","mutations":[{"entity":"products","op":"delete","key":{"id":1}}]}`))
	require.Error(t, err)
	assert.Equal(t, saga.Unavailable, saga.ClassOf(err))
}

func TestSynchronousReplica(t *testing.T) {
	f := setup(t, postgres.WithReplicationTimeout(500*time.Millisecond))
	r := f.committed(`{"saga_id":"a","consistency":"cp","mutations":[{"entity":"products","op":"insert","row":{"id":1,"title":"one"}}]}`)
	assert.Equal(t, saga.ConfirmedByReplica, r.Confirmed)
	r = f.committed(`{"saga_id":"b","mutations":[{"entity":"products","op":"insert","row":{"id":2,"title":"one"}}]}`)
	assert.Equal(t, saga.ConfirmedLocally, r.Confirmed)
}

func TestOutcomeIsKept(t *testing.T) {
	f := setup(t)
	r := f.committed(`{"saga_id":"a","mutations":[{"entity":"products","op":"insert","row":{"id":1,"title":"one"}}]}`)
	workflow, o, found, err := f.LedgerOutcome(t.Context(), "a")
	require.NoError(t, err)
	require.True(t, found)
	assert.Equal(t, "saga/a", workflow)
	assert.Equal(t, saga.Committed, o.Status)
	assert.Equal(t, r.Version, o.Version)

	done := *o
	done.Status = saga.Completed
	require.NoError(t, errorOf(f.RecordOutcome(t.Context(), "a", done)))
	late := *o
	late.Status = saga.Parked
	require.NoError(t, errorOf(f.RecordOutcome(t.Context(), "a", late)))
	_, o, _, err = f.LedgerOutcome(t.Context(), "a")
	require.NoError(t, err)
	assert.Equal(t, saga.Completed, o.Status, "a final outcome stays")
	_, _, found, err = f.LedgerOutcome(t.Context(), "nothing")
	require.NoError(t, err)
	assert.False(t, found)
}

func TestCancel(t *testing.T) {
	f := setup(t)
	line := `{"saga_id":"a","mutations":[{"entity":"products","op":"insert","row":{"id":1,"title":"one"}}]}`
	w := f.request(line).Write
	committed, err := f.Cancel(t.Context(), w, "saga/a", "run")
	require.NoError(t, err)
	assert.False(t, committed)
	assert.Equal(t, saga.Cancelled, f.commit(line).Status, "a commit that comes later does nothing")
	assert.Equal(t, "0", f.text("SELECT count(*)::text FROM product"))

	late := `{"saga_id":"b","mutations":[{"entity":"products","op":"insert","row":{"id":2,"title":"two"}}]}`
	f.committed(late)
	committed, err = f.Cancel(t.Context(), f.request(late).Write, "saga/b", "run")
	require.NoError(t, err)
	assert.True(t, committed)
}

func TestKeyTooLongForElasticsearch(t *testing.T) {
	f := setup(t)
	f.exec("CREATE TABLE named (name text PRIMARY KEY)")
	f.entity("named", "public.named", "name")
	line := fmt.Sprintf(`{"saga_id":"%%s","mutations":[{"entity":"named","op":"insert","row":{"name":%q}}]}`, strings.Repeat("x", saga.MaxDocumentKeyBytes+1))
	f.catalog.Entities["named"].Elasticsearch = &saga.ElasticsearchSink{}
	r := f.commit(fmt.Sprintf(line, "a"))
	assert.Equal(t, saga.RejectedEnd, r.Status)
	assert.Equal(t, saga.CodeInvalidValue, r.Error.Code)
	f.catalog.Entities["named"].Elasticsearch = nil
	f.committed(fmt.Sprintf(line, "b"))
}

// What a saga's workflow would have to carry of its keys is bounded before the
// commit: afterwards it is too late to say no.
func TestTooManyKeys(t *testing.T) {
	f := setup(t)
	var mutations []string
	for id := range 8000 {
		mutations = append(mutations, fmt.Sprintf(`{"entity":"products","op":"insert","row":{"id":%d,"title":"x"}}`, id))
	}
	e := f.rejected(`{"saga_id":"a","mutations":[` + strings.Join(mutations, ",") + `]}`)
	assert.Equal(t, saga.CodeInvalidWrite, e.Code)
	assert.Contains(t, e.Message, "8000 rows")
}

// An upsert that names only the key leaves the key's text as it is, and so the
// names of its copies.
func TestUpsertOfTheKeyAlone(t *testing.T) {
	f := setup(t)
	f.exec("CREATE TABLE priced (id numeric PRIMARY KEY, v int)")
	f.entity("priced", "public.priced", "id")
	first := f.committed(`{"saga_id":"a","mutations":[{"entity":"priced","op":"insert","row":{"id":1.00}}]}`)
	again := f.committed(`{"saga_id":"b","mutations":[{"entity":"priced","op":"upsert","row":{"id":1.0}}]}`)
	assert.Equal(t, first.Owned[0].Key, again.Owned[0].Key)
	assert.NotEqual(t, first.Owned[0].ETag, again.Owned[0].ETag)
}
