package postgres_test

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/capsaga/capsaga/internal/postgres"
	"github.com/capsaga/capsaga/saga"
)

func (f *fixture) undo(sagaID string) *postgres.ChangeResult {
	f.t.Helper()
	r, err := f.Undo(f.t.Context(), postgres.UndoRequest{SagaID: sagaID, Catalog: f.catalog})
	require.NoError(f.t, err)
	return r
}

func (f *fixture) undone(sagaID string) *postgres.ChangeResult {
	f.t.Helper()
	r := f.undo(sagaID)
	require.Nil(f.t, r.Refused, "%+v", r.Refused)
	conflicts, err := f.Conflicts(f.t.Context(), sagaID)
	require.NoError(f.t, err)
	assert.Empty(f.t, conflicts)
	return r
}

// conflict expects the undo to be refused and to have changed nothing, and returns
// the rows in the way.
func (f *fixture) conflict(sagaID string, tables ...string) (*saga.ErrorInfo, []saga.Conflict) {
	f.t.Helper()
	before := f.contents(tables)
	r := f.undo(sagaID)
	require.NotNil(f.t, r.Refused)
	assert.Equal(f.t, saga.CodeConflict, r.Refused.Code, r.Refused.Message)
	assert.Equal(f.t, saga.Rejected, r.Refused.Class)
	assert.Equal(f.t, before, f.contents(tables), "a refused undo changes nothing")
	conflicts, err := f.Conflicts(f.t.Context(), sagaID)
	require.NoError(f.t, err)
	require.NotEmpty(f.t, conflicts)
	return r.Refused, conflicts
}

// contents returns all rows of the tables, with their row versions.
func (f *fixture) contents(tables []string) string {
	f.t.Helper()
	var all []string
	for _, table := range append(tables, "product") {
		all = append(all, f.text(fmt.Sprintf("SELECT coalesce(string_agg(t.xmin::text || ' ' || t::text, E'\n' ORDER BY t::text), '') FROM %s t", table)))
	}
	return strings.Join(all, "\n--\n")
}

func (f *fixture) products() string {
	f.t.Helper()
	return f.text("SELECT coalesce(string_agg(t::text, ' ' ORDER BY id), '') FROM product t")
}

func TestUndoOfEachOperation(t *testing.T) {
	f := setup(t)
	f.committed(`{"saga_id":"seed","mutations":[
		{"entity":"products","op":"insert","row":{"id":1,"title":"one","stock":1,"price":1.50,"tags":["a"]}},
		{"entity":"products","op":"insert","row":{"id":2,"title":"two","stock":2}}]}`)
	for i, mutations := range []string{
		`{"entity":"products","op":"insert","row":{"id":3,"title":"three"}}`,
		`{"entity":"products","op":"upsert","row":{"id":3,"title":"three"}}`,
		`{"entity":"products","op":"upsert","row":{"id":1,"title":"uno","tags":null}}`,
		`{"entity":"products","op":"patch","key":{"id":1},"set":{"title":"uno"},"add":{"stock":3}}`,
		`{"entity":"products","op":"add","key":{"id":1},"add":{"stock":3,"price":-0.50}}`,
		`{"entity":"products","op":"delete","key":{"id":1}}`,
		`{"entity":"products","op":"delete","key":{"id":1}},{"entity":"products","op":"insert","row":{"id":1,"title":"again"}}`,
		`{"entity":"products","op":"insert","row":{"id":3,"title":"three"}},{"entity":"products","op":"delete","key":{"id":3}}`,
		`{"entity":"products","op":"insert","row":{"id":3,"title":"three"}},{"entity":"products","op":"add","key":{"id":3},"add":{"stock":1}}`,
		`{"entity":"products","op":"patch","key":{"id":1},"set":{"title":"a"}},{"entity":"products","op":"add","key":{"id":2},"add":{"stock":5}},
		 {"entity":"products","op":"patch","key":{"id":1},"set":{"title":"b"}},{"entity":"products","op":"delete","key":{"id":2}}`,
	} {
		t.Run(fmt.Sprint(i), func(t *testing.T) {
			f := *f
			f.t = t
			before := f.products()
			id := fmt.Sprintf("s%d", i)
			commit := f.committed(fmt.Sprintf(`{"saga_id":%q,"mutations":[%s]}`, id, mutations))
			undo := f.undone(id)
			assert.Equal(t, before, f.products())
			assert.Greater(t, undo.Version, commit.Version)
			assert.GreaterOrEqual(t, undo.FlushLSN, undo.Version.LSN())
			require.Len(t, undo.Owned, len(commit.Owned))
			for _, o := range undo.Owned {
				assert.Zero(t, o.Version)
				assert.Equal(t, f.text("SELECT coalesce((SELECT '1-' || xmin FROM product WHERE id = $1), '')", json.Number(o.Key)), o.ETag)
			}

			again := f.undone(id)
			assert.Equal(t, undo.Version, again.Version)
			assert.GreaterOrEqual(t, again.FlushLSN, undo.FlushLSN)
			assert.WithinDuration(t, undo.CommittedAt, again.CommittedAt, 1e9)
			for i, o := range undo.Owned {
				o.Row = nil
				assert.Equal(t, o, again.Owned[i])
			}
			assert.Equal(t, before, f.products())
			assert.Equal(t, commit.Version, f.commit(fmt.Sprintf(`{"saga_id":%q,"mutations":[%s]}`, id, mutations)).Version, "the commit's result stands")
		})
	}
}

