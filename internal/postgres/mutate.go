package postgres

import (
	"context"
	"encoding/json"
	"slices"
	"strings"

	"github.com/jackc/pgx/v5"

	"github.com/capsaga/capsaga/saga"
)

// undoNote is what undoing a mutation needs to know of it.
type undoNote struct {
	Key string `json:"key"` // KEYENC
	// Before is the row before the mutation, in text forms; absent when there was
	// none.
	Before json.RawMessage `json:"before,omitempty"`
	// Cascaded names the tables of which a delete changed or deleted rows.
	Cascaded []string `json:"cascaded,omitempty"`
}

// lockRows locks the rows of a write with several mutations in one order for all
// sagas, so that two of them do not deadlock.
func (x *transaction) lockRows(ctx context.Context) error {
	if len(x.plans) < 2 {
		return nil
	}
	var reads []*planned
	for _, p := range x.plans {
		if p.read != nil {
			reads = append(reads, p)
		}
	}
	slices.SortStableFunc(reads, func(a, b *planned) int {
		return strings.Compare(lockOrder(a.table, a.entity, a.KeyColumns()), lockOrder(b.table, b.entity, b.KeyColumns()))
	})
	var batch pgx.Batch
	for _, p := range reads {
		batch.Queue(p.read.sql, p.read.args...)
	}
	return x.conn.SendBatch(ctx, &batch).Close()
}

// seen is what the statements of one mutation found.
type seen struct {
	found    bool
	etag     string
	image    *string
	truths   []bool
	cascaded []string
	// written: the mutation changed a row, whose key it returned, and inserted says
	// that there had been none.
	written  bool
	key      []string
	inserted bool
}

// mutate applies the mutations in the caller's order.
func (x *transaction) mutate(ctx context.Context) error {
	var batch pgx.Batch
	all := make([]seen, len(x.plans))
	for i, p := range x.plans {
		all[i].queue(&batch, p)
	}
	err := x.conn.SendBatch(ctx, &batch).Close()
	// An unmet expectation says more than the constraint that the mutation broke
	// because of it.
	for i, p := range x.plans {
		if unmet := x.unmet(p, i, all[i], err); unmet != nil {
			return unmet
		}
	}
	if err != nil {
		return err
	}
	for i, p := range x.plans {
		if err := x.note(i, p, all[i]); err != nil {
			return err
		}
	}
	return x.checkSize()
}

func (s *seen) queue(batch *pgx.Batch, p *planned) {
	if p.read != nil {
		batch.Queue(p.read.sql, p.read.args...).QueryRow(func(row pgx.Row) error {
			return optional(row, &s.found, &s.etag, &s.image, &s.truths)
		})
	}
	if p.cascades != nil {
		batch.Queue(p.cascades.sql, p.cascades.args...).QueryRow(func(row pgx.Row) error {
			var found bool
			return optional(row, &found, &s.cascaded)
		})
	}
	batch.Queue(p.write.sql, p.write.args...).QueryRow(func(row pgx.Row) error {
		return optional(row, &s.written, &s.key, &s.inserted)
	})
}

// optional scans a row that need not be there.
func optional(row pgx.Row, found *bool, into ...any) error {
	err := row.Scan(into...)
	if noRows(err) {
		return nil
	}
	*found = err == nil
	return err
}

// note keeps what undoing the mutation needs, and that the saga owns the row.
func (x *transaction) note(i int, p *planned, s seen) error {
	switch {
	case p.Op == saga.Upsert && !s.found && s.written && !s.inserted:
		return errRaced // its image before is not known
	case p.Op == saga.Upsert && !s.found && !s.written:
		return raced(i, p)
	case !s.written:
		return absent(i, p)
	}
	key, err := p.ownKey(s.key)
	if err != nil {
		return err
	}
	x.notes = append(x.notes, noteOf(key, s))
	x.own(p.entity.Name, key)
	return nil
}

// ownKey returns the KEYENC of a row that the mutation changed.
func (p *planned) ownKey(texts []string) (string, error) {
	key := saga.EncodeKey(texts)
	if p.entity.Elasticsearch == nil {
		return key, nil
	}
	return key, saga.CheckDocumentKey(p.entity.Name, key)
}

func noteOf(key string, s seen) undoNote {
	n := undoNote{Key: key, Cascaded: s.cascaded}
	if s.image != nil {
		n.Before = json.RawMessage(*s.image)
	}
	return n
}

func absent(i int, p *planned) *saga.Error {
	return refuse(saga.CodeNotFound, "mutations[%d]: %s: no such row, or a trigger of table %s kept it from changing", i, p.Target(), p.table.Table)
}

// raced is errRaced until the tries are over: then it was a trigger that kept the
// row from being inserted.
func raced(i int, p *planned) *saga.Error {
	e := absent(i, p)
	e.Err = errRaced
	return e
}

// maxOwnedBytes bounds what a saga's workflow has to carry of its rows: keys and
// etags are in the commit's result, in the outcome and in each caller's answer,
// and Temporal takes 2 MB of the one and 4 MB of all together.
const maxOwnedBytes = 256 << 10

func (x *transaction) checkSize() error {
	if size := ownedBytes(x.owned); size > maxOwnedBytes {
		return tooManyRows(len(x.owned), size)
	}
	return nil
}

func ownedBytes(owned []saga.Owned) int {
	size := 0
	for _, o := range owned {
		size += len(o.Entity) + len(o.Key) + len(`{"entity":"","key":"","etag":"1-4294967295"},`)
	}
	return size
}

func tooManyRows(rows, size int) *saga.Error {
	return refuse(saga.CodeInvalidWrite, "the write changes %d rows, whose encoded keys and etags take %d bytes of at most %d: split it into several sagas", rows, size, maxOwnedBytes)
}

// unmet returns why a mutation may not happen, given what its read found.
func (x *transaction) unmet(p *planned, i int, s seen, failed error) *saga.Error {
	expect := p.Expect
	absentWanted := expect != nil && expect.Exists != nil && !*expect.Exists
	if p.Op == saga.Insert || failed != nil && !s.found && !absentWanted {
		return nil
	}
	mustExist := p.Op != saga.Upsert || expect != nil && !absentWanted
	switch {
	case absentWanted && s.found:
		return refuse(saga.CodeExpectUnmet, "mutations[%d]: %s: expected no such row, and there is one", i, p.Target())
	case !s.found && mustExist && expect != nil:
		return refuse(x.absentCode(p), "mutations[%d]: %s: expected a row, and there is none", i, p.Target())
	case !s.found && mustExist:
		return refuse(saga.CodeNotFound, "mutations[%d]: %s: no such row", i, p.Target())
	case !s.found:
		return nil
	}
	if expect != nil && expect.ETag != "" && expect.ETag != etag(x.epoch, s.etag) {
		return refuse(saga.CodeExpectUnmet, "mutations[%d]: %s: expected etag %s, and the row has %s", i, p.Target(), expect.ETag, etag(x.epoch, s.etag))
	}
	for n, holds := range s.truths {
		if !holds {
			return refuse(p.conditions[n].code, "mutations[%d]: %s: %s, which does not hold", i, p.Target(), p.conditions[n].text)
		}
	}
	return nil
}

// absentCode is not_found for an operation that needs its row anyway.
func (x *transaction) absentCode(p *planned) string {
	if p.Op == saga.Upsert {
		return saga.CodeExpectUnmet
	}
	return saga.CodeNotFound
}
