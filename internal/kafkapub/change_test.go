package kafkapub_test

import (
	"context"
	"fmt"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/capsaga/capsaga/internal/kafka"
	"github.com/capsaga/capsaga/internal/kafkapub"
	"github.com/capsaga/capsaga/internal/stream"
	"github.com/capsaga/capsaga/saga"
)

func TestSchemaChangesTakeEffectWhereTheyStand(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.exec("CREATE TABLE products (id bigint PRIMARY KEY, title text, stock int)")
	// All of it is there before the stream starts: it must go by the WAL, not by
	// the catalog as it is now.
	w.exec("INSERT INTO products VALUES (1, 'a', 1)")
	w.exec("ALTER TABLE products ADD COLUMN price numeric DEFAULT 2.50")
	w.exec("INSERT INTO products VALUES (2, 'b', 2)")
	w.exec("ALTER TABLE products RENAME COLUMN title TO name")
	w.exec("INSERT INTO products VALUES (3, 'c', 3)")
	w.exec("ALTER TABLE products DROP COLUMN price")
	w.exec("INSERT INTO products VALUES (4, 'd', 4)")
	w.exec("ALTER TABLE products ALTER COLUMN stock TYPE text")
	w.exec("INSERT INTO products VALUES (5, 'e', 'five')")
	r := w.start()
	w.settle(r.positions)
	w.exec("ALTER TABLE products ADD COLUMN note text")
	w.exec("INSERT INTO products VALUES (6, 'f', 'six', 'n')")
	w.settle(r.positions)
	var after []string
	for _, e := range w.events(w.topic("products")) {
		_, rest, _ := strings.Cut(e.Value, `"after":`)
		row, _, _ := strings.Cut(rest, `,"source"`)
		after = append(after, row)
	}
	require.Equal(t, []string{
		`{"id":1,"title":"a","stock":1}`,
		`{"id":2,"title":"b","stock":2,"price":"2.50"}`,
		`{"id":3,"name":"c","stock":3,"price":"2.50"}`,
		`{"id":4,"name":"d","stock":4}`,
		`{"id":5,"name":"e","stock":"five"}`,
		`{"id":6,"name":"f","stock":"six","note":"n"}`,
	}, after)
}

func TestLargeValuesThatDidNotChange(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	large := strings.Repeat("0123456789abcdef", 4000)
	for _, table := range []string{"plain", "whole"} {
		w.exec("CREATE TABLE " + table + " (id int PRIMARY KEY, note text, n int)")
		w.exec("ALTER TABLE " + table + " ALTER COLUMN note SET STORAGE EXTERNAL")
	}
	w.exec("ALTER TABLE whole REPLICA IDENTITY FULL")
	r := w.start()
	for _, table := range []string{"plain", "whole"} {
		w.exec("INSERT INTO "+table+" VALUES (1, $1, 1)", large)
		w.exec("UPDATE " + table + " SET n = 2")
		w.exec("UPDATE " + table + " SET id = 2")
		w.exec("DELETE FROM " + table)
	}
	w.settle(r.positions)

	plain := w.events(w.topic("plain"))
	require.Len(t, plain, 7)
	require.Contains(t, plain[1].Value, `{"before":null,"after":{"id":1,"note":"__debezium_unavailable_value","n":2}`)
	require.Contains(t, plain[2].Value, `{"before":{"id":1},"after":null`)
	require.Contains(t, plain[4].Value, `"after":{"id":2,"note":"__debezium_unavailable_value","n":2}`)

	whole := w.events(w.topic("whole"))
	require.Len(t, whole, 7)
	row := func(id, n int) string { return fmt.Sprintf(`{"id":%d,"note":%q,"n":%d}`, id, large, n) }
	require.Contains(t, whole[1].Value, `{"before":`+row(1, 1)+`,"after":`+row(1, 2))
	require.Equal(t, `{"id":1}`, whole[2].Key)
	require.Contains(t, whole[2].Value, `{"before":`+row(1, 2)+`,"after":null`)
	require.Contains(t, whole[4].Value, `"after":`+row(2, 2))
	require.Contains(t, whole[5].Value, `{"before":`+row(2, 2)+`,"after":null`)
}

