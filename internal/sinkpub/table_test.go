package sinkpub_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"sync/atomic"
	"testing"

	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/require"

	"github.com/capsaga/capsaga/internal/postgres"
	"github.com/capsaga/capsaga/internal/sinkpub"
	"github.com/capsaga/capsaga/internal/stacktest"
	"github.com/capsaga/capsaga/saga"
)

// Whatever SQL does to a table, the sink has its rows afterwards.
func TestSinkEqualsTable(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name   string
		create string // of table t
		key    []string
		sql    []string
	}{
		{"insert, update and delete", "id int PRIMARY KEY, v text)", []string{"id"}, []string{
			"INSERT INTO t SELECT n, 'v' || n FROM generate_series(1, 100) n", "UPDATE t SET v = 'new' WHERE id < 50", "DELETE FROM t WHERE id % 3 = 0",
			"INSERT INTO t VALUES (3, 'again')", "BEGIN; DELETE FROM t WHERE id = 4; INSERT INTO t VALUES (4, 'other'); COMMIT",
		}},
		{"large values that an update leaves", "id int PRIMARY KEY, n int, large text)", []string{"id"}, []string{
			"INSERT INTO t SELECT n, n, (SELECT string_agg(md5((n * 1000 + m)::text), '') FROM generate_series(1, 300) m) FROM generate_series(1, 5) n",
			"UPDATE t SET n = n + 1", "UPDATE t SET large = 'short' WHERE id = 1", "UPDATE t SET n = 7 WHERE id = 1",
			"UPDATE t SET id = id + 100 WHERE id = 2", "BEGIN; UPDATE t SET n = 9 WHERE id = 3; DELETE FROM t WHERE id = 3; COMMIT",
		}},
		{"large values with the whole row in the WAL", "id int PRIMARY KEY, n int, large text); ALTER TABLE t REPLICA IDENTITY FULL", []string{"id"}, []string{
			"INSERT INTO t SELECT n, n, (SELECT string_agg(md5((n * 1000 + m)::text), '') FROM generate_series(1, 300) m) FROM generate_series(1, 5) n",
			"UPDATE t SET n = n + 1", "UPDATE t SET id = id + 100 WHERE id = 2", "DELETE FROM t WHERE id = 3",
		}},
		{"key changes", "id int PRIMARY KEY, v text)", []string{"id"}, []string{
			"INSERT INTO t SELECT n, 'v' || n FROM generate_series(1, 10) n",
			"BEGIN; UPDATE t SET id = 0 WHERE id = 1; UPDATE t SET id = 1 WHERE id = 2; UPDATE t SET id = 2 WHERE id = 0; COMMIT", // swapped
			"UPDATE t SET id = id + 100", "BEGIN; UPDATE t SET id = 5 WHERE id = 105; DELETE FROM t WHERE id = 5; INSERT INTO t VALUES (105, 'new'); COMMIT",
		}},
		{"composite and text keys", "a text, b text, v int, PRIMARY KEY (b, a))", []string{"a", "b"}, []string{
			"INSERT INTO t VALUES ('x:y', 'z', 1), ('x', 'y:z', 2), ('', '', 3), ('%', ':', 4), ('ü', ' ', 5), ('a/b', E'\\n', 6), ('..', '.', 7)",
			"UPDATE t SET v = v * 10", "DELETE FROM t WHERE a = 'x' AND b = 'y:z'",
		}},
		{"an index as the identity", "id int PRIMARY KEY, code text NOT NULL, v int, UNIQUE (code)); ALTER TABLE t REPLICA IDENTITY USING INDEX t_code_key", []string{"code"}, []string{
			"INSERT INTO t SELECT n, 'c' || n, n FROM generate_series(1, 10) n", "UPDATE t SET v = 0", "UPDATE t SET code = 'd' || id WHERE id < 4", "DELETE FROM t WHERE id = 5",
		}},
		{"partitions", "id int, region text, v int, PRIMARY KEY (id, region)) PARTITION BY LIST (region); CREATE TABLE t_eu PARTITION OF t FOR VALUES IN ('eu'); CREATE TABLE t_us PARTITION OF t FOR VALUES IN ('us')", []string{"id", "region"}, []string{
			"INSERT INTO t SELECT n, CASE n % 2 WHEN 0 THEN 'eu' ELSE 'us' END, n FROM generate_series(1, 20) n", "UPDATE t SET v = -v",
			"UPDATE t SET region = 'eu' WHERE id = 1", "DELETE FROM t_us WHERE id = 3", "INSERT INTO t_eu VALUES (100, 'eu', 1)",
		}},
		{"generated columns", "id int PRIMARY KEY, a int, b int GENERATED ALWAYS AS (a * 2) STORED)", []string{"id"}, []string{
			"INSERT INTO t (id, a) SELECT n, n FROM generate_series(1, 5) n", "UPDATE t SET a = 10 WHERE id = 2",
		}},
		{"TRUNCATE", "id int PRIMARY KEY, v text)", []string{"id"}, []string{
			"INSERT INTO t SELECT n, 'v' || n FROM generate_series(1, 100) n", "TRUNCATE t", "INSERT INTO t SELECT n, 'w' || n FROM generate_series(1, 10) n",
			"BEGIN; INSERT INTO t VALUES (50, 'gone'); TRUNCATE t; INSERT INTO t VALUES (1, 'stays'); UPDATE t SET v = 'stays, too'; COMMIT",
		}},
		{"TRUNCATE CASCADE", "id int PRIMARY KEY, v text); CREATE TABLE child (id int PRIMARY KEY, t int REFERENCES t)", []string{"id"}, []string{
			"INSERT INTO t VALUES (1, 'a')", "INSERT INTO child VALUES (1, 1)", "TRUNCATE t CASCADE",
		}},
		{"savepoints", "id int PRIMARY KEY, v text)", []string{"id"}, []string{
			"BEGIN; INSERT INTO t VALUES (1, 'stays'); SAVEPOINT a; INSERT INTO t VALUES (2, 'gone'); UPDATE t SET v = 'gone' WHERE id = 1; ROLLBACK TO a; SAVEPOINT b; INSERT INTO t VALUES (3, 'stays'); RELEASE b; COMMIT",
			"BEGIN; INSERT INTO t VALUES (4, 'gone'); ROLLBACK",
		}},
		{"schema changes", "id int PRIMARY KEY, v text, old int)", []string{"id"}, []string{
			"INSERT INTO t SELECT n, 'v' || n, n FROM generate_series(1, 3) n", "ALTER TABLE t ADD COLUMN added numeric DEFAULT 1.50", "ALTER TABLE t DROP COLUMN old",
			"ALTER TABLE t RENAME COLUMN v TO renamed", "ALTER TABLE t ALTER COLUMN id TYPE bigint", "UPDATE t SET renamed = renamed || '!'", "INSERT INTO t VALUES (4, 'new', NULL)",
			"BEGIN; ALTER TABLE t ADD COLUMN within text; UPDATE t SET within = 'x'; COMMIT",
		}},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t)
			w.script("CREATE TABLE t (" + c.create)
			e := entity("t", c.key...)
			all := []*saga.Entity{e}
			if c.name == "TRUNCATE CASCADE" {
				all = append(all, entity("child", "id"))
			}
			r := w.start(nil, all...)
			for _, sql := range c.sql {
				w.script(sql)
			}
			w.settle(r)
			for _, e := range all {
				w.requireSame(e)
			}
		})
	}
}

