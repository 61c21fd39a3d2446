package backfill_test

import (
	"fmt"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/capsaga/capsaga/internal/backfill"
)

// BenchmarkBackfill brings 200,000 rows of 190 bytes into the WAL.
func BenchmarkBackfill(b *testing.B) {
	const rows = 200_000
	w := newWorld(b)
	w.exec("CREATE TABLE items (id bigint PRIMARY KEY, title text, price numeric, stock int, at timestamptz, pad text)")
	w.exec(`INSERT INTO items SELECT i, 'item number ' || i, i / 100.0, i % 1000, now(), repeat('x', 110) FROM generate_series(1, $1::int) i`, rows)
	w.exec("VACUUM ANALYZE items")
	bytes := w.text("SELECT (sum(octet_length(items::text)) / count(*))::int::text FROM items")
	var took time.Duration
	var wal, chunks int64
	for b.Loop() {
		before := w.text("SELECT pg_current_wal_insert_lsn()::text")
		id := w.submit(backfill.Request{Entity: entity("items", "id")}).ID
		began := time.Now()
		require.NoError(b, backfill.RunUnlocked(b.Context(), w.db, w.stack.Prefix, backfill.Backfill{ID: id}, w.log))
		took += time.Since(began)
		var n int64
		_, err := fmt.Sscan(w.text("SELECT (pg_current_wal_insert_lsn() - $1::text::pg_lsn)::bigint::text", before), &n)
		require.NoError(b, err)
		wal += n
		require.EqualValues(b, rows, w.await(id, backfill.Done).Rows)
		chunks++
	}
	b.ReportMetric(float64(rows*b.N)/took.Seconds(), "rows/s")
	b.ReportMetric(float64(wal)/float64(b.N)/1e6, "MB-WAL/op")
	b.Logf("%s bytes a row as text, %s for %d rows", bytes, (took / time.Duration(b.N)).Round(time.Millisecond), rows)
}