func TestUndoOfWhatNeverCommitted(t *testing.T) {
	f := setup(t)
	r := f.undo("nothing")
	require.NotNil(t, r.Refused)
	assert.Equal(t, saga.CodeUnknownSaga, r.Refused.Code)
	f.rejected(`{"saga_id":"refused","mutations":[{"entity":"products","op":"delete","key":{"id":1}}]}`)
	r = f.undo("refused")
	require.NotNil(t, r.Refused)
	assert.Equal(t, saga.CodeUnknownSaga, r.Refused.Code)
	assert.Contains(t, r.Refused.Message, "never committed")
}

// Each kind of conflict, what the message says of it, and that the undo succeeds
// once what was in the way is gone, where that is possible.
func TestConflicts(t *testing.T) {
	for _, c := range []struct{ name, mutations, meanwhile, says, theirs, before, mend string }{
		{
			"patched row changed", `{"entity":"products","op":"patch","key":{"id":1},"set":{"title":"uno"},"add":{"stock":2}}`,
			"UPDATE product SET title = 'theirs', price = 9 WHERE id = 1", "products/1: someone else has changed it since: price, title;",
			`{"id":1,"title":"theirs","stock":3,"price":9.00,"rate":null,"tags":null,"info":null}`, `{"id":1,"title":"one","stock":1,"price":1.50,"rate":null,"tags":null,"info":null}`, "",
		},
		{
			"patched row written again", `{"entity":"products","op":"patch","key":{"id":1},"set":{"title":"uno"}}`,
			"UPDATE product SET stock = stock WHERE id = 1", "though no column differs", `{"id":1,"title":"uno","stock":1,"price":1.50,"rate":null,"tags":null,"info":null}`, "*", "",
		},
		{
			"added and patched", `{"entity":"products","op":"add","key":{"id":1},"add":{"stock":2}},{"entity":"products","op":"patch","key":{"id":1},"set":{"price":2}}`,
			"UPDATE product SET stock = stock + 1 WHERE id = 1", "changed it since: stock;", "*", "*", "",
		},
		{
			"patched row gone", `{"entity":"products","op":"patch","key":{"id":1},"set":{"title":"uno"}}`,
			"DELETE FROM product WHERE id = 1", "products/1: someone else has deleted it", "", "*", "",
		},
		{
			"added row gone", `{"entity":"products","op":"add","key":{"id":1},"add":{"stock":2}}`,
			"DELETE FROM product WHERE id = 1", "someone else has deleted it", "", "*", "",
		},
		{
			"inserted row changed", `{"entity":"products","op":"insert","row":{"id":5,"title":"five"}}`,
			"UPDATE product SET title = 'cinco' WHERE id = 5", "changed it since: title;", "*", "", "",
		},
		{
			"inserted row gone", `{"entity":"products","op":"insert","row":{"id":5,"title":"five"}}`,
			"DELETE FROM product WHERE id = 5", "someone else has deleted it", "", "", "",
		},
		{
			"deleted row there again", `{"entity":"products","op":"delete","key":{"id":1}}`,
			"INSERT INTO product (id, title) VALUES (1, 'new')", "there is such a row again", "*", "*", "DELETE FROM product WHERE id = 1",
		},
		{
			"check constraint", `{"entity":"products","op":"add","key":{"id":1},"add":{"stock":5}}`,
			"UPDATE product SET stock = 2 WHERE id = 1", "product_stock_check", `{"id":1,"title":"one","stock":2,"price":1.50,"rate":null,"tags":null,"info":null}`, "*", "UPDATE product SET stock = 7 WHERE id = 1",
		},
		{
			"unique constraint", `{"entity":"products","op":"patch","key":{"id":1},"set":{"title":"uno"}}`,
			"INSERT INTO product (id, title) VALUES (9, 'one')", "one_title", "*", "*", "DELETE FROM product WHERE id = 9",
		},
		{
			"inserted row referenced, restrict", `{"entity":"products","op":"insert","row":{"id":5,"title":"five"}}`,
			"INSERT INTO line_restrict VALUES (1, 5)", "line_restrict_product_fkey", "*", "", "DELETE FROM line_restrict",
		},
		{
			"inserted row referenced, deferred", `{"entity":"products","op":"insert","row":{"id":5,"title":"five"}}`,
			"INSERT INTO line_deferred VALUES (1, 5)", "line_deferred_product_fkey", "", "", "DELETE FROM line_deferred",
		},
		{
			"inserted row referenced, cascade", `{"entity":"products","op":"insert","row":{"id":5,"title":"five"}}`,
			"INSERT INTO line_cascade VALUES (1, 5)", "rows of public.line_cascade refer to it", "*", "", "DELETE FROM line_cascade",
		},
		{
			"inserted row referenced, set null", `{"entity":"products","op":"upsert","row":{"id":5,"title":"five"}}`,
			"INSERT INTO line_null VALUES (1, 5); INSERT INTO line_default VALUES (1, 5)", "rows of public.line_default, public.line_null refer to it", "*", "", "UPDATE line_null SET product = 2; DELETE FROM line_default",
		},
		{
			"column gone", `{"entity":"products","op":"patch","key":{"id":1},"set":{"title":"uno"}}`,
			"ALTER TABLE product DROP COLUMN rate", `no column "rate" any more`, "*", "*", "ALTER TABLE product ADD COLUMN rate double precision",
		},
		{
			"trigger keeps the row", `{"entity":"products","op":"insert","row":{"id":5,"title":"five"}}`,
			"CREATE TRIGGER hold BEFORE DELETE ON product FOR EACH ROW EXECUTE FUNCTION hold()", "a trigger of table public.product keeps it", "*", "", "DROP TRIGGER hold ON product",
		},
	} {
		t.Run(c.name, func(t *testing.T) {
			f := setup(t)
			f.exec(`CREATE UNIQUE INDEX one_title ON product (title);
				CREATE TABLE line_restrict (id int PRIMARY KEY, product bigint REFERENCES product ON DELETE RESTRICT);
				CREATE TABLE line_deferred (id int PRIMARY KEY, product bigint REFERENCES product DEFERRABLE INITIALLY DEFERRED);
				CREATE TABLE line_cascade (id int PRIMARY KEY, product bigint REFERENCES product ON DELETE CASCADE);
				CREATE TABLE line_null (id int PRIMARY KEY, product bigint REFERENCES product ON DELETE SET NULL);
				CREATE TABLE line_default (id int PRIMARY KEY, product bigint DEFAULT 2 REFERENCES product ON DELETE SET DEFAULT);
				CREATE FUNCTION hold() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NULL; END';
				INSERT INTO product (id, title, stock, price) VALUES (1, 'one', 1, 1.50), (2, 'two', 2, 2)`)
			original := f.products()
			f.committed(`{"saga_id":"a","mutations":[` + c.mutations + `]}`)
			f.exec(c.meanwhile)
			refused, conflicts := f.conflict("a", "line_restrict", "line_deferred", "line_cascade", "line_null", "line_default")
			assert.Contains(t, refused.Message, c.says)
			assert.Equal(t, "postgres", refused.System)
			require.Len(t, conflicts, 1)
			got := conflicts[0]
			assert.Equal(t, "products", strings.Replace(got.Entity, "public.line_deferred", "products", 1))
			for _, side := range [][2]string{{c.theirs, string(got.Theirs)}, {c.before, string(got.Before)}} {
				switch want, shown := side[0], side[1]; want {
				case "*":
					assert.NotEmpty(t, shown)
				case "":
					assert.Empty(t, shown)
				default:
					assert.JSONEq(t, want, shown)
				}
			}
			if c.theirs != "" {
				assert.Contains(t, string(got.Ours), `"op"`)
			}
			f.conflict("a") // as often as it is tried
			if c.mend != "" {
				f.exec(c.mend)
				f.undone("a")
				assert.Contains(t, f.products(), "one")
				if !strings.Contains(c.meanwhile, "UPDATE") && !strings.Contains(c.meanwhile, "ALTER") {
					assert.Equal(t, original, f.products())
				}
			}
		})
	}
}

