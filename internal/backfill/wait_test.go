package backfill_test

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/capsaga/capsaga/internal/backfill"
	"github.com/capsaga/capsaga/internal/stacktest"
	"github.com/capsaga/capsaga/saga"
)

// awaitError waits until a backfill says what it waits for.
func (w *world) awaitError(id int64, text string) backfill.Backfill {
	w.t.Helper()
	var b backfill.Backfill
	stacktest.Eventually(w.t, 30*time.Second, func() error {
		if b = w.find(id); !strings.Contains(b.Error, text) {
			return fmt.Errorf("%s: %q", b.State, b.Error)
		}
		return nil
	})
	return b
}

// A row of a transaction that was open when the backfill was requested may be
// missing in the stream, as the table was not published when it was written.
func TestBackfillWaitsForOlderTransactions(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.exec("DROP PUBLICATION redispub; CREATE PUBLICATION redispub")
	w.exec("CREATE TABLE late (id int PRIMARY KEY, v bigint); INSERT INTO late VALUES (1, 1)")
	late := entity("late", "id")
	old := w.connect()
	_, err := old.Exec(t.Context(), "BEGIN; INSERT INTO late VALUES (2, 1)")
	require.NoError(t, err)
	s := w.read()
	w.exec("ALTER PUBLICATION redispub ADD TABLE late")
	b := w.submit(backfill.Request{Entity: late})
	young := w.connect()
	_, err = young.Exec(t.Context(), "BEGIN; INSERT INTO late VALUES (3, 1)")
	require.NoError(t, err)
	w.serve(nil)
	waits := w.awaitError(b.ID, "waits for transactions that were open when it was requested (the oldest transaction is of process "+fmt.Sprint(old.PgConn().PID()))
	require.Equal(t, backfill.Requested, waits.State)
	_, err = old.Exec(t.Context(), "COMMIT")
	require.NoError(t, err)
	done := w.await(b.ID, backfill.Done)
	require.Empty(t, done.Error)
	require.EqualValues(t, 2, done.Rows, "a younger transaction is not waited for")
	_, err = young.Exec(t.Context(), "COMMIT")
	require.NoError(t, err)
	w.requireSame(s, late)
}

// Who holds a row delays the chunk and nobody else, and is named. Nobody who waits
// for a backfill is taken for part of a deadlock.
func TestBackfillGivesWayToHoldersOfRows(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.exec("CREATE TABLE cold (id int PRIMARY KEY, v bigint); INSERT INTO cold SELECT i, i FROM generate_series(1, 3000) i")
	cold := entity("cold", "id")
	s := w.read()
	b := w.submit(backfill.Request{Entity: cold})
	holder := w.connect()
	_, err := holder.Exec(t.Context(), "BEGIN; UPDATE cold SET v = 10000 WHERE id = 2000")
	require.NoError(t, err)
	w.serve(nil)
	waits := w.awaitError(b.ID, "waits for a row that another transaction holds locked: the row of public.cold after (id) = (1999) (the oldest transaction is of process "+fmt.Sprint(holder.PgConn().PID()))
	require.EqualValues(t, 1999, waits.Rows, "all rows before it are in the WAL")
	// Rows that the runner would lock with it, and in the other order.
	for id := range 50 {
		began := time.Now()
		_, err := holder.Exec(t.Context(), "UPDATE cold SET v = v + 10000 WHERE id IN ($1, $2)", 2001+id, 1999-id)
		require.NoError(t, err)
		require.Less(t, time.Since(began), 800*time.Millisecond)
	}
	_, err = holder.Exec(t.Context(), "COMMIT")
	require.NoError(t, err)
	done := w.await(b.ID, backfill.Done)
	require.Empty(t, done.Error)
	w.requireSame(s, cold)
	require.Equal(t, 3000, s.reads)
}