// script runs statements of which each may be several.
func (w *world) script(sql string) {
	w.t.Helper()
	_, err := w.db.Pool().Exec(context.Background(), sql, pgx.QueryExecModeSimpleProtocol)
	require.NoError(w.t, err, sql)
}

// A transaction that is larger than many requests is applied in parts, of which the
// later win.
func TestTransactionInParts(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.exec("CREATE TABLE t (id int PRIMARY KEY, v int)")
	e := entity("t", "id")
	r := w.start(func(c *sinkpub.Config) { c.MaxDocuments = 50 }, e)
	w.script(`DO $$ BEGIN
		FOR round IN 1..10 LOOP
			INSERT INTO t SELECT n, round FROM generate_series(1, 70) n ON CONFLICT (id) DO UPDATE SET v = excluded.v;
			DELETE FROM t WHERE id % 10 = round - 1;
		END LOOP; END $$`)
	w.settle(r)
	w.requireSame(e)
	require.Greater(t, len(w.store.requests), 10)
}

// While the sink is away the stream waits, confirms nothing, and says why.
func TestSinkAway(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.exec("CREATE TABLE t (id int PRIMARY KEY, v int)")
	var away atomic.Bool
	away.Store(true)
	w.store.fail = func() error {
		if away.Load() {
			return &saga.Error{Class: saga.Unavailable, System: "redis", Message: "it is away"}
		}
		return nil
	}
	e := entity("t", "id")
	r := w.start(nil, e)
	before := w.text("SELECT pg_current_wal_flush_lsn()::text")
	w.exec("INSERT INTO t SELECT n, n FROM generate_series(1, 100) n")
	stacktest.Eventually(t, 20e9, func() error {
		if text := w.text("SELECT coalesce((SELECT error FROM capsaga.stream WHERE slot = $1), '')", w.slot); text == "" {
			return errors.New("nothing is said")
		}
		return nil
	})
	require.Contains(t, w.text("SELECT error FROM capsaga.stream WHERE slot = $1", w.slot), "redis: it is away")
	require.Equal(t, "true", w.text("SELECT (confirmed_flush_lsn <= $2::text::pg_lsn)::text FROM pg_replication_slots WHERE slot_name = $1", w.slot, before))
	away.Store(false)
	w.settle(r)
	w.requireSame(e)
}

