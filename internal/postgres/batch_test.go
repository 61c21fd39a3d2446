package postgres_test

import (
	"context"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pglogrepl"
	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/capsaga/capsaga/internal/postgres"
	"github.com/capsaga/capsaga/saga"
)

func (f *fixture) batch(lines ...string) []*postgres.CommitResult {
	f.t.Helper()
	results, err := f.CommitBatch(f.t.Context(), f.batchRequest(lines))
	require.NoError(f.t, err)
	require.Len(f.t, results, len(lines))
	return results
}

func (f *fixture) batchRequest(lines []string) postgres.BatchRequest {
	f.t.Helper()
	r := postgres.BatchRequest{Catalog: f.catalog, WorkflowID: "batch/b", RunID: "run"}
	for _, line := range lines {
		w, err := saga.ParseWrite([]byte(line))
		require.NoError(f.t, err, line)
		r.Writes = append(r.Writes, postgres.BatchWrite{Write: w, Encoded: json.RawMessage(line), Digest: w.Digest()})
	}
	return r
}

func upsertLine(saga string, id int, title string) string {
	return fmt.Sprintf(`{"saga_id":%q,"mutations":[{"entity":"products","op":"upsert","row":{"id":%d,"title":%q}}]}`, saga, id, title)
}

func (f *fixture) transactions() string {
	return f.text("SELECT count(DISTINCT xmin::text)::text FROM capsaga.saga")
}

func TestABatchIsOneTransaction(t *testing.T) {
	f := setup(t)
	f.committed(upsertLine("seed", 1, "one"))
	results := f.batch(
		upsertLine("a", 1, "uno"), upsertLine("b", 2, "two"),
		`{"saga_id":"c","mutations":[{"entity":"products","op":"insert","row":{"id":3,"title":"three","stock":5,"info":{"a":[1,"x"]},"tags":["p","q"]}}]}`,
		upsertLine("d", 4, "four"),
	)
	for i, r := range results {
		require.NotNil(t, r, "%d", i)
		assert.Equal(t, saga.Committed, r.Status)
		assert.Equal(t, results[0].Version, r.Version)
		assert.Equal(t, []string{"1", "2", "3", "4"}[i], r.Owned[0].Key)
		assert.GreaterOrEqual(t, r.FlushLSN, r.Version.LSN())
	}
	assert.JSONEq(t, `{"id":3,"title":"three","stock":5,"price":null,"rate":null,"tags":["p","q"],"info":{"a":[1,"x"]}}`, string(results[2].Owned[0].Row))
	assert.Equal(t, "2", f.transactions(), "the seed's and the batch's")
	assert.Equal(t, f.text("SELECT '1-' || xmin::text FROM product WHERE id = 1"), results[0].Owned[0].ETag)
	assert.Equal(t, `[{"key":"1","before":{"id":"1","title":"one","stock":"0","price":null,"rate":null,"tags":null,"info":null}}]`,
		f.text("SELECT undo::text FROM capsaga.saga WHERE id = 'a'"), "what an undo goes back to")
	assert.Equal(t, "batch/b", f.text("SELECT workflow_id FROM capsaga.saga WHERE id = 'd'"))
}

func TestABatchIsCommittedOnce(t *testing.T) {
	f := setup(t)
	lines := []string{
		`{"saga_id":"a","mutations":[{"entity":"products","op":"upsert","row":{"id":1,"title":"x","stock":1}}]}`,
		`{"saga_id":"b","mutations":[{"entity":"products","op":"insert","row":{"id":2,"title":"y","stock":1}}]}`,
	}
	first := f.batch(lines...)
	add := `{"saga_id":"c","mutations":[{"entity":"products","op":"add","key":{"id":1},"add":{"stock":10}}]}`
	second := f.batch(append(lines, add, add)...)
	for i := range lines {
		assert.Equal(t, first[i].Version, second[i].Version)
		assert.Equal(t, first[i].Owned[0].ETag, second[i].Owned[0].ETag)
	}
	assert.Equal(t, second[2].Version, second[3].Version, "one id twice in a batch is one saga")
	assert.Equal(t, "11", f.text("SELECT stock::text FROM product WHERE id = 1"))

	other := f.batch(upsertLine("a", 1, "other content"), upsertLine("e", 9, "new"))
	assert.Equal(t, saga.Failed, other[0].Status)
	assert.Equal(t, saga.CodeSagaIDReused, other[0].Error.Code)
	assert.Equal(t, saga.Committed, other[1].Status)
}

