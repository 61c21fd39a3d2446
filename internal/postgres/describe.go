package postgres

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"

	"github.com/jackc/pgx/v5"

	"github.com/capsaga/capsaga/saga"
)

// TableInfo is what the database says of a table.
type TableInfo struct {
	Table   saga.Table
	OID     uint32
	Kind    string // pg_class.relkind: "r" plain, "p" partitioned
	Columns []Column
	// PrimaryKey holds the key's columns in index order; empty without one.
	PrimaryKey []string
	// UniqueKeys holds the columns of each index that can identify a row: unique,
	// valid, immediate, on plain columns, of all rows, on columns that are not null.
	UniqueKeys [][]string
	// ReplicaIdentity is pg_class.relreplident: d, n, f or i.
	ReplicaIdentity string
	// ReplicaKey holds the columns by which an UPDATE or DELETE is replicated;
	// empty if there is no such identity, all columns for FULL.
	ReplicaKey []string
	// Cascades holds the foreign keys by which a change of a row of this table
	// changes rows that refer to it, in a way that changing it back does not mend.
	Cascades []ForeignKey
	// Triggered says that the table has triggers of the user's own.
	Triggered bool
	// stamp changes with the table's identity, with any of its columns, with the
	// foreign keys that refer to it and with its triggers.
	stamp string
}

// ForeignKey is a foreign key as the table that it refers to sees it.
type ForeignKey struct {
	Table      saga.Table // that has the foreign key
	Columns    []string
	Referenced []string // columns of the table referred to, in the same order
	Readable   bool     // we may read all rows of Table
	OnDelete   bool     // a delete deletes or changes the rows that refer to it
	OnUpdate   bool     // another value of Referenced takes their reference away
}

// Column is a column of a table.
type Column struct {
	Name       string
	Type       string // as format_type writes it, with its modifier
	BaseType   string // without the modifier: numeric for a numeric(10,2)
	TypeOID    uint32
	NotNull    bool
	HasDefault bool
	Identity   string // "", "a" always, "d" by default
	Generated  string // "", "s" stored, "v" virtual
	Addable    bool   // an exact number, on which add is undone without loss
	Structured bool   // takes a JSON object or array: json, array or composite
}

// Column returns the named column, or nil.
func (t *TableInfo) Column(name string) *Column {
	for i := range t.Columns {
		if t.Columns[i].Name == name {
			return &t.Columns[i]
		}
	}
	return nil
}

// quoted is the table's name as SQL takes it.
func (t *TableInfo) quoted() string { return quoteTable(t.Table) }

func quoteTable(t saga.Table) string { return pgx.Identifier{t.Schema, t.Name}.Sanitize() }

func quote(name string) string { return pgx.Identifier{name}.Sanitize() }

const describeTable = `
SELECT c.oid, c.relkind::text, c.relreplident::text, EXISTS (SELECT FROM pg_trigger g WHERE g.tgrelid = c.oid AND NOT g.tgisinternal)
FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
WHERE n.nspname = $1 AND c.relname = $2`

// A domain counts as the type that it is over.
const describeColumns = `
WITH RECURSIVE base AS (
    SELECT a.attnum, a.atttypid AS typid FROM pg_attribute a
    WHERE a.attrelid = $1 AND a.attnum > 0 AND NOT a.attisdropped
    UNION ALL
    SELECT b.attnum, t.typbasetype FROM base b JOIN pg_type t ON t.oid = b.typid WHERE t.typtype = 'd'
)
SELECT a.attname, format_type(a.atttypid, a.atttypmod), format_type(a.atttypid, -1), a.atttypid, a.attnotnull, a.atthasdef,
       a.attidentity::text, a.attgenerated::text,
       EXISTS (SELECT FROM base b WHERE b.attnum = a.attnum
               AND b.typid IN ('int2'::regtype, 'int4'::regtype, 'int8'::regtype, 'numeric'::regtype)),
       EXISTS (SELECT FROM base b JOIN pg_type t ON t.oid = b.typid WHERE b.attnum = a.attnum
               AND (t.typcategory IN ('A', 'C') OR t.oid IN ('json'::regtype, 'jsonb'::regtype)))
FROM pg_attribute a
WHERE a.attrelid = $1 AND a.attnum > 0 AND NOT a.attisdropped
ORDER BY a.attnum`