func TestKeysOfOtherShapes(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.exec(`CREATE TABLE composite (b text, a int, "odd "" name" text, n int, PRIMARY KEY (a, b, "odd "" name"))`)
	w.exec("CREATE TABLE indexed (id int PRIMARY KEY, code text NOT NULL UNIQUE)")
	w.exec("ALTER TABLE indexed REPLICA IDENTITY USING INDEX indexed_code_key")
	w.exec("CREATE TABLE keyless (n int)")
	w.exec("ALTER TABLE keyless REPLICA IDENTITY FULL")
	w.exec("CREATE TABLE nothing (id int PRIMARY KEY)")
	w.exec("ALTER TABLE nothing REPLICA IDENTITY NOTHING")
	w.exec(`CREATE TABLE "Ünï.cödé" (id int PRIMARY KEY)`)
	r := w.start()
	w.exec("INSERT INTO composite VALUES ('x', 1, 'y', 0)")
	w.exec("INSERT INTO indexed VALUES (1, 'c')")
	w.exec("DELETE FROM indexed")
	w.exec("INSERT INTO keyless VALUES (1)")
	w.exec("UPDATE keyless SET n = 2")
	w.exec("DELETE FROM keyless")
	w.exec("INSERT INTO nothing VALUES (5)")
	w.exec(`INSERT INTO "Ünï.cödé" VALUES (1)`)
	w.settle(r.positions)

	require.Equal(t, `{"a":1,"b":"x","odd \" name":"y"}`, w.events(w.topic("composite"))[0].Key)
	indexed := w.events(w.topic("indexed"))
	require.Equal(t, `{"code":"c"}`, indexed[0].Key)
	require.Contains(t, indexed[1].Value, `"before":{"code":"c"}`)
	keyless := w.events(w.topic("keyless"))
	require.Len(t, keyless, 3, "no tombstone without a key")
	for _, e := range keyless {
		require.Empty(t, e.Key)
	}
	require.Contains(t, keyless[1].Value, `{"before":{"n":1},"after":{"n":2}`)
	require.Equal(t, `{"id":5}`, w.events(w.topic("nothing"))[0].Key)
	require.Len(t, w.events(w.topic("Ünï.cödé")), 1)
}

func TestTopicsAreMadeAsTheCatalogSays(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.exec("CREATE TABLE products (id int PRIMARY KEY)")
	w.exec("CREATE TABLE other (id int PRIMARY KEY)")
	catalog := &saga.Catalog{Entities: map[string]*saga.Entity{
		"products": {Table: saga.Table{Schema: "public", Name: "products"}, Kafka: &saga.KafkaSink{Partitions: 4}},
	}}
	r := w.start(func(_ *stream.Config, c *kafkapub.Config) { c.Catalog = catalog })
	w.exec("INSERT INTO products SELECT generate_series(1, 100)")
	w.exec("INSERT INTO other VALUES (1)")
	w.settle(r.positions)
	partitions := map[int32]bool{}
	where := map[string]int32{}
	for _, e := range w.events(w.topic("products")) {
		partitions[e.Partition] = true
		where[e.Key] = e.Partition
	}
	require.Len(t, partitions, 4)
	w.exec("DELETE FROM products")
	w.settle(r.positions)
	for _, e := range w.events(w.topic("products")) {
		require.Equal(t, where[e.Key], e.Partition, "a key stays in its partition")
	}
	created, err := w.kafka.EnsureTopics(context.Background(), []kafka.TopicSpec{{Name: w.topic("products")}, {Name: w.topic("other")}})
	require.NoError(t, err)
	require.Empty(t, created)
}
