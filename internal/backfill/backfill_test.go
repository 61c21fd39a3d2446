package backfill_test

import (
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/capsaga/capsaga/internal/backfill"
	"github.com/capsaga/capsaga/saga"
)

// Every kind of key is walked whole, in chunks of about the size that is wanted.
func TestAllRowsArrive(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	for name, create := range map[string]struct {
		sql string
		key []string
	}{
		"plain":     {"CREATE TABLE plain (id bigint PRIMARY KEY, pad text); INSERT INTO plain SELECT i, repeat('x', 150) FROM generate_series(1, 20000) i", []string{"id"}},
		"composite": {"CREATE TABLE composite (a text, b int, c timestamptz, pad text, PRIMARY KEY (c, a, b)); INSERT INTO composite SELECT 'k' || i % 7, i, 'epoch'::timestamptz + i % 3 * interval '1 day', NULL FROM generate_series(1, 9000) i", []string{"a", "b", "c"}},
		"collated":  {`CREATE TABLE collated (id text COLLATE "und-x-icu" PRIMARY KEY, n int); INSERT INTO collated SELECT chr(33 + i % 90) || ' ,("\' || i || 'é', i FROM generate_series(1, 9000) i`, []string{"id"}},
		"parts": {`CREATE TABLE parts (id int, kind text, g int GENERATED ALWAYS AS (id * 2) STORED, PRIMARY KEY (kind, id)) PARTITION BY LIST (kind);
			CREATE TABLE parts_a PARTITION OF parts FOR VALUES IN ('a'); CREATE TABLE parts_b PARTITION OF parts FOR VALUES IN ('b', 'c');
			INSERT INTO parts SELECT i, chr(97 + i % 3) FROM generate_series(1, 9000) i`, []string{"id", "kind"}},
		"kinds": {`CREATE TYPE mood AS ENUM ('sad', 'ok', 'happy'); CREATE DOMAIN small AS int CHECK (VALUE < 100000);
			CREATE TABLE kinds (m mood, s small, f float8, n numeric, b bytea, c char(5), vv float8 GENERATED ALWAYS AS (f + 1) VIRTUAL, gone int, j jsonb, arr text[], PRIMARY KEY (m, s, f, n, b, c));
			ALTER TABLE kinds DROP COLUMN gone;
			INSERT INTO kinds (m, s, f, n, b, c, j, arr) SELECT (ARRAY['sad','ok','happy'])[1 + i % 3]::mood, i % 50, i / 3.0, CASE i % 9 WHEN 0 THEN 'NaN' ELSE i / 7.0 END, decode(lpad(to_hex(i), 8, '0'), 'hex'), 'a' || i % 9, '{"a": "\""}', ARRAY['x,y', NULL, ''] FROM generate_series(1, 6000) i`,
			[]string{"m", "s", "f", "n", "b", "c"}},
		"full":  {"CREATE TABLE full_ (id int PRIMARY KEY, t text); ALTER TABLE full_ REPLICA IDENTITY FULL; ALTER TABLE full_ RENAME TO \"full\"; INSERT INTO \"full\" SELECT i, NULL FROM generate_series(1, 10) i", []string{"id"}},
		"empty": {"CREATE TABLE empty (id int PRIMARY KEY)", []string{"id"}},
	} {
		_, err := w.db.Pool().Exec(t.Context(), create.sql)
		require.NoError(t, err, name)
		w.submit(backfill.Request{Entity: entity(name, create.key...)})
	}
	w.exec("SELECT pg_replication_slot_advance($1, pg_current_wal_lsn())", w.stack.Prefix.Slot(saga.PublicationRedis)) // the inserts do not count
	w.serve(nil)
	s := w.read()
	for id := range int64(7) {
		w.await(id+1, backfill.Done)
	}
	for _, name := range []string{"plain", "composite", "collated", "parts", "full", "empty"} {
		w.requireSame(s, entity(name))
	}
	s.settle()
	require.Len(t, s.rows["kinds"], 6000)
	require.Len(t, s.marks, 14)
	w.exec("ALTER TABLE kinds DROP COLUMN vv")
	w.requireSame(s, entity("kinds"))
	require.Equal(t, 20000+9000*3+6000+10, s.reads, "no row came twice")
	for _, rows := range s.chunks {
		require.LessOrEqual(t, rows, 4000)
	}
	found, err := backfill.List(t.Context(), w.db.Pool(), 10)
	require.NoError(t, err)
	var total int64
	for _, b := range found {
		total += b.Rows
		require.NotNil(t, b.FinishedAt)
		require.Empty(t, b.Error)
	}
	require.EqualValues(t, s.reads, total)
}
