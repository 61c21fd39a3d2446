package postgres

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
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
	for try := 1; ; try++ {
		read, err := db.readRow(ctx, e, key)
		if errors.Is(err, errEpochUnknown) {
			if _, err = db.verifyEpoch(ctx); err == nil && try < maxTries {
				continue
			}
		}
		if errors.Is(err, errTableChanged) && try < maxTries || tableChanged(err) && try == 1 {
			db.forgetTables()
			continue
		}
		return read, classify(fmt.Sprintf("read %s/%s", e.Name, key), err)
	}
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