// A message has some MiB at most, unless a single row has more.
func TestBackfillOfLargeRows(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.exec("CREATE TABLE large (id int PRIMARY KEY, t text, v bigint)")
	// As they are stored these rows are small, or not, and none looks like the last.
	w.exec("INSERT INTO large SELECT i, repeat('x', CASE WHEN i % 100 < 50 THEN 100 WHEN i % 100 < 95 THEN 100000 ELSE 3000000 END), 1 FROM generate_series(1, 300) i")
	w.exec("INSERT INTO large SELECT i, (SELECT string_agg(md5(i::text || j), '') FROM generate_series(1, 5000) j), 1 FROM generate_series(301, 330) i")
	w.exec("INSERT INTO large VALUES (1000, repeat('y', 20000000), 1)")
	large := entity("large", "id")
	w.exec("SELECT pg_replication_slot_advance($1, pg_current_wal_lsn())", w.stack.Prefix.Slot(saga.PublicationRedis))
	b := w.submit(backfill.Request{Entity: large})
	w.serve(nil)
	w.await(b.ID, backfill.Done)
	require.Equal(t, "0", w.text(`SELECT count(*)::text FROM pg_logical_slot_peek_binary_changes($1, NULL, NULL, 'proto_version', '1', 'publication_names', 'redispub', 'messages', 'true')
		WHERE length(data) > 5 * 1024 * 1024 AND length(data) < 20000000`, w.stack.Prefix.Slot(saga.PublicationRedis)))
	s := w.read()
	w.requireSame(s, large)
	require.Equal(t, 331, s.reads)
	require.Less(t, len(s.chunks), 150)
}

// What only an operator can mend ends a backfill with words that say how.
func TestBackfillsThatAreRefused(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.exec("CREATE TABLE narrow (id int PRIMARY KEY, n int); CREATE TABLE unkeyed (id int NOT NULL); CREATE VIEW seen AS SELECT 1 AS id")
	w.exec("CREATE SCHEMA far; CREATE EXTENSION citext SCHEMA far; CREATE TABLE strange (id far.citext PRIMARY KEY)")
	w.exec("INSERT INTO narrow SELECT i, i FROM generate_series(1, 10) i")
	for name, want := range map[string]string{
		"gone":    "table public.gone does not exist: create it, or mend the catalog; then run `capsaga backfill gone`",
		"unkeyed": "table public.unkeyed has no unique index on the key id any more",
		"strange": "column id of type far.citext needs schema far in the search_path",
	} {
		id := w.submit(backfill.Request{Entity: entity(name, "id")}).ID
		t.Run(name, func(t *testing.T) {
			w.serve(nil)
			require.Contains(t, w.await(id, backfill.Failed).Error, want)
		})
	}
}

// Cancelled, altered or dropped in the middle.
func TestBackfillsThatAreMet(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	for _, name := range []string{"cancelled", "altered", "dropped", "rekeyed"} {
		w.exec(fmt.Sprintf("CREATE TABLE %s (id int PRIMARY KEY, n int); INSERT INTO %[1]s SELECT i, i FROM generate_series(1, 20) i", name))
	}
	// The runner waits for row 10 of each.
	hold := func(table string) (release func(sql string)) {
		conn := w.connect()
		_, err := conn.Exec(t.Context(), "BEGIN; UPDATE "+table+" SET n = 100 WHERE id = 10")
		require.NoError(t, err)
		return func(sql string) {
			_, err := conn.Exec(t.Context(), sql+"; COMMIT")
			require.NoError(t, err)
		}
	}
	s := w.read()
	stop := func() {}
	met := func(table string) (int64, func(sql string)) {
		stop()
		b := w.submit(backfill.Request{Entity: entity(table, "id")})
		release := hold(table)
		stop = w.serve(nil)
		stacktest.Eventually(t, 20*time.Second, func() error {
			if b := w.find(b.ID); b.Rows != 9 {
				return fmt.Errorf("%+v", b)
			}
			return nil
		})
		return b.ID, release
	}
	id, release := met("altered")
	release("ALTER TABLE altered ADD COLUMN more int DEFAULT 5")
	w.await(id, backfill.Done)
	w.exec("UPDATE altered SET n = n") // the rows before the new column have not got it
	w.requireSame(s, entity("altered"))

	id, release = met("dropped")
	release("DROP TABLE dropped")
	require.Contains(t, w.await(id, backfill.Failed).Error, "table public.dropped does not exist")

	id, release = met("rekeyed")
	release("ALTER TABLE rekeyed RENAME COLUMN id TO nr")
	require.Contains(t, w.await(id, backfill.Failed).Error, "table public.rekeyed has no column id any more")

	id, release = met("cancelled")
	_, err := backfill.Cancel(context.Background(), w.db.Pool(), "cancelled")
	require.NoError(t, err)
	release("SELECT 1")
	require.Contains(t, w.await(id, backfill.Cancelled).Error, "an operator cancelled it")
	require.EqualValues(t, 9, w.find(id).Rows)
}

