package e2e

import (
	"context"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/require"

	"github.com/capsaga/capsaga/saga"
)

// One transaction of a million rows, and large ones whose rows lie between each
// other's in the WAL and that commit in another order than they began, take the worker
// no more memory than small ones.
func TestLargeTransactions(t *testing.T) {
	w := connect(t, "testdata/items.yaml")
	w.exec("CREATE TABLE items (id bigint PRIMARY KEY, title text, n int, note text)")
	w.exec("CREATE TABLE bulk (id bigint PRIMARY KEY, note text)")
	w.apply()
	p := w.startWorker()
	w.settle(30 * time.Second)

	const million = 1_000_000
	w.exec("INSERT INTO bulk SELECT n, 'row ' || n || repeat(' and more', 5) FROM generate_series(1, $1) n", million)
	w.settle(3*time.Minute, saga.PublicationKafka)
	require.Equal(t, int64(million), w.records("bulk"))

	const each = 20_000
	ctx := context.Background()
	first, err := w.db.Begin(ctx)
	require.NoError(t, err)
	second, err := w.db.Begin(ctx)
	require.NoError(t, err)
	run := func(tx pgx.Tx, sql string, args ...any) {
		_, err := tx.Exec(ctx, sql, args...)
		require.NoError(t, err)
	}
	const insert = "INSERT INTO items SELECT n, 'item ' || n, n, NULL FROM generate_series($1::int, $2::int) n"
	for part := range 5 {
		const rows = each / 5
		from := part * rows
		run(first, insert, from+1, from+rows)
		run(second, insert, each+from+1, each+from+rows)
		// What a savepoint takes back is nowhere.
		run(first, "SAVEPOINT s")
		run(first, "UPDATE items SET n = -1 WHERE id BETWEEN $1 AND $2", from+1, from+rows)
		run(first, "ROLLBACK TO s")
		run(second, "UPDATE items SET n = n + 1, note = 'again' WHERE id BETWEEN $1 AND $2 AND id % 3 = 0", each+from+1, each+from+rows)
		run(second, "DELETE FROM items WHERE id BETWEEN $1 AND $2 AND id % 7 = 0", each+from+1, each+from+rows)
	}
	require.NoError(t, second.Commit(ctx))
	require.NoError(t, first.Commit(ctx))
	w.settle(2 * time.Minute)
	w.requireSinks("items", saga.Redis, saga.Kafka, saga.Elasticsearch)

	// 110 MB with 200,000 rows in small transactions, see BenchmarkStreamBacklog.
	peak := p.peakMB()
	t.Logf("the worker's peak is %d MB", peak)
	require.Less(t, peak, 250)
}
