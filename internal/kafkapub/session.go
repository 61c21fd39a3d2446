package kafkapub

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"strconv"
	"strings"
	"sync"
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
	memory   *memory
	register *register

	plans      map[uint32]*plan
	targets    map[string]*target // by topic
	parked     *target
	known      map[string]known // of the topics, as the register has it
	generation []byte
	trouble    atomic.Pointer[error]
	flight     flight
	arena      arena
	// drainer brings parked records back; nil while no topic is diverted. It is set
	// with the lock, as Close may come while a change is published.
	drainer *drainer
	closing sync.Mutex
	closed  bool
	meta    *transactions // nil without transaction metadata
	modes   modes

	// Of the transaction that is being published.
	version []byte
	eventID []byte         // all of an event's id but its index
	common  []kafka.Header // version, generation, and the saga's
	sagaOf  *saga.BeginMessage
	source  sourceParts
	now     []byte // ts_ms, ts_us and ts_ns, as they end the envelope
	keyBuf  []byte
	oldBuf  []byte
	rowBuf  []byte
	idBuf   []byte
}

// Begin starts a transaction.
func (s *session) Begin(_ context.Context, tx *stream.Transaction) error {
	s.version = strconv.AppendInt(nil, int64(tx.Version), 10)
	s.eventID = append(s.eventID[:0], strings.TrimSuffix(saga.EventID(tx.Epoch, tx.CommitLSN, 0), "0")...)
	s.source.begin(tx)
	s.now = appendTimes(s.now[:0], time.Now())
	s.setHeaders(nil)
	s.meta.begin(tx)
	return nil
}

// Commit ends a transaction; its records are out already.
func (s *session) Commit(ctx context.Context, tx *stream.Transaction) error {
	return s.endTransaction(ctx, tx)
}

// Trouble says what keeps records from being acknowledged.
func (s *session) Trouble() error {
	if err := s.trouble.Load(); err != nil {
		return *err
	}
	return s.producer.LastError()
}

// Close drops what is buffered.
func (s *session) Close() {
	s.closing.Lock()
	s.closed = true
	drainer := s.drainer
	s.closing.Unlock()
	drainer.close()
	s.producer.Abort()
}

// enter keeps the session's records from those of the drainer.
func (s *session) enter(ctx context.Context) error {
	if s.drainer == nil {
		return nil
	}
	return s.drainer.enter(ctx)
}

func (s *session) leave() {
	if s.drainer != nil {
		s.drainer.leave()
	}
}

