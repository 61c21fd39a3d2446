package postgres

import (
	"context"
	"encoding/json"
	"errors"
	"slices"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/capsaga/capsaga/saga"
)

// ChangeResult is what became of an undo or an edit, now or by an earlier call.
type ChangeResult struct {
	// Refused says why nothing happened. It is not remembered: a later call tries
	// again. Nil: the change has committed.
	Refused     *saga.ErrorInfo
	Version     saga.Version
	CommittedAt time.Time
	// FlushLSN was read right after COMMIT, or, of an earlier change, just now.
	FlushLSN saga.LSN
	// Owned has all rows that the saga owns, as they are at Version.
	Owned []saga.Owned
}

// change is one attempt at changing what a committed saga left.
type change struct {
	transaction
	history
	sagaID, kind, request, content string

	rows []*changeRow
}

// changeRow is a row that the saga owns.
type changeRow struct {
	*planned
	left    keptRow
	key     saga.Columns
	applied []*applied // to this row, in order

	// now: as the locked read found it.
	found            bool
	xmin, row, image string
	// ours says that nobody else has changed the row since.
	ours bool
}

// lock is what an undo needs of the row: what a saga inserted is deleted, and then
// nobody may come to refer to it meanwhile.
func (r *changeRow) lock() string {
	for _, a := range r.applied {
		if a.before.body == nil {
			return "FOR UPDATE"
		}
	}
	return "FOR NO KEY UPDATE"
}

func (r *changeRow) name() string { return r.left.Entity + "/" + r.left.Key }

// open begins the transaction and reads the saga, whose changes wait for one
// another. It returns the result of the same change, if that has happened before.
func (x *change) open(ctx context.Context, begin saga.BeginMessage) (*ChangeResult, error) {
	var batch pgx.Batch
	if err := x.queueBegin(ctx, &batch, begin); err != nil {
		return nil, err
	}
	var r record
	var found bool
	var position string
	x.queueHistory(&batch, &r, &found)
	batch.Queue("SELECT pg_current_wal_flush_lsn()::text").QueryRow(func(row pgx.Row) error { return row.Scan(&position) })
	if err := x.conn.SendBatch(ctx, &batch).Close(); err != nil {
		return nil, err
	}
	switch {
	case !found:
		return nil, unknownSaga(x.sagaID)
	case r.version == nil:
		return nil, refuse(saga.CodeUnknownSaga, "saga %q never committed: there is nothing to %s", x.sagaID, x.kind)
	}
	if done := x.change(x.kind, x.request); done != nil {
		return x.attach(ctx, done, position)
	}
	if x.change(kindUndo, "") != nil {
		return nil, refuse(saga.CodeConflict, "saga %q has been undone: its rows are not its own any more, so write another saga", x.sagaID)
	}
	if err := x.read(ctx, r); err != nil {
		return nil, err
	}
	return nil, x.checkReplica(x.write.Consistency)
}

// attach ends the transaction of a change that has happened, and returns what the
// ledger says of it.
func (x *change) attach(ctx context.Context, done *recorded, position string) (*ChangeResult, error) {
	if _, err := x.conn.Exec(ctx, "ROLLBACK"); err != nil {
		return nil, err
	}
	if done.content != x.content {
		return nil, refuse(saga.CodeInvalidWrite, "request %q was another edit of saga %q: give this one an id of its own", x.request, x.sagaID)
	}
	result := &ChangeResult{Version: saga.Version(done.version), CommittedAt: done.at}
	var err error
	if result.FlushLSN, err = saga.ParseLSN(position); err != nil {
		return nil, err
	}
	return result, decode(&done.result, &result.Owned)
}

