package e2e

import (
	"context"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/capsaga/capsaga/saga"
	"github.com/capsaga/capsaga/saga/client"
)

// Sagas and plain SQL change the same 50 rows at once: Kafka has the changes of
// each row in the order of the commits, and all four systems agree.
func TestSagasAndSQLOnTheSameKeys(t *testing.T) {
	const keys = 50
	w := connect(t, "testdata/items.yaml")
	w.exec("CREATE TABLE items (id bigint PRIMARY KEY, title text, n int, note text)")
	w.exec("INSERT INTO items SELECT n, 'item', 0, NULL FROM generate_series(1, 50) n")
	w.apply()
	w.startWorker()
	ctx, cancel := context.WithTimeout(context.Background(), ifSoaking(time.Minute, 12*time.Second))
	defer cancel()
	var sagas, statements atomic.Int64
	var group sync.WaitGroup
	for writer := range 16 {
		random := rand.New(rand.NewPCG(uint64(writer), 3)) //nolint:gosec // a test that can be repeated
		group.Go(func() {
			for ctx.Err() == nil {
				key := 1 + random.IntN(keys)
				if writer%2 == 0 {
					o, err := w.client.Write(context.Background(), saga.Write{SagaID: w.id("hammer-%d", sagas.Add(1)), Mutations: []saga.Mutation{
						add("items", key, "n", 1),
					}}, client.WaitCommitted)
					if err != nil || o.Version == 0 {
						t.Errorf("%+v: %v", o, err)
					}
					continue
				}
				if _, err := w.db.Exec(context.Background(), "UPDATE items SET n = n + 1, title = $2 WHERE id = $1", key, fmt.Sprintf("by writer %d", writer)); err != nil {
					t.Error(err)
				}
				statements.Add(1)
				time.Sleep(time.Duration(random.IntN(10)) * time.Millisecond) // sagas are to get their turn at the rows
			}
		})
	}
	group.Wait()
	for n := int64(1); n <= sagas.Load(); n++ {
		o, err := w.client.Wait(t.Context(), w.id("hammer-%d", n), client.WaitVisible)
		require.NoError(t, err)
		require.Equal(t, saga.Completed, o.Status, "%+v", o)
	}
	w.settle(time.Minute)
	t.Logf("%d sagas and %d statements", sagas.Load(), statements.Load())
	w.requireSinks("items", saga.Redis, saga.Kafka, saga.Elasticsearch)
	require.Equal(t, sagas.Load()+statements.Load(), value[int64](w, "SELECT sum(n) FROM items"))
	// The n of a row counts its changes, so its order is that of the commits.
	last := map[string]int{}
	for _, e := range distinct(w.events("items")) {
		if e.tombstone || e.envelope.Op == "r" {
			continue
		}
		var n int
		require.NoError(t, json.Unmarshal(e.envelope.After["n"], &n))
		require.Equal(t, last[e.key]+1, n, "key %s", e.key)
		last[e.key] = n
	}
}
