package e2e

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/capsaga/capsaga/internal/elastic"
	"github.com/capsaga/capsaga/internal/postgres"
	"github.com/capsaga/capsaga/internal/redis"
	"github.com/capsaga/capsaga/internal/stacktest"
	"github.com/capsaga/capsaga/saga"
	"github.com/capsaga/capsaga/saga/client"
)

// clashingCatalog maps the genre as a number, which no genre is.
const clashingCatalog = `version: 1
entities:
  products:
    table: public.products
    key: [id]
    sinks:
      redis: {}
      kafka: {}
      elasticsearch: {mappings: {properties: {genre: {type: long}}}}
  users:
    table: public.users
    key: [id]
    sinks: {redis: {}, kafka: {}}
`

// newClashingWorld is an instance whose index of products refuses a genre.
func newClashingWorld(t *testing.T) *world {
	t.Helper()
	path := filepath.Join(t.TempDir(), "capsaga.yaml")
	require.NoError(t, os.WriteFile(path, []byte(clashingCatalog), 0o600))
	return newWorldWith(t, path)
}

// refusedBySearch is a mutation that Elasticsearch refuses in a clashing world.
func refusedBySearch(id int) saga.Mutation {
	return patch("products", id, "genre", "Drama")
}

// stock makes products.
func (w *world) stock(ids ...int) {
	w.t.Helper()
	for _, id := range ids {
		w.write(client.WaitVisible, saga.Completed, saga.Write{SagaID: w.id("stock-%d", id), Mutations: []saga.Mutation{
			insert("products", "id", id, "title", fmt.Sprintf("film %d", id), "stock", 100),
		}})
	}
}

// operate asks an operator's request of one saga.
func (w *world) operate(request func(ctx context.Context) (saga.Outcome, error)) saga.Outcome {
	w.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 60*time.Second)
	defer cancel()
	o, err := request(ctx)
	require.NoError(w.t, err)
	return o
}

func (w *world) compensate(id string) saga.Outcome {
	w.t.Helper()
	return w.operate(func(ctx context.Context) (saga.Outcome, error) { return w.client.Compensate(ctx, id, "undo "+id) })
}

// allowGenre mends the mapping that refused.
func (w *world) allowGenre() {
	w.t.Helper()
	w.elasticsearch(http.MethodPut, "/"+w.index("products")+"/_mapping", `{"properties": {"genre": {"type": "long", "ignore_malformed": true}}}`)
}

// replayed drives a saga on, also one whose workflow is gone, to where it ends.
func (w *world) replayed(id string) (o saga.Outcome) {
	w.t.Helper()
	r := w.capsaga("", "replay", id, "-o", "json")
	require.Zero(w.t, r.status, "%s%s", r.stdout, r.stderr)
	require.NoError(w.t, json.Unmarshal([]byte(r.stdout), &o), r.stdout)
	if !o.Status.Final() {
		return w.await(id)
	}
	return o
}

