package kafkapub_test

import (
	"context"
	"encoding/json"
	"fmt"
	"sort"
	"strings"
	"sync"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/capsaga/capsaga/internal/kafkapub"
	"github.com/capsaga/capsaga/internal/stream"
	"github.com/capsaga/capsaga/saga"
)

// partitioned is a catalog whose tables' topics have several partitions.
func partitioned(partitions int, cleanup string, tables ...string) func(*stream.Config, *kafkapub.Config) {
	return func(_ *stream.Config, c *kafkapub.Config) {
		c.Catalog = &saga.Catalog{Entities: map[string]*saga.Entity{}}
		for _, table := range tables {
			c.Catalog.Entities[table] = &saga.Entity{
				Name: table, Table: saga.Table{Schema: "public", Name: table}, Key: []string{"id"}, Kafka: &saga.KafkaSink{Partitions: partitions, Cleanup: cleanup},
			}
		}
	}
}

// TestTruncateIsInEveryPartition also empties what references the table.
func TestTruncateIsInEveryPartition(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.exec("CREATE TABLE products (id int PRIMARY KEY); CREATE TABLE parts (id int PRIMARY KEY REFERENCES products); CREATE TABLE keyless (n int)")
	r := w.start(partitioned(3, "compact", "products", "parts"))
	w.exec("INSERT INTO products SELECT generate_series(1, 30)")
	w.exec("INSERT INTO parts SELECT generate_series(1, 30)")
	w.exec("INSERT INTO keyless VALUES (1)")
	w.exec("TRUNCATE products CASCADE")
	w.exec("TRUNCATE keyless")
	w.exec("INSERT INTO products SELECT generate_series(1, 30)")
	w.settle(r.positions)

	ids := map[string]bool{}
	for _, table := range []string{"products", "parts"} {
		perPartition := map[int32][]event{}
		for _, e := range w.events(w.topic(table)) {
			require.False(t, ids[e.Headers[saga.HeaderEventID]], "an id twice")
			ids[e.Headers[saga.HeaderEventID]] = true
			perPartition[e.Partition] = append(perPartition[e.Partition], e)
		}
		require.Len(t, perPartition, 3)
		for partition, events := range perPartition {
			at := -1
			for i, e := range events {
				if e.decode(t)["op"] == "t" {
					require.Negative(t, at, "one for each partition")
					at = i
				}
			}
			e := events[at]
			require.Equal(t, string(saga.TruncateKey(saga.Table{Schema: "public", Name: table})), e.Key)
			require.Contains(t, e.Value, `{"before":null,"after":null,"source":`)
			require.Equal(t, table, e.decode(t)["source"].(map[string]any)["table"])
			require.True(t, strings.HasSuffix(e.Headers[saga.HeaderEventID], fmt.Sprint(".", partition)))
			before, after := keysOf(events[:at]), keysOf(events[at+1:])
			if table == "parts" {
				require.Empty(t, after)
				continue
			}
			require.Equal(t, before, after, "the rows that came again")
		}
	}
	keyless := w.events(w.topic("keyless"))
	require.Len(t, keyless, 2)
	require.Equal(t, "t", keyless[1].decode(t)["op"])
	require.Empty(t, keyless[1].Key, "as from Debezium where the topic takes it")
}

func TestAnotherKeyBeginsTheTopicAnew(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.exec("CREATE TABLE products (id int PRIMARY KEY, code text NOT NULL UNIQUE)")
	var mu sync.Mutex
	var rekeyed []saga.Table
	configure := func(_ *stream.Config, c *kafkapub.Config) {
		c.Refill = func(_ context.Context, table saga.Table) error {
			mu.Lock()
			defer mu.Unlock()
			rekeyed = append(rekeyed, table)
			return nil
		}
	}
	r := w.start(configure)
	w.exec("INSERT INTO products VALUES (1, 'a')")
	w.exec("TRUNCATE products")
	w.settle(r.positions)
	r.stop()
	w.exec("INSERT INTO products VALUES (1, 'a')")
	w.exec("ALTER TABLE products DROP CONSTRAINT products_pkey, ADD PRIMARY KEY (code)")
	w.exec("UPDATE products SET id = 2")
	w.exec("INSERT INTO products VALUES (3, 'c')")
	r = w.start(configure)
	w.settle(r.positions)
	r.stop()
	r = w.start(configure)
	w.exec("INSERT INTO products VALUES (4, 'd')")
	w.settle(r.positions)
	var shape []string
	for _, e := range w.events(w.topic("products")) {
		shape = append(shape, fmt.Sprint(e.decode(t)["op"], " ", e.Key))
	}
	marker := "t " + string(saga.TruncateKey(saga.Table{Schema: "public", Name: "products"}))
	require.Equal(t, []string{`c {"id":1}`, marker, `c {"id":1}`, marker, `u {"code":"a"}`, `c {"code":"c"}`, `c {"code":"d"}`}, shape)
	mu.Lock()
	defer mu.Unlock()
	require.Equal(t, []saga.Table{{Schema: "public", Name: "products"}}, rekeyed)
}