// A delete that took other rows along cannot be undone, and says so; one that did
// not can, though it could have.
func TestUndoOfADeleteThatCascaded(t *testing.T) {
	f := setup(t)
	f.committed(`{"saga_id":"early","mutations":[{"entity":"products","op":"insert","row":{"id":9,"title":"cached description"}}]}`)
	f.exec(`CREATE TABLE part (id int PRIMARY KEY, product bigint REFERENCES product ON DELETE CASCADE);
		CREATE TABLE note (id int PRIMARY KEY, product bigint REFERENCES product ON DELETE SET NULL) PARTITION BY RANGE (id);
		CREATE TABLE note_1 PARTITION OF note FOR VALUES FROM (0) TO (10);
		INSERT INTO product (id, title) VALUES (1, 'one'), (2, 'two'), (3, 'three');
		INSERT INTO part VALUES (1, 1); INSERT INTO note VALUES (1, 1), (2, 2)`)
	before := f.products()
	for id, tables := range map[int]string{1: "rows of public.note, public.part,", 2: "rows of public.note,"} {
		f.committed(fmt.Sprintf(`{"saga_id":"d%d","mutations":[{"entity":"products","op":"delete","key":{"id":%d}}]}`, id, id))
		refused, _ := f.conflict(fmt.Sprintf("d%d", id), "part", "note")
		assert.Contains(t, refused.Message, tables)
	}
	f.exec("INSERT INTO product (id, title) VALUES (1, 'one'), (2, 'two')")
	f.committed(`{"saga_id":"d3","mutations":[{"entity":"products","op":"delete","key":{"id":3}}]}`)
	f.undone("d3")
	assert.Equal(t, before, f.products())
}