// What the database refuses of one write leaves all others committed, and is
// remembered as its saga's rejection.
func TestABatchIsolatesWhatIsRefused(t *testing.T) {
	f := setup(t)
	f.exec("CREATE TABLE part (id bigint PRIMARY KEY, product bigint NOT NULL REFERENCES product, sku text UNIQUE)")
	f.entity("parts", "public.part", "id")
	f.committed(upsertLine("seed", 1000, "seed"))
	var lines []string
	for i := range 60 {
		lines = append(lines, upsertLine(fmt.Sprintf("ok-%d", i), i, "fine"))
	}
	bad := map[string]string{
		`{"saga_id":"null","mutations":[{"entity":"products","op":"upsert","row":{"id":2001,"title":null}}]}`:                                                                              saga.CodeConstraintViolation,
		`{"saga_id":"taken","mutations":[{"entity":"products","op":"insert","row":{"id":1000,"title":"again"}}]}`:                                                                          saga.CodeConstraintViolation,
		`{"saga_id":"check","mutations":[{"entity":"products","op":"patch","key":{"id":1000},"add":{"stock":-5}}]}`:                                                                        saga.CodeConstraintViolation,
		`{"saga_id":"value","mutations":[{"entity":"products","op":"upsert","row":{"id":2002,"title":"x","price":"much"}}]}`:                                                               saga.CodeInvalidValue,
		`{"saga_id":"column","mutations":[{"entity":"products","op":"upsert","row":{"id":2003,"title":"x","colour":"red"}}]}`:                                                              saga.CodeUnknownColumn,
		`{"saga_id":"entity","mutations":[{"entity":"nobody","op":"upsert","row":{"id":2004}}]}`:                                                                                           saga.CodeUnknownEntity,
		`{"saga_id":"absent","mutations":[{"entity":"products","op":"patch","key":{"id":4040},"set":{"title":"x"}}]}`:                                                                      saga.CodeNotFound,
		`{"saga_id":"unmet","mutations":[{"entity":"products","op":"patch","key":{"id":1000},"set":{"title":"x"},"expect":{"where":[["stock",">=",7]]}}]}`:                                 saga.CodeExpectUnmet,
		`{"saga_id":"half","mutations":[{"entity":"products","op":"upsert","row":{"id":3000,"title":"half"}},{"entity":"products","op":"patch","key":{"id":4041},"set":{"title":"x"}}]}`:   saga.CodeNotFound,
		`{"saga_id":"orphan","mutations":[{"entity":"products","op":"upsert","row":{"id":3001,"title":"half"}},{"entity":"parts","op":"insert","row":{"id":1,"product":5050,"sku":"s"}}]}`: saga.CodeConstraintViolation,
		`{"saga_id":"nul","mutations":[{"entity":"products","op":"upsert","row":{"id":3002,"title":"a\u0000b"}}]}`:                                                                         saga.CodeInvalidValue,
		`{"saga_id":"large","mutations":[{"entity":"products","op":"upsert","row":{"id":"many","title":"x"}}]}`:                                                                            saga.CodeInvalidValue,
	}
	for line := range bad {
		at := rand.IntN(len(lines))
		lines = slices.Insert(lines, at, line)
	}
	for i, r := range f.batch(lines...) {
		require.NotNil(t, r, lines[i])
		if code, wrong := bad[lines[i]]; wrong {
			require.Equal(t, saga.RejectedEnd, r.Status, lines[i])
			assert.Equal(t, code, r.Error.Code, "%s: %s", lines[i], r.Error.Message)
			continue
		}
		assert.Equal(t, saga.Committed, r.Status, "%s: %+v", lines[i], r.Error)
	}
	assert.Equal(t, "60", f.text("SELECT count(*)::text FROM product WHERE id < 1000"))
	assert.Equal(t, "0", f.text("SELECT count(*)::text FROM product WHERE id > 1000"), "nothing of a rejected write")
	assert.Equal(t, "12", f.text("SELECT count(*)::text FROM capsaga.saga WHERE status = 'rejected' AND finished_at IS NOT NULL"))
}

