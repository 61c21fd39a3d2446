package backfill

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/capsaga/capsaga/saga"
)

// settings are those of a backfill's transactions: for how long to wait for a lock,
// and the text forms of the streams. A chunk that the server forgets when it
// crashes takes its cursor along, so that nothing need wait for the disk.
const settings = `SELECT set_config('lock_timeout', $1, true), set_config('statement_timeout', '0', true),
    set_config('synchronous_commit', 'off', true), set_config('row_security', 'off', true), set_config('lc_monetary', 'C', true)`

// place locks the backfill's row and tells where it stands.
const place = `SELECT state, coalesce(cursor, '{}') FROM capsaga.backfill WHERE id = $1 FOR UPDATE`

func milliseconds(d time.Duration) string { return fmt.Sprint(d.Milliseconds()) }

// open begins a transaction that does the backfill's next step. The queue may add
// statements that go along.
func (r *runner) open(ctx context.Context, step string, wait time.Duration, queue func(*pgx.Batch)) error {
	var state State
	var cursor []string
	var batch pgx.Batch
	batch.Queue("BEGIN ISOLATION LEVEL READ COMMITTED READ WRITE")
	batch.Queue(settings, milliseconds(wait))
	batch.Queue(place, r.job.ID).QueryRow(func(row pgx.Row) error { return row.Scan(&state, &cursor) })
	if queue != nil {
		queue(&batch)
	}
	r.step(step)
	if err := r.conn.SendBatch(ctx, &batch).Close(); err != nil {
		return err
	}
	switch {
	case !state.Open():
		return r.leave(ctx)
	case state != r.job.State || !slices.Equal(cursor, r.job.cursor):
		return errMoved
	}
	return nil
}

// leave ends a transaction that has nothing to do.
func (r *runner) leave(ctx context.Context) error {
	if _, err := r.conn.Exec(ctx, "ROLLBACK"); err != nil {
		return err
	}
	return errEnded
}

// horizonPassed tells whether all transactions of this database have ended that were
// open when the backfill was requested; those of others cannot have written the
// table. Numbers behind those of this server are another's, from which the row was
// restored.
const horizonPassed = `
SELECT horizon > pg_snapshot_xmax(s) OR NOT EXISTS (
    SELECT FROM pg_snapshot_xip(s) x WHERE x < horizon
    AND NOT EXISTS (SELECT FROM pg_locks l JOIN pg_stat_activity a ON a.pid = l.pid
        WHERE l.locktype = 'transactionid' AND l.transactionid = x::xid AND l.mode = 'ExclusiveLock' AND l.granted AND a.datname <> current_database())
    AND NOT EXISTS (SELECT FROM pg_prepared_xacts p WHERE p.transaction = x::xid AND p.database <> current_database()))
FROM capsaga.backfill, pg_current_snapshot() s WHERE id = $1`

const emit = `SELECT pg_logical_emit_message(true, '` + saga.MessageBackfill + `', convert_to($1, 'UTF8'))::text`

// begin writes the message begin. A table without rows ends in the same
// transaction.
func (r *runner) begin(ctx context.Context) error {
	behind, err := r.behind(ctx)
	switch {
	case err != nil:
		return err
	case behind != "":
		return &waiting{reason: behind}
	}
	var passed bool
	r.step("horizon")
	if err := r.conn.QueryRow(ctx, horizonPassed, r.job.ID).Scan(&passed); err != nil {
		return err
	}
	if !passed {
		return &waiting{"waits for transactions that were open when it was requested", r.blocker(ctx)}
	}
	key, err := keyOrder(ctx, r.conn, r.job.Table, r.job.Key)
	if err != nil {
		return err
	}
	t, err := describe(ctx, r.conn, r.job.Table, key)
	if err != nil {
		return err
	}
	var last []string
	var estimated int64
	err = r.open(ctx, "begin", patience, func(batch *pgx.Batch) {
		batch.Queue(t.lastSQL()).Query(func(rows pgx.Rows) error {
			_, err := pgx.ForEachRow(rows, []any{&last}, func() error { return nil })
			return err
		})
		batch.Queue(t.estimateSQL(), t.oid).QueryRow(func(row pgx.Row) error { return row.Scan(&estimated) })
	})
	if err != nil {
		return err
	}
	return r.commitBegin(ctx, t, key, last, estimated)
}

// estimateSQL counts the rows of a table that was never analyzed, up to some, and
// takes the planner's word for others.
func (t *table) estimateSQL() string {
	return `SELECT CASE WHEN e.rows > 0 THEN e.rows ELSE (SELECT count(*) FROM (SELECT FROM ` + t.from() + ` LIMIT 100000) s) END
FROM (SELECT sum(greatest(c.reltuples, 0))::bigint AS rows FROM pg_class c
      WHERE c.oid = $1 AND c.relkind = 'r' OR c.oid IN (SELECT relid FROM pg_partition_tree($1::oid::regclass) WHERE isleaf)) e`
}

