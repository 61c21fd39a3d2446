package postgres

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/jackc/pgx/v5/pgconn"

	"github.com/capsaga/capsaga/saga"
)

// undoError is why an undo cannot be.
type undoError struct {
	conflicts []saga.Conflict
	err       error // a *saga.Error, or the server's
}

func (e *undoError) Error() string { return e.err.Error() }
func (e *undoError) Unwrap() error { return e.err }

// findConflicts returns an *undoError that tells of every row that cannot go back.
func (x *change) findConflicts(ctx context.Context) error {
	var conflicts []saga.Conflict
	for _, row := range x.rows {
		reason, err := x.obstacle(ctx, row)
		if err != nil {
			return err
		}
		if reason != "" {
			conflicts = append(conflicts, x.conflict(row, reason))
		}
	}
	return x.inConflict(conflicts)
}

// obstacle returns why a row cannot go back, or nothing.
func (x *change) obstacle(ctx context.Context, row *changeRow) (string, error) {
	for _, a := range row.applied {
		switch {
		case len(a.cascaded) > 0:
			return fmt.Sprintf("its delete also deleted or changed rows of %s, which nobody kept: put all of them back by hand", strings.Join(a.cascaded, ", ")), nil
		case a.unsure && len(row.table.Cascades) > 0:
			return "an earlier version deleted it, which did not note whether the delete cascaded: put it back by hand", nil
		case a.before.body == nil:
			continue
		}
		lost, err := a.before.lostColumn(row.table)
		if err != nil {
			return "", err
		}
		if lost != "" {
			return fmt.Sprintf("table %s has no column %q any more, so the row cannot be what it was: set it by hand", row.table.Table, lost), nil
		}
		cut, err := row.cutOff(a.before)
		if err != nil {
			return "", err
		}
		if cut != "" {
			return fmt.Sprintf("it is referred to by another value than before, and rows of %s lose their reference when that changes: set it back by hand, and theirs", cut), nil
		}
	}
	switch {
	case row.ours, row.found && row.onlyAdded():
		return "", nil
	case row.left.Gone():
		return "the saga deleted it, and by now there is such a row again: delete it and retry, or leave it", nil
	case !row.found:
		return "someone else has deleted it since", nil
	}
	columns, err := x.differing(ctx, row)
	if err != nil {
		return "", err
	}
	if len(columns) == 0 {
		return "someone else has written it since, though no column differs", nil
	}
	return "someone else has changed it since: " + strings.Join(columns, ", "), nil
}

// cutOff names the tables whose rows, by ON UPDATE, have lost what they referred to
// if the saga changed that, and would lose it again.
func (r *changeRow) cutOff(before image) (string, error) {
	var tables []string
	for _, f := range r.table.Cascades {
		if !f.OnUpdate || !r.found {
			continue
		}
		var was, now map[string]any
		if err := errors.Join(json.Unmarshal(before.body, &was), json.Unmarshal([]byte(r.image), &now)); err != nil {
			return "", fmt.Errorf("read the ledger: %w", err)
		}
		if slices.ContainsFunc(f.Referenced, func(name string) bool { return before.typed || was[name] != now[name] }) {
			tables = append(tables, f.Table.String())
		}
	}
	return strings.Join(tables, ", "), nil
}

// onlyAdded reports whether all that the saga did to the row was to add to it,
// which can be taken back whatever others did.
func (r *changeRow) onlyAdded() bool {
	for _, a := range r.applied {
		if len(a.Mutation.Add) == 0 || len(a.Set) > 0 {
			return false
		}
	}
	return true
}

// kept returns the conflicts that the inverse mutations met, of which the first
// at have happened.
func (x *change) kept(all []*inverse, at int) error {
	var conflicts []saga.Conflict
	for i, v := range all {
		switch {
		case len(v.referring) > 0:
			conflicts = append(conflicts, x.conflict(v.row, fmt.Sprintf("rows of %s refer to it by now, and deleting it would change them: delete or move them and retry", strings.Join(v.referring, ", "))))
		case i < at && !v.written:
			conflicts = append(conflicts, x.conflict(v.row, fmt.Sprintf("a trigger of table %s keeps it as it is", v.row.table.Table)))
		}
	}
	return x.inConflict(conflicts)
}