// tableStamp is read before the columns when a table is described, and again
// once a transaction holds the table's lock: if the two agree, the description
// holds for the transaction.
//
// Foreign keys that refer to the table are told by their triggers on it, which
// have an index by table, unlike the constraints. Adding one waits for whoever
// has changed the table, and so does adding a trigger.
const tableStamp = `
SELECT coalesce(md5(string_agg(concat_ws(':', a.attrelid, a.attnum, a.attname, a.atttypid, a.atttypmod, a.attnotnull,
                                         a.atthasdef, a.attidentity, a.attgenerated), ',' ORDER BY a.attnum)), '')
       || coalesce((SELECT string_agg(g.tgconstraint::text, ',' ORDER BY g.tgconstraint) FROM pg_trigger g
                    WHERE g.tgrelid = min(a.attrelid::bigint)::oid AND g.tgconstrrelid <> 0), '')
       || coalesce((SELECT string_agg(g.oid::text, ',' ORDER BY g.oid) FROM pg_trigger g
                    WHERE g.tgrelid = min(a.attrelid::bigint)::oid AND NOT g.tgisinternal), '')
FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace JOIN pg_attribute a ON a.attrelid = c.oid
WHERE n.nspname = $1 AND c.relname = $2 AND a.attnum > 0 AND NOT a.attisdropped`

const describeKeys = `
SELECT i.indisprimary, i.indisreplident,
       i.indisunique AND i.indisvalid AND i.indimmediate AND i.indpred IS NULL AND i.indexprs IS NULL
         AND NOT EXISTS (SELECT FROM unnest(i.indkey[0:i.indnkeyatts-1]) k JOIN pg_attribute a
                         ON a.attrelid = i.indrelid AND a.attnum = k WHERE NOT a.attnotnull),
       ARRAY(SELECT a.attname::text FROM unnest(i.indkey[0:i.indnkeyatts-1]) WITH ORDINALITY k(n, pos)
             JOIN pg_attribute a ON a.attrelid = i.indrelid AND a.attnum = k.n ORDER BY k.pos)
FROM pg_index i WHERE i.indrelid = $1 AND i.indisunique
ORDER BY i.indisprimary DESC, i.indexrelid`

// A foreign key of or to a partitioned table has a constraint for each partition
// too, which its parent speaks for.
const describeCascades = `
SELECT n.nspname, r.relname, ARRAY(SELECT a.attname::text FROM unnest(f.conkey) WITH ORDINALITY k(n, pos)
             JOIN pg_attribute a ON a.attrelid = f.conrelid AND a.attnum = k.n ORDER BY k.pos),
       ARRAY(SELECT a.attname::text FROM unnest(f.confkey) WITH ORDINALITY k(n, pos)
             JOIN pg_attribute a ON a.attrelid = f.confrelid AND a.attnum = k.n ORDER BY k.pos),
       has_table_privilege(r.oid, 'SELECT') AND has_schema_privilege(n.oid, 'USAGE') AND NOT row_security_active(r.oid),
       f.confdeltype IN ('c', 'n', 'd'), f.confupdtype IN ('n', 'd')
FROM pg_constraint f JOIN pg_class r ON r.oid = f.conrelid JOIN pg_namespace n ON n.oid = r.relnamespace
WHERE f.contype = 'f' AND f.confrelid = $1 AND (f.confdeltype IN ('c', 'n', 'd') OR f.confupdtype IN ('n', 'd'))
  AND NOT EXISTS (SELECT FROM pg_constraint p WHERE p.oid = f.conparentid AND p.confrelid = f.confrelid)
ORDER BY n.nspname, r.relname, f.oid`

// Describe reads a table's columns and keys. A table that is not there is a
// rejected *saga.Error.
func Describe(ctx context.Context, q Querier, table saga.Table) (*TableInfo, error) {
	t := &TableInfo{Table: table}
	err := q.QueryRow(ctx, describeTable, table.Schema, table.Name).Scan(&t.OID, &t.Kind, &t.ReplicaIdentity, &t.Triggered)
	if noRows(err) {
		return nil, &saga.Error{
			Class: saga.Rejected, System: "postgres", Code: saga.CodeUnknownEntity,
			Message: fmt.Sprintf("table %s does not exist: create it, or mend the catalog", table),
		}
	}
	if err != nil {
		return nil, classify("describe table "+table.String(), err)
	}
	if err := q.QueryRow(ctx, tableStamp, table.Schema, table.Name).Scan(&t.stamp); err != nil {
		return nil, classify("describe table "+table.String(), err)
	}
	if err := t.readColumns(ctx, q); err != nil {
		return nil, classify("describe columns of "+table.String(), err)
	}
	if err := t.readKeys(ctx, q); err != nil {
		return nil, classify("describe keys of "+table.String(), err)
	}
	if err := t.readCascades(ctx, q); err != nil {
		return nil, classify("describe the foreign keys to "+table.String(), err)
	}
	return t, nil
}

