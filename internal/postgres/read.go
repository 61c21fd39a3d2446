package postgres

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/capsaga/capsaga/saga"
)

// RowRead is a row of the primary with a version that is sound to fill a sink
// with.
type RowRead struct {
	Found bool
	Row   json.RawMessage
	ETag  string
	// Version is zero when another transaction holds the row: then it is good to
	// show and not to fill a sink with. An absent row has no version either, as
	// absence is never filled.
	Version saga.Version
}

// ReadRow reads a row of an entity, whose KEYENC is key, with a version.
//
// The snapshot is taken before the flush position F. With xmax = 0 every visible
// writer committed before F and every later one gets a greater version, so
// (row, F) is sound. (A writer that commits with synchronous_commit=off is visible
// before it is flushed, so its row may be read with an F below its commit: its own
// later apply is still newer, and every older one still older.) Otherwise someone holds or held the row's lock: the position
// is taken under a lock of our own, and used once it is flushed.
func (db *DB) ReadRow(ctx context.Context, e *saga.Entity, key string) (RowRead, error) {
	var read RowRead
	err := db.reading(ctx, func() (err error) {
		read, err = db.readRow(ctx, e, key)
		return err
	})
	return read, classify(fmt.Sprintf("read %s/%s", e.Name, key), err)
}

// ReadRows reads rows of an entity by their KEYENC, in one exchange with the
// server; the answer has an entry per key, in their order. It waits until the
// transactions of after are visible: a stream hears of a commit before others see
// it, by as long as a synchronous replica takes. Unlike ReadRow it does not lock: a
// row that another transaction holds, or held, has no version.
func (db *DB) ReadRows(ctx context.Context, e *saga.Entity, keys []string, after []uint32) ([]RowRead, error) {
	var read []RowRead
	action := fmt.Sprintf("read %d rows of %s", len(keys), e.Name)
	for wait := time.Millisecond; ; wait *= 2 {
		var seen snapshot
		err := db.reading(ctx, func() (err error) {
			read, seen, err = db.readRows(ctx, e, keys)
			return err
		})
		if err != nil {
			return nil, classify(action, err)
		}
		hidden, found := seen.hides(after)
		if !found {
			return read, nil
		}
		if wait > maxUnseenWait {
			return nil, &saga.Error{
				Class: saga.Unavailable, System: "postgres", Code: saga.CodeUnavailable,
				Message: fmt.Sprintf("%s: transaction %d has committed and is not visible yet: it waits for its synchronous replica; bring that back, or take it from synchronous_standby_names", action, hidden),
			}
		}
		if err := pause(ctx, wait); err != nil {
			return nil, classify(action, err)
		}
	}
}

// maxUnseenWait bounds the pauses for a commit to become visible, about half of
// the wait in all.
const maxUnseenWait = 256 * time.Millisecond

// snapshot says which transactions are visible, as pg_current_snapshot does.
type snapshot struct {
	next    uint64 // all from here on are not
	running []uint64
}

func parseSnapshot(text string) (s snapshot, err error) {
	parts := strings.Split(text, ":")
	if len(parts) != 3 {
		return s, fmt.Errorf("snapshot %q: want xmin:xmax:list", text)
	}
	if s.next, err = strconv.ParseUint(parts[1], 10, 64); err != nil || parts[2] == "" {
		return s, err
	}
	for id := range strings.SplitSeq(parts[2], ",") {
		n, err := strconv.ParseUint(id, 10, 64)
		if err != nil {
			return s, err
		}
		s.running = append(s.running, n)
	}
	return s, nil
}

// hides returns one of the transactions that is not visible. Their ids are the low
// halves of those of the snapshot, and less than half of those are in use.
func (s snapshot) hides(ids []uint32) (id uint32, found bool) {
	for _, id := range ids {
		behind := int32(id - uint32(s.next))                                         //nolint:gosec // the difference is small where the numbers wrap
		if behind >= 0 || slices.Contains(s.running, s.next+uint64(int64(behind))) { //nolint:gosec // negative
			return id, true
		}
	}
	return 0, false
}

// reading repeats a read that found another server, or another table, than it
// knew.
func (db *DB) reading(ctx context.Context, read func() error) error {
	for try := 1; ; try++ {
		err := read()
		if errors.Is(err, errEpochUnknown) {
			if _, err = db.verifyEpoch(ctx); err == nil && try < maxTries {
				continue
			}
		}
		if errors.Is(err, errTableChanged) && try < maxTries || tableChanged(err) && try == 1 {
			db.forgetTables()
			continue
		}
		return err
	}
}

func (db *DB) readRows(ctx context.Context, e *saga.Entity, keys []string) ([]RowRead, snapshot, error) {
	rows := make([]RowRead, len(keys))
	locked := make([]string, len(keys))
	var flushed, visible string
	var epoch saga.Epoch
	var batch pgx.Batch
	batch.Queue("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY")
	batch.Queue("SELECT pg_current_wal_flush_lsn()::text, pg_current_snapshot()::text").QueryRow(func(row pgx.Row) error { return row.Scan(&flushed, &visible) })
	batch.Queue(serverNow).QueryRow(func(row pgx.Row) (err error) {
		epoch, err = db.checkEpoch(row)
		return err
	})
	for i, key := range keys {
		s, t, err := db.readByKey(ctx, e, key)
		if err != nil {
			return nil, snapshot{}, err
		}
		batch.Queue(s.sql, s.args...).QueryRow(func(row pgx.Row) error { return rows[i].scan(row, &locked[i]) })
		if i == len(keys)-1 {
			t.queueStamp(&batch)
		}
	}
	batch.Queue("COMMIT")
	if err := db.sendOnOne(ctx, &batch); err != nil {
		return nil, snapshot{}, err
	}
	seen, err := parseSnapshot(visible)
	if err != nil {
		return nil, seen, err
	}
	sound, err := version(epoch, flushed)
	for i := range rows {
		rows[i].ETag = etag(epoch, rows[i].ETag)
		if locked[i] == "0" {
			rows[i].Version = sound
		}
	}
	return rows, seen, err
}

