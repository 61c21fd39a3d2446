package catalog_test

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/capsaga/capsaga/internal/catalog"
	"github.com/capsaga/capsaga/saga"
)

// head begins a catalog whose entity's fields start in line 4.
const head = "version: 1\nentities:\n  products:\n"

func TestParseProblems(t *testing.T) {
	const table, key, sinks = "    table: public.products\n", "    key: [id]\n", "    sinks: {redis: {}}\n"
	cases := []struct {
		name, content string
		want          []string // each problem as line: field: part of its message
	}{
		{"empty", "", []string{"c.yaml:1: the file is empty"}},
		{"only a comment", "# nothing\n", []string{"c.yaml:1: the file is empty"}},
		{"not YAML", "version: 1\nentities: [\n", []string{"not YAML"}},
		{"a tab", "version: 1\nentities:\n\tx: 1\n", []string{"c.yaml:3: not YAML"}},
		{"invalid UTF-8", "version: \xff\n", []string{"not YAML"}},
		{"a list", "- 1\n", []string{"c.yaml:1: want fields, got a list", "version: missing", "entities: missing"}},
		{"two documents", head + table + key + sinks + "---\nversion: 1\n", []string{"c.yaml:7: a second YAML document"}},
		{"an alias", head + table + "    key: &k [id]\n    sinks: {redis: *k}\n", []string{"c.yaml:5: anchors", "c.yaml:6: anchors"}},
		{"a merge key", head + table + key + "    sinks: {redis: {}, <<: {}}\n", []string{"c.yaml:6: entities.products.sinks: want a name as text"}},
		{"no version", "entities:\n  p:\n    table: p\n" + key + sinks, []string{"c.yaml:1: version: missing"}},
		{"other version", strings.Replace(head, "1", "2", 1) + table + key + sinks, []string{"c.yaml:1: version: want 1"}},
		{"version as text", strings.Replace(head, "1", `"1"`, 1) + table + key + sinks, []string{"c.yaml:1: version: want 1, the only version there is, got text"}},
		{"unknown field at the top", "versoin: 1\n" + head + table + key + sinks, []string{"c.yaml:1: versoin: unknown field: want version, kafka_tables, kafka, ledger, streams or entities"}},
		{"unknown field", head + table + key + sinks + "    keys: [id]\n", []string{"c.yaml:7: entities.products.keys: unknown field: want table, key, policy or sinks"}},
		{"unknown field that ends like a known one", head + table + key + "    sinks: {redis: {x.ttl: 5s}}\n", []string{"entities.products.sinks.redis.x.ttl: unknown field: want ttl, tombstone_ttl or policy"}},
		{"unknown sink", head + table + key + "    sinks: {mongo: {}}\n", []string{"c.yaml:6: entities.products.sinks.mongo: unknown field: want redis, kafka or elasticsearch"}},
		{"field twice", head + table + key + key + sinks, []string{"c.yaml:6: entities.products.key: given twice: the first is in line 5"}},
		{"entity twice", head + table + key + sinks + "  products:\n    table: b\n" + key + sinks, []string{"c.yaml:7: entities.products: given twice: the first is in line 3"}},
		{"no entities", "version: 1\nentities: {}\n", []string{"c.yaml:2: entities: empty"}},
		{"null entities", "version: 1\nentities:\n", []string{"entities: empty"}},
		{"entities as a list", "version: 1\nentities: [a]\n", []string{"c.yaml:2: entities: want fields, got a list"}},
		{"bad entity name", "version: 1\nentities:\n  Products:\n" + table + key + sinks, []string{`c.yaml:3: entities.Products: "Products": an entity's name is`}},
		{"long entity name", "version: 1\nentities:\n  " + strings.Repeat("a", 201) + ":\n" + table + key + sinks, []string{"an entity's name has at most 200 bytes"}},
		{"nothing in an entity", "version: 1\nentities:\n  p:\n", []string{"c.yaml:3: entities.p.table: missing", "c.yaml:3: entities.p.key: missing", "c.yaml:3: entities.p.sinks: missing"}},
		{"table is a number", head + "    table: 12\n" + key + sinks, []string{"c.yaml:4: entities.products.table: want text, got a number (12)"}},
		{"table without name", head + "    table: public.\n" + key + sinks, []string{`c.yaml:4: entities.products.table: table "public.": want schema.table`}},
		{"table's name too long", head + "    table: " + strings.Repeat("t", 64) + "\n" + key + sinks, []string{"at most 63 bytes"}},
		{"table of Capsaga", head + "    table: capsaga.saga\n" + key + sinks, []string{"c.yaml:4: entities.products.table: schema capsaga is not for user tables"}},
		{"empty key", head + table + "    key: []\n" + sinks, []string{"c.yaml:5: entities.products.key: empty"}},
		{"key as text", head + table + "    key: id\n" + sinks, []string{"c.yaml:5: entities.products.key: want a list, got text (id)"}},
		{"key column twice", head + table + "    key: [id, id]\n" + sinks, []string{"c.yaml:5: entities.products.key[1]: column id is named twice"}},
		{"key column empty", head + table + "    key: ['']\n" + sinks, []string{"c.yaml:5: entities.products.key[0]: \"\": want the name of a column"}},
		{"key column null", head + table + "    key:\n    - id\n    - ~\n" + sinks, []string{"c.yaml:7: entities.products.key[1]: want text, got nothing"}},
		{"no sinks", head + table + key + "    sinks: {}\n", []string{"c.yaml:6: entities.products.sinks: empty"}},
		{"sinks as a list", head + table + key + "    sinks: [redis]\n", []string{"c.yaml:6: entities.products.sinks: want fields, got a list"}},
		{"two entities on a table", head + table + key + sinks + "  goods:\n" + table + key + sinks, []string{"c.yaml:8: entities.goods.table: public.products is the table of entity products already"}},
		{"the same table without schema", head + table + key + sinks + "  goods:\n    table: products\n" + key + sinks, []string{"c.yaml:8: entities.goods.table"}},
		{"ttl without unit", head + table + key + "    sinks: {redis: {ttl: 60}}\n", []string{`c.yaml:6: entities.products.sinks.redis.ttl: "60": want a time with its unit`}},
		{"ttl negative", head + table + key + "    sinks: {redis: {ttl: -1s}}\n", []string{"entities.products.sinks.redis.ttl: -1s is negative"}},
		{"ttl in nanoseconds", head + table + key + "    sinks: {redis: {ttl: 1ns}}\n", []string{"entities.products.sinks.redis.ttl: 1ns: the least is 1ms"}},
		{"ttl a boolean", head + table + key + "    sinks: {redis: {ttl: true}}\n", []string{"want a time such as 90s, 5m or 24h, got a boolean"}},
		{"tombstone too short", head + table + key + "    sinks: {redis: {tombstone_ttl: 1ms}}\n", []string{"entities.products.sinks.redis.tombstone_ttl: 1ms: the least is 1s"}},
		{"partitions negative", head + table + key + "    sinks: {kafka: {partitions: -1}}\n", []string{"entities.products.sinks.kafka.partitions: -1: want a whole number from 1"}},
		{"partitions zero", head + table + key + "    sinks: {kafka: {partitions: 0}}\n", []string{"0: want a whole number from 1"}},
		{"partitions huge", head + table + key + "    sinks: {kafka: {partitions: 99999999999999999999}}\n", []string{"entities.products.sinks.kafka.partitions: want a whole number"}},
		{"partitions as text", head + table + key + "    sinks: {kafka: {partitions: '4'}}\n", []string{"want a whole number, got text (4)"}},
		{"partitions a fraction", head + table + key + "    sinks: {kafka: {partitions: 1.5}}\n", []string{"want a whole number, got a number (1.5)"}},
		{"replication zero", head + table + key + "    sinks: {kafka: {replication: 0}}\n", []string{"entities.products.sinks.kafka.replication: 0"}},
		{"cleanup", head + table + key + "    sinks: {kafka: {cleanup: keep}}\n", []string{`entities.products.sinks.kafka.cleanup: "keep": want compact, delete or`}},
		{"mappings as text", head + table + key + "    sinks: {elasticsearch: {mappings: dynamic}}\n", []string{"entities.products.sinks.elasticsearch.mappings: want an object, got text"}},
		{"not a number for JSON", head + table + key + "    sinks: {elasticsearch: {settings: {a: .nan}}}\n", []string{"elasticsearch.settings.a: the number .nan has no form in JSON"}},
		{"own tag", head + table + key + "    sinks: {elasticsearch: {settings: {a: !mine x}}}\n", []string{"elasticsearch.settings.a: the unknown type !mine has no form in JSON"}},
		{"twice in mappings", head + table + key + "    sinks: {elasticsearch: {mappings: {a: 1, a: 2}}}\n", []string{"elasticsearch.mappings.a: given twice"}},
		{"deep", head + table + key + "    sinks: {elasticsearch: {mappings: " + strings.Repeat("{a: ", 200) + "1" + strings.Repeat("}", 200) + "}}\n", []string{"nested deeper than 100 levels"}},
		{"kafka_tables other text", "kafka_tables: some\n" + head + table + key + sinks, []string{"c.yaml:1: kafka_tables: want all, or a list"}},
		{"kafka_tables twice", "kafka_tables: [a, public.a]\n" + head + table + key + sinks, []string{"c.yaml:1: kafka_tables[1]: public.a is listed twice"}},
		{"kafka sink not in kafka_tables", "kafka_tables: [a]\n" + head + table + key + "    sinks: {kafka: {}}\n", []string{"c.yaml:7: entities.products.sinks.kafka: public.products is not in kafka_tables (line 1)"}},
		{"policy as text", head + table + key + "    policy: skip\n" + sinks, []string{"c.yaml:6: entities.products.policy: want fields, got text (skip)"}},
		{"unknown reaction", head + table + key + "    policy: {on_reject: ignore}\n" + sinks, []string{`c.yaml:6: entities.products.policy.on_reject: "ignore": want compensate, park or skip`}},
		{"reaction a boolean", head + table + key + "    policy:\n      on_reject: true\n" + sinks, []string{"c.yaml:7: entities.products.policy.on_reject: want text, got a boolean (true)"}},
		{"unknown field of a policy", head + table + key + "    policy: {park: 5m}\n" + sinks, []string{"c.yaml:6: entities.products.policy.park: unknown field: want on_reject or park_after"}},
		{"park_after without unit", head + table + key + "    policy: {park_after: 5}\n" + sinks, []string{`c.yaml:6: entities.products.policy.park_after: "5": want a time with its unit`}},
		{"park_after too short", head + table + key + "    policy: {park_after: 1ms}\n" + sinks, []string{"entities.products.policy.park_after: 1ms: the least is 1s"}},
		{"policy of redis", head + table + key + "    sinks: {redis: {policy: {on_reject: x}}}\n", []string{`c.yaml:6: entities.products.sinks.redis.policy.on_reject: "x"`}},
		{"policy of kafka", head + table + key + "    sinks:\n      kafka:\n        policy: {park_after: -1s}\n", []string{"c.yaml:8: entities.products.sinks.kafka.policy.park_after: -1s is negative"}},
		{"policy of elasticsearch", head + table + key + "    sinks: {elasticsearch: {policy: [park]}}\n", []string{"c.yaml:6: entities.products.sinks.elasticsearch.policy: want fields, got a list"}},
		{"kafka as text", "kafka: yes please\n" + head + table + key + sinks, []string{"c.yaml:1: kafka: want fields, got text"}},
		{"transaction metadata as text", "kafka: {transaction_metadata: some}\n" + head + table + key + sinks, []string{"c.yaml:1: kafka.transaction_metadata: want true or false, got text (some)"}},
		{"unknown decimal mode", "kafka:\n  decimal_handling_mode: exact\n" + head + table + key + sinks, []string{`c.yaml:2: kafka.decimal_handling_mode: "exact": want string, precise or double`}},
		{"decimal mode as a number", "kafka: {decimal_handling_mode: 2}\n" + head + table + key + sinks, []string{"c.yaml:1: kafka.decimal_handling_mode: want text, got a number (2)"}},
		{"unknown time mode", "kafka: {time_precision_mode: Connect}\n" + head + table + key + sinks, []string{`c.yaml:1: kafka.time_precision_mode: "Connect": want adaptive, adaptive_time_microseconds, connect, isostring, microseconds, nanoseconds or structured`}},
		{"unknown field of kafka", "kafka: {time_mode: connect}\n" + head + table + key + sinks, []string{"c.yaml:1: kafka.time_mode: unknown field: want transaction_metadata, decimal_handling_mode or time_precision_mode"}},
		{"ledger as text", "ledger: 720h\n" + head + table + key + sinks, []string{"c.yaml:1: ledger: want fields, got text (720h)"}},
		{"unknown field of the ledger", "ledger: {keep: 720h}\n" + head + table + key + sinks, []string{"c.yaml:1: ledger.keep: unknown field: want retention"}},
		{"retention too short", "ledger:\n  retention: 30m\n" + head + table + key + sinks, []string{"c.yaml:2: ledger.retention: 30m: the least is 1h0m0s"}},
		{"retention in days", "ledger: {retention: 30d}\n" + head + table + key + sinks, []string{`c.yaml:1: ledger.retention: "30d": want a time with its unit`}},
		{"many at once", "version: 3\nkafka_tables: 1\nentities:\n  A: {}\n  b: {table: 1, key: [], sinks: {}}\n", []string{
			"c.yaml:1: version", "c.yaml:2: kafka_tables", "c.yaml:4: entities.A: ", "c.yaml:4: entities.A.table: missing",
			"c.yaml:5: entities.b.table: want text", "c.yaml:5: entities.b.key: empty", "c.yaml:5: entities.b.sinks: empty",
		}},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			_, err := catalog.Parse("c.yaml", []byte(c.content))
			var problems catalog.Problems
			require.ErrorAs(t, err, &problems)
			var failure *saga.Error
			require.ErrorAs(t, err, &failure)
			assert.Equal(t, saga.Rejected, failure.Class)
			for _, want := range c.want {
				assert.Contains(t, err.Error(), want)
			}
			for _, p := range problems {
				assert.Positive(t, p.Line, "every problem of a file has its line: %s", p)
				assert.Equal(t, "c.yaml", p.File)
			}
			if len(c.want) > 1 {
				assert.GreaterOrEqual(t, len(problems), len(c.want), "all problems at once")
			} else {
				assert.Len(t, problems, 1, "one fault, one problem")
			}
		})
	}
}

