package sinkpub

import (
	"context"

	"github.com/capsaga/capsaga/internal/stream"
	"github.com/capsaga/capsaga/saga"
)

// handover follows the moment at which an entity's index was replaced by another. A
// saga that had committed by then may have written to the former index, and the
// stream leaves out what sagas own: so until the stream has come to a message that
// was written after that moment, it applies the rows of sagas as well.
type handover struct {
	until saga.LSN
	// done lets the transaction in which it happened be confirmed. Before that, a
	// successor has to do the same again.
	done func(error)
}

// messageTick is the prefix of a logical message that only marks a position.
const messageTick = "capsaga-tick"

// handOver begins a handover of the entity, whose index has just been replaced.
func (s *session) handOver(ctx context.Context, tx *stream.Transaction, e *saga.Entity) error {
	done, err := tx.Track(ctx, 0)
	if err != nil {
		return err
	}
	h := handover{done: done}
	err = s.applier.persist(ctx, func(ctx context.Context) error {
		var text string
		err := s.config.Database.Pool().QueryRow(ctx, "SELECT pg_logical_emit_message(true, $1, '')::text", messageTick).Scan(&text)
		if err == nil {
			h.until, err = saga.ParseLSN(text)
		}
		return err
	})
	s.handovers[e.Name] = append(s.handovers[e.Name], h)
	return err
}

// handingOver reports whether sagas may have written to an index that is no more.
func (s *session) handingOver(entity string) bool { return len(s.handovers[entity]) > 0 }

// passHandovers ends those whose message has come round.
func (s *session) passHandovers(at saga.LSN) {
	for entity, pending := range s.handovers {
		for len(pending) > 0 && at >= pending[0].until {
			pending[0].done(nil)
			pending = pending[1:]
		}
		if s.handovers[entity] = pending; len(pending) == 0 {
			delete(s.handovers, entity)
		}
	}
}

// resumeRebuilds finds the indices that were being filled when the stream changed
// hands.
func (s *session) resumeRebuilds(ctx context.Context) error {
	rebuilder, ok := s.config.Store.(Rebuilder)
	for _, e := range s.config.entities {
		if !ok {
			break
		}
		err := s.applier.persist(ctx, func(ctx context.Context) error {
			index, found, err := rebuilder.Next(ctx, e.Name)
			if err == nil && found {
				s.rebuilds[e.Name] = index
			}
			return err
		})
		if err != nil {
			return err
		}
	}
	s.resumed = true
	return nil
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
		if err := s.sweep(ctx, e, mark.Floor); err != nil {
			return err
		}
	}
	return s.finishRebuild(ctx, tx, e, mark)
}

func (s *session) sweep(ctx context.Context, e *saga.Entity, floor saga.Version) error {
	return s.applier.persist(ctx, func(ctx context.Context) error {
		removed, err := s.config.Store.Sweep(ctx, e.Name, floor)
		if err == nil {
			s.config.Logger.Info("a backfill is complete: rows that were deleted meanwhile are removed", "entity", e.Name, "removed", removed)
		}
		return err
	})
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
			s.rebuilds[e.Name] = index
		}
		return err
	})
}

func (s *session) finishRebuild(ctx context.Context, tx *stream.Transaction, e *saga.Entity, mark *saga.BackfillMessage) error {
	rebuilder, ok := s.config.Store.(Rebuilder)
	if !ok || mark.Index == "" {
		return nil
	}
	err := s.applier.persist(ctx, func(ctx context.Context) error { return rebuilder.FinishRebuild(ctx, e.Name, mark.Index) })
	if err != nil {
		return err
	}
	delete(s.rebuilds, e.Name)
	s.config.Logger.Info("a new index has taken the place of the former one", "entity", e.Name, "index", mark.Index)
	return s.handOver(ctx, tx, e)
}

// Truncate empties the entities of the tables.
func (s *session) Truncate(ctx context.Context, tx *stream.Transaction, tables []*stream.Relation, _ int) error {
	for _, relation := range tables {
		if e := s.config.entities[relation.Table]; e != nil {
			if err := s.truncate(ctx, tx, e); err != nil {
				return err
			}
		}
	}
	return nil
}

func (s *session) truncate(ctx context.Context, tx *stream.Transaction, e *saga.Entity) error {
	if err := s.applier.queue.drain(ctx); err != nil {
		return err
	}
	s.config.Logger.Info("a TRUNCATE empties the entity", "entity", e.Name, "version", tx.Version)
	err := s.applier.persist(ctx, func(ctx context.Context) error { return s.config.Store.Truncate(ctx, e.Name, tx.Version) })
	if err != nil {
		return err
	}
	// What the transaction did to the rows before does not matter any more.
	s.dropHeld(e)
	if s.touched[e.Name] {
		// Read again after a crash, the rows that the transaction had before have the
		// version of those that it has after.
		err := s.applier.persist(ctx, func(ctx context.Context) error { return s.config.Resync(ctx, e) })
		if err != nil {
			return err
		}
	}
	if _, replaced := s.config.Store.(Rebuilder); !replaced {
		return nil
	}
	delete(s.rebuilds, e.Name)
	return s.handOver(ctx, tx, e)
}