func (r *runner) commitBegin(ctx context.Context, t *table, key, last []string, estimated int64) error {
	head, err := line(r.job.message(saga.BackfillBegin))
	if err != nil {
		return err
	}
	state := Running
	var batch pgx.Batch
	batch.Queue(emit, head)
	if last == nil {
		state = Done
		if head, err = line(r.job.message(saga.BackfillEnd)); err != nil {
			return err
		}
		batch.Queue(emit, head)
	}
	batch.Queue(`UPDATE capsaga.backfill SET state = $2::text, key = $3, last = $4, estimated = $5, error = NULL, position = pg_current_wal_insert_lsn(),
		started_at = clock_timestamp(), updated_at = clock_timestamp(), finished_at = CASE WHEN $2::text = 'done' THEN clock_timestamp() END WHERE id = $1`,
		r.job.ID, state, key, last, estimated)
	if err := r.commit(ctx, "commit the begin", &batch); err != nil {
		return err
	}
	r.table = t
	if state == Done {
		r.log.Info("a backfill found no rows", "entity", r.job.Entity, "backfill", r.job.ID, "sinks", r.job.Sinks)
		return nil
	}
	r.log.Info("a backfill begins", "entity", r.job.Entity, "backfill", r.job.ID, "sinks", r.job.Sinks, "reason", r.job.Reason, "estimated_rows", estimated)
	return nil
}

// commit sends what ends a transaction.
func (r *runner) commit(ctx context.Context, step string, batch *pgx.Batch) error {
	batch.Queue("COMMIT")
	r.step(step)
	return r.conn.SendBatch(ctx, batch).Close()
}

// chunk brings the next rows into the WAL, or the end.
func (r *runner) chunk(ctx context.Context) error {
	t, many := r.table, r.pace.rows > 1
	hasCursor := r.job.cursor != nil
	wait, limit := patience, time.Duration(0)
	if many {
		wait, limit = r.longest/2, r.longest
	}
	var bound []string
	var stored int64
	var stamp string
	err := r.open(ctx, "find the bound", wait, func(batch *pgx.Batch) {
		batch.Queue(t.boundSQL(hasCursor), args([]any{r.pace.rows, r.pace.stored()}, r.job.last, r.job.cursor)...).Query(func(rows pgx.Rows) error {
			_, err := pgx.ForEachRow(rows, []any{&bound, &stored}, func() error { return nil })
			return err
		})
		// The table is locked against changes of its shape by now.
		batch.Queue(stampQuery, t.name.Schema, t.name.Name).QueryRow(func(row pgx.Row) error { return row.Scan(&stamp) })
		batch.Queue("SELECT set_config('statement_timeout', $1, true)", milliseconds(limit))
	})
	switch {
	case err != nil:
		return err
	case stamp != t.stamp:
		return r.redescribe(ctx)
	case bound == nil:
		return r.end(ctx)
	}
	return r.emitChunk(ctx, bound, stored)
}

// redescribe reads the table's shape anew, as it differs from what was known.
func (r *runner) redescribe(ctx context.Context) error {
	if _, err := r.conn.Exec(ctx, "ROLLBACK"); err != nil {
		return err
	}
	t, err := describe(ctx, r.conn, r.job.Table, r.job.Key)
	if err != nil {
		return err
	}
	r.table = t
	return nil
}

func (r *runner) emitChunk(ctx context.Context, bound []string, stored int64) error {
	head := r.job.message(saga.BackfillRows)
	head.RelationID, head.ReplicaIdentity, head.Columns = r.table.oid, r.table.identity, r.table.columns
	text, err := line(head)
	if err != nil {
		return err
	}
	text = strings.TrimSuffix(text, "}\n") + `,"rows":` // which the statement counts
	var rows, bytes int64
	var position *string
	r.step("lock the rows")
	err = r.conn.QueryRow(ctx, r.table.chunkSQL(r.job.cursor != nil), args([]any{text, maxBytes}, bound, r.job.cursor)...).Scan(&rows, &bytes, &position)
	if err != nil {
		return err
	}
	if position == nil && rows > 0 {
		r.pace.learn(stored, bytes) // too much: the next bound is nearer
		r.pace.rows = max(1, int(int64(r.pace.rows)*maxBytes/bytes/2))
		_, err := r.conn.Exec(ctx, "ROLLBACK")
		return err
	}
	var batch pgx.Batch
	batch.Queue(`UPDATE capsaga.backfill SET cursor = $2, rows = rows + $3, bytes = bytes + $4, position = coalesce($5::text::pg_lsn, position),
		error = NULL, updated_at = clock_timestamp() WHERE id = $1`, r.job.ID, bound, rows, bytes, position)
	if err := r.commit(ctx, "commit the chunk", &batch); err != nil {
		return err
	}
	r.job.cursor, r.said = bound, ""
	r.since += bytes
	if rows > 0 {
		r.pace.learn(stored, bytes)
	}
	return nil
}

// end writes the message end, in the transaction that found no row left.
func (r *runner) end(ctx context.Context) error {
	head, err := line(r.job.message(saga.BackfillEnd))
	if err != nil {
		return err
	}
	var rows, bytes int64
	var took time.Duration
	var batch pgx.Batch
	batch.Queue("SELECT set_config('synchronous_commit', 'local', true)")
	batch.Queue(emit, head)
	batch.Queue(`UPDATE capsaga.backfill SET state = $2, error = NULL, position = pg_current_wal_insert_lsn(), updated_at = clock_timestamp(),
		finished_at = clock_timestamp() WHERE id = $1 RETURNING rows, bytes, clock_timestamp() - started_at`, r.job.ID, Done).
		QueryRow(func(row pgx.Row) error { return row.Scan(&rows, &bytes, &took) })
	if err := r.commit(ctx, "commit the end", &batch); err != nil {
		return err
	}
	r.log.Info("a backfill is in the WAL", "entity", r.job.Entity, "backfill", r.job.ID, "sinks", r.job.Sinks, "rows", rows, "bytes", bytes, "took", took.Round(time.Millisecond).String())
	return errEnded
}