// Writes of one row keep their order, whatever lies between them, and each has the
// version, the etag and the image of its own transaction.
func TestABatchKeepsTheOrderOfARow(t *testing.T) {
	f := setup(t)
	var lines []string
	for i := range 5 {
		lines = append(lines, upsertLine(fmt.Sprintf("hot-%d", i), 1, fmt.Sprint("title ", i)), upsertLine(fmt.Sprintf("cold-%d", i), 10+i, "cold"))
	}
	lines = append(lines, `{"saga_id":"last","mutations":[{"entity":"products","op":"patch","key":{"id":"1"},"set":{"title":"text"}}]}`)
	results := f.batch(lines...)
	assert.Equal(t, "text", f.text("SELECT title FROM product WHERE id = 1"), "the key's other way to be written")
	var last saga.Version
	for i := 0; i < 10; i += 2 {
		assert.Greater(t, results[i].Version, last)
		last = results[i].Version
		assert.Equal(t, results[0].Version, results[i+1].Version, "who has a row alone goes with the first")
	}
	images := f.text("SELECT string_agg(undo->0->'before'->>'title', ',' ORDER BY version) FROM capsaga.saga WHERE id LIKE 'hot-%'")
	assert.Equal(t, "title 0,title 1,title 2,title 3", images)
}

// A row that somebody holds keeps its own write waiting and no other's.
func TestABatchDoesNotWaitForARow(t *testing.T) {
	f := setup(t)
	f.committed(upsertLine("seed", 1, "one"))
	f.committed(upsertLine("seed-2", 2, "two"))
	tx, err := f.Pool().Begin(t.Context())
	require.NoError(t, err)
	defer func() { _ = tx.Rollback(context.WithoutCancel(t.Context())) }()
	_, err = tx.Exec(t.Context(), "UPDATE product SET title = 'held' WHERE id = 1")
	require.NoError(t, err)
	_, err = tx.Exec(t.Context(), "INSERT INTO product (id, title) VALUES (3, 'coming')")
	require.NoError(t, err)
	var lines []string
	for i := 1; i <= 100; i++ {
		lines = append(lines, upsertLine(fmt.Sprint("s", i), i, "mine"))
	}
	began := time.Now()
	results := f.batch(lines...)
	assert.Less(t, time.Since(began), 2*time.Second)
	for i, r := range results {
		if i == 0 || i == 2 {
			assert.Nil(t, r, "it waits alone")
			continue
		}
		require.NotNil(t, r, "%d", i)
		assert.Equal(t, saga.Committed, r.Status)
	}
	require.NoError(t, tx.Commit(t.Context()))
	assert.Equal(t, saga.Committed, f.commit(lines[0]).Status)
}

// Batches and single sagas on the same few rows and ids neither fail nor lose a write.
func TestBatchesSideBySide(t *testing.T) {
	f := setup(t)
	const writers, rounds, rows = 6, 12, 8
	for id := range rows {
		f.committed(fmt.Sprintf(`{"saga_id":"seed-%d","mutations":[{"entity":"products","op":"insert","row":{"id":%d,"title":"t","stock":0}}]}`, id, id))
	}
	var all sync.WaitGroup
	for n := range writers {
		all.Go(func() {
			for round := range rounds {
				var lines []string
				for k := range 10 {
					id := fmt.Sprintf("w%d-%d-%d", n, round, k)
					if k == 0 { // the same ids from everywhere
						id = fmt.Sprintf("shared-%d", round)
						lines = append(lines, fmt.Sprintf(`{"saga_id":%q,"mutations":[{"entity":"products","op":"add","key":{"id":0},"add":{"stock":1}}]}`, id))
						continue
					}
					a, b := rand.IntN(rows), rand.IntN(rows)
					lines = append(lines, fmt.Sprintf(`{"saga_id":%q,"mutations":[{"entity":"products","op":"add","key":{"id":%d},"add":{"stock":1}},{"entity":"products","op":"upsert","row":{"id":%d,"title":%q}}]}`, id, a, 100+b, id))
				}
				results, err := f.CommitBatch(t.Context(), f.batchRequest(lines))
				if !assert.NoError(t, err) {
					return
				}
				for i, r := range results {
					if r == nil { // as its own saga would
						r = f.commit(lines[i])
					}
					assert.Equal(t, saga.Committed, r.Status, "%+v", r.Error)
				}
			}
		})
	}
	all.Wait()
	assert.Equal(t, fmt.Sprint(writers*rounds*9+rounds), f.text("SELECT sum(stock)::text FROM product WHERE id < 100"), "each once")
}

