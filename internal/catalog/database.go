package catalog

import (
	"context"

	"github.com/jackc/pgx/v5"

	"github.com/capsaga/capsaga/internal/postgres"
	"github.com/capsaga/capsaga/saga"
)

// Relation is a table of the database, or what may be taken for one.
type Relation struct {
	Table saga.Table
	OID   uint32
	Kind  string // pg_class.relkind
	// Persistence is pg_class.relpersistence: p permanent, u unlogged.
	Persistence string
	// Root is the partitioned table that the relation is a partition of; its own
	// name where it is none.
	Root saga.Table
	// Identified says that UPDATE and DELETE can be published.
	Identified bool
	// Keyed says that the changes have a key: a usable replica identity other
	// than the whole row, or a primary key.
	Keyed bool
	Owned bool // by a role that the session may act as
}

// Publishable says that changes of the relation reach a publication.
func (r *Relation) Publishable() bool {
	return (r.Kind == "r" || r.Kind == "p") && r.Persistence == "p"
}

// IsPartition says that the relation is a part of another.
func (r *Relation) IsPartition() bool { return r.Root != r.Table }

// A replica identity counts only as PostgreSQL counts it: by a valid index that
// is checked at once. A deferrable primary key is none.
const relationsQuery = `
SELECT n.nspname, c.relname, c.oid, c.relkind::text, c.relpersistence::text,
       coalesce(rn.nspname, n.nspname), coalesce(r.relname, c.relname),
       c.relreplident = 'f' OR usable.identity, usable.identity OR usable.primary_key,
       pg_has_role(c.relowner, 'USAGE')
FROM pg_class c
JOIN pg_namespace n ON n.oid = c.relnamespace
LEFT JOIN pg_class r ON c.relispartition AND r.oid = pg_partition_root(c.oid)
LEFT JOIN pg_namespace rn ON rn.oid = r.relnamespace
CROSS JOIN LATERAL (
    SELECT coalesce(bool_or(i.indisvalid AND i.indimmediate
               AND (c.relreplident = 'd' AND i.indisprimary OR c.relreplident = 'i' AND i.indisreplident)), false) AS identity,
           coalesce(bool_or(i.indisprimary), false) AS primary_key
    FROM pg_index i WHERE i.indrelid = c.oid) usable
WHERE c.relkind IN ('r', 'p', 'v', 'm', 'f') AND c.relpersistence <> 't' AND c.oid >= 16384
  AND n.nspname <> ALL ($1) AND NOT starts_with(n.nspname, 'pg_')
ORDER BY n.nspname, c.relname`

// Relations lists the tables, views and foreign tables of the database, without
// those of the system and of Capsaga.
func Relations(ctx context.Context, db postgres.Querier) ([]Relation, error) {
	rows, err := db.Query(ctx, relationsQuery, systemSchemas)
	if err != nil {
		return nil, postgres.Classify("list the database's tables", err)
	}
	relations, err := pgx.CollectRows(rows, func(row pgx.CollectableRow) (r Relation, err error) {
		err = row.Scan(&r.Table.Schema, &r.Table.Name, &r.OID, &r.Kind, &r.Persistence,
			&r.Root.Schema, &r.Root.Name, &r.Identified, &r.Keyed, &r.Owned)
		return r, err
	})
	return relations, postgres.Classify("list the database's tables", err)
}

// server is what the database server allows.
type server struct {
	VersionNumber int
	Version       string
	WALLevel      string
	Standby       bool
	MaxSlots      int
	UsedSlots     int
	OwnSlots      int // of the three streams, how many are there
	HasKafkaSlot  bool
	User          string
	Database      string
	Superuser     bool
	Replication   bool
	MayCreate     bool
	// Managed says that the role is a managed service's administrator, which may
	// do there what the catalogs of PostgreSQL do not tell.
	Managed      bool
	AllTables    bool // kafkapub is FOR ALL TABLES already
	Publications int  // of the three, how many are there
	Schema       bool // Capsaga's schema is there
}

