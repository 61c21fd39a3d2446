package e2e

import (
	"fmt"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/capsaga/capsaga/internal/stacktest"
	"github.com/capsaga/capsaga/saga"
)

// A slot that is dropped while nobody looks leaves a gap, of changes and of
// deletions. It is said, and closed by a backfill.
func TestDroppedSlotsAreBackfilled(t *testing.T) {
	w := connect(t, "testdata/items.yaml")
	w.exec("CREATE TABLE items (id bigint PRIMARY KEY, title text, n int, note text)")
	w.exec("INSERT INTO items SELECT n, 'item ' || n, n, NULL FROM generate_series(1, 1000) n")
	w.apply()
	p := w.startWorker()
	w.settle(60 * time.Second)
	p.terminate(30 * time.Second)
	for _, name := range allStreams {
		w.exec("SELECT pg_drop_replication_slot($1)", w.stack.Prefix.Slot(name))
	}
	w.exec("UPDATE items SET n = -n WHERE id % 3 = 0")
	w.exec("DELETE FROM items WHERE id % 5 = 0")
	w.exec("INSERT INTO items SELECT n, 'missed ' || n, n, NULL FROM generate_series(2001, 2010) n")
	// Made anew by hand, so that nothing but their position tells.
	for _, name := range allStreams[:2] {
		w.exec("SELECT pg_create_logical_replication_slot($1, 'pgoutput')", w.stack.Prefix.Slot(name))
	}
	p = w.startWorker()
	for _, name := range allStreams {
		p.awaitLog("changes were missed: a backfill of all entities of this stream is requested", w.stack.Prefix.Slot(name))
	}
	stacktest.Eventually(t, 60*time.Second, func() error {
		if n := value[int](w, "SELECT count(*)::int FROM capsaga.backfill WHERE reason LIKE '%missed%'"); n < len(allStreams) {
			return fmt.Errorf("%d backfills are requested", n)
		}
		return nil
	})
	w.settle(60 * time.Second)
	w.requireSinks("items", saga.Redis, saga.Kafka, saga.Elasticsearch)
	for name, is := range w.streams() {
		require.NotNil(t, is.Gap, "the last gap of stream %s", name)
	}
}

// A column that comes or goes changes every row of the sinks.
func TestColumnsThatChange(t *testing.T) {
	w := connect(t, "testdata/items.yaml")
	w.exec("CREATE TABLE items (id bigint PRIMARY KEY, title text, n int, note text)")
	w.exec("INSERT INTO items SELECT n, 'item ' || n, n, NULL FROM generate_series(1, 500) n")
	w.apply()
	w.startWorker()
	w.settle(60 * time.Second)
	for n, sql := range []string{"ALTER TABLE items ADD COLUMN added numeric DEFAULT 1.50", "ALTER TABLE items DROP COLUMN note", "ALTER TABLE items RENAME COLUMN n TO number"} {
		w.exec(sql)
		stacktest.Eventually(t, 60*time.Second, func() error {
			if done := value[int](w, "SELECT count(*)::int FROM capsaga.backfill WHERE reason = 'columns changed' AND state = 'done'"); done <= n {
				return fmt.Errorf("%d backfills are done", done)
			}
			return nil
		})
		w.settle(60 * time.Second)
		w.requireSinks("items", saga.Redis, saga.Elasticsearch)
	}
}