// A parent and its child that one saga inserted go together, also where the
// constraint is deferred and the child came first.
func TestUndoOfForeignKeyChains(t *testing.T) {
	f := setup(t)
	f.exec(`CREATE TABLE branch (id int PRIMARY KEY, parent int REFERENCES branch ON DELETE CASCADE, product bigint REFERENCES product ON DELETE RESTRICT);
		CREATE TABLE late (id int PRIMARY KEY, product bigint REFERENCES product DEFERRABLE INITIALLY DEFERRED)`)
	f.entity("branches", "public.branch", "id")
	f.entity("late", "public.late", "id")
	f.committed(`{"saga_id":"a","mutations":[
		{"entity":"late","op":"insert","row":{"id":1,"product":1}},
		{"entity":"products","op":"insert","row":{"id":1,"title":"one"}},
		{"entity":"branches","op":"insert","row":{"id":1,"product":1}},
		{"entity":"branches","op":"insert","row":{"id":2,"parent":1,"product":1}}]}`)
	r := f.undone("a")
	assert.Len(t, r.Owned, 4)
	assert.Equal(t, "0", f.text("SELECT ((SELECT count(*) FROM product) + (SELECT count(*) FROM branch) + (SELECT count(*) FROM late))::text"))
}

func TestUndoWithTriggersAndDefaults(t *testing.T) {
	f := setup(t)
	f.exec(`CREATE TABLE audited (tenant text, n int GENERATED ALWAYS AS IDENTITY, m int GENERATED BY DEFAULT AS IDENTITY, v text, twice text GENERATED ALWAYS AS (v || v) STORED, PRIMARY KEY (tenant, n));
		CREATE TABLE audit (id bigserial PRIMARY KEY, what text);
		CREATE FUNCTION audit() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN INSERT INTO audit (what) VALUES (TG_OP); RETURN NULL; END $$;
		CREATE CONSTRAINT TRIGGER audit AFTER INSERT OR UPDATE OR DELETE ON audited DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION audit()`)
	f.entity("audited", "public.audited", "tenant", "n")
	insert := f.committed(`{"saga_id":"a","mutations":[{"entity":"audited","op":"insert","row":{"tenant":"x:y","v":"one"}}]}`)
	row := f.text("SELECT t::text FROM audited t")
	key := `{"tenant":"x:y","n":` + f.text("SELECT n::text FROM audited") + `}`
	for i, mutation := range []string{
		`{"entity":"audited","op":"delete","key":` + key + `}`,
		`{"entity":"audited","op":"patch","key":` + key + `,"set":{"v":null,"m":77}}`,
		`{"entity":"audited","op":"upsert","row":` + strings.TrimSuffix(key, "}") + `,"v":"other"}}`,
	} {
		id := fmt.Sprint("s", i)
		f.committed(fmt.Sprintf(`{"saga_id":%q,"mutations":[%s]}`, id, mutation))
		assert.NotEqual(t, row, f.text("SELECT coalesce((SELECT t::text FROM audited t), '')"))
		f.undone(id)
		assert.Equal(t, row, f.text("SELECT t::text FROM audited t"))
	}
	refused, _ := f.conflict("a") // the row has been written since, by the sagas that were undone
	assert.Contains(t, refused.Message, insert.Owned[0].Key)
	assert.Equal(t, "7", f.text("SELECT count(*)::text FROM audit"))
}