// refusedAt says at which row the server refused the undo.
func (x *change) refusedAt(row *changeRow, err error) error {
	var pg *pgconn.PgError
	if !errors.As(err, &pg) || saga.ClassOf(classify("", err)) != saga.Rejected {
		return err
	}
	c := x.conflict(row, describeState(pg))
	if strings.HasPrefix(pg.Code, "23") {
		return x.inConflict([]saga.Conflict{c})
	}
	return &undoError{conflicts: []saga.Conflict{c}, err: err}
}

// refusedAtEnd says which table's deferred constraint refused the undo.
func (x *change) refusedAtEnd(err error) error {
	var pg *pgconn.PgError
	if !errors.As(err, &pg) || !strings.HasPrefix(pg.Code, "23") {
		return err
	}
	c := saga.Conflict{Entity: pg.SchemaName + "." + pg.TableName, Reason: describeState(pg)}
	for name, p := range x.tables {
		if p.table.Table.String() == c.Entity {
			c.Entity = name
		}
	}
	return x.inConflict([]saga.Conflict{c})
}

// shownConflicts is how many rows a message names.
const shownConflicts = 3

func (x *change) inConflict(conflicts []saga.Conflict) error {
	if len(conflicts) == 0 {
		return nil
	}
	var parts []string
	for i, c := range conflicts {
		if i == shownConflicts {
			parts = append(parts, fmt.Sprintf("and %d rows more", len(conflicts)-i))
			break
		}
		at := c.Entity
		if c.Key != "" {
			at += "/" + c.Key
		}
		parts = append(parts, at+": "+c.Reason)
	}
	return &undoError{conflicts: conflicts, err: refuse(saga.CodeConflict,
		"saga %q cannot be undone: %s; `capsaga show` has theirs, ours and before: mend the data and retry, or skip the undo to leave all as it is",
		x.sagaID, strings.Join(parts, "; "))}
}

// conflict describes a row that is in the way.
func (x *change) conflict(row *changeRow, reason string) saga.Conflict {
	c := saga.Conflict{Entity: row.left.Entity, Key: row.left.Key, Reason: reason}
	if len(row.applied) > 0 {
		c.Before = row.applied[0].before.show(row.table)
	}
	if row.found {
		c.Theirs = image{body: json.RawMessage(row.image)}.show(row.table)
	}
	mutations := make([]*saga.Mutation, len(row.applied))
	for i, a := range row.applied {
		mutations[i] = a.Mutation
	}
	if body, err := json.Marshal(mutations); err == nil {
		c.Ours = body
	}
	return c
}

// settleUndo keeps the conflicts for Conflicts, and answers with the refusal.
func (db *DB) settleUndo(ctx context.Context, sagaID string, refused *undoError) (*ChangeResult, error) {
	e := refusal(classify("undo saga "+sagaID, refused.err))
	if e == nil {
		return nil, classify("undo saga "+sagaID, refused.err)
	}
	body, err := json.Marshal(refused.conflicts)
	if err != nil {
		return nil, err
	}
	// An undo that has succeeded since has nothing to tell any more.
	_, err = db.pool.Exec(ctx, `
		INSERT INTO capsaga.conflict (saga_id, conflicts)
		SELECT s.id, $2::text::json FROM capsaga.saga s
		WHERE s.id = $1 AND NOT EXISTS (SELECT FROM capsaga.change c WHERE c.saga_id = s.id AND c.kind = 'undo')
		ON CONFLICT (saga_id) DO UPDATE SET conflicts = excluded.conflicts, created_at = clock_timestamp()`, sagaID, string(body))
	if err != nil {
		return nil, classify("keep the conflicts of saga "+sagaID, err)
	}
	return &ChangeResult{Refused: errorInfo(e)}, nil
}

// Conflicts returns why the last try to undo a saga was refused, row by row; none
// when it was not.
func (db *DB) Conflicts(ctx context.Context, sagaID string) ([]saga.Conflict, error) {
	var body string
	err := db.pool.QueryRow(ctx, "SELECT conflicts::text FROM capsaga.conflict WHERE saga_id = $1", sagaID).Scan(&body)
	if noRows(err) {
		return nil, nil
	}
	if err != nil {
		return nil, classify("read the conflicts of saga "+sagaID, err)
	}
	var conflicts []saga.Conflict
	err = decode(&body, &conflicts)
	return conflicts, err
}
