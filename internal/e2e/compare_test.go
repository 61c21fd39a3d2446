package e2e

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	goredis "github.com/redis/go-redis/v9"
	"github.com/stretchr/testify/require"
)

// row is a row's columns, each as the JSON text that its system holds.
type row map[string]string

func newRow(columns map[string]json.RawMessage) row {
	r := row{}
	for name, text := range columns {
		r[name] = string(text)
	}
	return r
}

func parseRow(t testing.TB, text []byte) row {
	t.Helper()
	var columns map[string]json.RawMessage
	require.NoError(t, json.Unmarshal(text, &columns), "%s", text)
	return newRow(columns)
}

// inPostgres returns all rows of a table, by id.
func (w *world) inPostgres(table string) map[string]row {
	w.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	found, err := w.db.Query(ctx, "SELECT "+w.key(table)+"::text, row_to_json(t)::text FROM "+pgx.Identifier{table}.Sanitize()+" t")
	require.NoError(w.t, err)
	rows := map[string]row{}
	var id, text string
	_, err = pgx.ForEachRow(found, []any{&id, &text}, func() error {
		rows[id] = parseRow(w.t, []byte(text))
		return nil
	})
	require.NoError(w.t, err)
	return rows
}

// inRedis returns all rows that Redis has of an entity, without tombstones.
func (w *world) inRedis(entity string) map[string]row {
	w.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 60*time.Second)
	defer cancel()
	rows := map[string]row{}
	prefix := w.stack.Prefix.RedisKey(entity, "")
	for cursor, first := uint64(0), true; first || cursor != 0; first = false {
		keys, next, err := w.redis.Scan(ctx, cursor, prefix+"*", 1000).Result()
		require.NoError(w.t, err)
		cursor = next
		pipe := w.redis.Pipeline()
		answers := make([]*goredis.MapStringStringCmd, len(keys))
		for i, key := range keys {
			answers[i] = pipe.HGetAll(ctx, key)
		}
		_, err = pipe.Exec(ctx)
		require.NoError(w.t, err)
		for i, key := range keys {
			fields := answers[i].Val()
			require.Len(w.t, fields["v"], 19, key)
			if fields["del"] == "" {
				rows[strings.TrimPrefix(key, prefix)] = parseRow(w.t, []byte(fields["d"]))
			}
		}
	}
	return rows
}

// inElasticsearch returns all documents of an entity after a refresh.
func (w *world) inElasticsearch(entity string) map[string]row {
	w.t.Helper()
	w.elasticsearch(http.MethodPost, "/"+w.index(entity)+"/_refresh", "")
	answer := w.elasticsearch(http.MethodPost, "/"+w.index(entity)+"/_search?scroll=1m", `{"size": 5000, "track_total_hits": true, "sort": ["_doc"]}`)
	rows := map[string]row{}
	for {
		var found struct {
			ScrollID string `json:"_scroll_id"`
			Hits     struct {
				Hits []struct {
					ID     string          `json:"_id"`
					Source json.RawMessage `json:"_source"`
				}
			}
		}
		require.NoError(w.t, json.Unmarshal(answer, &found))
		scroll, err := json.Marshal(map[string]string{"scroll": "1m", "scroll_id": found.ScrollID})
		require.NoError(w.t, err)
		if len(found.Hits.Hits) == 0 {
			w.elasticsearch(http.MethodDelete, "/_search/scroll", fmt.Sprintf(`{"scroll_id": %q}`, found.ScrollID))
			return rows
		}
		for _, hit := range found.Hits.Hits {
			rows[hit.ID] = parseRow(w.t, hit.Source)
		}
		answer = w.elasticsearch(http.MethodPost, "/_search/scroll", string(scroll))
	}
}

// requireSameRows compares by content and names a few of the rows that differ.
func requireSameRows(t testing.TB, system string, want, got map[string]row) {
	t.Helper()
	var differences []string
	for id := range want {
		if !maps.Equal(want[id], got[id]) {
			differences = append(differences, fmt.Sprintf("row %s:\n  PostgreSQL has %v\n  %s has %v", id, want[id], system, got[id]))
		}
	}
	for id := range got {
		if _, there := want[id]; !there {
			differences = append(differences, fmt.Sprintf("row %s:\n  PostgreSQL has none\n  %s has %v", id, system, got[id]))
		}
	}
	slices.Sort(differences)
	require.Empty(t, differences[:min(len(differences), 5)], "%d of %d rows differ in %s", len(differences), len(want), system)
}

// compared are the columns that JSON writes alike in PostgreSQL and in Debezium's
// envelope, and those whose numbers it carries as strings.
var compared = map[string][]string{
	"products": {"id", "title", "genre", "worldwide_gross_usd", "imdb_rating", "imdb_votes", "stock", "price_cents"},
	"users":    {"id", "name", "email"},
}

// project keeps the compared columns, as bare text.
func project(table string, rows map[string]row) map[string]row {
	projected := map[string]row{}
	for id, r := range rows {
		projected[id] = row{}
		for _, column := range compared[table] {
			projected[id][column] = strings.Trim(r[column], `"`)
		}
	}
	return projected
}

// requireConverged wants that Redis, Elasticsearch and the replayed events hold
// what PostgreSQL holds, and that each saga's changes are in Kafka once. sagas
// maps a saga's id to the number of changes that it makes.
func (w *world) requireConverged(sagas map[string]int) {
	w.t.Helper()
	published := w.requireAgree()
	for id, changes := range sagas {
		require.Equal(w.t, changes, published[id], "changes of saga %s in Kafka", id)
	}
	require.Len(w.t, published, len(sagas), "sagas with changes in Kafka")
	require.Equal(w.t, int64(len(sagas)), value[int64](w, "SELECT count(*) FROM capsaga.saga"), "rows of the ledger")
}

// requireAgree wants that Redis, Elasticsearch and the replayed events hold what
// PostgreSQL holds. It returns the changes that Kafka has of each saga.
func (w *world) requireAgree() map[string]int {
	w.t.Helper()
	published := map[string]int{}
	for table := range compared {
		rows := w.inPostgres(table)
		requireSameRows(w.t, "Redis", rows, w.inRedis(table))
		if table == "products" {
			requireSameRows(w.t, "Elasticsearch", rows, w.inElasticsearch(table))
		}
		all := w.events(table)
		events := distinct(all)
		requireInOrder(w.t, events)
		requireSameRows(w.t, "Kafka", project(table, rows), project(table, replay(w.t, events)))
		w.t.Logf("%s: %d rows, %d events and %d repeated", table, len(rows), len(events), len(all)-len(events))
		for id, changes := range changesBySaga(events) {
			published[id] += changes
		}
	}
	return published
}
