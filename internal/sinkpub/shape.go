package sinkpub

import (
	"bytes"
	"context"
	"fmt"
	"slices"

	"github.com/capsaga/capsaga/internal/pgtext"
	"github.com/capsaga/capsaga/internal/postgres"
	"github.com/capsaga/capsaga/internal/stream"
	"github.com/capsaga/capsaga/saga"
)

// shape is how the rows of a relation become documents of an entity.
type shape struct {
	relation *stream.Relation
	entity   *saga.Entity
	names    [][]byte // `"name":`, as JSON
	types    []*pgtext.Type
	key      []int // indexes of the entity's key columns, in the catalog's order
	opaque   bool  // a column's JSON is known to PostgreSQL alone
	texts    []string
}

// shape returns how a relation's changes are applied, nil if no entity of this
// sink is on its table. A relation that was described anew has another pointer.
func (s *session) shape(ctx context.Context, relation *stream.Relation) (*shape, error) {
	if known, ok := s.shapes[relation.ID]; ok && known.relation == relation {
		if known.entity == nil {
			return nil, nil
		}
		return known, nil
	}
	made := &shape{relation: relation, entity: s.config.entities[relation.Table]}
	if made.entity != nil {
		if err := made.describe(ctx, s.types, s.config.Database.Pool()); err != nil {
			return nil, err
		}
	}
	s.shapes[relation.ID] = made
	if made.entity == nil {
		return nil, nil
	}
	return made, nil
}

// hiddenQuery asks for stored columns that the stream does not carry, as
// PostgreSQL 17 does not publish generated ones.
const hiddenQuery = `SELECT EXISTS (SELECT FROM pg_attribute WHERE attrelid = $1 AND attgenerated = 's' AND NOT attisdropped AND attname <> ALL ($2))`

func (p *shape) describe(ctx context.Context, types *pgtext.Types, db postgres.Querier) error {
	names := make([]string, len(p.relation.Columns))
	for i, c := range p.relation.Columns {
		names[i] = c.Name
	}
	if err := db.QueryRow(ctx, hiddenQuery, p.relation.ID, names).Scan(&p.opaque); err != nil {
		return postgres.Classify("look up the generated columns of "+p.relation.Table.String(), err)
	}
	for _, c := range p.relation.Columns {
		t, err := types.Lookup(ctx, c.TypeOID)
		if err != nil {
			return err
		}
		p.types = append(p.types, t)
		p.names = append(p.names, append(appendString(nil, []byte(c.Name)), ':'))
		p.opaque = p.opaque || t.Opaque
	}
	for _, name := range p.entity.Key {
		i := slices.IndexFunc(p.relation.Columns, func(c stream.Column) bool { return c.Name == name })
		if i < 0 {
			return refused("table %s: its changes do not carry the column %s, by which the catalog identifies a row of entity %s: mend the key in the catalog, apply it and start the workers anew",
				p.relation.Table, name, p.entity.Name)
		}
		p.key = append(p.key, i)
	}
	p.texts = make([]string, len(p.key))
	return nil
}

// keyOf returns the KEYENC of a row.
func (p *shape) keyOf(row stream.Tuple) (string, error) {
	for n, i := range p.key {
		if i >= len(row) || row[i].Kind != stream.Text {
			return "", refused("table %s: a change does not say which row it was, as the replica identity lacks the column %s of the key of entity %s: ALTER TABLE %s REPLICA IDENTITY USING INDEX an index on the key, or FULL, and then run capsaga backfill %s",
				p.relation.Table, p.entity.Key[n], p.entity.Name, p.relation.Table, p.entity.Name)
		}
		p.texts[n] = string(row[i].Text)
	}
	return saga.EncodeKey(p.texts), nil
}

// sameKey compares the keys of two rows of which the first may lack columns that
// did not change.
func (p *shape) sameKey(old, row stream.Tuple) bool {
	for _, i := range p.key {
		if i < len(old) && old[i].Kind == stream.Text && !bytes.Equal(old[i].Text, row[i].Text) {
			return false
		}
	}
	return true
}

// rowJSON returns the row as JSON; nil when it has to be read again.
func (p *shape) rowJSON(row stream.Tuple) []byte {
	if p.opaque {
		return nil
	}
	size := 2
	for i := range row {
		size += len(p.names[i]) + len(row[i].Text) + 8
	}
	dst := append(make([]byte, 0, size), '{')
	for i := range row {
		if i > 0 {
			dst = append(dst, ',')
		}
		dst = append(dst, p.names[i]...)
		switch row[i].Kind {
		case stream.Unchanged:
			return nil
		case stream.Null:
			dst = append(dst, "null"...)
		default:
			var ok bool
			if dst, ok = appendValue(dst, p.types[i], row[i].Text); !ok {
				return nil
			}
		}
	}
	return append(dst, '}')
}

func refused(format string, args ...any) *saga.Error {
	return &saga.Error{Class: saga.Rejected, System: "postgres", Code: saga.CodeRejected, Message: fmt.Sprintf(format, args...)}
}