func (db *DB) readRow(ctx context.Context, e *saga.Entity, key string) (RowRead, error) {
	s, t, err := db.readByKey(ctx, e, key)
	if err != nil {
		return RowRead{}, err
	}
	var read RowRead
	var flushed, xmax string
	var epoch saga.Epoch
	var batch pgx.Batch
	batch.Queue("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY")
	batch.Queue("SELECT pg_current_wal_flush_lsn()::text").QueryRow(func(row pgx.Row) error { return row.Scan(&flushed) })
	batch.Queue(serverNow).QueryRow(func(row pgx.Row) error {
		epoch, err = db.checkEpoch(row)
		return err
	})
	batch.Queue(s.sql, s.args...).QueryRow(func(row pgx.Row) error { return read.scan(row, &xmax) })
	t.queueStamp(&batch)
	batch.Queue("COMMIT")
	if err := db.sendOnOne(ctx, &batch); err != nil || !read.Found {
		return RowRead{}, err
	}
	read.ETag = etag(epoch, read.ETag)
	if xmax != "0" {
		return db.readLocked(ctx, s, read)
	}
	read.Version, err = version(epoch, flushed)
	return read, err
}

// sendOnOne runs a batch that has a transaction of its own; a connection that an
// error leaves inside it is closed by the pool.
func (db *DB) sendOnOne(ctx context.Context, batch *pgx.Batch) error {
	return db.pool.AcquireFunc(ctx, func(conn *pgxpool.Conn) error { return conn.SendBatch(ctx, batch).Close() })
}

func version(epoch saga.Epoch, position string) (saga.Version, error) {
	lsn, err := saga.ParseLSN(position)
	if err != nil {
		return 0, err
	}
	return saga.NewVersion(epoch, lsn)
}

// scan reads xmin, row, xmax; the etag has yet to get its epoch.
func (r *RowRead) scan(row pgx.Row, xmax *string) error {
	var text string
	err := row.Scan(&r.ETag, &text, xmax)
	if noRows(err) {
		return nil
	}
	r.Found, r.Row = err == nil, json.RawMessage(text)
	return err
}

func (db *DB) readByKey(ctx context.Context, e *saga.Entity, key string) (statement, *TableInfo, error) {
	t, err := db.table(ctx, e.Table)
	if err != nil {
		return statement{}, nil, err
	}
	columns, err := keyColumns(e, key)
	if err != nil {
		return statement{}, nil, err
	}
	for _, name := range e.Key {
		if t.Column(name) == nil {
			return statement{}, nil, refuse(saga.CodeUnknownColumn, "entity %s: the catalog's key column %q is not in table %s", e.Name, name, e.Table)
		}
	}
	p := &planned{entity: e, table: t}
	from, arg := p.record(1, "k", columns)
	return statement{
		sql: fmt.Sprintf("SELECT t.xmin::text, %s, t.xmax::text FROM %s t, %s WHERE %s",
			t.rowJSON(), t.quoted(), from, equalKeys(e, "k")),
		args: []any{arg},
	}, t, nil
}

// readLocked reads the row under a share lock, if nobody else holds it.
func (db *DB) readLocked(ctx context.Context, s statement, unlocked RowRead) (RowRead, error) {
	read := RowRead{}
	var xmax, position string
	var epoch saga.Epoch
	var err error
	var batch pgx.Batch
	batch.Queue("BEGIN ISOLATION LEVEL READ COMMITTED")
	// COMMIT flushes the lock's own WAL record, and so the position before it.
	batch.Queue("SELECT set_config('synchronous_commit', 'local', true)")
	batch.Queue(s.sql+" FOR SHARE OF t SKIP LOCKED", s.args...).QueryRow(func(row pgx.Row) error { return read.scan(row, &xmax) })
	batch.Queue("SELECT pg_current_wal_insert_lsn()::text").QueryRow(func(row pgx.Row) error { return row.Scan(&position) })
	batch.Queue(serverNow).QueryRow(func(row pgx.Row) error {
		epoch, err = db.checkEpoch(row)
		return err
	})
	batch.Queue("COMMIT")
	if err := db.sendOnOne(ctx, &batch); err != nil {
		return RowRead{}, err
	}
	if !read.Found {
		unlocked.Version = 0
		return unlocked, nil
	}
	if err := db.waitFlushed(ctx, position); err != nil {
		return RowRead{}, err
	}
	read.ETag = etag(epoch, read.ETag)
	read.Version, err = version(epoch, position)
	return read, err
}

// waitFlushed waits until a position is on disk. It nearly always is: a lock
// that wrote nothing new leaves the last flush to the WAL writer.
func (db *DB) waitFlushed(ctx context.Context, position string) error {
	for {
		var flushed bool
		if err := db.pool.QueryRow(ctx, "SELECT pg_current_wal_flush_lsn() >= $1::text::pg_lsn", position).Scan(&flushed); err != nil || flushed {
			return err
		}
		if err := pause(ctx, 5*time.Millisecond); err != nil {
			return err
		}
	}
}
