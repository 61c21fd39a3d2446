package backfill

import (
	"context"
	"slices"

	"github.com/jackc/pgx/v5"

	"github.com/capsaga/capsaga/internal/postgres"
	"github.com/capsaga/capsaga/saga"
)

// Progress is how far a backfill's rows have come.
type Progress struct {
	Backfill
	// Visible says that the streams of all its sinks have confirmed its last row.
	Visible bool `json:"visible"`
	// Taken says that a worker runs it.
	Taken bool `json:"-"`
	// Queued says that the workers run others.
	Queued bool `json:"-"`
	// Behind lists the streams that have yet to confirm the last row.
	Behind []Behind `json:"-"`
}

// Behind is a stream that has rows of a backfill before it.
type Behind struct {
	Publication string
	Bytes       int64
	Held        bool // by a worker
}

// Follower looks at backfills until their rows are in the sinks.
type Follower struct {
	db     postgres.Querier
	prefix saga.Prefix
	// ends holds for each that is in the WAL a position behind its last message.
	ends map[int64]saga.LSN
}

// NewFollower returns a follower.
func NewFollower(db postgres.Querier, prefix saga.Prefix) *Follower {
	return &Follower{db: db, prefix: prefix, ends: map[int64]saga.LSN{}}
}

// Look returns the progress of a backfill, or of the one that does it instead.
func (f *Follower) Look(ctx context.Context, id int64) (p Progress, err error) {
	for id != 0 {
		b, err := Find(ctx, f.db, id)
		if err != nil {
			return p, err
		}
		if b == nil {
			return p, refuse("there is no backfill %d any more: somebody dropped its entity", id)
		}
		p.Backfill, id = *b, b.ReplacedBy
	}
	if p.State.Open() {
		p.Taken, p.Queued, err = f.taken(ctx, p.ID)
		return p, err
	}
	if p.State != Done {
		return p, nil
	}
	if err := f.lookAtStreams(ctx, &p); err != nil {
		return p, err
	}
	p.Visible = len(p.Behind) == 0
	return p, nil
}

// taken looks for the lock of the backfill's runner, and for those of others.
func (f *Follower) taken(ctx context.Context, id int64) (taken, queued bool, err error) {
	err = f.db.QueryRow(ctx, `
		SELECT coalesce(bool_or(l.objid = $1::bigint::oid), false), count(*) > 0 FROM pg_locks l
		WHERE l.locktype = 'advisory' AND l.granted AND l.objsubid = 2 AND l.database = (SELECT oid FROM pg_database WHERE datname = current_database())
		  AND l.classid = (`+lockClass+`::bigint & 4294967295)::oid`, id).Scan(&taken, &queued)
	return taken, queued && !taken, postgres.Classify("look for who runs the backfill", err)
}

// lookAtStreams finds the streams that have not confirmed the last message. What is
// seen to be done lies before the end of the WAL on disk.
func (f *Follower) lookAtStreams(ctx context.Context, p *Progress) error {
	var text string
	end, known := f.ends[p.ID]
	if !known {
		err := f.db.QueryRow(ctx, "SELECT pg_current_wal_flush_lsn()::text").Scan(&text)
		if err == nil {
			end, err = saga.ParseLSN(text)
		}
		if err != nil {
			return postgres.Classify("read the end of the WAL", err)
		}
		f.ends[p.ID] = end
	}
	publications := map[string]string{}
	for _, sink := range p.Sinks {
		publications[f.prefix.Slot(streamOf[sink])] = streamOf[sink]
	}
	rows, err := f.db.Query(ctx, `
		SELECT w.slot, coalesce(s.active, false), ($2::text::pg_lsn - coalesce(s.confirmed_flush_lsn, '0/0'))::bigint
		FROM unnest($1::text[]) w(slot) LEFT JOIN pg_replication_slots s ON s.slot_name = w.slot AND s.database = current_database()`,
		slots(f.prefix, p.Sinks), end.String())
	if err != nil {
		return postgres.Classify("look at the slots", err)
	}
	var slot string
	var b Behind
	_, err = pgx.ForEachRow(rows, []any{&slot, &b.Held, &b.Bytes}, func() error {
		if b.Bytes > 0 {
			b.Publication = publications[slot]
			p.Behind = append(p.Behind, b)
		}
		return nil
	})
	slices.SortFunc(p.Behind, func(a, b Behind) int { return int(b.Bytes - a.Bytes) })
	return postgres.Classify("look at the slots", err)
}
