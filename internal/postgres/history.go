package postgres

import (
	"context"
	"encoding/json"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/capsaga/capsaga/saga"
)

// The kinds of capsaga.change.
const (
	kindEdit = "edit"
	kindUndo = "undo"
)

// history is what the ledger knows of a committed saga.
type history struct {
	write   saga.Write
	changes []recorded
	// applied has all mutations in the order in which they happened: those of the
	// write and those of its edits.
	applied []*applied
	// left has the rows as the saga or its last edit left them: whose etag a row
	// still has, nobody else has changed it since.
	left []keptRow
	// last has the rows as the last of them reported them.
	last []saga.Owned
}

// applied is a mutation that has happened.
type applied struct {
	*saga.Mutation
	row      rowKey
	before   image
	cascaded []string
	// unsure says that the ledger does not know whether a delete cascaded.
	unsure bool
}

// recorded is a row of capsaga.change.
type recorded struct {
	kind, request, content string
	version                int64
	at                     time.Time
	mutations, undo        *string
	result                 string
	expected               *string
}

// record is the saga's row of the ledger.
type record struct {
	version      *int64
	write        string
	result       *string
	undo, before *string
}

const readSaga = `SELECT version, write::text, result::text, undo::text, before::text FROM capsaga.saga WHERE id = $1 FOR NO KEY UPDATE`

const readChanges = `SELECT kind, request, content, version, created_at, mutations::text, undo::text, result::text, expected::text
FROM capsaga.change WHERE saga_id = $1 ORDER BY version`

// queueHistory locks the saga's row of the ledger, which lets its changes happen
// one after the other, and reads it.
func (x *change) queueHistory(batch *pgx.Batch, r *record, found *bool) {
	batch.Queue(readSaga, x.sagaID).QueryRow(func(row pgx.Row) error {
		return optional(row, found, &r.version, &r.write, &r.result, &r.undo, &r.before)
	})
	batch.Queue(readChanges, x.sagaID).Query(func(rows pgx.Rows) (err error) {
		x.changes, err = pgx.CollectRows(rows, func(row pgx.CollectableRow) (c recorded, err error) {
			err = row.Scan(&c.kind, &c.request, &c.content, &c.version, &c.at, &c.mutations, &c.undo, &c.result, &c.expected)
			return c, err
		})
		return err
	})
}

// change returns the change of a kind and request, or nil.
func (h *history) change(kind, request string) *recorded {
	for i := range h.changes {
		if c := &h.changes[i]; c.kind == kind && c.request == request {
			return c
		}
	}
	return nil
}

// read puts together what the rows of the ledger say.
func (x *change) read(ctx context.Context, r record) error {
	if err := json.Unmarshal([]byte(r.write), &x.write); err != nil {
		return refuse(saga.CodeInvalidWrite, "the ledger's write of saga %q cannot be read: %s", x.sagaID, err)
	}
	if err := decode(r.result, &x.left); err != nil {
		return err
	}
	x.last = atVersion(x.left, *r.version)
	if err := x.readApplied(ctx, r); err != nil {
		return err
	}
	for _, c := range x.changes {
		if c.kind != kindEdit {
			continue
		}
		var mutations []saga.Mutation
		var notes []undoNote
		var result, left []keptRow
		for text, into := range map[*string]any{c.mutations: &mutations, c.undo: &notes, &c.result: &result, c.expected: &left} {
			if err := decode(text, into); err != nil {
				return err
			}
		}
		x.left, x.last = left, atVersion(result, c.version)
		x.add(mutations, notes)
	}
	return nil
}

// atVersion returns the rows with the version at which each was as it is told.
func atVersion(rows []keptRow, version int64) []saga.Owned {
	owned := make([]saga.Owned, len(rows))
	for i, row := range rows {
		owned[i] = row.Owned
		if owned[i].Version == 0 {
			owned[i].Version = saga.Version(version)
		}
	}
	return owned
}

func (h *history) add(mutations []saga.Mutation, notes []undoNote) {
	for i := range mutations {
		h.applied = append(h.applied, &applied{
			Mutation: &mutations[i], row: rowKey{mutations[i].Entity, notes[i].Key},
			before: image{body: notes[i].Before}, cascaded: notes[i].Cascaded,
		})
	}
}

// readApplied reads the write's mutations with what undoing them needs.
func (x *change) readApplied(ctx context.Context, r record) error {
	if r.undo == nil {
		return x.readFirstForm(ctx, r)
	}
	var notes []undoNote
	if err := decode(r.undo, &notes); err != nil {
		return err
	}
	x.add(x.write.Mutations, notes)
	return nil
}

// readFirstForm reads a saga of the ledger's first version, which kept images as
// row_to_json wrote them, and neither keys nor what a delete cascaded to.
func (x *change) readFirstForm(ctx context.Context, r record) error {
	var images []json.RawMessage
	if err := decode(r.before, &images); err != nil {
		return err
	}
	keys, err := x.keysOf(ctx, x.write.Mutations)
	if err != nil {
		return err
	}
	for i := range x.write.Mutations {
		m := &x.write.Mutations[i]
		a := &applied{Mutation: m, row: rowKey{m.Entity, keys[i]}, unsure: m.Op == saga.Delete}
		if i < len(images) && !isNull(images[i]) {
			a.before = image{body: images[i], typed: true}
		}
		x.applied = append(x.applied, a)
	}
	return nil
}

// keysOf returns the KEYENC of each mutation's row. An insert that left its key
// to a default has the owned row that no other mutation names.
func (x *change) keysOf(ctx context.Context, mutations []saga.Mutation) ([]string, error) {
	keys := make([]string, len(mutations))
	used := map[rowKey]bool{}
	var batch pgx.Batch
	for i := range mutations {
		e, t, err := x.describe(ctx, mutations[i].Entity)
		if err != nil {
			return nil, err
		}
		key, whole := saga.Columns{}, true
		for _, name := range e.Key {
			value, named := mutations[i].KeyColumns()[name]
			key[name] = value
			whole = whole && named && t.Column(name) != nil
		}
		if !whole {
			continue
		}
		from, arg := (&planned{entity: e, table: t}).record(1, "t", key)
		batch.Queue("SELECT "+keyTexts(e)+" FROM "+from, arg).QueryRow(func(row pgx.Row) error {
			var texts []string
			err := row.Scan(&texts)
			keys[i] = saga.EncodeKey(texts)
			used[rowKey{e.Name, keys[i]}] = true
			return err
		})
	}
	if err := x.conn.SendBatch(ctx, &batch).Close(); err != nil {
		return nil, err
	}
	for i := range mutations {
		for _, row := range x.left {
			k := rowKey{row.Entity, row.Key}
			if keys[i] == "" && row.Entity == mutations[i].Entity && !used[k] {
				keys[i], used[k] = row.Key, true
			}
		}
	}
	return keys, nil
}

// still reports whether a row is as the saga left it.
func (k keptRow) still(epoch saga.Epoch, found bool, xmin, row string) bool {
	if k.Gone() || !found {
		return k.Gone() && !found
	}
	now := etag(epoch, xmin)
	if k.ETag == now {
		return true
	}
	sameEpoch := strings.HasPrefix(k.ETag, etag(epoch, ""))
	return !sameEpoch && k.Content != "" && k.Content == contentOf([]byte(row))
}
