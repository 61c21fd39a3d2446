package kafkapub

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"github.com/jackc/pgx/v5"

	"github.com/capsaga/capsaga/internal/kafka"
	"github.com/capsaga/capsaga/internal/stream"
	"github.com/capsaga/capsaga/saga"
)

// plan is how a relation's changes become records.
type plan struct {
	relation *stream.Relation
	target   *target
	columns  []planColumn
	key      []int // indexes of the key columns in the key's order; empty for a table without a key
	source   tableSource
}

type planColumn struct {
	name     []byte // `"name":`, as JSON
	encoding encoding
}

// plan returns how a relation's changes are published; a relation that was
// described anew has another pointer. index is that of the change that asks.
func (s *session) plan(ctx context.Context, tx *stream.Transaction, relation *stream.Relation, index int) (*plan, error) {
	if p := s.plans[relation.ID]; p != nil && p.relation == relation {
		return p, nil
	}
	p, err := s.newPlan(ctx, relation)
	if err != nil {
		return nil, about(relation.Table, err)
	}
	if err := s.checkKey(ctx, tx, p, index); err != nil {
		return nil, about(relation.Table, err)
	}
	s.plans[relation.ID] = p
	return p, nil
}

// newPlan looks the relation's types up, decides its key and makes sure that its
// topic can be written to.
func (s *session) newPlan(ctx context.Context, relation *stream.Relation) (*plan, error) {
	p := &plan{relation: relation, source: s.sourceOf(relation.Table.Schema, relation.Table.Name)}
	for _, c := range relation.Columns {
		info, err := s.types.Lookup(ctx, c.TypeOID)
		if err != nil {
			return nil, err
		}
		p.columns = append(p.columns, planColumn{
			name: append(appendString(nil, []byte(c.Name)), ':'), encoding: encodingOf(info, c.TypeModifier, s.modes),
		})
	}
	topic, nameErr := s.config.Prefix.Topic(relation.Table)
	var err error
	if p.key, err = s.keyOf(ctx, relation, s.known[topic].key); err != nil {
		return nil, err
	}
	p.target = s.target(topic, relation.Table)
	p.target.key = keyNames(p)
	p.target.spec = s.config.topicSpec(topic, relation.Table, len(p.key) > 0)
	if nameErr != nil && !p.target.diverted {
		return p, s.divert(ctx, p.target, refused("%s", nameErr))
	}
	return p, s.admit(ctx, p.target)
}

// target returns what the session knows of a topic. It outlives plans.
func (s *session) target(topic string, table saga.Table) *target {
	t := s.targets[topic]
	if t == nil {
		t = &target{spec: kafka.TopicSpec{Name: topic}}
		s.targets[topic] = t
	}
	t.table = table
	return t
}

// column returns the index of a column, -1 when there is none of that name.
func (p *plan) column(name string) int {
	return slices.IndexFunc(p.relation.Columns, func(c stream.Column) bool { return c.Name == name })
}

// checkKey compares the key with that of the records that the topic has. With
// another set of columns the old keys' records would stay for ever, and a row's
// would be in two places. So the topic is begun anew: the rows are to be read again
// (Refill), an event as of a TRUNCATE says that what was there is void, and only
// when both are safe the new key is written down. Whoever crashes in between does
// it again, with the same event-ids.
func (s *session) checkKey(ctx context.Context, tx *stream.Transaction, p *plan, index int) error {
	topic, now := p.target.spec.Name, known{p.target.key, p.target.topic.ID}
	before, had := s.known[topic]
	if had && slices.Equal(before.key, now.key) {
		return nil
	}
	if had {
		now.id = before.id // as learn left it; a diverted topic is not looked at
		s.log.Warn("the key of a table changed: its topic is begun anew, and what was not written since has to be backfilled",
			"table", p.relation.Table.String(), "topic", topic, "before", strings.Join(before.key, ", "), "now", strings.Join(now.key, ", "))
		if err := s.refill(ctx, p.relation.Table); err != nil {
			return err
		}
		if err := s.publishTruncate(ctx, tx, p, index, fmt.Appendf(nil, "%d.0", parts*index)); err != nil {
			return err
		}
		if err := s.settle(ctx); err != nil {
			return err
		}
	}
	if err := s.register.setKnown(ctx, topic, p.relation.Table, now); err != nil {
		return err
	}
	s.known[topic] = now
	return nil
}

// keyOf returns the columns that identify a row: those of the replica identity,
// which is the primary key unless the table says otherwise. Where the identity
// is the whole row, or nothing, they are those of the primary key as it is now. The
// same columns stay in the order of the records that are there; at first they are in
// the index's, as from Debezium.
func (s *session) keyOf(ctx context.Context, relation *stream.Relation, before []string) ([]int, error) {
	var key []string
	for _, c := range relation.Columns {
		if c.Identity {
			key = append(key, c.Name)
		}
	}
	whole := relation.Identity == 'f' || relation.Identity == 'n'
	if !whole && sameNames(key, before) {
		return indexes(relation, before), nil
	}
	indexed, err := s.indexed(ctx, relation)
	if err != nil {
		return nil, err
	}
	if whole {
		key = nil
		if len(indexed) > 0 {
			key = indexed[0] // the primary key
		}
		if sameNames(key, before) {
			key = before
		}
		return indexes(relation, key), nil
	}
	for _, order := range indexed {
		if sameNames(order, key) {
			key = order
		}
	}
	return indexes(relation, key), nil
}

// indexed returns the columns of the primary key, in its order, and of the index
// that is the replica identity.
func (s *session) indexed(ctx context.Context, relation *stream.Relation) ([][]string, error) {
	rows, err := s.config.Database.Query(ctx, `
		SELECT array_agg(a.attname::text ORDER BY k.n)
		FROM pg_index i, unnest(i.indkey[:i.indnkeyatts - 1]) WITH ORDINALITY k(attnum, n), pg_attribute a
		WHERE i.indrelid = $1 AND (i.indisprimary OR $2 AND i.indisreplident) AND a.attrelid = i.indrelid AND a.attnum = k.attnum
		GROUP BY i.indexrelid, i.indisprimary ORDER BY i.indisprimary DESC`, relation.ID, relation.Identity == 'i')
	if err == nil {
		var names [][]string
		if names, err = pgx.CollectRows(rows, pgx.RowTo[[]string]); err == nil {
			return names, nil
		}
	}
	return nil, registerError("look up the key of "+relation.Table.String(), err)
}

// indexes returns where columns are; nil where the relation does not have them: the
// key is newer than the change, or is not published.
func indexes(relation *stream.Relation, names []string) []int {
	var key []int
	for _, name := range names {
		i := slices.IndexFunc(relation.Columns, func(c stream.Column) bool { return c.Name == name })
		if i < 0 {
			return nil
		}
		key = append(key, i)
	}
	return key
}

func sameNames(a, b []string) bool {
	return len(a) == len(b) && slices.Equal(slices.Sorted(slices.Values(a)), slices.Sorted(slices.Values(b)))
}

func keyNames(p *plan) []string {
	names := make([]string, len(p.key))
	for i, k := range p.key {
		names[i] = p.relation.Columns[k].Name
	}
	return names
}
