package e2e

import (
	"context"
	"encoding/json"
	"fmt"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/capsaga/capsaga/internal/catalog"
	"github.com/capsaga/capsaga/internal/listing"
	"github.com/capsaga/capsaga/internal/postgres"
	"github.com/capsaga/capsaga/internal/stacktest"
	"github.com/capsaga/capsaga/saga"
)

// refuse makes rows of products by plain SQL, has Redis refuse them, and enters that
// into the ledger as the stream of Redis does. It returns the ids of their sagas.
func (w *world) refuse(products ...int) (ids []string) {
	w.t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	file, err := catalog.Load(w.catalogPath)
	require.NoError(w.t, err)
	entity := file.Catalog.Entities["products"]
	db, err := postgres.Open(ctx, w.stack.PostgresURL)
	require.NoError(w.t, err)
	defer db.Close()
	w.jam(products...)
	var refused []saga.Refused
	for _, id := range products {
		w.exec("INSERT INTO products (id, title) VALUES ($1, $2)", id, fmt.Sprint("film ", id))
		row, err := db.ReadRow(ctx, entity, fmt.Sprint(id))
		require.NoError(w.t, err)
		require.NotZero(w.t, row.Version)
		r := saga.Refused{
			Sink: saga.Redis, Entity: entity, Key: fmt.Sprint(id), Version: row.Version,
			Error: saga.ErrorInfo{Code: saga.CodeRejected, Class: saga.Rejected, System: "redis", Message: "WRONGTYPE: the key holds something else"},
		}
		refused = append(refused, r)
		write := r.Write()
		ids = append(ids, write.SagaID)
	}
	require.NoError(w.t, db.AdoptRefused(ctx, refused))
	return ids
}

// Rows that Redis refused are parked sagas before any worker runs, and are
// operated on like any others.
func TestRefusedRowsAreSagas(t *testing.T) {
	w := newWorldWith(t, filepath.Join(root, "deploy", "demo", "capsaga.yaml"))
	ids := w.refuse(1, 2, 3, 4, 5)
	waiting, _ := w.list(nil, "--status", "parked", "--blocked-on", "redis", "--entity", "products")
	require.Len(t, waiting, 5)
	require.Equal(t, listing.NotStarted, waiting[0].Workflow)
	r := w.capsaga("", "show", ids[0])
	require.Zero(t, r.status, r.stderr)
	require.Contains(t, r.stdout, "products/1 written by SQL, refused by redis")
	require.Contains(t, r.stdout, "WRONGTYPE")
	require.Contains(t, r.stdout, "has not been started yet")

	w.startWorker()
	for _, id := range ids {
		w.awaitFound(id, saga.AttributeStatus+" = 'parked' AND "+saga.AttributeBlockedOn+" = 'redis' AND "+saga.AttributeEntities+" = 'products'")
	}
	r = w.capsaga("", "compensate", ids[0])
	require.Equal(t, 1, r.status)
	require.Contains(t, r.stderr, "plain SQL has written products/1")
	line, err := json.Marshal(saga.Write{SagaID: w.id("by-hand"), Stream: &saga.StreamChange{Sink: saga.Redis, Entity: "products", Key: "1", Version: 7, Op: saga.Delete}})
	require.NoError(t, err)
	r = w.capsaga(string(line)+"\n", "write", "-", "-o", "json")
	require.Contains(t, r.stdout, "stream is not for clients")

	r = w.capsaga("", "replay", ids[0])
	require.Equal(t, 3, r.status, "redis still refuses it: %s", r.stdout)
	w.unjam(1)
	r = w.capsaga("", "replay", ids[0])
	require.Zero(t, r.status, r.stderr)

	r = w.capsaga("", "skip", ids[1], "--reason", "a test row")
	require.Zero(t, r.status, r.stderr)
	require.Equal(t, "a test row", value[string](w, "SELECT reason FROM capsaga.waiver WHERE saga_id = $1", ids[1]))

	w.unjam(3)
	r = w.capsaga("", "edit", ids[2], "--set", `title="edited"`)
	require.Zero(t, r.status, r.stderr)

	// Plain SQL has deleted one meanwhile, and changed another.
	w.exec("DELETE FROM products WHERE id = 4")
	w.exec("UPDATE products SET title = 'by SQL' WHERE id = 5")
	w.unjam(4, 5)
	r = w.capsaga("", "replay", "--status", "parked", "--yes", "-o", "json")
	require.Zero(t, r.status, r.stderr)
	require.Len(t, r.items(t), 2)

	for _, id := range ids {
		require.Equal(t, saga.Completed, w.await(id).Status)
		require.Equal(t, "completed", value[string](w, "SELECT status FROM capsaga.saga WHERE id = $1", id))
	}
	w.unjam(2)
	want := w.inPostgres("products")
	require.Len(t, want, 4)
	delete(want, "2") // nobody wants it in Redis
	require.Equal(t, want, w.inRedis("products"))
	require.Contains(t, string(w.elasticsearch("GET", "/"+w.index("products")+"/_doc/3", "")), "edited", "an edit is brought to all sinks")
}

// The worker is killed again and again while rows are adopted and their sagas
// started: each row has its one saga in the end.
func TestRefusedRowsSurviveKilledWorkers(t *testing.T) {
	w := newWorld(t)
	var ids []string
	for round := range 4 {
		p := w.launchWorker()
		ids = append(ids, w.refuse(100*round+1, 100*round+2, 100*round+3)...)
		stacktest.Eventually(t, 60*time.Second, func() error {
			if n := value[int](w, "SELECT count(*) FROM capsaga.saga WHERE run_id <> ''"); n <= 3*round {
				return fmt.Errorf("%d sagas are started", n)
			}
			return nil
		})
		p.kill()
	}
	w.startWorker()
	for _, id := range ids {
		w.awaitFound(id, saga.AttributeStatus+" = 'parked'")
	}
	require.Equal(t, len(ids), value[int](w, "SELECT count(*) FROM capsaga.saga WHERE status = 'parked'"))
}