func TestLoadUnreadable(t *testing.T) {
	folder := t.TempDir()
	large := filepath.Join(folder, "large.yaml")
	require.NoError(t, os.WriteFile(large, []byte(strings.Repeat("#", 1<<20+1)), 0o600))
	for _, path := range []string{filepath.Join(folder, "absent.yaml"), folder, large} {
		_, err := catalog.Load(path)
		require.Error(t, err)
		assert.Contains(t, err.Error(), path)
		assert.Contains(t, err.Error(), "CAPSAGA_CATALOG")
	}
	_, err := catalog.Load(filepath.Join(folder, "absent.yaml"))
	assert.True(t, errors.Is(err, fs.ErrNotExist))
	_, err = catalog.Load("absent.yaml")
	require.Error(t, err)
	working, wdErr := os.Getwd()
	require.NoError(t, wdErr)
	assert.Contains(t, err.Error(), filepath.Join(working, "absent.yaml"), "a relative path is told in full")
}

func TestParseDefaults(t *testing.T) {
	f, err := catalog.Parse("c.yaml", []byte(head+"    table: products\n    key: [id]\n    sinks: {redis: , kafka: , elasticsearch: }\n"))
	require.NoError(t, err)
	assert.Nil(t, f.Catalog.KafkaTables, "all")
	e := f.Catalog.Entities["products"]
	assert.Equal(t, saga.Table{Schema: "public", Name: "products"}, e.Table)
	assert.Equal(t, &saga.RedisSink{TombstoneTTL: 24 * time.Hour}, e.Redis)
	assert.Equal(t, &saga.KafkaSink{Partitions: 1, Replication: 1, Cleanup: "compact"}, e.Kafka)
	assert.Equal(t, &saga.ElasticsearchSink{}, e.Elasticsearch)
	assert.Equal(t, saga.Policy{OnReject: saga.OnRejectPark, ParkAfter: saga.Duration(15 * time.Minute)}, e.Policy)
	assert.Equal(t, 720*time.Hour, f.Catalog.LedgerRetention)
	assert.Equal(t, 4, f.Line("entities.products.table"))
	assert.Equal(t, 6, f.Line("entities.products.sinks.kafka.partitions"), "the nearest field that is there")
	assert.Zero(t, f.Line("nowhere"))
}

// A sink's policy goes before its entity's, field by field.
func TestParsePolicies(t *testing.T) {
	f, err := catalog.Parse("c.yaml", []byte(`version: 1
ledger: {retention: 48h}
entities:
  products:
    table: products
    key: [id]
    policy: {park_after: 5m}
    sinks:
      redis: {policy: {on_reject: skip}}
      kafka: {policy: {park_after: 1h}}
      elasticsearch: {policy: {on_reject: compensate, park_after: 10s}}
`))
	require.NoError(t, err)
	assert.Equal(t, 48*time.Hour, f.Catalog.Retention())
	e := f.Catalog.Entities["products"]
	assert.Equal(t, saga.Policy{OnReject: saga.OnRejectSkip, ParkAfter: saga.Duration(5 * time.Minute)}, e.PolicyFor(saga.Redis))
	assert.Equal(t, saga.Policy{OnReject: saga.OnRejectPark, ParkAfter: saga.Duration(time.Hour)}, e.PolicyFor(saga.Kafka))
	assert.Equal(t, saga.Policy{OnReject: saga.OnRejectCompensate, ParkAfter: saga.Duration(10 * time.Second)}, e.PolicyFor(saga.Elasticsearch))
}
