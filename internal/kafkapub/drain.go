package kafkapub

import (
	"context"
	"sync"
	"time"

	"github.com/capsaga/capsaga/internal/kafka"
	"github.com/capsaga/capsaga/saga"
)

// drainer brings the parked records of diverted topics back when that is asked
// for. It lives as long as its session.
type drainer struct {
	session *session
	// turn is taken by the session for each change, and by the drainer for as long
	// as nothing may be parked.
	turn   chan struct{}
	cancel context.CancelFunc
	done   chan struct{}
}

const (
	requestPoll = 500 * time.Millisecond
	// drainBatch is how many records are written between two notes of how far it is.
	drainBatch = 2000
)

// startDrainer is called by the session within a change, so it has the turn.
func (s *session) startDrainer() {
	s.closing.Lock()
	defer s.closing.Unlock()
	if s.drainer != nil || s.closed {
		return
	}
	ctx, cancel := context.WithCancel(context.Background())
	s.drainer = &drainer{session: s, turn: make(chan struct{}, 1), cancel: cancel, done: make(chan struct{})}
	s.drainer.turn <- struct{}{}
	go s.drainer.run(ctx)
}

func (d *drainer) enter(ctx context.Context) error {
	select {
	case d.turn <- struct{}{}:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

func (d *drainer) leave() { <-d.turn }

// close returns when nothing is brought back any more.
func (d *drainer) close() {
	if d == nil {
		return
	}
	d.cancel()
	<-d.done
}

func (d *drainer) run(ctx context.Context) {
	defer close(d.done)
	tick := time.NewTicker(requestPoll)
	defer tick.Stop()
	for {
		requests, err := d.session.register.requests(ctx)
		if err != nil && ctx.Err() == nil {
			d.session.log.Warn("cannot look for topics to drain", "error", err)
		}
		for _, e := range requests {
			d.answer(ctx, e)
		}
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
	}
}

// answer drains a topic, or says why that cannot be. What is only away is tried
// again.
func (d *drainer) answer(ctx context.Context, e entry) {
	log := d.session.log.With("topic", e.Topic)
	records, err := d.drain(ctx, e)
	switch {
	case ctx.Err() != nil:
	case err == nil:
		log.Info("drained a topic: its records go to it again", "records", records)
	case saga.ClassOf(err) == saga.Rejected:
		log.Error("cannot drain a topic", "error", err)
		if err := d.session.register.refuse(ctx, e.Topic, err); err != nil {
			log.Warn("cannot say so", "error", err)
		}
	default:
		log.Warn("draining a topic is tried again", "error", err)
	}
}

// drain writes the parked records of a topic to it, in their order, and then lifts
// the diversion. Most are brought back beside the session, which goes on parking.
// For the rest the session waits: once what it has parked is acknowledged, the end
// of the parked topic is the end of the topic's records.
func (d *drainer) drain(ctx context.Context, e entry) (records int, err error) {
	w, err := d.openReturn(ctx, e)
	if err != nil {
		return 0, err
	}
	defer w.producer.Abort()
	defer context.AfterFunc(ctx, w.producer.Abort)() // lets go who waits for room
	for range 2 {
		if err := w.copy(ctx); err != nil {
			return w.records, err
		}
	}
	if err := d.enter(ctx); err != nil {
		return w.records, err
	}
	defer d.leave()
	s := d.session
	if err := s.settle(ctx); err != nil {
		return w.records, err
	}
	if err := w.copy(ctx); err != nil {
		return w.records, err
	}
	if err := s.register.lift(ctx, e.Topic); err != nil {
		return w.records, err
	}
	if t := s.targets[e.Topic]; t != nil {
		t.diverted, t.used, t.topic = false, false, kafka.Topic{}
	}
	clear(s.plans) // the topic is looked at again before its next record
	s.memory.forget(e.Topic)
	return w.records, nil
}

// settle waits until all that the session has produced is acknowledged.
func (s *session) settle(ctx context.Context) error {
	tick := time.NewTicker(settlePoll)
	defer tick.Stop()
	for !s.flight.empty() {
		select {
		case <-tick.C:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	return nil
}

const settlePoll = 2 * time.Millisecond

// returning writes one topic's parked records back.
type returning struct {
	session  *session
	topic    kafka.Topic
	position int64 // in the parked topic
	records  int
	producer Producer
	produced int // that are not known to be acknowledged
	tally    *tally
}

// tally counts what a producer is told.
type tally struct {
	mu           sync.Mutex
	acknowledged int
	err          error
	changed      chan struct{}
}

func newTally() *tally { return &tally{changed: make(chan struct{}, 1)} }

func (t *tally) add(n int, err error) {
	t.mu.Lock()
	t.acknowledged += n
	t.err = err
	t.mu.Unlock()
	select {
	case t.changed <- struct{}{}:
	default:
	}
}

// wait returns what was acknowledged since, once that is anything.
func (t *tally) wait(ctx context.Context) (int, error) {
	for {
		t.mu.Lock()
		n, err := t.acknowledged, t.err
		t.acknowledged = 0
		t.mu.Unlock()
		if n > 0 || err != nil {
			return n, err
		}
		select {
		case <-t.changed:
		case <-ctx.Done():
			return 0, ctx.Err()
		}
	}
}

func (d *drainer) openReturn(ctx context.Context, e entry) (*returning, error) {
	s := d.session
	table := saga.Table{}
	if e.Table != "" {
		var err error
		if table, err = saga.ParseTable(e.Table); err != nil {
			return nil, err
		}
	}
	spec := s.config.topicSpec(e.Topic, table, len(e.Key) > 0)
	if err := s.ensure(ctx, spec, table, true, e.ID); err != nil {
		return nil, err
	}
	topic, err := s.config.Topics.Topic(ctx, e.Topic)
	if err != nil {
		return nil, err
	}
	w := &returning{session: s, topic: topic, position: e.Position, tally: newTally()}
	w.producer, err = s.config.NewProducer(kafka.Outcome{
		Acknowledged: func(n int) { w.tally.add(n, nil) },
		Failed:       func(_ kafka.Record, err error) { w.tally.add(0, err) },
	})
	if err != nil {
		return nil, err
	}
	w.producer.Prepare(topic)
	return w, nil
}

// copy brings back what lies between the position and the present end of the parked
// topic.
func (w *returning) copy(ctx context.Context) error {
	parked := w.session.config.Prefix.ParkedTopic()
	end, err := w.session.config.Topics.Read(ctx, parked, w.position, func(offset int64, m kafka.Record) error {
		if err := w.take(m); err != nil {
			return err
		}
		if w.produced < drainBatch {
			return nil
		}
		return w.note(ctx, offset+1)
	})
	if err != nil {
		return err
	}
	return w.note(ctx, end)
}

// note waits for what was produced and writes down how far it is.
func (w *returning) note(ctx context.Context, position int64) error {
	for w.produced > 0 {
		n, err := w.tally.wait(ctx)
		if err != nil {
			return err
		}
		w.produced -= n
	}
	if position == w.position {
		return nil
	}
	w.position = position
	return w.session.register.drained(ctx, w.topic.Name, position)
}

// take produces a parked record if it is of the topic.
func (w *returning) take(m kafka.Record) error {
	m, ok := unpark(m, w.topic.Name, w.session.generation)
	if !ok {
		return nil
	}
	if saga.IsTruncateKey(m.Key) {
		id := eventOf(m)
		for partition := range w.topic.Partitions {
			own := truncateRecord(m, w.topic, partition)
			own.Headers = withEventID(m.Headers, truncateID([]byte(id), partition))
			if err := w.produce(own); err != nil {
				return err
			}
		}
		return nil
	}
	if m.Key == nil {
		if w.topic.Compacted {
			return refused("topic %s has a cleanup.policy with compact, which takes no record without a key: set it to delete", w.topic.Name)
		}
		m.Partition = w.topic.Partition(headerOf(m, saga.HeaderVersion))
	} else {
		m.Partition = w.topic.Partition(m.Key)
	}
	return w.produce(m)
}

func (w *returning) produce(m kafka.Record) error {
	if size := m.Size(); size > w.topic.MaxBytes {
		return refused("event %s has about %d bytes, and topic %s takes records of at most %d (max.message.bytes): raise that",
			eventOf(m), size, w.topic.Name, w.topic.MaxBytes)
	}
	w.producer.Produce(m)
	w.produced++
	w.records++
	return nil
}

// parkedOverhead is what the header of a parked record takes beside its texts.
const parkedOverhead = 10

// park makes a record one of the parked topic.
func (s *session) park(t *target, m kafka.Record) kafka.Record {
	m.Topic, m.Partition = s.parked.spec.Name, 0
	m.Headers = append(append([]kafka.Header(nil), m.Headers...), kafka.Header{Key: saga.HeaderParkedTopic, Value: []byte(t.spec.Name)})
	return m
}

// unpark makes a parked record one of its topic again, with the generation of who
// brings it back; false when it is of another topic.
func unpark(m kafka.Record, topic string, generation []byte) (kafka.Record, bool) {
	if string(headerOf(m, saga.HeaderParkedTopic)) != topic {
		return m, false
	}
	headers := make([]kafka.Header, 0, len(m.Headers))
	for _, h := range m.Headers {
		switch h.Key {
		case saga.HeaderParkedTopic:
			continue
		case saga.HeaderGeneration:
			h.Value = generation
		}
		headers = append(headers, h)
	}
	m.Topic, m.Headers = topic, headers
	return m, true
}

func withEventID(headers []kafka.Header, id []byte) []kafka.Header {
	own := append([]kafka.Header(nil), headers...)
	for i := range own {
		if own[i].Key == saga.HeaderEventID {
			own[i].Value = id
		}
	}
	return own
}

func headerOf(m kafka.Record, key string) []byte {
	for _, h := range m.Headers {
		if h.Key == key {
			return h.Value
		}
	}
	return nil
}
