package kafkapub_test

import (
	"context"
	"fmt"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/capsaga/capsaga/internal/kafkapub"
	"github.com/capsaga/capsaga/internal/postgres"
	"github.com/capsaga/capsaga/internal/stream"
	"github.com/capsaga/capsaga/saga"
)

func TestPlainSQLIsPublished(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.exec("CREATE TABLE products (id bigint PRIMARY KEY, title text, stock int)")
	r := w.start()
	w.exec("INSERT INTO products VALUES (9007199254740993, 'Ümlaut \"q\" \\ \n', 3)")
	w.exec("UPDATE products SET stock = 2")
	w.exec("UPDATE products SET id = 7")
	w.exec("DELETE FROM products")
	w.settle(r.positions)

	events := w.events(w.topic("products"))
	require.Len(t, events, 7)
	const first, moved = `{"id":9007199254740993}`, `{"id":7}`
	var shape []string
	for _, e := range events {
		op := "tombstone"
		if !e.Tombstone {
			op = e.decode(t)["op"].(string)
		}
		shape = append(shape, op+" "+e.Key)
		require.Equal(t, "1", e.Headers[saga.HeaderGeneration])
		require.NotContains(t, e.Headers, saga.HeaderSagaID)
	}
	require.Equal(t, []string{
		"c " + first, "u " + first,
		"d " + first, "tombstone " + first, "c " + moved,
		"d " + moved, "tombstone " + moved,
	}, shape)

	insert := events[0].decode(t)
	require.Nil(t, insert["before"])
	require.Contains(t, events[0].Value, `"after":{"id":9007199254740993,"title":"Ümlaut \"q\" \\ \n","stock":3}`)
	source := insert["source"].(map[string]any)
	require.Equal(t, "postgresql", source["connector"])
	require.Equal(t, string(w.stack.Prefix), source["name"])
	require.Equal(t, w.stack.Database, source["db"])
	require.Equal(t, "public", source["schema"])
	require.Equal(t, "products", source["table"])
	require.Equal(t, "false", source["snapshot"])

	version, err := saga.ParseVersion(events[0].Headers[saga.HeaderVersion])
	require.NoError(t, err)
	require.Equal(t, saga.Epoch(1), version.Epoch())
	id := saga.EventID(1, version.LSN(), 2)
	require.Equal(t, id, events[0].Headers[saga.HeaderEventID])
	require.Equal(t, fmt.Sprint(uint64(version.LSN())), fmt.Sprint(source["lsn"]))
	require.Equal(t, `{"id":7}`, events[5].Key)
	require.Contains(t, events[5].Value, `{"before":{"id":7},"after":null,`)

	seen := map[string]bool{}
	for _, e := range events {
		id := e.Headers[saga.HeaderEventID]
		require.False(t, seen[id], "event-id %s twice", id)
		seen[id] = true
	}
}

