package catalog

import (
	"context"
	"fmt"
	"slices"

	"github.com/jackc/pgx/v5"

	"github.com/capsaga/capsaga/internal/postgres"
	"github.com/capsaga/capsaga/saga"
)

// Options changes what Validate takes as an error.
type Options struct {
	Prefix saga.Prefix // default saga.DefaultPrefix
	// AllowKeyless makes warnings of tables that a publication would keep from
	// being updated and deleted from.
	AllowKeyless bool
}

// minVersion is the oldest PostgreSQL that Capsaga runs on.
const minVersion = 170000

// Validate checks a catalog against the live database and returns all that is
// wrong, errors and warnings. It changes nothing. The error is the database's,
// when it could not be asked.
func Validate(ctx context.Context, db postgres.Querier, f *File, o Options) (Problems, error) {
	if o.Prefix == "" {
		o.Prefix = saga.DefaultPrefix
	}
	v := &validator{db: db, file: f, options: o, relations: map[saga.Table]*Relation{}}
	if err := v.read(ctx); err != nil {
		return nil, err
	}
	v.checkServer()
	if err := v.checkFailover(ctx); err != nil {
		return nil, err
	}
	for _, name := range f.Catalog.Names() {
		if err := v.checkEntity(ctx, f.Catalog.Entities[name]); err != nil {
			return nil, err
		}
	}
	if f.Catalog.KafkaTables == nil {
		v.checkAllTables()
	} else {
		v.checkListedTables()
	}
	v.problems.sort()
	return v.problems, nil
}

type validator struct {
	db        postgres.Querier
	file      *File
	options   Options
	server    server
	all       []Relation
	relations map[saga.Table]*Relation
	members   map[membership]bool
	problems  Problems
}

func (v *validator) read(ctx context.Context) (err error) {
	if v.server, err = readServer(ctx, v.db, v.options.Prefix); err != nil {
		return err
	}
	if v.all, err = Relations(ctx, v.db); err != nil {
		return err
	}
	for i := range v.all {
		v.relations[v.all[i].Table] = &v.all[i]
	}
	v.members, err = readMembers(ctx, v.db)
	return err
}

func (v *validator) report(s Severity, field, format string, args ...any) {
	v.problems = append(v.problems, Problem{
		File: v.file.Path, Line: v.file.Line(field), Field: field, Severity: s, Message: fmt.Sprintf(format, args...),
	})
}

func (v *validator) fail(field, format string, args ...any) {
	v.report(SeverityError, field, format, args...)
}

func (v *validator) warn(field, format string, args ...any) {
	v.report(SeverityWarning, field, format, args...)
}

// checkServer checks what no line of the catalog is to blame for.
func (v *validator) checkServer() {
	const field = "postgres"
	s := v.server
	role, database := pgx.Identifier{s.User}.Sanitize(), pgx.Identifier{s.Database}.Sanitize()
	if s.VersionNumber < minVersion {
		v.fail(field, "the server is version %s: Capsaga needs 17 or later", s.Version)
	}
	if s.Standby {
		v.fail(field, "the server is a standby: point CAPSAGA_POSTGRES_URL at the primary")
	}
	if s.WALLevel != "logical" {
		v.fail(field, "wal_level is %s: set wal_level = logical in postgresql.conf and restart the server", s.WALLevel)
	}
	free, streams := s.MaxSlots-s.UsedSlots, len(publications)-s.OwnSlots
	switch {
	case !s.HasKafkaSlot && free < 1:
		v.fail(field, "all %d replication slots are taken: raise max_replication_slots and restart the server, or drop a slot that nobody reads", s.MaxSlots)
	case free < streams:
		v.warn(field, "%d of %d replication slots are free and the streams will want %d: raise max_replication_slots", free, s.MaxSlots, streams)
	}
	if s.Superuser || s.Managed {
		return
	}
	if !s.Replication {
		v.fail(field, "role %s may not replicate: ALTER ROLE %s REPLICATION", s.User, role)
	}
	if !s.MayCreate && (s.Publications < len(publications) || !s.Schema) {
		v.fail(field, "role %s may not create schemas and publications in database %s: GRANT CREATE ON DATABASE %s TO %s", s.User, s.Database, database, role)
	}
	if v.file.Catalog.KafkaTables == nil && !s.AllTables {
		v.fail("kafka_tables", "PostgreSQL lets superusers alone publish all tables: ALTER ROLE %s SUPERUSER for the first apply, have a superuser run CREATE PUBLICATION %s FOR ALL TABLES, or list the tables here",
			role, saga.PublicationKafka)
	}
}