// One write of many that a mapping refuses parks alone, with the field named. An
// edit, a mended mapping, or an undo settles it.
func TestMappingConflict(t *testing.T) {
	w := newClashingWorld(t)
	w.startWorker()
	w.stock(1001, 1002, 1003)
	edited, mended, undone := w.id("edited"), w.id("mended"), w.id("undone")
	began := time.Now()
	w.writeMany("many", 497)
	parked := map[string]saga.Outcome{}
	for i, id := range []string{edited, mended} {
		o := w.write(client.WaitVisible, saga.Parked, saga.Write{SagaID: id, Mutations: []saga.Mutation{
			patch("products", 1001+i, "title", "changed", "genre", "Drama"),
		}})
		require.Contains(t, o.Error.Message, "genre")
		require.Equal(t, saga.Rejected, o.Error.Class)
		parked[id] = o
	}
	o := w.write(client.WaitVisible, saga.Compensated, saga.Write{
		SagaID: undone, Policy: saga.Policy{OnReject: saga.OnRejectCompensate},
		Mutations: []saga.Mutation{patch("products", 1003, "title", "changed", "genre", "Drama"), add("products", 1003, "stock", -7)},
	})
	require.Contains(t, o.Error.Message, "genre", "why it was undone")
	require.Greater(t, o.Version, parked[mended].Version)
	require.Equal(t, `"film 1003"`, w.inPostgres("products")["1003"]["title"])
	require.Equal(t, "100", w.inPostgres("products")["1003"]["stock"])
	stacktest.Eventually(t, time.Minute, func() error { return w.open(2) })
	t.Logf("500 writes, of which 3 are refused, are settled in %s", time.Since(began).Round(time.Millisecond))
	require.Equal(t, 500, value[int](w, "SELECT count(*) FROM capsaga.saga WHERE status = 'completed'"))

	o = w.operate(func(ctx context.Context) (saga.Outcome, error) {
		return w.client.Edit(ctx, edited, "mend", saga.EditInput{Mutations: []saga.Mutation{patch("products", 1001, "genre", nil)}})
	})
	require.NotEqual(t, saga.Parked, o.Status)
	o = w.await(edited)
	require.Equal(t, saga.Completed, o.Status)
	require.Greater(t, o.Version, parked[edited].Version)

	w.allowGenre()
	require.Equal(t, saga.Completed, w.replayed(mended).Status)
	published := w.requireAgree()
	require.Equal(t, map[string]int{edited: 2, mended: 1, undone: 4}, map[string]int{edited: published[edited], mended: published[mended], undone: published[undone]})
	undoes := 0
	for _, e := range w.events("products") {
		if e.headers[saga.HeaderUndoes] != "" {
			require.Equal(t, undone, e.headers[saga.HeaderUndoes])
			undoes++
		}
	}
	require.Equal(t, 2, undoes)
}

// An undo races a newer write of the same row: the newer one stays. If it came
// first, the saga parks and says what differs; resolved by hand, it goes on.
func TestUndoRacesANewerWrite(t *testing.T) {
	w := newClashingWorld(t)
	w.startWorker()
	conflicts := 0
	for i := range 12 {
		mine, other := 2*i+1, 2*i+2
		w.stock(mine, other)
		id, newer := w.id("undone-%d", i), w.id("newer-%d", i)
		w.write(client.WaitVisible, saga.Parked, saga.Write{SagaID: id, Mutations: []saga.Mutation{
			patch("products", mine, "title", "of the undone"), refusedBySearch(other),
		}})
		written := make(chan saga.Outcome)
		go func() {
			time.Sleep(time.Duration(i) * 2 * time.Millisecond) // so that both orders come up
			o, err := w.client.Write(t.Context(), saga.Write{SagaID: newer, Mutations: []saga.Mutation{patch("products", mine, "title", "the newer")}}, client.WaitVisible)
			if err != nil {
				o.Error = &saga.ErrorInfo{Message: err.Error()}
			}
			written <- o
		}()
		o := w.compensate(id)
		after := <-written
		require.Equal(t, saga.Completed, after.Status, "%+v", after.Error)
		require.Equal(t, `"the newer"`, w.inPostgres("products")[fmt.Sprint(mine)]["title"])
		if o.Status == saga.Compensated {
			continue
		}
		conflicts++
		require.Equal(t, saga.Parked, o.Status)
		require.Equal(t, saga.CodeConflict, o.Error.Code)
		require.Contains(t, o.Error.Message, fmt.Sprintf("products/%d", mine))
		w.requireConflict(id, fmt.Sprint(mine), "the newer", "of the undone", fmt.Sprintf("film %d", mine))
		// An operator gives the undo up after mending the other row by hand.
		w.write(client.WaitCommitted, saga.Committed, saga.Write{SagaID: w.id("mend-%d", i), Mutations: []saga.Mutation{patch("products", other, "genre", nil)}})
		o = w.operate(func(ctx context.Context) (saga.Outcome, error) {
			return w.client.Skip(ctx, id, "skip "+id, saga.SkipInput{Step: saga.StepUndo, Reason: "the newer title stays"})
		})
		require.Equal(t, saga.Compensated, w.await(id).Status, "%+v", o)
	}
	t.Logf("%d of 12 undos found the newer write", conflicts)
	stacktest.Eventually(t, time.Minute, func() error { return w.open(0) })
	w.requireAgree()
}

