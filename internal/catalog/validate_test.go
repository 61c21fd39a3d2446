package catalog_test

import (
	"context"
	"fmt"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/capsaga/capsaga/internal/catalog"
	"github.com/capsaga/capsaga/internal/stacktest"
	"github.com/capsaga/capsaga/saga"
)

// fixture holds a table of each kind; what it is for is in TestValidateTable.
const fixture = `
CREATE TABLE good (id bigint PRIMARY KEY, name text NOT NULL UNIQUE, note text UNIQUE);
CREATE VIEW a_view AS SELECT * FROM good;
CREATE MATERIALIZED VIEW a_matview AS SELECT * FROM good;
CREATE UNLOGGED TABLE unlogged (id bigint PRIMARY KEY);
CREATE TABLE parent (id bigint, region text, PRIMARY KEY (id, region)) PARTITION BY LIST (region);
CREATE TABLE part_eu PARTITION OF parent FOR VALUES IN ('eu');
CREATE TABLE sub PARTITION OF parent FOR VALUES IN ('us') PARTITION BY HASH (id);
CREATE TABLE sub_0 PARTITION OF sub FOR VALUES WITH (MODULUS 1, REMAINDER 0);
CREATE TABLE careless (id bigint PRIMARY KEY) PARTITION BY HASH (id);
CREATE TABLE careless_0 PARTITION OF careless FOR VALUES WITH (MODULUS 1, REMAINDER 0);
ALTER TABLE careless_0 REPLICA IDENTITY NOTHING;
CREATE TABLE keyless (id bigint NOT NULL);
CREATE TABLE full_identity (id bigint NOT NULL UNIQUE);
ALTER TABLE full_identity REPLICA IDENTITY FULL;
CREATE TABLE partial (id bigint NOT NULL, live boolean);
CREATE UNIQUE INDEX partial_key ON partial (id) WHERE live;
CREATE TABLE deferrable_key (id bigint PRIMARY KEY DEFERRABLE);
CREATE TABLE expression (id text NOT NULL);
CREATE UNIQUE INDEX ON expression (lower(id));
CREATE TABLE invalid_key (id bigint NOT NULL);
CREATE UNIQUE INDEX invalid_key_id ON invalid_key (id);
UPDATE pg_index SET indisvalid = false WHERE indexrelid = 'invalid_key_id'::regclass;
CREATE TABLE included (id bigint NOT NULL, x bigint NOT NULL);
CREATE UNIQUE INDEX included_key ON included (id) INCLUDE (x);
ALTER TABLE included REPLICA IDENTITY USING INDEX included_key;
CREATE TABLE pair (a int, b text, PRIMARY KEY (b, a));
CREATE TABLE virtual (id bigint PRIMARY KEY, twice bigint GENERATED ALWAYS AS (id * 2) VIRTUAL, thrice bigint GENERATED ALWAYS AS (id * 3) STORED);
CREATE TABLE floats (id float8 PRIMARY KEY);
CREATE TABLE intervals (id interval PRIMARY KEY);
CREATE TABLE documents (id jsonb PRIMARY KEY);
CREATE TABLE numbers (id numeric PRIMARY KEY);
CREATE TABLE scaled (id numeric(10,2) PRIMARY KEY);
CREATE DOMAIN sku AS float8;
CREATE TABLE domains (id sku PRIMARY KEY);
CREATE TYPE color AS ENUM ('red');
CREATE TABLE enums (id color PRIMARY KEY);
CREATE TABLE arrays (id int[] PRIMARY KEY);
CREATE COLLATION loose (provider = icu, locale = 'und-u-ks-level2', deterministic = false);
CREATE TABLE loosely (id text COLLATE loose PRIMARY KEY);
CREATE SCHEMA "Sales";
CREATE TABLE "Sales"."Order ""Lines""" ("Id" uuid PRIMARY KEY);
`

func connect(t *testing.T, url string) *pgx.Conn {
	t.Helper()
	conn, err := pgx.Connect(t.Context(), url)
	require.NoError(t, err)
	t.Cleanup(func() { _ = conn.Close(t.Context()) })
	return conn
}

func run(t *testing.T, conn *pgx.Conn, sql string, args ...any) {
	t.Helper()
	_, err := conn.Exec(t.Context(), fmt.Sprintf(sql, args...))
	require.NoError(t, err)
}