// A saga of the ledger's first version has its images as row_to_json wrote them,
// and no keys.
func TestUndoOfTheLedgersFirstForm(t *testing.T) {
	f := setup(t)
	f.exec(`CREATE TABLE many (id int GENERATED ALWAYS AS IDENTITY PRIMARY KEY, n numeric, ts timestamptz, arr int[], j jsonb, t text, b bytea, gen int GENERATED ALWAYS AS (1) STORED);
		INSERT INTO many (n, ts, arr, j, t, b) VALUES (1.10, '2026-01-02 03:04:05+00', '{1,2}', '{"a":[1]}', 'x', '\x00ff'), (NULL, 'infinity', NULL, NULL, NULL, NULL)`)
	f.entity("many", "public.many", "id")
	before := f.text("SELECT string_agg(m::text, ' ' ORDER BY id) FROM many m")
	image := f.text("SELECT row_to_json(m)::text FROM many m WHERE id = 1")
	deleted := f.text("SELECT row_to_json(m)::text FROM many m WHERE id = 2")
	f.committed(`{"saga_id":"a","mutations":[
		{"entity":"many","op":"insert","row":{"t":"new"}},
		{"entity":"many","op":"patch","key":{"id":1},"set":{"n":5,"arr":[7],"j":null,"t":null,"b":null,"ts":null}},
		{"entity":"many","op":"delete","key":{"id":2}}]}`)
	f.exec(`UPDATE capsaga.saga SET undo = NULL, entities = NULL, before = json_build_array(NULL, $1::json, $2::json) WHERE id = 'a'`, image, deleted)
	f.exec(`UPDATE capsaga.saga SET result = (SELECT json_agg(json_build_object('entity', r->'entity', 'key', r->'key', 'etag', r->'etag')) FROM json_array_elements(result) r) WHERE id = 'a'`)
	f.undone("a")
	assert.Equal(t, before, f.text("SELECT string_agg(m::text, ' ' ORDER BY id) FROM many m"))
}

// After a failover transaction ids of the old epoch say nothing: the row's content
// decides.
func TestUndoAcrossEpochs(t *testing.T) {
	f := setup(t)
	f.exec("INSERT INTO product (id, title) VALUES (1, 'one'), (2, 'two'), (3, 'three')")
	before := f.products()
	f.committed(`{"saga_id":"a","mutations":[{"entity":"products","op":"patch","key":{"id":1},"set":{"title":"uno"}},{"entity":"products","op":"delete","key":{"id":2}}]}`)
	f.committed(`{"saga_id":"b","mutations":[{"entity":"products","op":"patch","key":{"id":3},"set":{"title":"tres"}}]}`)
	f.exec("INSERT INTO capsaga.epoch SELECT 2, system_identifier, timeline, pg_current_wal_lsn() FROM capsaga.epoch")
	f.exec("UPDATE product SET title = 'drei' WHERE id = 3")
	r := f.undone("a")
	assert.Equal(t, saga.Epoch(2), r.Version.Epoch())
	assert.Equal(t, strings.Replace(before, "three", "drei", 1), f.products())
	f.conflict("b")
}