// A batch leaves what the same writes leave when each is committed alone: rows,
// answers, and what an undo needs.
func TestABatchIsAsItsWritesAlone(t *testing.T) {
	together, alone := setup(t), open(t)
	random := rand.New(rand.NewPCG(7, 11))
	for round := range 40 {
		var lines []string
		for i := range 1 + random.IntN(30) {
			lines = append(lines, randomLine(random, fmt.Sprintf("s%d-%d", round, i)))
		}
		for i, r := range together.batch(lines...) {
			single := alone.commit(lines[i])
			require.NotNil(t, r, lines[i])
			require.Equal(t, single.Status, r.Status, "%s: %+v, %+v", lines[i], single.Error, r.Error)
			if single.Error != nil {
				require.Equal(t, single.Error, r.Error, lines[i])
			}
			require.Len(t, r.Owned, len(single.Owned), lines[i])
			for k := range r.Owned {
				require.Equal(t, single.Owned[k].Key, r.Owned[k].Key)
				require.Equal(t, string(single.Owned[k].Row), string(r.Owned[k].Row), lines[i])
			}
		}
		for _, sql := range []string{
			"SELECT coalesce(json_agg(p ORDER BY id), '[]')::text FROM product p",
			"SELECT json_agg(json_build_array(id, CASE status WHEN 'completed' THEN 'committed' ELSE status END, content, write::jsonb, entities, undo, error, error_class) ORDER BY id)::text FROM capsaga.saga",
		} {
			require.Equal(t, alone.text(sql), together.text(sql), strings.Join(lines, "\n"))
		}
	}
}

// randomLine is a write of some row of a few, which may well be refused.
func randomLine(random *rand.Rand, id string) string {
	key := random.IntN(12)
	one := func(kinds int) string {
		switch random.IntN(kinds) {
		case 6:
			return fmt.Sprintf(`{"entity":"products","op":"insert","row":{"id":%d,"title":"t%d","stock":3}}`, key, random.IntN(100))
		case 1:
			return fmt.Sprintf(`{"entity":"products","op":"delete","key":{"id":%d}}`, key)
		case 2:
			return fmt.Sprintf(`{"entity":"products","op":"patch","key":{"id":%d},"set":{"price":1.50},"add":{"stock":-1},"expect":{"where":[["stock",">=",1]]}}`, key)
		case 3:
			return fmt.Sprintf(`{"entity":"products","op":"add","key":{"id":%d},"add":{"stock":%d}}`, key, random.IntN(9)-5)
		case 7:
			return fmt.Sprintf(`{"entity":"products","op":"upsert","row":{"id":%d,"title":"u"},"expect":{"exists":false}}`, key)
		case 5:
			return fmt.Sprintf(`{"entity":"products","op":"upsert","row":{"id":%d}}`, key)
		default:
			return fmt.Sprintf(`{"entity":"products","op":"upsert","row":{"id":%d,"title":"u%d","stock":%d}}`, key, random.IntN(100), random.IntN(5))
		}
	}
	mutations := []string{one(8)}
	for random.IntN(4) == 0 {
		key = random.IntN(12)
		// Of several mutations, one that the database itself refuses hides from a
		// single commit what is unmet before it.
		mutations[0] = one(6)
		mutations = append(mutations, one(6))
	}
	return fmt.Sprintf(`{"saga_id":%q,"mutations":[%s]}`, id, strings.Join(mutations, ","))
}

// What one write's trigger does to another's row is there when that is judged, and
// when it is undone.
func TestABatchSeesWhatItsTriggersDo(t *testing.T) {
	f := setup(t)
	f.exec(`CREATE TABLE ordered (id bigint PRIMARY KEY, product bigint);
		CREATE FUNCTION take() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN UPDATE product SET stock = stock - 1 WHERE id = NEW.product; RETURN NULL; END $$;
		CREATE TRIGGER take AFTER INSERT ON ordered FOR EACH ROW EXECUTE FUNCTION take()`)
	f.entity("orders", "public.ordered", "id")
	f.committed(`{"saga_id":"seed","mutations":[{"entity":"products","op":"insert","row":{"id":1,"title":"one","stock":5}}]}`)
	results := f.batch(
		`{"saga_id":"b","mutations":[{"entity":"products","op":"patch","key":{"id":1},"set":{"title":"two"}}]}`,
		`{"saga_id":"a","mutations":[{"entity":"orders","op":"insert","row":{"id":1,"product":1}}]}`)
	assert.Less(t, results[0].Version, results[1].Version)
	undone, err := f.Undo(t.Context(), postgres.UndoRequest{SagaID: "b", Catalog: f.catalog})
	require.NoError(t, err)
	require.NotNil(t, undone.Refused, "another has changed the row since")
	assert.Equal(t, saga.CodeConflict, undone.Refused.Code)
	assert.Equal(t, "4", f.text("SELECT stock::text FROM product"))
}

