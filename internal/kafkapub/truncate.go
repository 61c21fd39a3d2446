package kafkapub

import (
	"context"
	"fmt"
	"strconv"

	"github.com/capsaga/capsaga/internal/kafka"
	"github.com/capsaga/capsaga/internal/stream"
	"github.com/capsaga/capsaga/saga"
)

// Truncate publishes that tables were emptied.
func (s *session) Truncate(ctx context.Context, tx *stream.Transaction, tables []*stream.Relation, index int) error {
	if err := s.enter(ctx); err != nil {
		return err
	}
	defer s.leave()
	if tx.Saga != s.sagaOf {
		s.setHeaders(tx.Saga)
	}
	for n, relation := range tables {
		p, err := s.plan(ctx, tx, relation, index)
		if err != nil {
			return err
		}
		id := strconv.AppendInt(nil, int64(parts*index+partRow), 10)
		id = strconv.AppendInt(append(id, '.'), int64(n), 10)
		if err := s.publishTruncate(ctx, tx, p, index, id); err != nil {
			return err
		}
	}
	return nil
}

// Mark begins a table's topic anew where changes may have been missed, deletions
// among them: what the topic has is void, and the backfill's rows follow. Else a
// backfill's begin and end have no meaning here, as its rows are events in their
// place.
func (s *session) Mark(ctx context.Context, tx *stream.Transaction, mark *saga.BackfillMessage) error {
	if mark.Kind != saga.BackfillBegin || mark.Floor == 0 {
		return nil
	}
	if err := s.enter(ctx); err != nil {
		return err
	}
	defer s.leave()
	topic, _ := s.config.Prefix.Topic(mark.Table)
	before, had := s.known[topic]
	if !had { // it has no records
		return nil
	}
	p := &plan{
		relation: &stream.Relation{Table: mark.Table}, source: s.sourceOf(mark.Table.Schema, mark.Table.Name), target: s.target(topic, mark.Table),
	}
	p.target.key, p.target.spec = before.key, s.config.topicSpec(topic, mark.Table, len(before.key) > 0)
	return s.publishTruncate(ctx, tx, p, 0, fmt.Appendf(nil, "backfill-%d", mark.ID))
}

// publishTruncate says in every partition of a table's topic that what the
// partition held before is void. The number of partitions is looked up anew, as it
// may have grown. A diverted topic's event is parked once, and is published to the
// partitions that there are when it is brought back.
func (s *session) publishTruncate(ctx context.Context, tx *stream.Transaction, p *plan, index int, id []byte) error {
	t := p.target
	if !t.diverted {
		if err := s.admit(ctx, t); err != nil {
			return about(p.relation.Table, err)
		}
	}
	if err := s.beginEvent(ctx, tx, p); err != nil {
		return err
	}
	r := record{index: index, op: 't'}
	s.rowBuf = s.appendEnvelope(s.rowBuf[:0], p, r)
	value := s.arena.copy(s.rowBuf)
	m := kafka.Record{Key: saga.TruncateKey(p.relation.Table), Value: value}
	if t.diverted {
		m.Headers = s.headers(id)
		return s.send(ctx, tx, t, m)
	}
	for partition := range t.topic.Partitions {
		own := truncateRecord(m, t.topic, partition)
		own.Headers = s.headers(truncateID(id, partition))
		if err := s.send(ctx, tx, t, own); err != nil {
			return err
		}
	}
	return nil
}

// truncateRecord is the event of one partition. A topic that need not have a key
// gets it without one, as from Debezium.
func truncateRecord(m kafka.Record, topic kafka.Topic, partition int) kafka.Record {
	m.Partition = int32(partition) //nolint:gosec // a count of partitions
	if !topic.Compacted {
		m.Key = nil
	}
	return m
}

// truncateID is the index of one partition's event: that of the TRUNCATE, or of the
// change before which a topic is begun anew, and the partition.
func truncateID(id []byte, partition int) []byte {
	return strconv.AppendInt(append(append([]byte(nil), id...), '.'), int64(partition), 10)
}
