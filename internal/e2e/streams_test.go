package e2e

import (
	"context"
	"encoding/json"
	"fmt"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/capsaga/capsaga/internal/stacktest"
	"github.com/capsaga/capsaga/internal/stream"
	"github.com/capsaga/capsaga/saga"
)

// ifSoaking returns the first value for the long form of a test, else the second.
func ifSoaking[T any](long, short T) T {
	if soaking() {
		return long
	}
	return short
}

// flushed returns the position that all writes so far lie before.
func (w *world) flushed() saga.LSN {
	w.t.Helper()
	lsn, err := saga.ParseLSN(value[string](w, "SELECT pg_current_wal_flush_lsn()::text"))
	require.NoError(w.t, err)
	return lsn
}

// streams returns the streams as operators see them, by publication.
func (w *world) streams() map[string]stream.Info {
	w.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	infos, err := stream.Status(ctx, w.db, w.stack.Prefix)
	require.NoError(w.t, err)
	byName := map[string]stream.Info{}
	for _, info := range infos {
		byName[info.Name] = info
	}
	return byName
}

// allStreams are the publications of the demo's catalog.
var allStreams = []string{saga.PublicationRedis, saga.PublicationKafka, saga.PublicationElasticsearch}

// settle waits until the streams have confirmed all that was written so far, and
// until every backfill is done.
func (w *world) settle(within time.Duration, publications ...string) {
	w.t.Helper()
	if len(publications) == 0 {
		publications = allStreams
	}
	stacktest.Eventually(w.t, within, func() error {
		if n := value[int](w, "SELECT count(*)::int FROM capsaga.backfill WHERE finished_at IS NULL"); n > 0 {
			return fmt.Errorf("%d backfills are under way", n)
		}
		return nil
	})
	lsn := w.flushed()
	stacktest.Eventually(w.t, within, func() error {
		streams := w.streams()
		for _, name := range publications {
			if is := streams[name]; is.ConfirmedLSN < lsn {
				return fmt.Errorf("stream %s has confirmed %s of %s: %+v", name, is.ConfirmedLSN, lsn, is)
			}
		}
		return nil
	})
}

// requireSinks wants that the sinks that an entity has hold what its table holds.
func (w *world) requireSinks(table string, sinks ...saga.Sink) {
	w.t.Helper()
	rows := w.inPostgres(table)
	for _, sink := range sinks {
		switch sink {
		case saga.Redis:
			requireSameRows(w.t, "Redis", rows, w.inRedis(table))
		case saga.Elasticsearch:
			requireSameRows(w.t, "Elasticsearch", rows, w.inElasticsearch(table))
		case saga.Kafka:
			all := w.events(table)
			events := distinct(all)
			requireInOrder(w.t, events)
			requireSameRows(w.t, "Kafka", rows, rebuild(w.t, w.key(table), events))
			w.t.Logf("%s: %d rows, %d events and %d repeated", table, len(rows), len(events), len(all)-len(events))
		}
	}
}

// rebuild makes a table of its events, whose columns are all of types that JSON
// writes alike in PostgreSQL and in Debezium's envelope.
func rebuild(t testing.TB, column string, events []event) map[string]row {
	t.Helper()
	rows := map[string]row{}
	partitions := map[string]int32{}
	for _, e := range events {
		if e.envelope.Op == "t" {
			for id, partition := range partitions {
				if partition == e.partition {
					delete(rows, id)
				}
			}
			continue
		}
		var key map[string]json.RawMessage
		require.NoError(t, json.Unmarshal([]byte(e.key), &key), e.key)
		id := string(key[column])
		if e.tombstone || e.envelope.Op == "d" {
			delete(rows, id)
			continue
		}
		rows[id], partitions[id] = newRow(e.envelope.After), e.partition
	}
	return rows
}

// Whatever plain SQL does reaches all sinks, and the rows that were there before
// the catalog was applied as well.
func TestPlainSQLReachesAllSinks(t *testing.T) {
	w := connect(t, "testdata/items.yaml")
	w.exec(`CREATE TABLE items (id bigint PRIMARY KEY, title text, n int, note text);
		INSERT INTO items SELECT n, 'item ' || n, n, repeat('x', 3000) FROM generate_series(1, 5000) n`)
	w.apply()
	w.startWorker()
	w.settle(60 * time.Second)
	w.requireSinks("items", saga.Redis, saga.Kafka, saga.Elasticsearch)
	w.exec("UPDATE items SET n = -n WHERE id % 3 = 0")
	w.exec("DELETE FROM items WHERE id % 5 = 0")
	w.exec("INSERT INTO items SELECT n, 'new ' || n, n, NULL FROM generate_series(10001, 10100) n")
	w.exec("UPDATE items SET id = id + 100000 WHERE id % 7 = 0")
	w.settle(60 * time.Second)
	w.requireSinks("items", saga.Redis, saga.Kafka, saga.Elasticsearch)
	w.exec("TRUNCATE items")
	w.exec("INSERT INTO items SELECT n, 'after ' || n, n, NULL FROM generate_series(1, 10) n")
	w.settle(60 * time.Second)
	w.requireSinks("items", saga.Redis, saga.Kafka, saga.Elasticsearch)
}
