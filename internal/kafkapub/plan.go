package kafkapub

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"strings"

	"github.com/jackc/pgx/v5"

	"github.com/capsaga/capsaga/internal/kafka"
	"github.com/capsaga/capsaga/internal/pgtext"
	"github.com/capsaga/capsaga/internal/stream"
	"github.com/capsaga/capsaga/saga"
)

// plan is how a relation's changes become records.
type plan struct {
	relation *stream.Relation
	topic    string
	columns  []planColumn
	key      []int  // indexes of the key columns; empty for a table without a key
	source   []byte // what of source is the same for all changes of the table
}

type planColumn struct {
	name     []byte // `"name":`, as JSON
	info     *pgtext.Type
	modifier int32
}

// newPlan looks the relation's types up, decides its key and makes sure that its
// topic exists.
func (s *session) newPlan(ctx context.Context, relation *stream.Relation) (*plan, error) {
	topic, err := s.config.Prefix.Topic(relation.Table)
	if err != nil {
		return nil, refused("table %s: %s", relation.Table, err)
	}
	p := &plan{relation: relation, topic: topic, source: s.sourceOf(relation.Table)}
	for _, c := range relation.Columns {
		info, err := s.types.Lookup(ctx, c.TypeOID)
		if err != nil {
			return nil, err
		}
		p.columns = append(p.columns, planColumn{
			name: append(appendString(nil, []byte(c.Name)), ':'), info: info, modifier: c.TypeModifier,
		})
	}
	if p.key, err = s.keyOf(ctx, relation); err != nil {
		return nil, err
	}
	if err := s.ensureTopic(ctx, p); err != nil {
		return nil, err
	}
	return p, s.checkKey(ctx, p)
}

// checkKey refuses another set of key columns than the table's records had
// before: new keys would go to other partitions, and the old ones' records would
// stay in a compacted topic for ever. The first time in a session, what is in
// the topic says what they were: so a successor of the holder that stopped, or a
// process that was started anew, stops as well.
func (s *session) checkKey(ctx context.Context, p *plan) error {
	table, now := p.relation.Table, keyNames(p.relation, p.key)
	before, known := s.keys[table]
	if !known {
		err := s.persist(ctx, func(ctx context.Context) error {
			key, found, err := s.config.Topics.LastKey(ctx, p.topic)
			before = now
			if found {
				before = namesInKey(key)
			}
			return about(p, "", err)
		})
		if err != nil {
			return err
		}
	}
	if before != now {
		return refused("table %s: its key columns changed from (%s) to (%s), for which the records of its topic %s cannot be carried on: "+
			"restore the key, or remove the topic and backfill the table", table, before, now, p.topic)
	}
	s.keys[table] = now
	return nil
}

// namesInKey names the columns of a record's key, as keyNames does.
func namesInKey(key []byte) string {
	if key == nil {
		return noKey
	}
	var names []string
	decoder := json.NewDecoder(bytes.NewReader(key))
	if _, err := decoder.Token(); err != nil {
		return "not of this program"
	}
	for decoder.More() {
		name, err := decoder.Token()
		var value json.RawMessage
		if err != nil || decoder.Decode(&value) != nil {
			return "not of this program"
		}
		names = append(names, fmt.Sprint(name))
	}
	return strings.Join(names, ", ")
}

const noKey = "none"

// keyOf returns the columns that identify a row: those of the replica identity,
// which is the primary key unless the table says otherwise. Where the identity
// is the whole row, or nothing, they are those of the primary key as it is now.
func (s *session) keyOf(ctx context.Context, relation *stream.Relation) ([]int, error) {
	var key []int
	if relation.Identity != 'f' && relation.Identity != 'n' {
		for i, c := range relation.Columns {
			if c.Identity {
				key = append(key, i)
			}
		}
		return key, nil
	}
	names, err := s.primaryKey(ctx, relation)
	if err != nil {
		return nil, err
	}
	for _, name := range names {
		i := slices.IndexFunc(relation.Columns, func(c stream.Column) bool { return c.Name == name })
		if i < 0 { // the key is newer than the change, or is not published
			return nil, nil
		}
		key = append(key, i)
	}
	slices.Sort(key)
	return key, nil
}

func (s *session) primaryKey(ctx context.Context, relation *stream.Relation) ([]string, error) {
	rows, err := s.config.Database.Query(ctx, `
		SELECT a.attname::text FROM pg_index i JOIN pg_attribute a ON a.attrelid = i.indrelid AND a.attnum = ANY (i.indkey)
		WHERE i.indrelid = $1 AND i.indisprimary`, relation.ID)
	if err == nil {
		var names []string
		if names, err = pgx.CollectRows(rows, pgx.RowTo[string]); err == nil {
			return names, nil
		}
	}
	return nil, &saga.Error{
		Class: saga.Unavailable, System: "postgres", Code: saga.CodeUnavailable, Err: err,
		Message: fmt.Sprintf("look up the primary key of %s: the database does not answer", relation.Table),
	}
}

// ensureTopic creates the topic if it is missing and learns its limits. While
// the cluster is away it waits: what comes later has to wait as well.
func (s *session) ensureTopic(ctx context.Context, p *plan) error {
	spec := s.topicSpec(p)
	return s.persist(ctx, func(ctx context.Context) error {
		created, err := s.config.Topics.EnsureTopics(ctx, []kafka.TopicSpec{spec})
		if err == nil {
			err = s.producer.Prepare(ctx, spec.Name)
		}
		if err != nil {
			return about(p, "", err)
		}
		if len(created) > 0 {
			s.log.Info("created a topic", "topic", spec.Name, "table", p.relation.Table.String(), "cleanup", spec.Cleanup)
		}
		return nil
	})
}

func (s *session) topicSpec(p *plan) kafka.TopicSpec {
	spec := kafka.TopicSpec{Name: p.topic}
	if s.config.Settings != nil {
		settings := s.config.Settings(p.relation.Table)
		spec.Partitions, spec.Replication, spec.Cleanup = settings.Partitions, settings.Replication, settings.Cleanup
	}
	if len(p.key) == 0 {
		spec.Cleanup = "delete"
	}
	return spec
}

// keyNames names the key columns, for comparison and for messages.
func keyNames(relation *stream.Relation, key []int) string {
	if len(key) == 0 {
		return noKey
	}
	names := make([]string, len(key))
	for i, k := range key {
		names[i] = relation.Columns[k].Name
	}
	return strings.Join(names, ", ")
}

func refused(format string, args ...any) *saga.Error {
	return &saga.Error{Class: saga.Rejected, System: "kafka", Code: saga.CodeRejected, Message: fmt.Sprintf(format, args...)}
}