// Change publishes a row's change: one record, or with a delete two, or with
// another key three.
func (s *session) Change(ctx context.Context, tx *stream.Transaction, change *stream.Change) error {
	if err := s.enter(ctx); err != nil {
		return err
	}
	defer s.leave()
	if tx.Saga != s.sagaOf {
		s.setHeaders(tx.Saga)
	}
	p, err := s.plan(ctx, tx, change.Relation, change.Index)
	if err != nil {
		return err
	}
	change.FillUnchanged()
	r := record{index: change.Index, part: partRow, after: change.New}
	switch change.Op {
	case stream.Insert:
		r.op = 'c'
	case stream.Read:
		r.op = 'r'
	case stream.Delete:
		return s.publishDelete(ctx, tx, p, change)
	default:
		r.op, r.before = 'u', change.Old
		if !change.OldFull {
			r.shape = shapeIdentity
		}
	}
	s.keyBuf = p.appendKey(s.keyBuf[:0], change.New)
	if r.before != nil && len(p.key) > 0 {
		if s.oldBuf = p.appendKey(s.oldBuf[:0], change.Old); !bytes.Equal(s.oldBuf, s.keyBuf) {
			if err := s.publishDelete(ctx, tx, p, change); err != nil {
				return err
			}
			s.keyBuf = p.appendKey(s.keyBuf[:0], change.New)
			r.op, r.before, r.shape = 'c', nil, shapeWhole
		}
	}
	return s.publish(ctx, tx, p, r)
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

func (s *session) publishDelete(ctx context.Context, tx *stream.Transaction, p *plan, change *stream.Change) error {
	s.keyBuf = p.appendKey(s.keyBuf[:0], change.Old)
	r := record{index: change.Index, part: partDelete, op: 'd', before: change.Old}
	if !change.OldFull {
		r.shape = shapeIdentity
	}
	if err := s.publish(ctx, tx, p, r); err != nil || len(p.key) == 0 {
		return err
	}
	return s.send(ctx, tx, p.target, s.message(p, nil, r.index, partTombstone))
}

// publish sends a record whose key is in keyBuf.
func (s *session) publish(ctx context.Context, tx *stream.Transaction, p *plan, r record) error {
	if err := s.beginEvent(ctx, tx, p); err != nil {
		return err
	}
	s.rowBuf = s.appendEnvelope(s.rowBuf[:0], p, r)
	m := s.message(p, s.rowBuf, r.index, r.part)
	if m.Size() > s.limit(p.target) {
		if err := s.relearn(ctx, p.target, m.Size()); err != nil {
			return err
		}
		var err error
		if m, err = s.claim(p, r, m); err != nil {
			return err
		}
	}
	return s.send(ctx, tx, p.target, m)
}

// message makes a record of the key in keyBuf.
func (s *session) message(p *plan, value []byte, index, part int) kafka.Record {
	s.idBuf = strconv.AppendInt(s.idBuf[:0], int64(parts*index+part), 10)
	m := kafka.Record{Headers: s.headers(s.idBuf)}
	if value != nil {
		m.Value = s.arena.copy(value)
	}
	if len(p.key) > 0 {
		m.Key = s.arena.copy(s.keyBuf)
		m.Partition = p.target.topic.Partition(m.Key)
	} else {
		// All of a transaction go to one partition, and there again when it is
		// repeated, so that who reads the partition sees the repetition.
		m.Partition = p.target.topic.Partition(s.version)
	}
	return m
}

// headers returns those of an event with that index in the transaction.
func (s *session) headers(index []byte) []kafka.Header {
	s.eventID = append(s.eventID, index...)
	id := s.arena.copy(s.eventID)
	s.eventID = s.eventID[:len(s.eventID)-len(index)]
	return s.arena.withID(s.common, kafka.Header{Key: saga.HeaderEventID, Value: id})
}

// limit is the greatest size of a record for a target, where it goes to now.
func (s *session) limit(t *target) int {
	if t.diverted {
		return s.parked.topic.MaxBytes - len(saga.HeaderParkedTopic) - len(t.spec.Name) - parkedOverhead
	}
	return t.topic.MaxBytes
}

// send hands a record to the producer.
func (s *session) send(ctx context.Context, tx *stream.Transaction, t *target, m kafka.Record) error {
	m.Topic = t.spec.Name
	if size, limit := m.Size(), s.limit(t); size > limit {
		if !t.diverted {
			return s.divertUnsent(ctx, tx, t, m, refused("topic %s takes records of at most %d bytes (max.message.bytes), and even the reference to a row has %d: raise that",
				t.spec.Name, limit, size))
		}
		return refused("event %s for topic %s has %d bytes and cannot be parked: raise max.message.bytes of topic %s",
			eventOf(m), t.spec.Name, size, s.parked.spec.Name)
	}
	if t.diverted {
		m = s.park(t, m)
	} else {
		t.used = true
	}
	receipt, err := tx.Reserve(ctx, m.Size())
	if err != nil {
		return err
	}
	s.flight.add(receipt)
	s.producer.Produce(m)
	return nil
}

// divertUnsent diverts a target for a record that it cannot take.
func (s *session) divertUnsent(ctx context.Context, tx *stream.Transaction, t *target, m kafka.Record, why error) error {
	if err := s.divert(ctx, t, why); err != nil {
		return err
	}
	return s.send(ctx, tx, t, m)
}

// relearn looks whether the limit was raised, before a reference takes a row's
// place. The producer goes by the limit that it began with, so the session ends.
func (s *session) relearn(ctx context.Context, t *target, size int) error {
	if t.diverted || time.Since(t.asked) < relearnAfter {
		return nil
	}
	t.asked = time.Now()
	ctx, cancel := context.WithTimeout(ctx, attemptTimeout)
	defer cancel()
	now, err := s.config.Topics.Topic(ctx, t.spec.Name)
	if err == nil && now.MaxBytes > t.topic.MaxBytes && size <= s.memory.limit(now.Name, now.MaxBytes) {
		return again(errors.New("max.message.bytes of topic " + t.spec.Name + " was raised"))
	}
	return nil
}

// relearnAfter is how long a limit is believed while records are over it.
const relearnAfter = 10 * time.Second

// acknowledged and failed are the producer's outcome.
func (s *session) acknowledged(n int) { s.flight.acknowledge(n) }

func (s *session) failed(m kafka.Record, err error) {
	if id := eventOf(m); id != "" {
		err = inEvent(id, err)
	}
	if kafka.TopicRefuses(err) && m.Topic != s.parked.spec.Name {
		s.memory.refused(m.Topic, err)
		err = again(err)
	}
	s.flight.fail(err)
}

func eventOf(m kafka.Record) string { return string(headerOf(m, saga.HeaderEventID)) }

// setHeaders sets the headers that all records of a transaction share from here
// on.
func (s *session) setHeaders(begin *saga.BeginMessage) {
	s.sagaOf = begin
	s.common = append(s.common[:0],
		kafka.Header{Key: saga.HeaderVersion, Value: s.version},
		kafka.Header{Key: saga.HeaderGeneration, Value: s.generation},
	)
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
