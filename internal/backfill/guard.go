package backfill

import (
	"context"
	"slices"

	"github.com/capsaga/capsaga/internal/postgres"
	"github.com/capsaga/capsaga/internal/stream"
	"github.com/capsaga/capsaga/saga"
)

// Guard keeps a worker whose catalog is out of date from holding a stream: it would
// pass over the changes of an entity that it does not know, and confirm them. Such
// a worker leaves the stream to one with the present catalog when a backfill of the
// entity begins, whose rows cover what it passed over before.
func Guard(next stream.Handler, db postgres.Querier, c *saga.Catalog, sink saga.Sink) stream.Handler {
	return &guard{next: next, db: db, catalog: c, sink: sink}
}

type guard struct {
	next    stream.Handler
	db      postgres.Querier
	catalog *saga.Catalog
	sink    saga.Sink
}

// Start refuses while an entity was provisioned that the catalog lacks.
func (g *guard) Start(ctx context.Context, lease stream.Lease) (stream.Session, error) {
	pairs, err := readPairs(ctx, g.db)
	if err != nil {
		return nil, err
	}
	for i := range pairs {
		if err := g.check(&pairs[i]); err != nil {
			return nil, err
		}
	}
	session, err := g.next.Start(ctx, lease)
	if err != nil {
		return nil, err
	}
	return &guarded{Session: session, guard: g}, nil
}

// check refuses a pair that this worker's stream would not serve.
func (g *guard) check(p *pair) error {
	if p.sink != g.sink {
		return nil
	}
	e := g.catalog.Entities[p.entity]
	if e != nil && e.HasSink(p.sink) && e.Table == p.table && slices.Equal(e.Key, p.key) {
		return nil
	}
	return refuse("the catalog of this worker is out of date: entity %s, as it was applied, goes from table %s with the key %v to %s; start the worker with the catalog that was applied",
		p.entity, p.table, p.key, p.sink)
}

// guarded is a session that looks again when a backfill begins.
type guarded struct {
	stream.Session
	guard *guard
}

// Mark passes the mark on unless the session would pass over the backfill's rows. A
// backfill of an entity that is no more is passed over.
func (s *guarded) Mark(ctx context.Context, tx *stream.Transaction, mark *saga.BackfillMessage) error {
	if mark.Kind == saga.BackfillBegin {
		pairs, err := readPairs(ctx, s.guard.db)
		if err != nil {
			return err
		}
		for i := range pairs {
			if pairs[i].entity != mark.Entity {
				continue
			}
			if err := s.guard.check(&pairs[i]); err != nil {
				return err
			}
		}
	}
	return s.Session.Mark(ctx, tx, mark)
}
