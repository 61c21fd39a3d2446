package backfill

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"github.com/jackc/pgx/v5"

	"github.com/capsaga/capsaga/internal/postgres"
	"github.com/capsaga/capsaga/saga"
)

// table is how the rows of a table are read, chunk by chunk.
type table struct {
	name     saga.Table
	oid      uint32
	identity string // pg_class.relreplident
	columns  []saga.BackfillColumn
	sized    []string // columns whose values differ in size
	key      []keyColumn
	// stamp changes with all of the above; see stampQuery.
	stamp string
}

// keyColumn is a column of the key, in the order of the index on it.
type keyColumn struct{ name, typ string }

// published is the condition for a column to be in the stream: PostgreSQL
// publishes stored generated columns from version 18 on, virtual ones never.
const published = `a.attnum > 0 AND NOT a.attisdropped
    AND (a.attgenerated = '' OR a.attgenerated = 's' AND current_setting('server_version_num')::int >= 180000)`

// shapeOf is the columns of the pg_class row c as people read them: what a sink's
// rows consist of.
const shapeOf = `(SELECT coalesce(string_agg(format('%I %s', a.attname, format_type(a.atttypid, a.atttypmod)), ', ' ORDER BY a.attnum), '')
    FROM pg_attribute a WHERE a.attrelid = c.oid AND ` + published + `)`

// identityKey is the columns of the replica identity of the pg_class row c, as
// pgoutput counts them.
const identityKey = `coalesce((SELECT (i.indkey::int2[])[0:i.indnkeyatts-1] FROM pg_index i
    WHERE i.indrelid = c.oid AND i.indisvalid AND i.indimmediate
      AND (c.relreplident = 'd' AND i.indisprimary OR c.relreplident = 'i' AND i.indisreplident)), '{}')`

const stampQuery = `SELECT concat_ws(' ', c.oid, c.relkind, c.relreplident, ` + identityKey + `, ` + shapeOf + `)
FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace WHERE n.nspname = $1 AND c.relname = $2`

const columnsQuery = `SELECT a.attname, a.atttypid, a.atttypmod, c.relreplident = 'f' OR a.attnum = ANY (` + identityKey + `),
    a.attlen < 0, format_type(a.atttypid, -1)
FROM pg_class c JOIN pg_attribute a ON a.attrelid = c.oid WHERE c.oid = $1 AND ` + published + ` ORDER BY a.attnum`

// strangersQuery finds types of the key whose own comparison the session does not
// see: it would compare by another, in another order than the index's.
const strangersQuery = `
WITH RECURSIVE base AS (
    SELECT a.attname, a.atttypid AS typid FROM pg_attribute a WHERE a.attrelid = $1 AND a.attname = ANY ($2)
    UNION ALL
    SELECT b.attname, t.typbasetype FROM base b JOIN pg_type t ON t.oid = b.typid WHERE t.typtype = 'd'
)
SELECT format('%s of type %s needs schema %I', b.attname, b.typid::regtype, n.nspname)
FROM base b
JOIN pg_opclass c ON c.opcintype = b.typid AND c.opcdefault
JOIN pg_am m ON m.oid = c.opcmethod AND m.amname = 'btree'
JOIN pg_amop o ON o.amopfamily = c.opcfamily AND o.amoplefttype = c.opcintype AND o.amoprighttype = c.opcintype AND o.amopstrategy = 5
JOIN pg_operator p ON p.oid = o.amopopr
JOIN pg_namespace n ON n.oid = p.oprnamespace
WHERE NOT pg_operator_is_visible(p.oid)`

// describe reads how to read a table in the order of its key's columns. The stamp
// comes first, so that a change after it is noticed.
func describe(ctx context.Context, db postgres.Querier, name saga.Table, key []string) (*table, error) {
	t := &table{name: name}
	info, err := postgres.Describe(ctx, db, name)
	if err != nil {
		return nil, err
	}
	t.oid, t.identity = info.OID, info.ReplicaIdentity
	if info.Kind != "r" && info.Kind != "p" {
		return nil, refuse("%s is no table: mend the catalog", name)
	}
	if err := db.QueryRow(ctx, stampQuery, name.Schema, name.Name).Scan(&t.stamp); err != nil {
		return nil, postgres.Classify("describe table "+name.String(), err)
	}
	types, err := t.readColumns(ctx, db)
	if err != nil {
		return nil, postgres.Classify("describe the columns of "+name.String(), err)
	}
	for _, column := range key {
		if types[column] == "" {
			return nil, refuse("table %s has no column %s any more, which is in the catalog's key: mend the key, apply the catalog and start the workers anew", name, column)
		}
		t.key = append(t.key, keyColumn{column, types[column]})
	}
	if err := t.checkKey(ctx, db, key); err != nil {
		return nil, err
	}
	return t, nil
}

func (t *table) readColumns(ctx context.Context, db postgres.Querier) (types map[string]string, err error) {
	rows, err := db.Query(ctx, columnsQuery, t.oid)
	if err != nil {
		return nil, err
	}
	types = map[string]string{}
	var c saga.BackfillColumn
	var sized bool
	var typ string
	_, err = pgx.ForEachRow(rows, []any{&c.Name, &c.TypeOID, &c.TypeModifier, &c.Identity, &sized, &typ}, func() error {
		t.columns = append(t.columns, c)
		types[c.Name] = typ
		if sized {
			t.sized = append(t.sized, c.Name)
		}
		return nil
	})
	return types, err
}