func entity(table, key string) string {
	return fmt.Sprintf("version: 1\nkafka_tables: []\nentities:\n  thing:\n    table: %s\n    key: %s\n    sinks: {redis: {}}\n", table, key)
}

func TestValidateTable(t *testing.T) {
	stack := stacktest.New(t)
	conn := connect(t, stack.PostgresURL)
	run(t, conn, "%s", fixture)
	cases := []struct {
		name, catalog string
		want          []string // nothing: the catalog is sound
	}{
		{"plain", entity("good", "[id]"), nil},
		{"a unique key that is not the replica identity", entity("good", "[name]"), []string{"c.yaml:6: entities.thing.key: the replica identity of good lacks name"}},
		{"partitioned", entity("parent", "[region, id]"), []string{"c.yaml:5: warning: entities.thing.table: PostgreSQL publishes no TRUNCATE and no DETACH of a single partition of public.parent"}},
		{"full identity", entity("full_identity", "[id]"), nil},
		{"index with included columns", entity("included", "[id]"), nil},
		{"composite in another order", entity("pair", "[a, b]"), nil},
		{"scaled numeric", entity("scaled", "[id]"), nil},
		{"enum", entity("enums", "[id]"), nil},
		{"quoted names", entity(`'Sales.Order "Lines"'`, "[Id]"), nil},

		{"absent", entity("goods", "[id]"), []string{"c.yaml:5: entities.thing.table: table public.goods does not exist in database " + stack.Database + ": did you mean public.good?"}},
		{"in another schema", entity("sales.good", "[id]"), []string{"did you mean public.good?"}},
		{"like nothing", entity("quite_different", "[id]"), []string{"does not exist in database " + stack.Database}},
		{"a quote in the name", entity(`"x'; DROP TABLE good; --"`, "[id]"), []string{"does not exist"}},
		{"view", entity("a_view", "[id]"), []string{"c.yaml:5: entities.thing.table: public.a_view is a view"}},
		{"materialized view", entity("a_matview", "[id]"), []string{"public.a_matview is a materialized view"}},
		{"unlogged", entity("unlogged", "[id]"), []string{`public.unlogged is unlogged, so its changes reach no stream: ALTER TABLE "public"."unlogged" SET LOGGED`}},
		{"partition", entity("part_eu", "[id, region]"), []string{"public.part_eu is a partition of public.parent"}},
		{"partition of a partition", entity("sub_0", "[id, region]"), []string{"public.sub_0 is a partition of public.parent"}},

		{"no such column", entity("good", "[it]"), []string{"c.yaml:6: entities.thing.key[0]: public.good has no column it: did you mean id?"}},
		{"nullable", entity("good", "[note]"), []string{`c.yaml:6: entities.thing.key[0]: column note may be null`}},
		{"part of the key", entity("pair", "[a]"), []string{"c.yaml:6: entities.thing.key: no unique index of public.pair on exactly these columns identifies a row: the table has the unique key [b, a]"}},
		{"more than the key", entity("included", "[id, x]"), []string{"no unique index of public.included", "the replica identity of included lacks x"}},
		{"no unique key", entity("keyless", "[id]"), []string{"no unique index of public.keyless on exactly these columns identifies a row: the table has no unique key at all", "keyless has no replica identity"}},
		{"partial", entity("partial", "[id]"), []string{"index partial_key covers only some rows", "partial has no replica identity"}},
		{"deferrable", entity("deferrable_key", "[id]"), []string{"index deferrable_key_pkey is deferrable", "deferrable_key has no replica identity"}},
		{"invalid", entity("invalid_key", "[id]"), []string{"index invalid_key_id is not valid", "invalid_key has no replica identity"}},
		{"expression", entity("expression", "[id]"), []string{"the table has no unique key at all", "expression has no replica identity"}},
		{"a partition without identity", entity("careless", "[id]"), []string{"c.yaml:6: entities.thing.key: careless_0 has no replica identity"}},

		{"float", entity("floats", "[id]"), []string{"c.yaml:6: entities.thing.key[0]: column id is of type float8"}},
		{"interval", entity("intervals", "[id]"), []string{"column id is of type interval"}},
		{"jsonb", entity("documents", "[id]"), []string{"column id is of type jsonb"}},
		{"domain over float", entity("domains", "[id]"), []string{"column id is of type float8"}},
		{"numeric", entity("numbers", "[id]"), []string{"c.yaml:6: warning: entities.thing.key[0]: column id is numeric without a scale"}},
		{"array", entity("arrays", "[id]"), []string{"warning: entities.thing.key[0]: column id is of type _int4"}},
		{"nondeterministic collation", entity("loosely", "[id]"), []string{"warning: entities.thing.key[0]: column id takes different texts as equal"}},
		{"virtual column", entity("virtual", "[id]"), []string{"c.yaml:5: warning: entities.thing.table: column twice is a virtual generated column"}},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			f, err := catalog.Parse("c.yaml", []byte(c.catalog))
			require.NoError(t, err)
			problems, err := catalog.Validate(t.Context(), conn, f, catalog.Options{Prefix: stack.Prefix})
			require.NoError(t, err)
			problems = withoutServer(problems)
			for _, want := range c.want {
				assert.Contains(t, problems.Error(), want)
			}
			if len(c.want) == 0 {
				assert.Empty(t, problems)
			}
			if strings.Contains(strings.Join(c.want, ""), "warning: ") {
				assert.NoError(t, problems.Err(), "warnings do not stop apply")
			} else if len(c.want) > 0 {
				assert.Error(t, problems.Err())
			}
		})
	}
}

