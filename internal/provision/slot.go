package provision

import (
	"context"
	"fmt"

	"github.com/capsaga/capsaga/internal/postgres"
	"github.com/capsaga/capsaga/saga"
)

// checkSlots refuses slots that a stream could not read from.
func (a *applier) checkSlots(ctx context.Context) error {
	slots, err := postgres.ReadSlots(ctx, a.conn, a.slotNames()...)
	if err != nil {
		return err
	}
	for _, want := range a.publications() {
		name := a.deps.Prefix.Slot(want.name)
		s, there := slots[name]
		if !there {
			continue
		}
		if err := s.Check(name); err != nil {
			return err
		}
		is, err := readPublication(ctx, a.conn, want.name)
		if err != nil {
			return postgres.Classify("read publication "+want.name, err)
		}
		if !is.there && s.Lost == "" {
			return refuse("slot %s is there and publication %s is not: a publication made now would not cover the changes that the slot still holds, and they would be lost; "+
				"drop the slot with SELECT pg_drop_replication_slot('%s') and apply again: what it held is then backfilled", name, want.name, name)
		}
	}
	return nil
}

func (a *applier) slotNames() []string {
	var names []string
	for _, p := range a.publications() {
		names = append(names, a.deps.Prefix.Slot(p.name))
	}
	return names
}

func refuse(format string, args ...any) error {
	return &saga.Error{Class: saga.Rejected, System: "postgres", Code: saga.CodeRejected, Message: fmt.Sprintf(format, args...)}
}

// applySlots makes the slots of the streams that there are, and drops those of the
// others: a slot that nobody reads keeps the WAL until the disk is full.
func (a *applier) applySlots(ctx context.Context) error {
	for _, p := range a.publications() {
		apply := a.applySlot
		if !p.streamed() {
			apply = a.retireSlot
		}
		if err := apply(ctx, p); err != nil {
			return err
		}
	}
	return nil
}

// streamed says whether the publication is read. Kafka's always is, as tables that
// are no entities may come to it at any time.
func (p publication) streamed() bool {
	return p.name == saga.PublicationKafka || len(p.tables) > 0
}

// applySlot makes a slot. PostgreSQL waits for the transactions that are open, so
// the wait is bounded and its cause is named.
func (a *applier) applySlot(ctx context.Context, p publication) error {
	name := a.deps.Prefix.Slot(p.name)
	want := postgres.Slot{Name: name, Publication: p.name, Failover: a.catalog.Streams.Failover}
	is, err := postgres.EnsureSlot(ctx, a.conn, want, a.options.SlotTimeout, true)
	if err != nil {
		return err
	}
	change := Change{System: "postgres", Kind: "slot", Name: name, Action: Unchanged, Detail: is.Detail}
	switch {
	case is.Created:
		change.Action = Created
	case is.Altered:
		change.Action = Changed
	}
	a.done(change)
	return nil
}

func (a *applier) retireSlot(ctx context.Context, p publication) error {
	name := a.deps.Prefix.Slot(p.name)
	is, err := postgres.RetireSlot(ctx, a.conn, name, a.options.SlotTimeout)
	if err != nil || is.Detail == "" {
		return err // nothing is there
	}
	change := Change{System: "postgres", Kind: "slot", Name: name, Action: Unchanged, Detail: is.Detail}
	if is.Dropped {
		change.Action = Dropped
	}
	a.done(change)
	return nil
}
