package provision

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"github.com/jackc/pgx/v5"

	"github.com/capsaga/capsaga/internal/postgres"
	"github.com/capsaga/capsaga/saga"
)

// publication is one of the three: as it should be, or as it is.
type publication struct {
	name   string
	all    bool
	tables []saga.Table // sorted
}

func (a *applier) publications() []publication {
	redis := publication{name: saga.PublicationRedis}
	elasticsearch := publication{name: saga.PublicationElasticsearch}
	for _, e := range a.catalog.Entities {
		if e.Redis != nil {
			redis.tables = append(redis.tables, e.Table)
		}
		if e.Elasticsearch != nil {
			elasticsearch.tables = append(elasticsearch.tables, e.Table)
		}
	}
	all := publication{name: saga.PublicationKafka, all: a.catalog.KafkaTables == nil, tables: slices.Clone(a.catalog.KafkaTables)}
	publications := []publication{all, redis, elasticsearch}
	for _, p := range publications {
		slices.SortFunc(p.tables, compareTables)
	}
	return publications
}

func compareTables(a, b saga.Table) int { return strings.Compare(a.String(), b.String()) }

func (a *applier) applyPublications(ctx context.Context) error {
	for _, want := range a.publications() {
		if err := a.applyPublication(ctx, want); err != nil {
			return err
		}
		if ctx.Err() != nil {
			return nil // run says how far it came
		}
	}
	return nil
}

func (a *applier) applyPublication(ctx context.Context, want publication) error {
	action := "publication " + want.name
	change := Change{System: "postgres", Kind: "publication", Name: want.name}
	// In one transaction, so that no change is ever decoded in between.
	err := pgx.BeginFunc(ctx, a.conn, func(tx pgx.Tx) error {
		is, err := readPublication(ctx, tx, want.name)
		if err != nil {
			return err
		}
		statements := want.statements(is)
		change.Action, change.Detail = want.describe(is, len(statements) > 0)
		for _, sql := range statements {
			if _, err := tx.Exec(ctx, sql); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		return postgres.Classify(action, err)
	}
	a.done(change)
	return nil
}

// published is a publication as the database has it.
type published struct {
	publication
	there   bool
	version int // of the server
	// plain says that it publishes every operation, under the root of a
	// partitioned table, with generated columns where the server can.
	plain bool
	// filtered says that it has row filters, column lists or whole schemas, none
	// of which are Capsaga's.
	filtered bool
	schemas  bool
}

// A setting that a server of an older version does not know is null.
const publicationQuery = `
SELECT p.oid, p.puballtables,
       p.pubinsert AND p.pubupdate AND p.pubdelete AND p.pubtruncate AND p.pubviaroot
         AND coalesce(to_jsonb(p)->>'pubgencols', 's') = 's',
       EXISTS (SELECT FROM pg_publication_rel r WHERE r.prpubid = p.oid AND (r.prqual IS NOT NULL OR r.prattrs IS NOT NULL)),
       EXISTS (SELECT FROM pg_publication_namespace s WHERE s.pnpubid = p.oid)
FROM pg_publication p WHERE p.pubname = $1`

const publishedTablesQuery = `
SELECT n.nspname, c.relname FROM pg_publication_rel r
JOIN pg_class c ON c.oid = r.prrelid JOIN pg_namespace n ON n.oid = c.relnamespace WHERE r.prpubid = $1`

func readPublication(ctx context.Context, q postgres.Querier, name string) (is published, err error) {
	is.name = name
	if err := q.QueryRow(ctx, "SELECT current_setting('server_version_num')::int").Scan(&is.version); err != nil {
		return is, err
	}
	rows, err := q.Query(ctx, publicationQuery, name)
	if err != nil {
		return is, err
	}
	var oid uint32
	_, err = pgx.ForEachRow(rows, []any{&oid, &is.all, &is.plain, &is.filtered, &is.schemas}, func() error {
		is.there = true
		return nil
	})
	if err != nil || !is.there {
		return is, err
	}
	if rows, err = q.Query(ctx, publishedTablesQuery, oid); err != nil {
		return is, err
	}
	is.tables, err = pgx.CollectRows(rows, func(row pgx.CollectableRow) (t saga.Table, err error) {
		err = row.Scan(&t.Schema, &t.Name)
		return t, err
	})
	slices.SortFunc(is.tables, compareTables)
	return is, err
}

// statements returns what makes the publication as it is the one that is wanted.
func (want publication) statements(is published) []string {
	name := pgx.Identifier{want.name}.Sanitize()
	settings := "(publish = 'insert, update, delete, truncate', publish_via_partition_root = true"
	if is.version >= 180000 {
		settings += ", publish_generated_columns = stored"
	}
	settings += ")"
	create := "CREATE PUBLICATION " + name + want.target(" FOR ") + " WITH " + settings
	sameTables := slices.Equal(want.tables, is.tables) && !is.filtered && !is.schemas
	switch {
	case !is.there:
		return []string{create}
	case want.all != is.all, !want.all && !sameTables && len(want.tables) == 0:
		// Neither all tables nor none can be said in an ALTER.
		return []string{"DROP PUBLICATION " + name, create}
	}
	var statements []string
	if !is.plain {
		statements = append(statements, "ALTER PUBLICATION "+name+" SET "+settings)
	}
	if !want.all && !sameTables {
		statements = append(statements, "ALTER PUBLICATION "+name+want.target(" SET "))
	}
	return statements
}

// target names the tables. ONLY keeps tables that inherit out, which are tables
// of their own; of a partitioned table all partitions count anyway.
func (want publication) target(verb string) string {
	if want.all {
		return verb + "ALL TABLES"
	}
	if len(want.tables) == 0 {
		return ""
	}
	var names []string
	for _, t := range want.tables {
		names = append(names, "ONLY "+pgx.Identifier{t.Schema, t.Name}.Sanitize())
	}
	return verb + "TABLE " + strings.Join(names, ", ")
}

func (want publication) describe(is published, differs bool) (Action, string) {
	switch {
	case !is.there:
		return Created, want.summary()
	case differs:
		return Changed, fmt.Sprintf("from %s to %s", is.summary(), want.summary())
	}
	return Unchanged, ""
}

func (want publication) summary() string {
	if want.all {
		return "all tables"
	}
	if len(want.tables) == 0 {
		return "no tables"
	}
	var names []string
	for _, t := range want.tables {
		names = append(names, t.String())
	}
	return strings.Join(names, ", ")
}
