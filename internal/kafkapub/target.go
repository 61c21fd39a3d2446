package kafkapub

import (
	"context"
	"fmt"
	"log/slog"
	"time"

	"github.com/capsaga/capsaga/internal/kafka"
	"github.com/capsaga/capsaga/saga"
)

// target is a topic that a session publishes to.
type target struct {
	spec  kafka.TopicSpec
	table saga.Table  // the zero table for the topic of transactions
	key   []string    // the columns of its records' keys
	topic kafka.Topic // as it was when it was last looked at
	asked time.Time   // when that was
	// diverted says that its records are parked.
	diverted bool
	// used says that this session has handed records for it to the producer.
	used bool
}

// admit makes sure that a target can be written to: it is created if it is
// missing, and its limits are learned. One that refuses for good is diverted.
// While the cluster is away it waits: what comes later has to wait as well.
func (s *session) admit(ctx context.Context, t *target) error {
	if t.diverted {
		return s.persist(ctx, s.preparePark)
	}
	err := s.persist(ctx, func(ctx context.Context) error { return s.learn(ctx, t) })
	if err == nil {
		err = s.memory.refusal(t.spec.Name)
	}
	if err == nil && t.topic.Compacted && t.spec.Cleanup == cleanupDelete && t.table != (saga.Table{}) {
		err = refused("topic %s has a cleanup.policy with compact, which takes no record without a key: set it to delete", t.spec.Name)
	}
	if err == nil && t.topic.MaxBytes < leastBytes {
		err = refused("topic %s takes records of at most %d bytes (max.message.bytes): raise that", t.spec.Name, t.topic.MaxBytes)
	}
	if err == nil || !lasting(err) {
		return err
	}
	return s.divert(ctx, t, err)
}

const (
	cleanupDelete = "delete"
	// leastBytes is a limit below which not even references fit.
	leastBytes = 512
)

// lasting tells a topic's own refusal from the cluster's. The session's own words
// on a topic have no system's error inside.
func lasting(err error) bool {
	return kafka.TopicRefuses(err) || isRefusal(err)
}

// learn creates the target's topic if it is missing and looks at it.
func (s *session) learn(ctx context.Context, t *target) error {
	before, had := s.known[t.spec.Name]
	if err := s.ensure(ctx, t.spec, t.table, had, before.id); err != nil {
		return err
	}
	topic, err := s.config.Topics.Topic(ctx, t.spec.Name)
	if err != nil {
		return err
	}
	if had && before.id != topic.ID {
		now := known{before.key, topic.ID}
		if err := s.register.setKnown(ctx, t.spec.Name, t.table, now); err != nil {
			return err
		}
		s.known[t.spec.Name] = now
	}
	topic.MaxBytes = s.memory.limit(t.spec.Name, topic.MaxBytes)
	if t.used {
		// The producer makes its batches by the limit that it began with.
		topic.MaxBytes = min(topic.MaxBytes, t.topic.MaxBytes)
	}
	t.topic, t.asked = topic, time.Now()
	s.producer.Prepare(topic)
	return nil
}

// ensure creates a topic if it is missing. One that had records before, and is gone or
// is another one now, is then to be filled again, which is asked for first: whoever
// crashes behind that asks twice.
func (s *session) ensure(ctx context.Context, spec kafka.TopicSpec, table saga.Table, had bool, before string) error {
	if had {
		id, err := s.config.Topics.TopicID(ctx, spec.Name)
		if err == nil && (id == "" || before != "" && before != id) {
			s.log.Warn("a topic was deleted: what it held has to be backfilled", "topic", spec.Name, "table", table.String())
			err = s.refill(ctx, table)
		}
		if err != nil {
			return err
		}
	}
	created, err := s.config.Topics.EnsureTopics(ctx, []kafka.TopicSpec{spec})
	if len(created) > 0 {
		s.log.Info("created a topic", "topic", spec.Name, "cleanup", spec.Cleanup)
	}
	return err
}

func (s *session) refill(ctx context.Context, table saga.Table) error {
	if s.config.Refill == nil {
		return nil
	}
	return s.config.Refill(ctx, table)
}

// divert sends a target's records to the parked topic from here on, for this
// holder and all after it. That is written down before the first is parked.
//
// Records of it that are on their way may yet be refused, and would then be parked
// behind later ones: so a session that has used the target only remembers the
// refusal, and ends; the next one comes here before its first record.
func (s *session) divert(ctx context.Context, t *target, why error) error {
	if t.used {
		s.memory.refused(t.spec.Name, why)
		return again(why)
	}
	var position int64
	err := s.persist(ctx, func(ctx context.Context) error {
		err := s.preparePark(ctx)
		if err == nil {
			position, err = s.config.Topics.EndOffset(ctx, s.parked.spec.Name)
		}
		return err
	})
	if err != nil {
		return err
	}
	if err := s.register.divert(ctx, t, why, position); err != nil {
		return err
	}
	s.log.LogAttrs(ctx, slog.LevelError, "diverted a topic: its records are parked until it is drained", slog.String("topic", t.spec.Name),
		slog.String("table", t.table.String()), slog.String("parked", s.parked.spec.Name), slog.Any("error", why))
	t.diverted = true
	s.memory.forget(t.spec.Name)
	s.startDrainer()
	return nil
}

// preparePark makes sure of the topic that takes what others refuse.
func (s *session) preparePark(ctx context.Context) error {
	if s.parked.topic.MaxBytes > 0 {
		return nil
	}
	err := s.learn(ctx, s.parked)
	if err != nil && kafka.TopicRefuses(err) {
		return refused("records cannot be parked: %s", err)
	}
	return err
}

// again ends a session whose successor begins anew from what is confirmed.
func again(why error) error {
	return &saga.Error{
		Class: saga.Unavailable, System: string(saga.Kafka), Code: saga.CodeUnavailable, Err: why,
		Message: fmt.Sprintf("begins again from what is confirmed: %s", why),
	}
}
