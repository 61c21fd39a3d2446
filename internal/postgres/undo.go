package postgres

import (
	"context"
	"errors"

	"github.com/jackc/pgx/v5"

	"github.com/capsaga/capsaga/saga"
)

// UndoRequest asks to undo what a saga left.
type UndoRequest struct {
	SagaID                  string
	Catalog                 *saga.Catalog
	TraceParent, TraceState string
}

// Undo takes back what a saga and its edits did, in one transaction and once: a
// second call returns the first one's result.
//
// Each row goes back to what it was before, if it is still as the saga left it.
// Where others have changed it since, what was only added is subtracted; anything
// else is a conflict, and so is what cannot be taken back without loss: then
// nothing happens, the result says what is in the way, and Conflicts says it in
// full. A later call tries again.
func (db *DB) Undo(ctx context.Context, r UndoRequest) (*ChangeResult, error) {
	var result *ChangeResult
	err := db.retry(ctx, func() (err error) {
		x := &change{transaction: db.newTransaction(r.Catalog), sagaID: r.SagaID, kind: kindUndo}
		begin := saga.BeginMessage{SagaID: r.SagaID, Undoes: r.SagaID, TraceParent: r.TraceParent, TraceState: r.TraceState}
		return x.onConnection(ctx, func() error {
			result, err = x.undo(ctx, begin)
			return err
		})
	})
	if err == nil {
		return result, nil
	}
	var refused *undoError
	if errors.As(err, &refused) {
		return db.settleUndo(ctx, r.SagaID, refused)
	}
	err = classify("undo saga "+r.SagaID, err)
	if e := refusal(err); e != nil {
		return &ChangeResult{Refused: errorInfo(e)}, nil
	}
	return nil, err
}

// undo is the transaction, in five exchanges with the server: open it, lock the
// rows, take the mutations back, re-read the rows, close it.
func (x *change) undo(ctx context.Context, begin saga.BeginMessage) (*ChangeResult, error) {
	if done, err := x.open(ctx, begin); done != nil || err != nil {
		return done, err
	}
	if c := x.write.Stream; c != nil {
		return nil, refuse(saga.CodeConflict, "saga %q cannot be undone: plain SQL wrote %s, and nobody knows what was before: change the row by SQL or an edit", x.sagaID, c.Target())
	}
	if err := x.lock(ctx); err != nil {
		return nil, err
	}
	if err := x.findConflicts(ctx); err != nil {
		return nil, err
	}
	if err := x.takeBack(ctx); err != nil {
		return nil, err
	}
	if err := x.reread(ctx); err != nil {
		return nil, x.refusedAtEnd(err)
	}
	return x.close(ctx, nil, nil)
}

// inverse takes one mutation back.
type inverse struct {
	row *changeRow
	// references names the tables with rows that deleting the row would change.
	references *statement
	referring  []string
	write      statement
	written    bool
}

// invert builds what takes a mutation back. A row that is still as the saga left
// it goes back to its image, which is exact; one that others have changed since
// has only been added to.
func (r *changeRow) invert(a *applied) (*inverse, error) {
	v := &inverse{row: r}
	var err error
	switch {
	case !r.ours:
		v.write = r.subtract(r.key, a.Mutation.Add)
	case a.before.body == nil:
		v.references, v.write = r.references(r.key), r.deleteKey(r.key)
	case a.Op == saga.Delete:
		v.write, err = r.insertImage(a.before)
	default:
		v.write, err = r.updateToImage(r.key, a.before)
	}
	return v, err
}

// takeBack applies the inverse mutations, the last one first.
func (x *change) takeBack(ctx context.Context) error {
	var all []*inverse
	rows := map[rowKey]*changeRow{}
	for _, row := range x.rows {
		rows[rowKey{row.left.Entity, row.left.Key}] = row
	}
	for i := len(x.applied) - 1; i >= 0; i-- {
		a := x.applied[i]
		v, err := rows[a.row].invert(a)
		if err != nil {
			return err
		}
		all = append(all, v)
	}
	var batch pgx.Batch
	at := 0
	for _, v := range all {
		v.queue(&batch, &at)
	}
	err := x.conn.SendBatch(ctx, &batch).Close()
	if conflicts := x.kept(all, at); conflicts != nil {
		return conflicts
	}
	if err != nil && at < len(all) {
		return x.refusedAt(all[at].row, err)
	}
	return err
}

func (v *inverse) queue(batch *pgx.Batch, at *int) {
	if v.references != nil {
		batch.Queue(v.references.sql, v.references.args...).QueryRow(func(row pgx.Row) error {
			var found bool
			return optional(row, &found, &v.referring)
		})
	}
	batch.Queue(v.write.sql, v.write.args...).QueryRow(func(row pgx.Row) error {
		var key []string
		err := optional(row, &v.written, &key)
		if err == nil {
			*at++
		}
		return err
	})
}