const serverQuery = `
SELECT current_setting('server_version_num')::int, current_setting('server_version'), current_setting('wal_level'),
       pg_is_in_recovery(), current_setting('max_replication_slots')::int,
       (SELECT count(*)::int FROM pg_replication_slots),
       (SELECT count(*)::int FROM pg_replication_slots WHERE slot_name = ANY ($1)),
       EXISTS (SELECT FROM pg_replication_slots WHERE slot_name = $2),
       current_user::text, current_database()::text, r.rolsuper, r.rolreplication,
       has_database_privilege(current_database(), 'CREATE'),
       EXISTS (SELECT FROM pg_roles m WHERE m.rolname IN ('rds_superuser', 'cloudsqlsuperuser', 'azure_pg_admin', 'alloydbsuperuser')
               AND pg_has_role(m.oid, 'MEMBER')),
       EXISTS (SELECT FROM pg_publication WHERE pubname = $3 AND puballtables),
       (SELECT count(*)::int FROM pg_publication WHERE pubname = ANY ($4)),
       EXISTS (SELECT FROM pg_namespace WHERE nspname = $5)
FROM pg_roles r WHERE r.rolname = current_user`

var publications = []string{saga.PublicationRedis, saga.PublicationKafka, saga.PublicationElasticsearch}

func readServer(ctx context.Context, db postgres.Querier, prefix saga.Prefix) (s server, err error) {
	var slots []string
	for _, publication := range publications {
		slots = append(slots, prefix.Slot(publication))
	}
	err = db.QueryRow(ctx, serverQuery, slots, prefix.Slot(saga.PublicationKafka), saga.PublicationKafka, publications, saga.Schema).Scan(
		&s.VersionNumber, &s.Version, &s.WALLevel, &s.Standby, &s.MaxSlots, &s.UsedSlots, &s.OwnSlots, &s.HasKafkaSlot,
		&s.User, &s.Database, &s.Superuser, &s.Replication, &s.MayCreate, &s.Managed, &s.AllTables, &s.Publications, &s.Schema)
	return s, postgres.Classify("read the server's settings", err)
}

const membersQuery = `
SELECT n.nspname, c.relname, p.pubname::text
FROM pg_publication p JOIN pg_publication_rel pr ON pr.prpubid = p.oid
JOIN pg_class c ON c.oid = pr.prrelid JOIN pg_namespace n ON n.oid = c.relnamespace
WHERE p.pubname = ANY ($1)`

type membership struct {
	table       saga.Table
	publication string
}

// readMembers returns which tables the publications list already.
func readMembers(ctx context.Context, db postgres.Querier) (map[membership]bool, error) {
	members := map[membership]bool{}
	rows, err := db.Query(ctx, membersQuery, publications)
	if err != nil {
		return nil, postgres.Classify("read the publications", err)
	}
	var m membership
	_, err = pgx.ForEachRow(rows, []any{&m.table.Schema, &m.table.Name, &m.publication}, func() error {
		members[m] = true
		return nil
	})
	return members, postgres.Classify("read the publications", err)
}

// keyColumn is the type of a key's column, a domain counting as what it is over.
type keyColumn struct {
	Name             string
	Type             string // pg_type.typname
	Kind             string // pg_type.typtype
	Modifier         int32
	Nondeterministic bool // its collation takes different texts as equal
}

const keyColumnsQuery = `
WITH RECURSIVE base AS (
    SELECT attname, atttypid AS typid, atttypmod AS modifier, attcollation FROM pg_attribute
    WHERE attrelid = $1 AND attname = ANY ($2) AND NOT attisdropped
    UNION ALL
    SELECT b.attname, t.typbasetype, t.typtypmod, b.attcollation
    FROM base b JOIN pg_type t ON t.oid = b.typid WHERE t.typtype = 'd'
)
SELECT b.attname, t.typname, t.typtype::text, b.modifier, NOT coalesce(l.collisdeterministic, true)
FROM base b JOIN pg_type t ON t.oid = b.typid LEFT JOIN pg_collation l ON l.oid = b.attcollation
WHERE t.typtype <> 'd'`