// What an undo changes, and what its triggers change, says which saga it takes
// back; an edit's records are the saga's as those of its commit are.
func TestUndoneSagasAreNamed(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.exec("CREATE TABLE products (id bigint PRIMARY KEY, stock int); CREATE TABLE log (id bigserial PRIMARY KEY)")
	w.exec(`CREATE FUNCTION log() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN INSERT INTO log DEFAULT VALUES; RETURN NULL; END';
		CREATE TRIGGER log AFTER DELETE ON products FOR EACH ROW EXECUTE FUNCTION log()`)
	w.exec("INSERT INTO products VALUES (1, 5)")
	r := w.start()
	catalog := &saga.Catalog{Entities: map[string]*saga.Entity{"products": {Name: "products", Table: saga.Table{Schema: "public", Name: "products"}, Key: []string{"id"}}}}
	write, err := saga.ParseWrite([]byte(`{"saga_id":"order-1","mutations":[{"entity":"products","op":"add","key":{"id":1},"add":{"stock":-1}},{"entity":"products","op":"insert","row":{"id":2}}]}`))
	require.NoError(t, err)
	_, err = w.db.Commit(t.Context(), postgres.CommitRequest{Write: *write, Catalog: catalog})
	require.NoError(t, err)
	edit, err := w.db.Edit(t.Context(), postgres.EditRequest{SagaID: "order-1", RequestID: "e", Catalog: catalog, Mutations: []saga.Mutation{
		{Entity: "products", Op: saga.Patch, Key: saga.Columns{"id": []byte("2")}, Set: saga.Columns{"stock": []byte("7")}},
	}})
	require.NoError(t, err)
	require.Nil(t, edit.Refused)
	undo, err := w.db.Undo(t.Context(), postgres.UndoRequest{SagaID: "order-1", Catalog: catalog, TraceParent: "00-ab-cd-01"})
	require.NoError(t, err)
	require.Nil(t, undo.Refused)
	require.NoError(t, r.positions.Wait(t.Context(), undo.FlushLSN))

	var shape []string
	for _, e := range w.events(w.topic("products")) {
		what := "tombstone"
		if !e.Tombstone {
			what = e.decode(t)["op"].(string)
		}
		shape = append(shape, fmt.Sprintf("%s %s %q %q", what, e.Key, e.Headers[saga.HeaderSagaID], e.Headers[saga.HeaderUndoes]))
		require.Equal(t, e.Headers[saga.HeaderUndoes] != "", e.Headers[saga.HeaderTraceParent] != "")
	}
	require.Equal(t, []string{
		`c {"id":1} "" ""`, `u {"id":1} "order-1" ""`, `c {"id":2} "order-1" ""`, `u {"id":2} "order-1" ""`,
		`u {"id":2} "order-1" "order-1"`, `d {"id":2} "order-1" "order-1"`, `tombstone {"id":2} "order-1" "order-1"`, `u {"id":1} "order-1" "order-1"`,
	}, shape)
	log := w.events(w.topic("log"))
	require.Len(t, log, 1)
	require.Equal(t, "order-1", log[0].Headers[saga.HeaderUndoes])
}

func TestSagaMetadataIsOnAllRecordsOfItsTransaction(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.exec("CREATE TABLE products (id bigint PRIMARY KEY)")
	w.exec("CREATE TABLE capsaga.probe (id bigint PRIMARY KEY)")
	observed := make(chan stream.Transaction, 10)
	r := w.start(func(c *stream.Config, _ *kafkapub.Config) {
		c.Observe = func(tx *stream.Transaction) {
			if tx.Saga != nil {
				observed <- *tx
			}
		}
	})
	ctx := context.Background()
	tx, err := w.pool().Begin(ctx)
	require.NoError(t, err)
	for _, sql := range []string{
		`SELECT pg_logical_emit_message(true, 'capsaga-begin', '{"saga_id":"order-1","traceparent":"00-ab-cd-01","tracestate":"x=y"}')`,
		`INSERT INTO capsaga.probe VALUES (1)`,
		`INSERT INTO products VALUES (1), (2)`,
		`SELECT pg_logical_emit_message(true, 'capsaga-event', 'ignored')`,
	} {
		_, err := tx.Exec(ctx, sql)
		require.NoError(t, err)
	}
	var text string
	require.NoError(t, tx.QueryRow(ctx, `SELECT pg_logical_emit_message(true, 'capsaga-end', '{"saga_id":"order-1","epoch":1,"owned":[{"table":"public.products","keys":["1","2"]}]}')::text`).Scan(&text))
	require.NoError(t, tx.Commit(ctx))
	w.settle(r.positions)

	seen := <-observed
	require.Equal(t, "order-1", seen.End.SagaID)
	require.Equal(t, text, seen.EndLSN.String(), "the stream reports the position that the saga got")
	require.GreaterOrEqual(t, seen.CommitLSN, seen.EndLSN)
	require.Equal(t, 3, seen.Changes())

	events := w.events(w.topic("products"))
	require.Len(t, events, 2)
	for i, e := range events {
		require.Equal(t, "order-1", e.Headers[saga.HeaderSagaID])
		require.Equal(t, "00-ab-cd-01", e.Headers[saga.HeaderTraceParent])
		require.Equal(t, "x=y", e.Headers[saga.HeaderTraceState])
		require.Equal(t, saga.EventID(1, seen.CommitLSN, 3*(i+1)+2), e.Headers[saga.HeaderEventID], "the change of Capsaga's own table counts")
		require.Equal(t, seen.Version.String(), e.Headers[saga.HeaderVersion])
	}
}
