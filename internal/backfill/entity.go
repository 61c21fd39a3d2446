package backfill

import (
	"context"
	"slices"

	"github.com/jackc/pgx/v5"

	"github.com/capsaga/capsaga/internal/postgres"
	"github.com/capsaga/capsaga/saga"
)

// pair is an entity's row in capsaga.entity.
type pair struct {
	entity string
	sink   saga.Sink
	table  saga.Table
	key    []string
	shape  string // as it was noted
	now    string // as the table is
	there  bool   // the table is there
}

const pairsQuery = `
SELECT e.entity, e.sink, e.table_name, e.key, e.shape, coalesce(` + shapeOf + `, ''), c.oid IS NOT NULL
FROM capsaga.entity e
LEFT JOIN (pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace) ON n.nspname || '.' || c.relname = e.table_name
WHERE NOT e.retired ORDER BY e.entity, e.sink`

func readPairs(ctx context.Context, db postgres.Querier) ([]pair, error) {
	rows, err := db.Query(ctx, pairsQuery)
	if err != nil {
		return nil, postgres.Classify("read what was provisioned", err)
	}
	pairs, err := pgx.CollectRows(rows, func(row pgx.CollectableRow) (p pair, err error) {
		var table string
		if err := row.Scan(&p.entity, &p.sink, &table, &p.key, &p.shape, &p.now, &p.there); err != nil {
			return p, err
		}
		p.table, err = saga.ParseTable(table)
		return p, err
	})
	return pairs, postgres.Classify("read what was provisioned", err)
}

// Made is what was made anew for an entity.
type Made struct {
	// Emptied are the sinks that had a topic or an index before; see BeginsEmpty.
	Emptied []saga.Sink
	// Index is a new index that is to take the present one's place.
	Index string
}

// BeginsEmpty is told before a topic or an index is made. If the entity had one,
// then what was noted of it is void, so that Provisioned requests a backfill even if
// the process that made it ends before it gets there.
func BeginsEmpty(ctx context.Context, db postgres.Querier, entity string, sink saga.Sink) (had bool, err error) {
	tag, err := db.Exec(ctx, "DELETE FROM capsaga.entity WHERE entity = $1 AND sink = $2", entity, sink)
	return tag.RowsAffected() > 0, postgres.Classify("note that a sink of "+entity+" begins empty", err)
}

// Provisioned notes that an entity's publications, slots, topic and index are
// there, and requests a backfill for the sinks that are new, or whose table or key
// is another. It returns nil when there is nothing new. Sinks that the entity has
// no more are retired: when they come back, what they hold from before is swept.
func Provisioned(ctx context.Context, db Beginner, e *saga.Entity, made Made) (b *Backfill, err error) {
	err = pgx.BeginFunc(ctx, db, func(tx pgx.Tx) error {
		b, err = provisioned(ctx, tx, e, made)
		return err
	})
	return b, postgres.Classify("note the entity "+e.Name, err)
}

func provisioned(ctx context.Context, tx pgx.Tx, e *saga.Entity, made Made) (*Backfill, error) {
	added, stale, err := notePairs(ctx, tx, e)
	if err != nil {
		return nil, err
	}
	r := Request{Entity: e, Sinks: added, Reason: Added, Sweep: stale}
	if made.Index != "" {
		filled, err := isFilled(ctx, tx, e.Name, made.Index)
		if err != nil {
			return nil, err
		}
		if !filled {
			r.Sinks, r.Index = mergeSinks(r.Sinks, []saga.Sink{saga.Elasticsearch}, e), made.Index
		}
	}
	switch {
	case len(r.Sinks) == 0:
		return nil, nil
	case r.Index != "" && len(added) == 0:
		r.Reason = Reindexed
	case !slices.ContainsFunc(added, func(s saga.Sink) bool { return !slices.Contains(made.Emptied, s) }):
		r.Reason = Emptied
	}
	b, err := Submit(ctx, tx, r)
	return &b, err
}

// notePairs returns the sinks that are new, and whether one of them may hold rows
// from before.
func notePairs(ctx context.Context, tx pgx.Tx, e *saga.Entity) (added []saga.Sink, stale bool, err error) {
	if _, err := tx.Exec(ctx, "UPDATE capsaga.entity SET retired = true WHERE entity = $1 AND sink <> ALL ($2)", e.Name, e.Sinks()); err != nil {
		return nil, false, err
	}
	rows, err := tx.Query(ctx, `
		WITH known AS (SELECT sink FROM capsaga.entity WHERE entity = $1)
		INSERT INTO capsaga.entity AS e (entity, sink, table_name, relation, key, shape)
		SELECT $1, s.sink, $3, c.oid, $4, `+shapeOf+`
		FROM unnest($2::text[]) s(sink), pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace WHERE n.nspname = $5 AND c.relname = $6
		ON CONFLICT (entity, sink) DO UPDATE SET table_name = excluded.table_name, relation = excluded.relation, key = excluded.key,
		    shape = excluded.shape, applied_at = excluded.applied_at, retired = false
		WHERE e.table_name <> excluded.table_name OR e.relation IS DISTINCT FROM excluded.relation OR e.key <> excluded.key OR e.retired
		RETURNING e.sink, e.sink IN (SELECT sink FROM known)`,
		e.Name, e.Sinks(), e.Table.String(), e.Key, e.Table.Schema, e.Table.Name)
	if err != nil {
		return nil, false, err
	}
	var sink saga.Sink
	var known bool
	_, err = pgx.ForEachRow(rows, []any{&sink, &known}, func() error {
		added, stale = append(added, sink), stale || known
		return nil
	})
	return added, stale, err
}