// A stream that has no slot would not get the rows.
func TestBackfillWaitsForItsSlots(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.exec("CREATE TABLE products (id int PRIMARY KEY)")
	e := entity("products", "id")
	e.Kafka = &saga.KafkaSink{}
	b := w.submit(backfill.Request{Entity: e})
	w.serve(nil)
	slot := w.stack.Prefix.Slot(saga.PublicationKafka)
	require.Equal(t, "replication slot "+slot+" does not exist: `capsaga catalog apply` creates it", w.awaitError(b.ID, slot).Error)
	w.exec("SELECT pg_create_logical_replication_slot($1, 'pgoutput')", slot)
	require.Zero(t, w.await(b.ID, backfill.Done).Rows)
}

// While a stream is far behind, PostgreSQL keeps the WAL for it, and a backfill that
// went on would fill the disk.
func TestBackfillWaitsForStreamsThatAreBehind(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.exec("CREATE TABLE cold (id int PRIMARY KEY, pad text); INSERT INTO cold SELECT i, repeat('x', 900) FROM generate_series(1, 20000) i")
	w.exec("SELECT pg_replication_slot_advance($1, pg_current_wal_lsn())", w.stack.Prefix.Slot(saga.PublicationRedis))
	b := w.submit(backfill.Request{Entity: entity("cold", "id")})
	w.serve(nil, func(c *backfill.Config) { c.MaxBehind = 4 << 20 })
	waits := w.awaitError(b.ID, "waits for the stream of slot "+w.stack.Prefix.Slot(saga.PublicationRedis)+", which is over 4 MiB behind")
	require.Less(t, waits.Rows, int64(20000))
	s := w.read()
	require.Empty(t, w.await(b.ID, backfill.Done).Error)
	w.requireSame(s, entity("cold"))
	require.Equal(t, 20000, s.reads)
}

// The columns of the sinks' rows follow those of the table.
func TestChangedColumnsAreBackfilled(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.exec("CREATE TABLE products (id int PRIMARY KEY, title text); INSERT INTO products VALUES (1, 'a'), (2, 'b')")
	e := entity("products", "id")
	s := w.read()
	b, err := backfill.Provisioned(t.Context(), w.db.Pool(), e, backfill.Made{})
	require.NoError(t, err)
	for range 2 { // both see it, one requests
		w.serve(nil, func(c *backfill.Config) {
			c.Catalog = &saga.Catalog{Entities: map[string]*saga.Entity{e.Name: e}}
			c.Columns = 50 * time.Millisecond
		})
	}
	w.await(b.ID, backfill.Done)
	w.exec("ALTER TABLE products ADD COLUMN stock int DEFAULT 7")
	next := w.await(b.ID+1, backfill.Done)
	require.Equal(t, backfill.Altered, next.Reason)
	w.requireSame(s, e)
	w.exec("ALTER TABLE products DROP COLUMN title")
	w.await(b.ID+2, backfill.Done)
	w.requireSame(s, e)
	require.Equal(t, "3", w.text("SELECT count(*)::text FROM capsaga.backfill"))

	// What a worker's catalog does not know is left to one that does.
	other := entity("others", "id")
	w.exec("CREATE TABLE others (id int PRIMARY KEY)")
	left := w.submit(backfill.Request{Entity: other})
	w.exec("ALTER TABLE products ADD COLUMN more int")
	w.await(left.ID+1, backfill.Done)
	require.Equal(t, backfill.Requested, w.find(left.ID).State)
}