// keyOrder returns the key's columns in the order of the index on them.
func keyOrder(ctx context.Context, db postgres.Querier, name saga.Table, key []string) ([]string, error) {
	info, err := postgres.Describe(ctx, db, name)
	if err != nil {
		return nil, err
	}
	want := slices.Sorted(slices.Values(key))
	for _, unique := range info.UniqueKeys {
		if slices.Equal(slices.Sorted(slices.Values(unique)), want) {
			return unique, nil
		}
	}
	return nil, refuse("table %s has no unique index on the key %s any more: mend the key in the catalog, apply it and start the workers anew",
		name, strings.Join(key, ", "))
}

func (t *table) checkKey(ctx context.Context, db postgres.Querier, key []string) error {
	rows, err := db.Query(ctx, strangersQuery, t.oid, key)
	if err != nil {
		return postgres.Classify("look up how the key of "+t.name.String()+" is ordered", err)
	}
	strangers, err := pgx.CollectRows(rows, pgx.RowTo[string])
	if err != nil {
		return postgres.Classify("look up how the key of "+t.name.String()+" is ordered", err)
	}
	if len(strangers) > 0 {
		return refuse("table %s cannot be read in the order of its key: column %s in the search_path of Capsaga's role: ALTER ROLE … SET search_path, then request the backfill again",
			t.name, strings.Join(strangers, ", column "))
	}
	return nil
}

func quote(name string) string { return pgx.Identifier{name}.Sanitize() }

// from names the table. Tables that inherit from it are tables of their own;
// partitions are not.
func (t *table) from() string {
	only := "ONLY "
	if strings.HasPrefix(t.stamp, fmt.Sprintf("%d p ", t.oid)) {
		only = ""
	}
	return only + pgx.Identifier{t.name.Schema, t.name.Name}.Sanitize() + " AS t"
}

// keyList returns the key's columns.
func (t *table) keyList(form string) string {
	list := make([]string, len(t.key))
	for i, c := range t.key {
		list[i] = fmt.Sprintf(form, "t."+quote(c.name))
	}
	return strings.Join(list, ", ")
}

// compare compares the key with parameters from $first on, as a row, so that the
// index serves. Each value is read by the column's own type.
func (t *table) compare(operator string, first int) string {
	params := make([]string, len(t.key))
	for i, c := range t.key {
		params[i] = fmt.Sprintf("$%d::%s", first+i, c.typ)
	}
	return fmt.Sprintf("(%s) %s (%s)", t.keyList("%s"), operator, strings.Join(params, ", "))
}

// lastSQL finds the greatest key.
func (t *table) lastSQL() string {
	var order []string
	for _, c := range t.key {
		order = append(order, "t."+quote(c.name)+" DESC")
	}
	return fmt.Sprintf("SELECT ARRAY[%s] FROM %s ORDER BY %s LIMIT 1", t.keyList("format('%%s', %s)"), t.from(), strings.Join(order, ", "))
}

// boundSQL finds where the next chunk ends: after $1 rows at most, and $2 bytes as
// they are stored, but after one row at least. Then come the last key and, after
// the first chunk, the cursor.
func (t *table) boundSQL(cursor bool) string {
	where := t.compare("<=", 3)
	if cursor {
		where += " AND " + t.compare(">", 3+len(t.key))
	}
	size := []string{"24"}
	for _, name := range t.sized {
		size = append(size, "coalesce(pg_column_size(t."+quote(name)+"), 0)")
	}
	var selected, names, texts []string
	for i, c := range t.key {
		name := fmt.Sprintf("k%d", i)
		selected = append(selected, "t."+quote(c.name)+" AS "+name)
		names = append(names, name)
		texts = append(texts, "format('%s', "+name+")")
	}
	return fmt.Sprintf(`SELECT ARRAY[%s], bytes FROM (
    SELECT *, row_number() OVER w AS n, (sum(size) OVER w)::bigint AS bytes FROM (
        SELECT %s, %s AS size FROM %s WHERE %s ORDER BY %s LIMIT $1
    ) s WINDOW w AS (ORDER BY %s ROWS UNBOUNDED PRECEDING)
) s WHERE n = 1 OR bytes <= $2 ORDER BY n DESC LIMIT 1`,
		strings.Join(texts, ", "), strings.Join(selected, ", "), strings.Join(size, " + "), t.from(), where, t.keyList("%s"), strings.Join(names, ", "))
}

// chunkSQL locks the rows up to a bound, in the order of the key, and writes them
// into the WAL behind the head $1, if they have at most $2 bytes or are one row. A
// row that was changed meanwhile is taken as it is now, if it is still in the range.
// Then come the bound and, after the first chunk, the cursor.
//
// The text form of a record is that of its columns' output functions, as in the
// stream, which is in UTF-8 whatever the database's encoding is.
func (t *table) chunkSQL(cursor bool) string {
	where := t.compare("<=", 3)
	if cursor {
		where += " AND " + t.compare(">", 3+len(t.key))
	}
	columns := make([]string, len(t.columns))
	for i, c := range t.columns {
		columns[i] = "t." + quote(c.Name)
	}
	return fmt.Sprintf(`WITH locked AS MATERIALIZED (
    SELECT ROW(%s)::text AS record FROM %s WHERE %s ORDER BY %s FOR SHARE OF t
), body AS MATERIALIZED (
    SELECT count(*) AS n, coalesce(string_agg(record, ''), '') AS text FROM locked
)
SELECT n, octet_length(text), (CASE WHEN n > 0 AND (n = 1 OR octet_length(text) <= $2)
    THEN pg_logical_emit_message(true, '%s', convert_to($1::text || n::text || E'}\n' || text, 'UTF8')) END)::text FROM body`,
		strings.Join(columns, ", "), t.from(), where, t.keyList("%s"), saga.MessageBackfill)
}

// args joins parameters and keys.
func args(first []any, keys ...[]string) []any {
	for _, key := range keys {
		for _, value := range key {
			first = append(first, value)
		}
	}
	return first
}