// Rows that the sink refuses are handed over before the position is confirmed, and
// their neighbours are applied.
func TestRefusedRows(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.exec("CREATE TABLE t (id int PRIMARY KEY, v int)")
	w.store.refuse = func(doc saga.Document) error {
		var row struct{ V int }
		if !doc.Deleted() && json.Unmarshal(doc.Row, &row) == nil && row.V < 0 {
			return &saga.Error{Class: saga.Rejected, System: "redis", Code: saga.CodeRejected, Message: "a negative number"}
		}
		return nil
	}
	adopted := map[string]saga.Refused{}
	tries := 0
	e := entity("t", "id")
	r := w.start(func(c *sinkpub.Config) {
		c.Adopt = func(_ context.Context, refused []saga.Refused) error {
			if tries++; tries < 3 {
				return errors.New("the ledger is away")
			}
			for _, f := range refused {
				adopted[f.Key] = f
			}
			return nil
		}
	}, e)
	w.exec("INSERT INTO t SELECT n, CASE WHEN n % 10 = 0 THEN -n ELSE n END FROM generate_series(1, 100) n")
	w.settle(r)
	require.Len(t, adopted, 10)
	require.Len(t, w.store.rows("t"), 90)
	require.Equal(t, saga.ErrorInfo{Class: saga.Rejected, System: "redis", Code: saga.CodeRejected, Message: "t/10: a negative number"}, adopted["10"].Error)
	require.Positive(t, adopted["10"].Version)
}

// In a saga's transaction only what it does not own is applied.
func TestSagaOwnsItsRows(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.exec("CREATE TABLE t (id int PRIMARY KEY, v int)")
	w.exec("CREATE TABLE audit (id int PRIMARY KEY, v int)")
	w.script(`CREATE FUNCTION note() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN INSERT INTO audit VALUES (NEW.id, NEW.v); RETURN NULL; END $$;
		CREATE TRIGGER note AFTER INSERT ON t FOR EACH ROW EXECUTE FUNCTION note()`)
	e, audit := entity("t", "id"), entity("audit", "id")
	r := w.start(nil, e, audit)
	catalog := &saga.Catalog{Entities: map[string]*saga.Entity{"t": e, "audit": audit}}
	result, err := w.db.Commit(context.Background(), postgres.CommitRequest{
		Write: saga.Write{SagaID: "s", Mutations: []saga.Mutation{{
			Entity: "t", Op: saga.Insert, Row: saga.Columns{"id": json.RawMessage("1"), "v": json.RawMessage("2")},
		}}},
		Catalog: catalog, WorkflowID: "w", RunID: "r",
	})
	require.NoError(t, err)
	require.Equal(t, saga.Committed, result.Status)
	w.settle(r)
	require.Empty(t, w.store.rows("t"))
	require.Equal(t, map[string]string{"1": `{"id":1,"v":2}`}, w.store.rows("audit"))
	w.exec("UPDATE t SET v = 3")
	w.settle(r)
	require.Equal(t, map[string]string{"1": `{"id":1,"v":3}`}, w.store.rows("t"))
}

