package catalog

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"github.com/jackc/pgx/v5"

	"github.com/capsaga/capsaga/internal/postgres"
	"github.com/capsaga/capsaga/saga"
)

// checkEntity checks an entity's table, key and rights.
func (v *validator) checkEntity(ctx context.Context, e *saga.Entity) error {
	field := "entities." + e.Name
	r := v.checkTable(field+".table", e.Table)
	if r == nil {
		return nil
	}
	info, err := postgres.Describe(ctx, v.db, e.Table)
	if err != nil {
		return err
	}
	for sink, publication := range map[saga.Sink]string{saga.Redis: saga.PublicationRedis, saga.Elasticsearch: saga.PublicationElasticsearch} {
		if slices.Contains(e.Sinks(), sink) {
			v.checkOwner(field+".table", r, publication)
		}
	}
	if e.Kafka != nil && v.file.Catalog.KafkaTables != nil {
		v.checkTopic(field+".table", r)
	}
	if r.Kind == "p" {
		v.warn(field+".table", "PostgreSQL publishes no TRUNCATE and no DETACH of a single partition of %s: DELETE the rows first, or run `capsaga backfill --sweep %s` afterwards", e.Table, e.Name)
	}
	v.checkGenerated(field, info)
	if err := v.checkRights(ctx, field, e, r); err != nil {
		return err
	}
	return v.checkKey(ctx, field, e, info)
}

func (v *validator) checkGenerated(field string, info *postgres.TableInfo) {
	for _, c := range info.Columns {
		switch {
		case c.Generated == "v":
			v.warn(field+".table", "column %s is a virtual generated column, which PostgreSQL keeps out of the WAL: no sink gets it (a stored one does)", c.Name)
		case c.Generated == "s" && v.server.VersionNumber < 180000:
			v.warn(field+".table", "column %s is generated, which PostgreSQL publishes from version 18 on: the streams do not carry it", c.Name)
		}
	}
}

var rights = []string{"SELECT", "INSERT", "UPDATE", "DELETE"}

func (v *validator) checkRights(ctx context.Context, field string, e *saga.Entity, r *Relation) error {
	rows, err := v.db.Query(ctx, "SELECT p FROM unnest($2::text[]) p WHERE NOT has_table_privilege($1::oid, p)", r.OID, rights)
	if err != nil {
		return postgres.Classify("read the rights on "+e.Table.String(), err)
	}
	missing, err := pgx.CollectRows(rows, pgx.RowTo[string])
	if err != nil {
		return postgres.Classify("read the rights on "+e.Table.String(), err)
	}
	if len(missing) > 0 {
		v.fail(field+".table", "role %s lacks rights on %s: GRANT %s ON %s TO %s", v.server.User, e.Table,
			strings.Join(missing, ", "), sanitize(e.Table), pgx.Identifier{v.server.User}.Sanitize())
	}
	return nil
}

// checkKey checks that the key identifies a row, here and in the streams.
func (v *validator) checkKey(ctx context.Context, field string, e *saga.Entity, info *postgres.TableInfo) error {
	sound := true
	for i, name := range e.Key {
		at := fmt.Sprintf("%s.key[%d]", field, i)
		c := info.Column(name)
		switch {
		case c == nil:
			sound = false
			v.fail(at, "%s has no column %s%s", e.Table, name, near(name, columnNames(info)))
		case !c.NotNull:
			sound = false
			v.fail(at, "column %s may be null, and a row without a key has no place in a sink: ALTER TABLE %s ALTER COLUMN %s SET NOT NULL",
				name, sanitize(e.Table), pgx.Identifier{name}.Sanitize())
		case c.Generated == "s" && v.server.VersionNumber < 180000:
			sound = false
			v.fail(at, "column %s is generated, which PostgreSQL publishes from version 18 on: it cannot be part of a key", name)
		}
	}
	if !sound {
		return nil
	}
	if err := v.checkKeyTypes(ctx, field, e, info); err != nil {
		return err
	}
	if err := v.checkUnique(ctx, field, e, info); err != nil {
		return err
	}
	return v.checkIdentity(ctx, field, e, info)
}

func columnNames(info *postgres.TableInfo) []string {
	names := make([]string, len(info.Columns))
	for i, c := range info.Columns {
		names[i] = c.Name
	}
	return names
}