// lock locks and reads the rows that the saga owns, in the order of all
// transactions.
func (x *change) lock(ctx context.Context) error {
	if err := x.findRows(ctx); err != nil {
		return err
	}
	ordered := slices.Clone(x.rows)
	slices.SortStableFunc(ordered, func(a, b *changeRow) int {
		return strings.Compare(lockOrder(a.table, a.entity, a.key), lockOrder(b.table, b.entity, b.key))
	})
	var batch pgx.Batch
	for _, row := range ordered {
		s := row.lockedRead(row.key, row.lock())
		batch.Queue(s.sql, s.args...).QueryRow(func(found pgx.Row) error {
			return optional(found, &row.found, &row.xmin, &row.row, &row.image)
		})
	}
	for _, p := range x.tables {
		p.table.queueStamp(&batch)
	}
	if err := x.conn.SendBatch(ctx, &batch).Close(); err != nil {
		return err
	}
	for _, row := range x.rows {
		row.ours = row.left.still(x.epoch, row.found, row.xmin, row.row)
	}
	return nil
}

// findRows makes the list of the saga's rows, each with its mutations.
func (x *change) findRows(ctx context.Context) error {
	byKey := map[rowKey]*changeRow{}
	for _, left := range x.left {
		e, t, err := x.describe(ctx, left.Entity)
		if err != nil {
			return err
		}
		for _, name := range e.Key {
			if t.Column(name) == nil {
				return refuse(saga.CodeUnknownColumn, "entity %s: the catalog's key column %q is not in table %s", e.Name, name, t.Table)
			}
		}
		key, err := keyColumns(e, left.Key)
		if err != nil {
			return err
		}
		row := &changeRow{planned: &planned{entity: e, table: t}, left: left, key: key}
		x.tables[e.Name] = row.planned
		x.rows = append(x.rows, row)
		x.own(left.Entity, left.Key)
		byKey[rowKey{left.Entity, left.Key}] = row
	}
	for _, a := range x.applied {
		row := byKey[a.row]
		if row == nil {
			return refuse(saga.CodeRejected, "the ledger does not say which row of %s a mutation of saga %q changed", a.Entity, x.sagaID)
		}
		row.applied = append(row.applied, a)
	}
	return nil
}

// close emits the closing message, whose LSN is the version, records the change
// and commits.
func (x *change) close(ctx context.Context, edit *saga.Write, expected []keptRow) (*ChangeResult, error) {
	end, err := x.endMessage(x.sagaID)
	if err != nil {
		return nil, err
	}
	texts := make([]*string, 4)
	for i, value := range []any{keep(x.owned), mutationsOf(edit), x.notes, expected} {
		body, err := json.Marshal(value)
		if err != nil {
			return nil, err
		}
		if text := string(body); text != "null" {
			texts[i] = &text
		}
	}
	var version int64
	var batch pgx.Batch
	if x.kind == kindUndo {
		batch.Queue("DELETE FROM capsaga.conflict WHERE saga_id = $1", x.sagaID)
	}
	batch.Queue(`WITH v AS MATERIALIZED (SELECT pg_logical_emit_message(true, $5, $6::text) AS lsn)
		INSERT INTO capsaga.change (saga_id, kind, request, content, version, result, mutations, undo, expected)
		SELECT $1, $2, $3, $4, ($7::bigint << 53) + (lsn - '0/0'::pg_lsn)::bigint, $8::text::json, $9::text::json, $10::text::json, $11::text::json FROM v
		RETURNING version`,
		x.sagaID, x.kind, x.request, x.content, saga.MessageEnd, end, int64(x.epoch), texts[0], texts[1], texts[2], texts[3]).
		QueryRow(func(row pgx.Row) error { return row.Scan(&version) })
	done, err := x.finish(ctx, &batch, x.write.Consistency)
	if err != nil {
		return nil, err
	}
	return &ChangeResult{Version: saga.Version(version), CommittedAt: done.at, FlushLSN: done.flushed, Owned: x.owned}, nil
}

func mutationsOf(edit *saga.Write) []saga.Mutation {
	if edit == nil {
		return nil
	}
	return edit.Mutations
}

// refusal returns the refusal in an error, or nil when the caller is to try
// again.
func refusal(err error) *saga.Error {
	var e *saga.Error
	if errors.As(err, &e) && e.Class == saga.Rejected {
		return e
	}
	return nil
}