// The columns of a key stay in their order when only that changes: other keys would
// lie in other partitions.
func TestAnotherOrderOfTheKeyChangesNothing(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.exec("CREATE TABLE products (id int, region text, PRIMARY KEY (region, id))")
	r := w.start()
	w.exec("INSERT INTO products VALUES (1, 'a')")
	w.settle(r.positions)
	w.exec("ALTER TABLE products DROP CONSTRAINT products_pkey, ADD PRIMARY KEY (id, region)")
	w.exec("INSERT INTO products VALUES (2, 'a')")
	w.settle(r.positions)
	require.Equal(t, []string{`{"region":"a","id":1}`, `{"region":"a","id":2}`}, keysOf(w.events(w.topic("products"))))
}

// emitBackfill writes a backfill's message as the backfill does.
func (w *world) emitBackfill(m saga.BackfillMessage, rows string) {
	w.t.Helper()
	head, err := json.Marshal(m)
	require.NoError(w.t, err)
	w.exec("SELECT pg_logical_emit_message(true, $1, $2::text)", saga.MessageBackfill, string(head)+"\n"+rows)
}

func TestABackfillsRowsAreReadEvents(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.exec("CREATE TABLE products (id int PRIMARY KEY, title text)")
	r := w.start(func(c *stream.Config, _ *kafkapub.Config) { c.Sink = saga.Kafka })
	w.exec("INSERT INTO products VALUES (1, 'live')")
	var oid uint32
	require.NoError(t, w.pool().QueryRow(t.Context(), "SELECT 'products'::regclass::oid").Scan(&oid))
	m := saga.BackfillMessage{
		ID: 5, Kind: saga.BackfillRows, Entity: "products", Table: saga.Table{Schema: "public", Name: "products"}, Sinks: []saga.Sink{saga.Kafka},
		RelationID: oid, ReplicaIdentity: "d", Rows: 2,
		Columns: []saga.BackfillColumn{{Name: "id", TypeOID: 23, TypeModifier: -1, Identity: true}, {Name: "title", TypeOID: 25, TypeModifier: -1}},
	}
	w.emitBackfill(m, `(1,live)(2,"old, one")`)
	w.exec("UPDATE products SET title = 'later'")
	begin := saga.BackfillMessage{ID: 6, Kind: saga.BackfillBegin, Entity: "products", Table: m.Table, Sinks: m.Sinks, Floor: 7}
	w.emitBackfill(begin, "")
	w.settle(r.positions)
	events := w.events(w.topic("products"))
	require.Len(t, events, 5)
	for i, want := range []string{`{"id":1,"title":"live"}`, `{"id":2,"title":"old, one"}`} {
		require.Contains(t, events[1+i].Value, `{"before":null,"after":`+want+`,"source":`)
		require.Contains(t, events[1+i].Value, `"snapshot":"incremental"`)
		require.Equal(t, "r", events[1+i].decode(t)["op"])
	}
	require.Equal(t, []string{`{"id":1}`, `{"id":1}`, `{"id":2}`, `{"id":1}`}, keysOf(events[:4]))
	require.Equal(t, "t", events[4].decode(t)["op"], "what was missed may have been a deletion")
}

