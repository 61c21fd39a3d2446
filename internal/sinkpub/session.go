package sinkpub

import (
	"context"
	"slices"
	"sync"

	"github.com/capsaga/capsaga/internal/pgtext"
	"github.com/capsaga/capsaga/internal/stream"
	"github.com/capsaga/capsaga/saga"
)

// maxHeld bounds the transaction of a saga that is held until its end says which rows
// are the saga's own, as the stream counts it (Transaction.Track). What is held keeps
// its part of the stream's room, so this has to be well below all of that. A larger one
// is applied whole, at the version of its commit, the last image of each row too.
const maxHeld = 4 << 20

// session applies for one holder of the stream.
type session struct {
	config  Config
	types   *pgtext.Types
	applier *applier
	running sync.WaitGroup
	cancel  context.CancelFunc

	shapes    map[uint32]*shape
	rebuilds  map[string]string     // the index that is being filled, by entity
	handovers map[string][]handover // by entity
	resumed   bool                  // the rebuilds that an earlier holder left are known

	// Of the transaction that is being read.
	touched map[string]bool // the entities of which rows were applied
	held    []heldItem
	size    int // of its rows, as the stream counts them
}

// heldItem is a row of a saga's transaction.
type heldItem struct {
	item
	table saga.Table
}

// Begin starts a transaction.
func (s *session) Begin(ctx context.Context, tx *stream.Transaction) error {
	if !s.resumed {
		if err := s.resumeRebuilds(ctx); err != nil {
			return err
		}
	}
	s.passHandovers(tx.CommitLSN)
	s.held, s.size = s.held[:0], 0
	clear(s.touched)
	s.applier.queue.begin(tx.Version)
	return nil
}

// Change applies a row's change.
func (s *session) Change(ctx context.Context, tx *stream.Transaction, change *stream.Change) error {
	p, err := s.shape(ctx, change.Relation)
	if err != nil || p == nil {
		return err
	}
	change.FillUnchanged()
	if change.Op == stream.Delete || change.Op == stream.Update && change.Old != nil && !p.sameKey(change.Old, change.New) {
		key, err := p.keyOf(change.Old)
		if err != nil {
			return err
		}
		if err := s.put(ctx, tx, p, item{Document: saga.Document{Key: key}}, change.Op); err != nil {
			return err
		}
	}
	if change.Op == stream.Delete {
		return nil
	}
	key, err := p.keyOf(change.New)
	if err != nil {
		return err
	}
	i := item{Document: saga.Document{Key: key, Row: p.rowJSON(change.New)}}
	i.reread = i.Row == nil
	return s.put(ctx, tx, p, i, change.Op)
}

// put hands an item on, or holds it while it may be a saga's own.
func (s *session) put(ctx context.Context, tx *stream.Transaction, p *shape, i item, op stream.Op) (err error) {
	i.Entity, i.entity, i.Version, i.committed = p.entity.Name, p.entity, tx.Version, tx.CommitTime.Unix()
	i.xid, i.current = tx.XID, true
	if i.next = s.rebuilds[p.entity.Name]; i.next != "" {
		i.current = op != stream.Read // the present index has the row already
	}
	size := len(i.Row) + len(i.Key) + itemOverhead
	if i.done, err = tx.Track(ctx, size); err != nil {
		return err
	}
	s.size += size + stream.RecordOverhead
	if tx.Saga == nil || s.size > maxHeld {
		if err := s.release(ctx, nil); err != nil {
			return err
		}
		s.touched[p.entity.Name] = true
		return s.applier.queue.add(ctx, i)
	}
	s.held = append(s.held, heldItem{i, p.relation.Table})
	return nil
}

// itemOverhead is what an item takes in memory beside its row and what the stream
// counts for any record.
const itemOverhead = 200

// release hands on what was held but for the rows that a saga owns.
func (s *session) release(ctx context.Context, own func(heldItem) bool) error {
	for _, h := range s.held {
		if own != nil && own(h) {
			h.current = s.handingOver(h.entity.Name)
			if h.next == "" && !h.current {
				h.done(nil)
				continue
			}
		}
		s.touched[h.entity.Name] = true
		if err := s.applier.queue.add(ctx, h.item); err != nil {
			return err
		}
	}
	clear(s.held)
	s.held = s.held[:0]
	return nil
}

// Commit ends a transaction.
func (s *session) Commit(ctx context.Context, tx *stream.Transaction) error {
	var own func(heldItem) bool
	if tx.End != nil {
		own = ownedBy(tx.End)
	}
	if err := s.release(ctx, own); err != nil {
		return err
	}
	s.applier.queue.end()
	return nil
}

func ownedBy(end *saga.EndMessage) func(heldItem) bool {
	owned := map[rowKey]bool{}
	for _, o := range end.Owned {
		for _, key := range o.Keys {
			owned[rowKey{o.Table, key}] = true
		}
	}
	return func(h heldItem) bool { return owned[rowKey{h.table.String(), h.Key}] }
}

// dropHeld forgets the rows of an entity that are held.
func (s *session) dropHeld(e *saga.Entity) {
	s.held = slices.DeleteFunc(s.held, func(h heldItem) bool {
		if h.entity == e {
			h.done(nil)
		}
		return h.entity == e
	})
}

// Trouble returns what keeps rows from being applied.
func (s *session) Trouble() error {
	if err := s.applier.trouble.Load(); err != nil {
		return *err
	}
	return nil
}

// Close drops what is not applied and returns when nothing is under way.
func (s *session) Close() {
	s.cancel()
	s.running.Wait()
}