// A write that needs a neighbour's row is not refused because it was looked at
// before it.
func TestABatchRefusesNothingForItsOrder(t *testing.T) {
	f := setup(t)
	f.exec(`CREATE TABLE part (id bigint PRIMARY KEY, product bigint NOT NULL REFERENCES product);
		CREATE TABLE thing (id uuid PRIMARY KEY, name text)`)
	f.entity("parts", "public.part", "id")
	f.entity("things", "public.thing", "id")
	lines := []string{
		upsertLine("first", 7, "first"),
		// Its second row puts it into the round after.
		`{"saga_id":"parent","mutations":[{"entity":"products","op":"insert","row":{"id":20,"title":"p"}},{"entity":"products","op":"patch","key":{"id":7},"set":{"title":"second"}}]}`,
		`{"saga_id":"child","mutations":[{"entity":"parts","op":"insert","row":{"id":1,"product":20}}]}`,
		`{"saga_id":"child-again","mutations":[{"entity":"parts","op":"upsert","row":{"id":1,"product":7}}]}`,
		`{"saga_id":"upper","mutations":[{"entity":"things","op":"insert","row":{"id":"A0EEBC99-9C0B-4EF8-BB6D-6BB9BD380A11","name":"x"}}]}`,
		`{"saga_id":"lower","mutations":[{"entity":"things","op":"patch","key":{"id":"a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11"},"set":{"name":"y"}}]}`,
		`{"saga_id":"nobody","mutations":[{"entity":"things","op":"patch","key":{"id":"b0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11"},"set":{"name":"y"}}]}`,
	}
	for i, r := range f.batch(lines...) {
		require.NotNil(t, r, lines[i])
		if i == 6 {
			assert.Equal(t, saga.RejectedEnd, r.Status)
			assert.Equal(t, saga.CodeNotFound, r.Error.Code)
			continue
		}
		assert.Equal(t, saga.Committed, r.Status, "%s: %+v", lines[i], r.Error)
	}
	assert.Equal(t, "7", f.text("SELECT product::text FROM part"), "in the order of the row")
	assert.Equal(t, "y", f.text("SELECT name FROM thing"))
}

// Rows that another transaction is inserting do not keep the others from being
// committed.
func TestABatchAmongABulkLoad(t *testing.T) {
	f := setup(t)
	tx, err := f.Pool().Begin(t.Context())
	require.NoError(t, err)
	defer func() { _ = tx.Rollback(context.WithoutCancel(t.Context())) }()
	_, err = tx.Exec(t.Context(), "INSERT INTO product (id, title) SELECT n, 'load' FROM generate_series(1, 110) n")
	require.NoError(t, err)
	var lines []string
	for i := 1; i <= 130; i++ {
		lines = append(lines, upsertLine(fmt.Sprint("s", i), i, "mine"))
	}
	began := time.Now()
	results := f.batch(lines...)
	assert.Less(t, time.Since(began), 5*time.Second)
	for i, r := range results {
		if i >= 110 {
			require.NotNil(t, r, "%d", i)
			assert.Equal(t, saga.Committed, r.Status)
		}
	}
}

// A batch that comes again is told what it came to, at once, also where that is
// hundreds of refusals.
func TestABatchOfRefusals(t *testing.T) {
	f := setup(t)
	var lines []string
	for i := range 300 {
		lines = append(lines, fmt.Sprintf(`{"saga_id":"s%d","mutations":[{"entity":"products","op":"upsert","row":{"id":%d,"title":"x","price":"much"}}]}`, i, i))
	}
	began := time.Now()
	for _, r := range f.batch(lines...) {
		require.Equal(t, saga.CodeInvalidValue, r.Error.Code)
	}
	first := time.Since(began)
	began = time.Now()
	for _, r := range f.batch(lines...) {
		require.Equal(t, saga.CodeInvalidValue, r.Error.Code)
	}
	t.Logf("300 refusals took %s, and %s when they came again", first, time.Since(began))
	assert.Less(t, time.Since(began), time.Second)
}