// requireConflict wants that the ledger tells theirs, ours and before of a row.
func (w *world) requireConflict(id, key, theirs, ours, before string) {
	w.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	db, err := postgres.Open(ctx, w.stack.PostgresURL)
	require.NoError(w.t, err)
	defer db.Close()
	conflicts, err := db.Conflicts(ctx, id)
	require.NoError(w.t, err)
	require.NotEmpty(w.t, conflicts)
	require.Equal(w.t, key, conflicts[0].Key)
	require.Contains(w.t, string(conflicts[0].Theirs), theirs)
	require.Contains(w.t, string(conflicts[0].Ours), ours)
	require.Contains(w.t, string(conflicts[0].Before), before)
}

// Of two sagas that add to one counter, one is undone by its inverse.
func TestUndoOfAnAdd(t *testing.T) {
	w := newClashingWorld(t)
	w.startWorker()
	w.stock(1, 2)
	id := w.id("undone")
	w.write(client.WaitVisible, saga.Parked, saga.Write{SagaID: id, Mutations: []saga.Mutation{add("products", 1, "stock", -30), refusedBySearch(2)}})
	w.write(client.WaitVisible, saga.Completed, saga.Write{SagaID: w.id("stays"), Mutations: []saga.Mutation{add("products", 1, "stock", -5)}})
	require.Equal(t, saga.Compensated, w.compensate(id).Status)
	require.Equal(t, "95", w.inPostgres("products")["1"]["stock"])
	w.requireAgree()
}

// What was thought lost lands after the compensation, in both sinks.
func TestZombieApplyAfterTheCompensation(t *testing.T) {
	w := newClashingWorld(t)
	w.startWorker()
	w.stock(1, 2)
	id := w.id("undone")
	parked := w.write(client.WaitVisible, saga.Parked, saga.Write{SagaID: id, Mutations: []saga.Mutation{patch("products", 1, "title", "zombie"), refusedBySearch(2)}})
	require.Equal(t, saga.Compensated, w.compensate(id).Status)

	late := []saga.Document{{Entity: "products", Key: "1", Version: parked.Version, Row: []byte(`{"id":1,"title":"zombie","stock":100,"price_cents":0}`)}}
	cache, err := redis.Open(w.stack.RedisURL, w.stack.Prefix)
	require.NoError(t, err)
	defer func() { _ = cache.Close() }()
	applied, err := cache.Apply(t.Context(), late, func(string) (ttl, tombstone time.Duration) { return 0, time.Hour })
	require.NoError(t, err)
	require.NoError(t, applied[0].Err)
	require.False(t, applied[0].Changed)
	search, err := elastic.Open(elastic.Config{URL: w.stack.ElasticsearchURL}, w.stack.Prefix)
	require.NoError(t, err)
	defer func() { _ = search.Close() }()
	applied, err = search.Apply(t.Context(), late)
	require.NoError(t, err)
	require.NoError(t, applied[0].Err)
	require.False(t, applied[0].Changed)
	w.requireAgree()
}

// A saga that was parked for longer than any tombstone lives is replayed after its
// row was deleted by plain SQL: it does not bring the row back.
func TestReplayAfterTheTombstones(t *testing.T) {
	w := newClashingWorld(t)
	w.startWorker()
	w.stock(1, 2)
	w.elasticsearch(http.MethodPut, "/"+w.index("products")+"/_settings", `{"index.gc_deletes": "1s"}`)
	search, cache := w.id("search"), w.id("cache")
	w.write(client.WaitVisible, saga.Parked, saga.Write{SagaID: search, Mutations: []saga.Mutation{refusedBySearch(1)}})
	key := w.stack.Prefix.RedisKey("products", "2")
	require.NoError(t, w.redis.Set(t.Context(), key, "no row", 0).Err())
	w.write(client.WaitVisible, saga.Parked, saga.Write{SagaID: cache, Mutations: []saga.Mutation{patch("products", 2, "title", "late")}})

	// As if a day had passed: no sink remembers the rows or their deletion, which the
	// streams have brought.
	require.NoError(t, w.redis.Del(t.Context(), key).Err())
	w.exec("DELETE FROM products")
	w.settle(time.Minute)
	require.NoError(t, w.redis.Del(t.Context(), key, w.stack.Prefix.RedisKey("products", "1")).Err())
	w.allowGenre()
	require.Equal(t, saga.Completed, w.replayed(search).Status)
	require.Equal(t, saga.Completed, w.replayed(cache).Status)
	require.Empty(t, w.inRedis("products"))
	require.Empty(t, w.inElasticsearch("products"))
	w.requireAgree()
}