// isFilled reports whether an index is being filled already, or waits for the stream
// to put it in its place.
func isFilled(ctx context.Context, tx pgx.Tx, entity, index string) (filled bool, err error) {
	err = tx.QueryRow(ctx, "SELECT EXISTS (SELECT FROM capsaga.backfill WHERE entity = $1 AND index = $2 AND state IN ('requested', 'running', 'done'))", entity, index).Scan(&filled)
	return filled, err
}

// currentVersion is above that of every change so far; zero before the first epoch,
// when there was none.
func currentVersion(ctx context.Context, db postgres.Querier) (saga.Version, error) {
	var epoch int
	var position string
	err := db.QueryRow(ctx, "SELECT coalesce(max(epoch), 0), pg_current_wal_insert_lsn()::text FROM capsaga.epoch").Scan(&epoch, &position)
	if err != nil || epoch == 0 {
		return 0, err
	}
	lsn, err := saga.ParseLSN(position)
	if err != nil {
		return 0, err
	}
	return saga.NewVersion(saga.Epoch(epoch), lsn)
}

// Retain retires the entities that are not among names.
func Retain(ctx context.Context, db postgres.Querier, names []string) error {
	_, err := db.Exec(ctx, "UPDATE capsaga.entity SET retired = true WHERE entity <> ALL (coalesce($1, '{}'::text[])) AND NOT retired", names)
	return postgres.Classify("retire entities that the catalog does not name", err)
}

// watched are the sinks whose rows have the table's columns. Kafka's consumers are
// told of a column by the first event that has it.
var watched = []saga.Sink{saga.Redis, saga.Elasticsearch}

// watchColumns requests a backfill of each entity whose table has other columns
// than when its rows were last brought to the sinks.
func (s *Service) watchColumns(ctx context.Context) error {
	pairs, err := readPairs(ctx, s.config.DB.Pool())
	if err != nil {
		return err
	}
	changed := map[string][]saga.Sink{}
	for _, p := range pairs {
		if p.there && p.shape != p.now && slices.Contains(watched, p.sink) && s.catalogs(&p) {
			changed[p.entity] = append(changed[p.entity], p.sink)
		}
	}
	for name, sinks := range changed {
		if err := s.columnsChanged(ctx, s.config.Catalog.Entities[name], sinks); err != nil {
			return err
		}
	}
	return nil
}

// catalogs reports whether this worker's catalog has the pair as it is.
func (s *Service) catalogs(p *pair) bool {
	if s.config.Catalog == nil {
		return false
	}
	e := s.config.Catalog.Entities[p.entity]
	return e != nil && e.HasSink(p.sink) && e.Table == p.table
}

// columnsChanged notes the table's columns in the transaction of the request, so
// that of several workers that see the change one requests.
func (s *Service) columnsChanged(ctx context.Context, e *saga.Entity, sinks []saga.Sink) error {
	err := pgx.BeginFunc(ctx, s.config.DB.Pool(), func(tx pgx.Tx) error {
		rows, err := tx.Query(ctx, `
			WITH now AS (SELECT `+shapeOf+` AS shape FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace WHERE n.nspname = $3 AND c.relname = $4),
			old AS (SELECT entity, sink, e.shape FROM capsaga.entity e, now WHERE entity = $1 AND sink = ANY ($2) AND NOT e.retired AND e.shape <> now.shape FOR UPDATE OF e)
			UPDATE capsaga.entity e SET shape = now.shape FROM now, old WHERE e.entity = old.entity AND e.sink = old.sink RETURNING e.sink, old.shape, now.shape`,
			e.Name, sinks, e.Table.Schema, e.Table.Name)
		if err != nil {
			return err
		}
		var sink saga.Sink
		var before, after string
		var noted []saga.Sink
		_, err = pgx.ForEachRow(rows, []any{&sink, &before, &after}, func() error {
			noted = append(noted, sink)
			return nil
		})
		if err != nil || len(noted) == 0 {
			return err
		}
		b, err := Submit(ctx, tx, Request{Entity: e, Sinks: noted, Reason: Altered})
		if err == nil {
			s.log.Info("the columns of a table changed: its rows go to the sinks anew",
				"entity", e.Name, "backfill", b.ID, "sinks", noted, "before", before, "after", after)
		}
		return err
	})
	return postgres.Classify("request a backfill of "+e.Name, err)
}