func (t *TableInfo) readCascades(ctx context.Context, q Querier) error {
	rows, err := q.Query(ctx, describeCascades, t.OID)
	if err != nil {
		return err
	}
	t.Cascades, err = pgx.CollectRows(rows, func(row pgx.CollectableRow) (f ForeignKey, err error) {
		err = row.Scan(&f.Table.Schema, &f.Table.Name, &f.Columns, &f.Referenced, &f.Readable, &f.OnDelete, &f.OnUpdate)
		return f, err
	})
	return err
}

func (t *TableInfo) readColumns(ctx context.Context, q Querier) error {
	rows, err := q.Query(ctx, describeColumns, t.OID)
	if err != nil {
		return err
	}
	t.Columns, err = pgx.CollectRows(rows, func(row pgx.CollectableRow) (c Column, err error) {
		err = row.Scan(&c.Name, &c.Type, &c.BaseType, &c.TypeOID, &c.NotNull, &c.HasDefault, &c.Identity, &c.Generated, &c.Addable, &c.Structured)
		return c, err
	})
	return err
}

func (t *TableInfo) readKeys(ctx context.Context, q Querier) error {
	rows, err := q.Query(ctx, describeKeys, t.OID)
	if err != nil {
		return err
	}
	defer rows.Close()
	for rows.Next() {
		var primary, replica, identifies bool
		var columns []string
		if err := rows.Scan(&primary, &replica, &identifies, &columns); err != nil {
			return err
		}
		if primary {
			t.PrimaryKey = columns
		}
		if identifies {
			t.UniqueKeys = append(t.UniqueKeys, columns)
		}
		if primary && t.ReplicaIdentity == "d" || replica && t.ReplicaIdentity == "i" {
			t.ReplicaKey = columns
		}
	}
	if t.ReplicaIdentity == "f" {
		for _, c := range t.Columns {
			t.ReplicaKey = append(t.ReplicaKey, c.Name)
		}
	}
	return rows.Err()
}

// Identifies reports whether the columns, in any order, are those of a unique
// key of the table.
func (t *TableInfo) Identifies(columns []string) bool {
	want := slices.Sorted(slices.Values(columns))
	for _, key := range t.UniqueKeys {
		if slices.Equal(slices.Sorted(slices.Values(key)), want) {
			return true
		}
	}
	return false
}

// errTableChanged says that a table is no longer as it was described.
var errTableChanged = errors.New("the table was altered meanwhile")

// queueStamp compares the table with its description.
func (t *TableInfo) queueStamp(batch *pgx.Batch) {
	batch.Queue(tableStamp, t.Table.Schema, t.Table.Name).QueryRow(func(row pgx.Row) error {
		var stamp string
		if err := row.Scan(&stamp); err != nil {
			return err
		}
		if stamp != t.stamp {
			return errTableChanged
		}
		return nil
	})
}

// table returns a cached description. The cache is dropped by forgetTables when
// the stamp differs, or a statement fails in a way that a change of the table
// explains.
func (db *DB) table(ctx context.Context, table saga.Table) (*TableInfo, error) {
	db.mu.Lock()
	known := db.tables[table]
	db.mu.Unlock()
	if known != nil {
		return known, nil
	}
	t, err := Describe(ctx, db.pool, table)
	if err != nil {
		return nil, err
	}
	db.mu.Lock()
	db.tables[table] = t
	db.mu.Unlock()
	return t, nil
}

// forgetStale drops the cache if a table in it is no longer as it was described, and
// reports whether.
func (db *DB) forgetStale(ctx context.Context) (bool, error) {
	db.mu.Lock()
	known := slices.Collect(maps.Values(db.tables))
	db.mu.Unlock()
	for _, t := range known {
		var stamp string
		if err := db.pool.QueryRow(ctx, tableStamp, t.Table.Schema, t.Table.Name).Scan(&stamp); err != nil {
			return false, err
		}
		if stamp != t.stamp {
			db.forgetTables()
			return true, nil
		}
	}
	return len(known) == 0, nil
}

func (db *DB) forgetTables() {
	db.mu.Lock()
	clear(db.tables)
	db.mu.Unlock()
}