func readKeyColumns(ctx context.Context, db postgres.Querier, oid uint32, key []string) ([]keyColumn, error) {
	rows, err := db.Query(ctx, keyColumnsQuery, oid, key)
	if err != nil {
		return nil, postgres.Classify("read the key's types", err)
	}
	columns, err := pgx.CollectRows(rows, func(row pgx.CollectableRow) (c keyColumn, err error) {
		err = row.Scan(&c.Name, &c.Type, &c.Kind, &c.Modifier, &c.Nondeterministic)
		return c, err
	})
	return columns, postgres.Classify("read the key's types", err)
}

// leaf is a table that holds rows of an entity: a partition, or the table itself.
type leaf struct {
	Name     string
	Identity string   // pg_class.relreplident
	Columns  []string // of the replica identity, where an index is it
}

const leavesQuery = `
SELECT c.oid::regclass::text, c.relreplident::text,
       coalesce((SELECT array_agg(a.attname::text) FROM pg_index i JOIN pg_attribute a ON a.attrelid = i.indrelid
                 AND a.attnum = ANY ((i.indkey::int2[])[0:i.indnkeyatts-1])
                 WHERE i.indrelid = c.oid AND i.indisvalid AND i.indimmediate
                 AND (c.relreplident = 'd' AND i.indisprimary OR c.relreplident = 'i' AND i.indisreplident)), '{}')
FROM pg_class c
WHERE c.relkind = 'r' AND c.oid IN (SELECT $1::oid UNION ALL SELECT relid FROM pg_partition_tree($1::oid) WHERE isleaf)
ORDER BY 1`

func readLeaves(ctx context.Context, db postgres.Querier, oid uint32) ([]leaf, error) {
	rows, err := db.Query(ctx, leavesQuery, oid)
	if err != nil {
		return nil, postgres.Classify("read the replica identity", err)
	}
	leaves, err := pgx.CollectRows(rows, func(row pgx.CollectableRow) (l leaf, err error) {
		err = row.Scan(&l.Name, &l.Identity, &l.Columns)
		return l, err
	})
	return leaves, postgres.Classify("read the replica identity", err)
}

// flawsQuery finds unique indexes on exactly the key's columns and says why one
// cannot identify a row.
const flawsQuery = `
SELECT i.indexrelid::regclass::text,
       CASE WHEN i.indpred IS NOT NULL THEN 'covers only some rows'
            WHEN NOT i.indimmediate THEN 'is deferrable'
            WHEN NOT i.indisvalid THEN 'is not valid'
            ELSE '' END
FROM pg_index i
WHERE i.indrelid = $1 AND i.indisunique AND i.indexprs IS NULL
  AND $2::text[] = ARRAY(SELECT a.attname::text FROM pg_attribute a WHERE a.attrelid = i.indrelid
                         AND a.attnum = ANY ((i.indkey::int2[])[0:i.indnkeyatts-1]) ORDER BY a.attname::text COLLATE "C")`

// readFlaw returns what is wrong with the unique index on the key, if there is
// one; key is sorted.
func readFlaw(ctx context.Context, db postgres.Querier, oid uint32, key []string) (string, error) {
	rows, err := db.Query(ctx, flawsQuery, oid, key)
	if err != nil {
		return "", postgres.Classify("read the unique indexes", err)
	}
	var index, flaw, found string
	_, err = pgx.ForEachRow(rows, []any{&index, &flaw}, func() error {
		if flaw != "" {
			found = "index " + index + " " + flaw
		}
		return nil
	})
	return found, postgres.Classify("read the unique indexes", err)
}