// checkAllTables checks what FOR ALL TABLES brings with it.
func (v *validator) checkAllTables() {
	for i := range v.all {
		r := &v.all[i]
		if !r.Publishable() {
			continue
		}
		v.checkTopic("kafka_tables", r)
		if r.Kind == "r" && !v.isEntity(r.Root) {
			v.checkKeyless("kafka_tables", r)
		}
	}
}

func (v *validator) checkListedTables() {
	for i, table := range v.file.Catalog.KafkaTables {
		field := fmt.Sprintf("kafka_tables[%d]", i)
		r := v.checkTable(field, table)
		if r == nil {
			continue
		}
		v.checkTopic(field, r)
		v.checkOwner(field, r, saga.PublicationKafka)
		if v.isEntity(table) {
			continue // its own check says more
		}
		for j := range v.all {
			if part := &v.all[j]; part.Root == table && part.Kind == "r" {
				v.checkKeyless(field, part)
			}
		}
	}
}

func (v *validator) isEntity(table saga.Table) bool {
	for _, e := range v.file.Catalog.Entities {
		if e.Table == table {
			return true
		}
	}
	return false
}

// checkKeyless keeps a publication from taking UPDATE and DELETE away from a
// table of the user's.
func (v *validator) checkKeyless(field string, r *Relation) {
	if r.Identified {
		return
	}
	severity, advice := SeverityError, ", leave it out of an explicit list, or say --allow-keyless"
	if v.options.AllowKeyless {
		severity, advice = SeverityWarning, ""
	}
	v.report(severity, field, "%s has no replica identity, so once it is published PostgreSQL refuses UPDATE and DELETE on it: give it a primary key or ALTER TABLE %s REPLICA IDENTITY FULL%s",
		r.Table, sanitize(r.Table), advice)
}

func (v *validator) checkTopic(field string, r *Relation) {
	if r.IsPartition() {
		return // published under its root
	}
	if _, err := v.options.Prefix.Topic(r.Table); err != nil {
		v.fail(field, "%s", err)
	}
}

// checkOwner: only a table's owner may add it to a publication.
func (v *validator) checkOwner(field string, r *Relation, publication string) {
	if r.Owned || v.server.Superuser || v.members[membership{r.Table, publication}] {
		return
	}
	v.fail(field, "role %s does not own %s, which it takes to publish it: make it a member of the owner's role (GRANT owner TO %s)",
		v.server.User, r.Table, pgx.Identifier{v.server.User}.Sanitize())
}

var relationKinds = map[string]string{"v": "a view", "m": "a materialized view", "f": "a foreign table"}

// checkTable returns the table if its changes can be published.
func (v *validator) checkTable(field string, table saga.Table) *Relation {
	r := v.relations[table]
	switch {
	case r == nil:
		v.fail(field, "table %s does not exist in database %s%s", table, v.server.Database, near(table.String(), v.tableNames()))
	case relationKinds[r.Kind] != "":
		v.fail(field, "%s is %s, which writes no WAL of its own: name the table behind it", table, relationKinds[r.Kind])
	case r.IsPartition():
		v.fail(field, "%s is a partition of %s, under which its changes are published: name that", table, r.Root)
	case r.Persistence == "u":
		v.fail(field, "%s is unlogged, so its changes reach no stream: ALTER TABLE %s SET LOGGED", table, sanitize(table))
	default:
		return r
	}
	return nil
}

func (v *validator) tableNames() []string {
	var names []string
	for i := range v.all {
		if r := &v.all[i]; r.Publishable() && !r.IsPartition() {
			names = append(names, r.Table.String())
		}
	}
	slices.Sort(names)
	return names
}

func sanitize(t saga.Table) string { return pgx.Identifier{t.Schema, t.Name}.Sanitize() }