// A batch has room for what its result tells of rows. What is beyond is committed,
// and goes on alone: its batch does not tell of its end.
func TestABatchHasRoomForItsResult(t *testing.T) {
	f := setup(t)
	var lines []string
	for i := range 1000 {
		var mutations []string
		for k := range 5 {
			mutations = append(mutations, fmt.Sprintf(`{"entity":"products","op":"upsert","row":{"id":%d,"title":"x"}}`, i*5+k))
		}
		lines = append(lines, fmt.Sprintf(`{"saga_id":"s%d","mutations":[%s]}`, i, strings.Join(mutations, ",")))
	}
	var alone []string
	for i, r := range f.batch(lines...) {
		if r == nil {
			alone = append(alone, fmt.Sprint("s", i))
		}
	}
	require.NotEmpty(t, alone)
	require.NoError(t, f.FinishBatch(t.Context(), "batch/b", alone, nil))
	known, err := f.Commit(t.Context(), f.request(lines[999]))
	require.NoError(t, err)
	assert.Equal(t, saga.Committed, known.Status)
	assert.Nil(t, known.Recorded)
	assert.Equal(t, fmt.Sprint(len(alone)), f.text("SELECT count(*)::text FROM capsaga.saga WHERE status = 'committed'"))
}

// In the WAL each row stands behind the message of its own saga, also where one
// statement writes rows of many, and where a trigger adds rows of its own.
func TestABatchNamesTheSagaOfEachRow(t *testing.T) {
	f := setup(t)
	f.exec(`CREATE TABLE audit (id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, product bigint);
		CREATE TABLE watched (id bigint PRIMARY KEY, title text);
		CREATE FUNCTION note() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN INSERT INTO audit (product) VALUES (NEW.id); RETURN NULL; END $$;
		CREATE TRIGGER watch AFTER INSERT OR UPDATE ON watched FOR EACH ROW EXECUTE FUNCTION note();
		CREATE PUBLICATION everything FOR ALL TABLES`)
	f.entity("watched", "public.watched", "id")
	f.committed(upsertLine("seed", 3, "there"))
	slot := "b" + f.text("SELECT current_database()")
	f.exec("SELECT pg_create_logical_replication_slot($1, 'pgoutput')", slot)
	f.batch(upsertLine("a", 1, "a"), upsertLine("b", 2, "b"), upsertLine("c", 3, "c"), upsertLine("d", 4, "d"),
		`{"saga_id":"w1","mutations":[{"entity":"watched","op":"upsert","row":{"id":1,"title":"x"}}]}`,
		`{"saga_id":"w2","mutations":[{"entity":"watched","op":"upsert","row":{"id":2,"title":"y"}}]}`,
		`{"saga_id":"e","mutations":[{"entity":"products","op":"delete","key":{"id":5}}]}`,
		`{"saga_id":"f","mutations":[{"entity":"products","op":"upsert","row":{"id":6,"title":"f"}},{"entity":"watched","op":"upsert","row":{"id":6,"title":"f"}}]}`)
	assert.Equal(t, []string{
		"product 1 a", "product 2 b", "product 4 d", "product 3 c",
		"watched 1 w1", "audit 1 w1", "watched 2 w2", "audit 2 w2", "product 6 f", "watched 6 f", "audit 6 f",
	}, f.rowsOfSlot(slot))
}

func (f *fixture) rowsOfSlot(slot string) []string {
	rows, err := f.Pool().Query(f.t.Context(), "SELECT data FROM pg_logical_slot_get_binary_changes($1, NULL, NULL, 'proto_version', '1', 'publication_names', 'everything', 'messages', 'true')", slot)
	require.NoError(f.t, err)
	changes, err := pgx.CollectRows(rows, pgx.RowTo[[]byte])
	require.NoError(f.t, err)
	return decodeChanges(f.t, changes)
}