// A saga's transaction that is too large to be held is applied whole: the saga's own
// row too, which a trigger changed again behind the others.
func TestALargeSagaIsAppliedWhole(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.exec("CREATE TABLE t (id int PRIMARY KEY, v int)")
	w.exec("CREATE TABLE audit (id int PRIMARY KEY, note text)")
	w.script(`CREATE FUNCTION note() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
			INSERT INTO audit SELECT n, repeat('x', 800) FROM generate_series(1, 9900) n;
			UPDATE t SET v = v + 1 WHERE id = NEW.id;
			RETURN NULL;
		END $$;
		CREATE TRIGGER note AFTER INSERT ON t FOR EACH ROW EXECUTE FUNCTION note()`)
	e, audit := entity("t", "id"), entity("audit", "id")
	r := w.start(nil, e, audit)
	result, err := w.db.Commit(context.Background(), postgres.CommitRequest{
		Write: saga.Write{SagaID: "s", Mutations: []saga.Mutation{{
			Entity: "t", Op: saga.Insert, Row: saga.Columns{"id": json.RawMessage("1"), "v": json.RawMessage("2")},
		}}},
		Catalog: &saga.Catalog{Entities: map[string]*saga.Entity{"t": e, "audit": audit}}, WorkflowID: "w", RunID: "r",
	})
	require.NoError(t, err)
	require.Equal(t, saga.Committed, result.Status)
	w.settle(r)
	require.Equal(t, map[string]string{"1": `{"id":1,"v":3}`}, w.store.rows("t"))
	w.requireSame(audit)
}

// A row that another transaction holds does not stop the stream.
func TestLockedRowIsReadAgain(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.exec("CREATE TABLE t (id int PRIMARY KEY, n int, large text)")
	w.exec("INSERT INTO t SELECT 1, 1, string_agg(md5(m::text), '') FROM generate_series(1, 300) m")
	ctx := context.Background()
	e := entity("t", "id")
	w.exec("UPDATE t SET n = 2")
	tx, err := w.db.Pool().Begin(ctx)
	require.NoError(t, err)
	defer func() { _ = tx.Rollback(ctx) }()
	_, err = tx.Exec(ctx, "UPDATE t SET n = 3")
	require.NoError(t, err)
	r := w.start(nil, e)
	w.settle(r)
	w.requireSame(e)
	require.NoError(t, tx.Commit(ctx))
	w.settle(r)
	w.requireSame(e)
}

// A DELETE that does not say which row it was stops the stream with what to do.
func TestIdentityWithoutTheKey(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.exec("CREATE TABLE t (id int PRIMARY KEY, code text NOT NULL UNIQUE)")
	w.exec("INSERT INTO t VALUES (1, 'a')")
	w.exec("ALTER TABLE t REPLICA IDENTITY USING INDEX t_code_key")
	w.start(nil, entity("t", "id"))
	w.exec("DELETE FROM t")
	stacktest.Eventually(t, 20e9, func() error {
		said := w.text("SELECT coalesce((SELECT error FROM capsaga.stream WHERE slot = $1), '')", w.slot)
		if said == "" {
			return fmt.Errorf("nothing is said")
		}
		require.Contains(t, said, "the replica identity lacks the column id")
		return nil
	})
}
