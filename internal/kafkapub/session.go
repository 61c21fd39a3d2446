package kafkapub

import (
	"bytes"
	"context"
	"log/slog"
	"strconv"
	"sync/atomic"
	"time"

	"github.com/capsaga/capsaga/internal/kafka"
	"github.com/capsaga/capsaga/internal/pgtext"
	"github.com/capsaga/capsaga/internal/stream"
	"github.com/capsaga/capsaga/saga"
)

// session publishes for one holder of the stream.
type session struct {
	config   Config
	types    *pgtext.Types
	producer Producer
	log      *slog.Logger

	plans map[uint32]*plan
	// keys names the key columns of the tables that this session has published.
	keys       map[saga.Table]string
	generation []byte
	trouble    atomic.Pointer[error]

	// Of the transaction that is being published.
	version []byte
	common  []kafka.Header // version, generation, and the saga's
	sagaOf  *saga.BeginMessage
	source  []byte // what of source is the same for all changes of it
	now     []byte // ts_ms, ts_us and ts_ns, as they end the envelope
	keyBuf  []byte
	rowBuf  []byte
}

// Begin starts a transaction.
func (s *session) Begin(_ context.Context, tx *stream.Transaction) error {
	s.version = strconv.AppendInt(nil, int64(tx.Version), 10)
	s.source = appendSourceTransaction(s.source[:0], tx)
	s.now = appendTimes(s.now[:0], time.Now())
	s.setHeaders(nil)
	return nil
}

// Mark has no meaning here: the rows of a backfill are events in their place.
func (s *session) Mark(context.Context, *stream.Transaction, *saga.BackfillMessage) error { return nil }

// Commit ends a transaction; its records are out already.
func (s *session) Commit(context.Context, *stream.Transaction) error { return nil }

// Truncate stops the stream: Kafka has no record that says it.
func (s *session) Truncate(_ context.Context, _ *stream.Transaction, tables []*stream.Relation, _ int) error {
	return refused("TRUNCATE of %s cannot be published yet: the stream stands still at it; "+
		"to go on, drop the slot, run `capsaga catalog apply` and backfill, and use DELETE instead", tableNames(tables))
}

// Trouble says what keeps records from being acknowledged.
func (s *session) Trouble() error {
	if err := s.trouble.Load(); err != nil {
		return *err
	}
	return s.producer.LastError()
}

// Close drops what is buffered.
func (s *session) Close() { s.producer.Abort() }

// Change publishes a row's change: one record, or with a delete two, or with
// another key three.
func (s *session) Change(ctx context.Context, tx *stream.Transaction, change *stream.Change) error {
	p, err := s.plan(ctx, change.Relation)
	if err != nil {
		return err
	}
	if tx.Saga != s.sagaOf {
		s.setHeaders(tx.Saga)
	}
	fillUnchanged(change)
	id := eventID(tx, change, partRow)
	switch change.Op {
	case stream.Insert:
		return s.publish(ctx, tx, p, record{change: change, op: 'c', id: id, key: p.appendKey(nil, change.New), after: change.New})
	case stream.Delete:
		return s.publishDelete(ctx, tx, p, change)
	}
	key := p.appendKey(nil, change.New)
	if change.Old != nil && len(p.key) > 0 && !bytes.Equal(s.oldKey(p, change), key) {
		if err := s.publishDelete(ctx, tx, p, change); err != nil {
			return err
		}
		return s.publish(ctx, tx, p, record{change: change, op: 'c', id: id, key: key, after: change.New})
	}
	return s.publish(ctx, tx, p, record{change: change, op: 'u', id: id, key: key, before: change.Old, after: change.New})
}

func (s *session) oldKey(p *plan, change *stream.Change) []byte {
	s.keyBuf = p.appendKey(s.keyBuf[:0], change.Old)
	return s.keyBuf
}

// The parts of a change, in the order in which they are published. Each may be a
// record, and each has an index of its own, used or not: so the ids are the same
// whenever a transaction is read, and a consumer that drops the ids it has seen
// does not take a tombstone for a repetition of its delete.
const (
	partDelete = iota
	partTombstone
	partRow
	parts
)

func eventID(tx *stream.Transaction, change *stream.Change, part int) string {
	return saga.EventID(tx.Epoch, tx.CommitLSN, parts*change.Index+part)
}

func (s *session) publishDelete(ctx context.Context, tx *stream.Transaction, p *plan, change *stream.Change) error {
	key := p.appendKey(nil, change.Old)
	if err := s.publish(ctx, tx, p, record{change: change, op: 'd', id: eventID(tx, change, partDelete), key: key, before: change.Old}); err != nil {
		return err
	}
	if len(p.key) == 0 {
		return nil
	}
	return s.send(ctx, tx, p, key, nil, eventID(tx, change, partTombstone))
}

func (s *session) publish(ctx context.Context, tx *stream.Transaction, p *plan, r record) error {
	s.rowBuf = s.appendEnvelope(s.rowBuf[:0], p, r)
	return s.send(ctx, tx, p, r.key, bytes.Clone(s.rowBuf), r.id)
}

// send hands a record to the producer. The producer's own context never ends: a
// holder that is told to stop waits for what is in flight, and the producer's
// Abort ends it otherwise.
func (s *session) send(ctx context.Context, tx *stream.Transaction, p *plan, key, value []byte, id string) error {
	headers := make([]kafka.Header, 0, len(s.common)+1)
	headers = append(append(headers, s.common...), kafka.Header{Key: saga.HeaderEventID, Value: []byte(id)})
	r := kafka.Record{Topic: p.topic, Key: key, Value: value, Headers: headers}
	done, err := tx.Track(ctx, r.Size())
	if err != nil {
		return err
	}
	// A record that is refused at once stays outstanding, as one that fails
	// later: nothing from here on may be confirmed.
	return about(p, id, s.producer.Produce(context.WithoutCancel(ctx), r, func(err error) {
		done(about(p, id, err))
	}))
}

// plan returns how a relation's changes are published; a relation that was
// described anew has another pointer.
func (s *session) plan(ctx context.Context, relation *stream.Relation) (*plan, error) {
	if p := s.plans[relation.ID]; p != nil && p.relation == relation {
		return p, nil
	}
	p, err := s.newPlan(ctx, relation)
	if err != nil {
		return nil, err
	}
	s.plans[relation.ID] = p
	return p, nil
}

// setHeaders sets the headers that all records of a transaction share from here
// on.
func (s *session) setHeaders(begin *saga.BeginMessage) {
	s.sagaOf = begin
	s.common = []kafka.Header{
		{Key: saga.HeaderVersion, Value: s.version},
		{Key: saga.HeaderGeneration, Value: s.generation},
	}
	if begin == nil {
		return
	}
	for _, h := range []struct{ key, value string }{
		{saga.HeaderSagaID, begin.SagaID},
		{saga.HeaderUndoes, begin.Undoes},
		{saga.HeaderTraceParent, begin.TraceParent},
		{saga.HeaderTraceState, begin.TraceState},
	} {
		if h.value != "" {
			s.common = append(s.common, kafka.Header{Key: h.key, Value: []byte(h.value)})
		}
	}
}

// fillUnchanged takes large values that an update left as they were from the old
// row, where the server sent it.
func fillUnchanged(change *stream.Change) {
	for i := range change.New {
		if change.New[i].Kind != stream.Unchanged || i >= len(change.Old) {
			continue
		}
		// Without the whole old row, only key columns have a value in it.
		if old := change.Old[i]; old.Kind == stream.Text || change.OldFull && old.Kind == stream.Null {
			change.New[i] = old
		}
	}
}
