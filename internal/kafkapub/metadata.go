package kafkapub

import (
	"context"
	"strconv"

	"github.com/capsaga/capsaga/internal/kafka"
	"github.com/capsaga/capsaga/internal/stream"
	"github.com/capsaga/capsaga/saga"
)

// transactions is Debezium's provide.transaction.metadata: it counts the events of
// a transaction. A nil one is off.
type transactions struct {
	target *target
	id     []byte // <xid>:<commit position>, as JSON
	began  bool
	events int64
	counts map[*target]int64
	order  []*target // the tables' in the order in which they first came
}

func (t *transactions) begin(tx *stream.Transaction) {
	if t == nil {
		return
	}
	t.id = append(strconv.AppendUint(append(t.id[:0], '"'), uint64(tx.XID), 10), ':')
	t.id = append(strconv.AppendUint(t.id, uint64(tx.CommitLSN), 10), '"')
	t.began, t.events, t.order = false, 0, t.order[:0]
	clear(t.counts)
}

// appendBlock appends the envelope's field transaction.
func (t *transactions) appendBlock(dst []byte, p *plan) []byte {
	if t == nil {
		return append(dst, "null"...)
	}
	dst = append(append(dst, `{"id":`...), t.id...)
	dst = appendField(dst, `,"total_order":`, t.events)
	dst = appendField(dst, `,"data_collection_order":`, t.counts[p.target])
	return append(dst, '}')
}

// beginEvent counts an event of a table, and publishes the transaction's begin
// before its first.
func (s *session) beginEvent(ctx context.Context, tx *stream.Transaction, p *plan) error {
	t := s.meta
	if t == nil {
		return nil
	}
	if !t.began {
		t.began = true
		value := append(append([]byte(`{"status":"BEGIN","id":`), t.id...), `,"event_count":null,"data_collections":null`...)
		if err := s.sendTransaction(ctx, tx, value, "begin"); err != nil {
			return err
		}
	}
	if t.counts[p.target] == 0 {
		t.order = append(t.order, p.target)
	}
	t.events++
	t.counts[p.target]++
	return nil
}

// endTransaction publishes the end of a transaction that has had events.
func (s *session) endTransaction(ctx context.Context, tx *stream.Transaction) error {
	t := s.meta
	if t == nil || !t.began {
		return nil
	}
	if err := s.enter(ctx); err != nil {
		return err
	}
	defer s.leave()
	value := append(append([]byte(`{"status":"END","id":`), t.id...), `,"event_count":`...)
	value = append(strconv.AppendInt(value, t.events, 10), `,"data_collections":[`...)
	for i, of := range t.order {
		if i > 0 {
			value = append(value, ',')
		}
		value = appendString(append(value, `{"data_collection":`...), []byte(of.table.String()))
		value = append(appendField(value, `,"event_count":`, t.counts[of]), '}')
	}
	return s.sendTransaction(ctx, tx, append(value, ']'), "end")
}

// sendTransaction publishes a begin or an end; its time is the transaction's.
func (s *session) sendTransaction(ctx context.Context, tx *stream.Transaction, value []byte, index string) error {
	t := s.meta.target
	if t.topic.MaxBytes == 0 {
		if err := s.admit(ctx, t); err != nil {
			return err
		}
	}
	value = append(appendField(value, `,"ts_ms":`, tx.CommitTime.UnixMilli()), '}')
	m := kafka.Record{Value: value, Headers: s.headers([]byte(index))}
	m.Key = append(append([]byte(`{"id":`), s.meta.id...), '}')
	m.Partition = t.topic.Partition(m.Key)
	return s.send(ctx, tx, t, m)
}

// transactionTarget is the topic of begins and ends. One partition keeps them in
// commit order.
func transactionTarget(prefix saga.Prefix) *target {
	return &target{spec: kafka.TopicSpec{Name: prefix.TransactionTopic(), Partitions: 1, Cleanup: cleanupDelete}}
}