func (v *validator) checkUnique(ctx context.Context, field string, e *saga.Entity, info *postgres.TableInfo) error {
	if info.Identifies(e.Key) {
		return nil
	}
	flaw, err := readFlaw(ctx, v.db, info.OID, slices.Sorted(slices.Values(e.Key)))
	if err != nil {
		return err
	}
	var has []string
	for _, key := range info.UniqueKeys {
		has = append(has, "["+strings.Join(key, ", ")+"]")
	}
	switch {
	case flaw != "":
		flaw = ": " + flaw
	case len(has) > 0:
		flaw = ": the table has the unique " + plural("key", len(has)) + " " + strings.Join(has, ", ")
	default:
		flaw = ": the table has no unique key at all"
	}
	v.fail(field+".key", "no unique index of %s on exactly these columns identifies a row%s", e.Table, flaw)
	return nil
}

func plural(noun string, n int) string {
	if n == 1 {
		return noun
	}
	return noun + "s"
}

// checkIdentity checks that an UPDATE or DELETE is published with the key. Each
// partition has a replica identity of its own.
func (v *validator) checkIdentity(ctx context.Context, field string, e *saga.Entity, info *postgres.TableInfo) error {
	leaves, err := readLeaves(ctx, v.db, info.OID)
	if err != nil {
		return err
	}
	for _, l := range leaves {
		if l.Identity == "f" {
			continue
		}
		var missing []string
		for _, name := range e.Key {
			if !slices.Contains(l.Columns, name) {
				missing = append(missing, name)
			}
		}
		switch {
		case len(l.Columns) == 0:
			v.fail(field+".key", "%s has no replica identity, so once it is published PostgreSQL refuses UPDATE and DELETE on it: give it a primary key that is not deferrable, or ALTER TABLE %s REPLICA IDENTITY USING INDEX an index on the key, or FULL", l.Name, l.Name)
		case len(missing) > 0:
			v.fail(field+".key", "the replica identity of %s lacks %s, so a DELETE does not say which row it was: ALTER TABLE %s REPLICA IDENTITY USING INDEX an index on the key, or FULL", l.Name, strings.Join(missing, ", "), l.Name)
		}
	}
	return nil
}

// Types whose equal values have one text form are sound in a key: the sinks find
// a row by the text.
var soundTypes = []string{
	"int2", "int4", "int8", "oid", "bool", "text", "varchar", "bpchar", "name", "char", "uuid", "bytea",
	"date", "timestamp", "timestamptz", "time", "timetz", "inet", "cidr", "macaddr", "macaddr8", "bit", "varbit", "pg_lsn",
}

// unsoundTypes have equal values with different texts, or texts that depend on
// the server's settings.
var unsoundTypes = map[string]string{
	"float4":   "0 and -0 are equal and differ in their text",
	"float8":   "0 and -0 are equal and differ in their text",
	"interval": "'1 day' and '24 hours' are equal and differ in their text",
	"jsonb":    "1.0 and 1.00 are equal in it and differ in their text",
	"money":    "its text depends on the server's locale",
}

func (v *validator) checkKeyTypes(ctx context.Context, field string, e *saga.Entity, info *postgres.TableInfo) error {
	columns, err := readKeyColumns(ctx, v.db, info.OID, e.Key)
	if err != nil {
		return err
	}
	for _, c := range columns {
		at := fmt.Sprintf("%s.key[%d]", field, slices.Index(e.Key, c.Name))
		switch why, unsound := unsoundTypes[c.Type]; {
		case unsound:
			v.fail(at, "column %s is of type %s, which cannot identify a row in the sinks: %s", c.Name, c.Type, why)
		case c.Nondeterministic || c.Type == "citext":
			v.warn(at, "column %s takes different texts as equal: the sinks find a row only by the text that it is stored with", c.Name)
		case c.Type == "numeric" && c.Modifier < 0:
			v.warn(at, "column %s is numeric without a scale: 1 and 1.0 are equal here and two keys in the sinks; numeric(p,s) has one text", c.Name)
		case c.Type == "numeric" || c.Kind == "e" || slices.Contains(soundTypes, c.Type):
		default:
			v.warn(at, "column %s is of type %s: it identifies a row in the sinks only if equal values always have one text", c.Name, c.Type)
		}
	}
	return nil
}