// withoutServer drops what other tests' slots on the shared server give rise to.
func withoutServer(problems catalog.Problems) (rest catalog.Problems) {
	for _, p := range problems {
		if p.Field != "postgres" {
			rest = append(rest, p)
		}
	}
	return rest
}

func TestValidateKafkaTables(t *testing.T) {
	stack := stacktest.New(t)
	conn := connect(t, stack.PostgresURL)
	run(t, conn, "%s", fixture)
	const products = "entities:\n  good:\n    table: good\n    key: [id]\n    sinks: {kafka: {}}\n"
	validate := func(text string, o catalog.Options) catalog.Problems {
		f, err := catalog.Parse("c.yaml", []byte(text))
		require.NoError(t, err)
		o.Prefix = stack.Prefix
		problems, err := catalog.Validate(t.Context(), conn, f, o)
		require.NoError(t, err)
		return withoutServer(problems)
	}

	all := validate("version: 1\nkafka_tables: all\n"+products, catalog.Options{})
	var named []string
	for _, p := range all {
		assert.Equal(t, "kafka_tables", p.Field)
		assert.Equal(t, 2, p.Line)
		assert.Equal(t, catalog.SeverityError, p.Severity)
		table, _, _ := strings.Cut(p.Message, " ")
		named = append(named, table)
	}
	assert.Equal(t, []string{"public.careless_0", "public.deferrable_key", "public.expression", "public.invalid_key", "public.keyless", "public.partial"}, named, "every table that would refuse UPDATE and DELETE, and no other")

	for _, p := range validate("version: 1\n"+products, catalog.Options{AllowKeyless: true}) {
		assert.Equal(t, catalog.SeverityWarning, p.Severity, "%s", p)
	}

	listed := validate("version: 1\nkafka_tables:\n- good\n- keyless\n- a_view\n- nowhere\n- careless\n"+products, catalog.Options{})
	require.Len(t, listed, 4)
	assert.Contains(t, listed[0].String(), "c.yaml:4: kafka_tables[1]: public.keyless has no replica identity")
	assert.Contains(t, listed[1].String(), "c.yaml:5: kafka_tables[2]: public.a_view is a view")
	assert.Contains(t, listed[2].String(), "c.yaml:6: kafka_tables[3]: table public.nowhere does not exist")
	assert.Contains(t, listed[3].String(), "c.yaml:7: kafka_tables[4]: public.careless_0 has no replica identity")
}

