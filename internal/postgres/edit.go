package postgres

import (
	"context"
	"strings"

	"github.com/capsaga/capsaga/saga"
)

// EditRequest asks to change rows that a saga owns.
type EditRequest struct {
	SagaID string
	// RequestID makes the edit happen once.
	RequestID               string
	Mutations               []saga.Mutation
	Catalog                 *saga.Catalog
	TraceParent, TraceState string
}

// Edit applies mutations to rows that a committed saga owns, in one transaction
// and once: a second call with the same request id returns the first one's result.
// All of the saga's rows are locked and re-read, so that the result has each as it
// is at the edit's version.
//
// What the database refuses is a refusal in the result; nothing has happened then,
// and a later call tries again.
func (db *DB) Edit(ctx context.Context, r EditRequest) (result *ChangeResult, err error) {
	err = db.retry(ctx, func() error {
		result, err = db.editOnce(ctx, r)
		return err
	})
	if err == nil {
		return result, nil
	}
	err = classify("edit saga "+r.SagaID, err)
	e := refusal(err)
	if e == nil {
		return nil, err
	}
	if e.Code == saga.CodeInvalidValue {
		e = db.nameColumn(ctx, r.Catalog, r.Mutations, e)
	}
	return &ChangeResult{Refused: errorInfo(e)}, nil
}

func (db *DB) editOnce(ctx context.Context, r EditRequest) (result *ChangeResult, err error) {
	if r.RequestID == "" || len(r.Mutations) == 0 {
		return nil, refuse(saga.CodeInvalidWrite, "an edit of saga %q wants a request id and at least one mutation", r.SagaID)
	}
	if err := saga.ValidateMutations(r.Mutations); err != nil {
		return nil, err
	}
	edit := &saga.Write{Mutations: r.Mutations}
	x := &change{transaction: db.newTransaction(r.Catalog), sagaID: r.SagaID, kind: kindEdit, request: r.RequestID, content: edit.Digest()}
	begin := saga.BeginMessage{SagaID: r.SagaID, TraceParent: r.TraceParent, TraceState: r.TraceState}
	err = x.onConnection(ctx, func() error {
		result, err = x.edit(ctx, begin, edit)
		return err
	})
	return result, err
}

// edit is the transaction, in five exchanges with the server, as for an undo.
func (x *change) edit(ctx context.Context, begin saga.BeginMessage, edit *saga.Write) (*ChangeResult, error) {
	if done, err := x.open(ctx, begin); done != nil || err != nil {
		return done, err
	}
	if err := x.lock(ctx); err != nil {
		return nil, err
	}
	if err := x.plan(ctx, edit.Mutations); err != nil {
		return nil, err
	}
	if err := x.mutate(ctx); err != nil {
		return nil, err
	}
	if err := x.checkOwned(); err != nil {
		return nil, err
	}
	if err := x.reread(ctx); err != nil {
		return nil, err
	}
	x.keepVersions()
	return x.close(ctx, edit, x.expected())
}

// checkOwned refuses a mutation of a row that the saga does not own.
func (x *change) checkOwned() error {
	for i, n := range x.notes {
		if x.index[rowKey{x.plans[i].Entity, n.Key}] < len(x.rows) {
			continue
		}
		var names []string
		for _, row := range x.rows[:min(len(x.rows), shownConflicts)] {
			names = append(names, row.name())
		}
		if len(x.rows) > len(names) {
			names = append(names, "…")
		}
		return refuse(saga.CodeInvalidWrite, "mutations[%d]: %s/%s is not a row of saga %q, and an edit changes no others: it has %s",
			i, x.plans[i].Entity, n.Key, x.sagaID, strings.Join(names, ", "))
	}
	return nil
}

// keepVersions leaves a row that was gone, and that the edit did not touch, at the
// version at which the saga last knew it. Nothing locks a row that is not there,
// so by the edit's version someone else may have inserted it, and changed it again
// after it was re-read.
func (x *change) keepVersions() {
	touched := map[rowKey]bool{}
	for i, n := range x.notes {
		touched[rowKey{x.plans[i].Entity, n.Key}] = true
	}
	for i := range x.owned {
		if o := x.owned[i]; !x.rows[i].found && !touched[rowKey{o.Entity, o.Key}] {
			x.owned[i] = saga.Owned{Entity: o.Entity, Key: o.Key, Version: x.last[i].Version}
		}
	}
}

// expected returns the rows by which a later undo knows that nobody else has
// changed them. One that someone had changed before the edit stays as the saga
// had left it before, so that the undo finds it in conflict.
func (x *change) expected() []keptRow {
	rows := keep(x.owned)
	for i, row := range x.rows {
		if !row.ours {
			rows[i] = row.left
		}
	}
	return rows
}
