package e2e

import (
	"encoding/json"
	"errors"
	"fmt"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/capsaga/capsaga/internal/listing"
	"github.com/capsaga/capsaga/internal/stacktest"
	"github.com/capsaga/capsaga/saga"
)

// refuse makes rows of products by plain SQL that Redis refuses, as their keys hold
// something else.
func (w *world) refuse(products ...int) {
	w.t.Helper()
	w.jam(products...)
	for _, id := range products {
		w.exec("INSERT INTO products (id, title) VALUES ($1, $2)", id, fmt.Sprint("film ", id))
	}
}

// refusedSagas waits until the ledger has a saga of that status for each of the
// rows and returns their ids, by product.
func (w *world) refusedSagas(status saga.Status, products ...int) map[int]string {
	w.t.Helper()
	ids := map[int]string{}
	stacktest.Eventually(w.t, 60*time.Second, func() error {
		for _, product := range products {
			row := fmt.Sprintf("redis-products-%d", product)
			ids[product] = value[string](w, "SELECT coalesce(min(id), '') FROM capsaga.saga WHERE stream_row = $1 AND status = $2", row, string(status))
			if ids[product] == "" {
				return fmt.Errorf("the ledger has no saga of %s that is %s", row, status)
			}
		}
		return nil
	})
	return ids
}

// Rows that Redis refused are parked sagas before anyone runs sagas, and are operated
// on like any others. The stream goes on meanwhile.
func TestRefusedRowsAreSagas(t *testing.T) {
	w := newWorldWith(t, filepath.Join(root, "deploy", "demo", "capsaga.yaml"))
	streams := w.startWorker("CAPSAGA_ROLES=stream")
	w.refuse(1, 2, 3, 4, 5)
	w.exec("INSERT INTO products (id, title) VALUES (6, 'film 6')")
	sagas := w.refusedSagas(saga.Parked, 1, 2, 3, 4, 5)
	ids := []string{sagas[1], sagas[2], sagas[3], sagas[4], sagas[5]}
	stacktest.Eventually(t, 20*time.Second, func() error {
		there, err := w.redis.Exists(t.Context(), w.stack.Prefix.RedisKey("products", "6")).Result()
		if err == nil && there == 0 {
			err = errors.New("row 6 is not in Redis yet")
		}
		return err
	})
	waiting, _ := w.list(nil, "--status", "parked", "--blocked-on", "redis", "--entity", "products")
	require.Len(t, waiting, 5)
	require.Equal(t, listing.NotStarted, waiting[0].Workflow)
	r := w.capsaga("", "show", ids[0])
	require.Zero(t, r.status, r.stderr)
	require.Contains(t, r.stdout, "products/1 written by SQL, refused by redis")
	require.Contains(t, r.stdout, "WRONGTYPE")
	require.Contains(t, r.stdout, "has not been started yet")

	streams.terminate(20 * time.Second)
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
	stacktest.Eventually(t, 20*time.Second, func() error {
		if n := value[int](w, "SELECT count(*) FROM capsaga.saga WHERE status = 'parked' AND id NOT LIKE '%-' || version"); n != 2 {
			return fmt.Errorf("%d sagas know that their row was refused again", n)
		}
		return nil
	})
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
	require.Len(t, want, 5)
	delete(want, "2") // nobody wants it in Redis
	require.Equal(t, want, w.inRedis("products"))
	require.Contains(t, string(w.elasticsearch("GET", "/"+w.index("products")+"/_doc/3", "")), "edited", "an edit is brought to all sinks")
}

// The worker is killed again and again while rows are adopted and their sagas
// started: each row has its one saga in the end.
func TestRefusedRowsSurviveKilledWorkers(t *testing.T) {
	w := newWorld(t)
	var products []int
	for round := range 4 {
		p := w.launchWorker()
		w.refuse(100*round+1, 100*round+2, 100*round+3)
		products = append(products, 100*round+1, 100*round+2, 100*round+3)
		stacktest.Eventually(t, 60*time.Second, func() error {
			if n := value[int](w, "SELECT count(*) FROM capsaga.saga WHERE run_id <> ''"); n <= 3*round {
				return fmt.Errorf("%d sagas are started", n)
			}
			return nil
		})
		p.kill()
	}
	w.startWorker()
	for _, id := range w.refusedSagas(saga.Parked, products...) {
		w.awaitFound(id, saga.AttributeStatus+" = 'parked'")
	}
	require.Equal(t, len(products), value[int](w, "SELECT count(*) FROM capsaga.saga"))
}