func TestValidateTopicLength(t *testing.T) {
	stack := stacktest.New(t)
	conn := connect(t, stack.PostgresURL)
	long := strings.Repeat("ü", 31) // 62 bytes, 248 once escaped
	run(t, conn, `CREATE TABLE "%s" (id bigint PRIMARY KEY)`, long)
	for _, listed := range []string{"all", "[" + long + "]"} {
		f, err := catalog.Parse("c.yaml", []byte("version: 1\nkafka_tables: "+listed+"\nentities:\n  a:\n    table: "+long+"\n    key: [id]\n    sinks: {kafka: {}}\n"))
		require.NoError(t, err)
		problems, err := catalog.Validate(t.Context(), conn, f, catalog.Options{Prefix: stack.Prefix})
		require.NoError(t, err)
		require.Error(t, problems.Err())
		assert.Contains(t, problems.Err().Error(), "c.yaml:2: kafka_tables")
		assert.Contains(t, problems.Err().Error(), "Kafka allows 249")
	}
}

// An ordinary role is told each right that it lacks, with the statement that
// gives it, and with all of them given nothing is left to complain of.
func TestValidateRights(t *testing.T) {
	stack := stacktest.New(t)
	admin := connect(t, stack.PostgresURL)
	role := stack.Database + "_role"
	run(t, admin, `CREATE TABLE good (id bigint PRIMARY KEY); CREATE ROLE %s LOGIN`, role)
	t.Cleanup(func() { dropRole(t, stack.PostgresURL, role) })
	conn := connect(t, strings.Replace(stack.PostgresURL, "capsaga@", role+"@", 1))
	validate := func(kafkaTables string) string {
		f, err := catalog.Parse("c.yaml", []byte("version: 1\nkafka_tables: "+kafkaTables+"\nentities:\n  good:\n    table: good\n    key: [id]\n    sinks: {redis: {}, kafka: {}}\n"))
		require.NoError(t, err)
		problems, err := catalog.Validate(t.Context(), conn, f, catalog.Options{Prefix: stack.Prefix})
		require.NoError(t, err)
		return problems.Errors().Error()
	}

	got := validate("all")
	for _, want := range []string{
		fmt.Sprintf("postgres: role %s may not replicate: ALTER ROLE %q REPLICATION", role, role),
		fmt.Sprintf("GRANT CREATE ON DATABASE %q TO %q", stack.Database, role),
		"c.yaml:2: kafka_tables: PostgreSQL lets superusers alone publish all tables",
		fmt.Sprintf(`GRANT SELECT, INSERT, UPDATE, DELETE ON "public"."good" TO %q`, role),
		"c.yaml:5: entities.good.table: role " + role + " does not own public.good",
	} {
		assert.Contains(t, got, want)
	}

	run(t, admin, `ALTER ROLE %s REPLICATION; GRANT CREATE ON DATABASE %s TO %s; ALTER TABLE good OWNER TO %s`, role, stack.Database, role, role)
	assert.Empty(t, validate("[good]"))
	assert.Contains(t, validate("all"), "superusers alone")
	run(t, admin, "CREATE PUBLICATION kafkapub FOR ALL TABLES")
	assert.Empty(t, validate("all"), "a superuser made it: nothing is left to do")
}

// dropRole removes a role with what it owns; the test's own context has ended.
func dropRole(t *testing.T, url, role string) {
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	conn, err := pgx.Connect(ctx, url)
	require.NoError(t, err)
	defer func() { _ = conn.Close(ctx) }()
	_, err = conn.Exec(ctx, fmt.Sprintf("DROP OWNED BY %s CASCADE; DROP ROLE %s", role, role))
	assert.NoError(t, err)
}

func TestValidateWithoutServer(t *testing.T) {
	conn := connect(t, stacktest.New(t).PostgresURL)
	require.NoError(t, conn.Close(t.Context()))
	_, err := catalog.Validate(t.Context(), conn, catalog.FileOf(&saga.Catalog{}), catalog.Options{})
	var failure *saga.Error
	require.ErrorAs(t, err, &failure)
	assert.Equal(t, "postgres", failure.System)
}

func TestValidateDemo(t *testing.T) {
	stack := stacktest.New(t)
	conn := connect(t, stack.PostgresURL)
	schema, err := os.ReadFile("../../deploy/demo/schema.sql")
	require.NoError(t, err)
	run(t, conn, "%s", schema)
	run(t, conn, "%s", schema) // again changes nothing
	f, err := catalog.Load("../../deploy/demo/capsaga.yaml")
	require.NoError(t, err)
	problems, err := catalog.Validate(t.Context(), conn, f, catalog.Options{Prefix: stack.Prefix})
	require.NoError(t, err)
	assert.Empty(t, withoutServer(problems))
}