// decodeChanges lists the rows that a slot's changes write: table, first of the
// columns that is a product's or the row's id, and the saga of the message before it.
func decodeChanges(t *testing.T, changes [][]byte) []string {
	var list []string
	tables := map[uint32]string{}
	var begin saga.BeginMessage
	for _, change := range changes {
		m, err := pglogrepl.Parse(change)
		require.NoError(t, err)
		row := func(relation uint32, tuple *pglogrepl.TupleData) {
			table := tables[relation]
			key := map[string]int{"audit": 1}[table]
			if table != "saga" && table != "epoch" && table != "batch" {
				list = append(list, fmt.Sprintf("%s %s %s", table, tuple.Columns[key].Data, begin.SagaID))
			}
		}
		switch m := m.(type) {
		case *pglogrepl.RelationMessage:
			tables[m.RelationID] = m.RelationName
		case *pglogrepl.LogicalDecodingMessage:
			if m.Prefix == saga.MessageBegin {
				begin = saga.BeginMessage{}
				require.NoError(t, json.Unmarshal(m.Content, &begin))
			}
		case *pglogrepl.InsertMessage:
			row(m.RelationID, m.Tuple)
		case *pglogrepl.UpdateMessage:
			row(m.RelationID, m.NewTuple)
		}
	}
	return list
}

// The sagas of a batch count as committed until it has finished, and then as
// completed, but for those that go on alone.
func TestABatchFinishes(t *testing.T) {
	f := setup(t)
	lines := []string{upsertLine("a", 1, "a"), upsertLine("b", 2, "b"), upsertLine("c", 3, "c")}
	f.batch(lines...)
	statuses := func(filter postgres.ListFilter) map[string]saga.Status {
		list, err := f.ListSagas(t.Context(), filter)
		require.NoError(t, err)
		found := map[string]saga.Status{}
		for _, s := range list {
			found[s.SagaID] = s.Status
			assert.Equal(t, s.Status == saga.Completed, !s.FinishedAt.IsZero())
		}
		return found
	}
	open := map[string]saga.Status{"a": saga.Committed, "b": saga.Committed, "c": saga.Committed}
	assert.Equal(t, open, statuses(postgres.ListFilter{}))
	assert.Equal(t, open, statuses(postgres.ListFilter{Statuses: []saga.Status{saga.Committed}}))
	assert.Equal(t, open, statuses(postgres.ListFilter{IDs: []string{"a", "b", "c"}, Statuses: []saga.Status{saga.Committed}}))
	assert.Empty(t, statuses(postgres.ListFilter{Statuses: []saga.Status{saga.Completed}}))
	o, err := f.Recall(t.Context(), "a")
	require.NoError(t, err)
	assert.Equal(t, saga.Committed, o.Status)
	again := f.batch(lines[0], upsertLine("d", 4, "d"))
	assert.Nil(t, again[0].Recorded)
	assert.True(t, again[0].InBatch)
	pruned, err := f.Prune(t.Context(), 0, 10)
	require.NoError(t, err)
	assert.Zero(t, pruned)

	// One of them parks in a workflow of its own meanwhile.
	parked := saga.Outcome{SagaID: "c", Status: saga.Parked, Content: f.batchRequest(lines).Writes[2].Digest}
	_, err = f.RecordOutcome(t.Context(), "c", parked)
	require.NoError(t, err)

	steps := []saga.Step{{Name: saga.StepCommit, State: saga.StepDone}, {Name: saga.StepRedis, State: saga.StepDone}}
	for range 2 {
		require.NoError(t, f.FinishBatch(t.Context(), "batch/b", []string{"b"}, steps))
	}
	done := map[string]saga.Status{"a": saga.Completed, "b": saga.Committed, "c": saga.Parked, "d": saga.Completed}
	assert.Equal(t, done, statuses(postgres.ListFilter{}))
	assert.Equal(t, map[string]saga.Status{"a": saga.Completed, "d": saga.Completed}, statuses(postgres.ListFilter{Statuses: []saga.Status{saga.Completed}}))
	o, err = f.Recall(t.Context(), "a")
	require.NoError(t, err)
	assert.Equal(t, saga.Completed, o.Status)
	assert.Equal(t, steps, o.Steps)
	assert.NotEmpty(t, o.Token)
	again = f.batch(lines...)
	assert.Equal(t, saga.Completed, again[0].Recorded.Status)
	assert.Nil(t, again[1].Recorded)
	assert.False(t, again[1].InBatch)
	assert.Equal(t, saga.Parked, again[2].Recorded.Status)
	pruned, err = f.Prune(t.Context(), 0, 10)
	require.NoError(t, err)
	assert.Equal(t, 2, pruned)
}