func TestTransactionsAreTold(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.exec("CREATE TABLE products (id int PRIMARY KEY); CREATE TABLE parts (id int PRIMARY KEY); CREATE TABLE capsaga.probe (id int)")
	r := w.start(func(_ *stream.Config, c *kafkapub.Config) { c.Catalog = &saga.Catalog{TransactionMetadata: true} })
	w.exec("INSERT INTO capsaga.probe VALUES (1)")
	w.exec("INSERT INTO products VALUES (1), (2); INSERT INTO parts VALUES (1); UPDATE products SET id = 3 WHERE id = 1; DELETE FROM parts")
	w.exec("TRUNCATE parts")
	w.settle(r.positions)

	told := w.events(string(w.stack.Prefix) + ".transaction")
	require.Len(t, told, 4, "a transaction of Capsaga's own tables has no events")
	source := w.events(w.topic("products"))[0].decode(t)["source"].(map[string]any)
	id := fmt.Sprintf("%v:%v", source["txId"], source["lsn"])
	require.Equal(t, fmt.Sprintf(`{"status":"BEGIN","id":%q,"event_count":null,"data_collections":null,"ts_ms":%v}`, id, source["ts_ms"]), told[0].Value)
	require.Equal(t, fmt.Sprintf(`{"status":"END","id":%q,"event_count":6,"data_collections":[{"data_collection":"public.products","event_count":4},{"data_collection":"public.parts","event_count":2}],"ts_ms":%v}`,
		id, source["ts_ms"]), told[1].Value)
	require.Equal(t, fmt.Sprintf(`{"id":%q}`, id), told[0].Key)
	require.Equal(t, told[0].Key, told[1].Key)
	require.NotEqual(t, told[0].Headers[saga.HeaderEventID], told[1].Headers[saga.HeaderEventID])

	var orders []string
	for _, table := range []string{"products", "parts"} {
		for _, e := range w.events(w.topic(table)) {
			if e.Tombstone {
				continue
			}
			tx := e.decode(t)["transaction"].(map[string]any)
			if tx["id"] == id {
				orders = append(orders, fmt.Sprint(tx["total_order"], " ", table, " ", tx["data_collection_order"], " ", e.decode(t)["op"]))
			}
		}
	}
	sort.Strings(orders)
	require.Equal(t, []string{"1 products 1 c", "2 products 2 c", "3 parts 1 c", "4 products 3 d", "5 products 4 c", "6 parts 2 d"}, orders)
}

// The whole record, to the byte, as the JSON converter writes Debezium's with its
// schemas off: the fields and their order are those of Debezium 3.7.
func TestTheEnvelopeIsDebeziumsToTheByte(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.exec(`CREATE TABLE products (id int, region text, price numeric(6,2), PRIMARY KEY (region, id))`)
	r := w.start()
	w.exec("INSERT INTO products VALUES (1, 'é/\b', 2.5)")
	w.exec("UPDATE products SET region = 'b'")
	w.settle(r.positions)
	events := w.events(w.topic("products"))
	require.Len(t, events, 4)
	check := func(e event, rows string, op string) {
		t.Helper()
		v := e.decode(t)
		source := v["source"].(map[string]any)
		require.Equal(t, fmt.Sprintf(`{%s,"source":{"version":"capsaga-1","connector":"postgresql","name":%q,"ts_ms":%v,"snapshot":"false","db":%q,`+
			`"sequence":"[\"%v\",\"0\"]","ts_us":%v,"ts_ns":%v,"schema":"public","table":"products","txId":%v,"lsn":%v,"xmin":null,"origin":null,"origin_lsn":null},`+
			`"transaction":null,"op":%q,"ts_ms":%v,"ts_us":%v,"ts_ns":%v}`,
			rows, w.stack.Prefix, source["ts_ms"], w.stack.Database, source["lsn"], source["ts_us"], source["ts_ns"], source["txId"], source["lsn"],
			op, v["ts_ms"], v["ts_us"], v["ts_ns"]), e.Value)
	}
	check(events[0], `"before":null,"after":{"id":1,"region":"é/\b","price":"2.50"}`, "c")
	require.Equal(t, `{"region":"é/\b","id":1}`, events[0].Key)
	check(events[1], `"before":{"id":1,"region":"é/\b"},"after":null`, "d")
	require.True(t, events[2].Tombstone)
	check(events[3], `"before":null,"after":{"id":1,"region":"b","price":"2.50"}`, "c")
}
