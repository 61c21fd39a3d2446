package sinkpub

import (
	"context"

	"github.com/capsaga/capsaga/internal/stream"
	"github.com/capsaga/capsaga/saga"
)

// rebuild is a new index of an entity while it is filled, and for a moment after
// it took the present one's place.
type rebuild struct {
	index string // empty when it has taken its place
	// filling says that the backfill's rows are for it alone.
	filling bool
	// until is the position of a message that was written after the new index took
	// its place. A saga that committed before may have written to the former one, so
	// that the rows that it owns are applied here as well.
	until saga.LSN
	// done lets the position of the backfill's end be confirmed. Before that, a
	// successor has to do the same again.
	done func(error)
}

// messageTick is the prefix of a logical message that only marks a position.
const messageTick = "capsaga-tick"

// resumeRebuilds finds the indices that were being filled when the stream changed
// hands.
func (s *session) resumeRebuilds(ctx context.Context) error {
	rebuilder, ok := s.config.Store.(Rebuilder)
	if ok {
		for _, e := range s.config.entities {
			err := s.applier.persist(ctx, func(ctx context.Context) error {
				index, found, err := rebuilder.Next(ctx, e.Name)
				if err == nil && found {
					s.rebuilds[e.Name] = &rebuild{index: index, filling: true}
				}
				return err
			})
			if err != nil {
				return err
			}
		}
	}
	s.resumed = true
	return nil
}

// passRebuilds ends those whose message has come round.
func (s *session) passRebuilds(at saga.LSN) {
	for entity, r := range s.rebuilds {
		if r.until != 0 && at >= r.until {
			r.done(nil)
			delete(s.rebuilds, entity)
		}
	}
}

// switching reports whether sagas may have written to an index that is no more.
func (s *session) switching(entity string) bool {
	r := s.rebuilds[entity]
	return r != nil && r.until != 0
}

func (s *session) abandonRebuild(entity string) {
	if r := s.rebuilds[entity]; r != nil && r.until == 0 {
		delete(s.rebuilds, entity)
	}
}

// Mark is told of a backfill's begin and end.
func (s *session) Mark(ctx context.Context, tx *stream.Transaction, mark *saga.BackfillMessage) error {
	e := s.config.entities[mark.Table]
	if e == nil || e.Name != mark.Entity {
		return nil
	}
	if mark.Kind == saga.BackfillBegin {
		return s.beginRebuild(ctx, e, mark)
	}
	if err := s.applier.queue.drain(ctx); err != nil {
		return err
	}
	if mark.Floor != 0 {
		err := s.applier.persist(ctx, func(ctx context.Context) error {
			removed, err := s.config.Store.Sweep(ctx, e.Name, mark.Floor)
			if err == nil {
				s.config.Logger.Info("the backfill is complete: rows that were deleted meanwhile are removed", "entity", e.Name, "removed", removed)
			}
			return err
		})
		if err != nil {
			return err
		}
	}
	return s.finishRebuild(ctx, tx, e, mark)
}

// beginRebuild has rows go to the new index from here on. One that is gone was
// emptied by a TRUNCATE, or has taken its place.
func (s *session) beginRebuild(ctx context.Context, e *saga.Entity, mark *saga.BackfillMessage) error {
	rebuilder, ok := s.config.Store.(Rebuilder)
	if !ok || mark.Index == "" {
		return nil
	}
	return s.applier.persist(ctx, func(ctx context.Context) error {
		index, found, err := rebuilder.Next(ctx, e.Name)
		if err == nil && found && index == mark.Index {
			s.rebuilds[e.Name] = &rebuild{index: index, filling: true}
		}
		return err
	})
}

func (s *session) finishRebuild(ctx context.Context, tx *stream.Transaction, e *saga.Entity, mark *saga.BackfillMessage) error {
	rebuilder, ok := s.config.Store.(Rebuilder)
	if !ok || mark.Index == "" {
		return nil
	}
	done, err := tx.Track(ctx, 0)
	if err != nil {
		return err
	}
	r := &rebuild{done: done}
	err = s.applier.persist(ctx, func(ctx context.Context) error {
		if err := rebuilder.FinishRebuild(ctx, e.Name, mark.Index); err != nil {
			return err
		}
		var text string
		err := s.config.Database.Pool().QueryRow(ctx, "SELECT pg_logical_emit_message(true, $1, '')::text", messageTick).Scan(&text)
		if err == nil {
			r.until, err = saga.ParseLSN(text)
		}
		return err
	})
	if err != nil {
		return err
	}
	s.rebuilds[e.Name] = r
	s.config.Logger.Info("a new index has taken the place of the former one", "entity", e.Name, "index", mark.Index)
	return nil
}
