package e2e

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"net/http"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	goredis "github.com/redis/go-redis/v9"

	"github.com/capsaga/capsaga/internal/stacktest"
	"github.com/capsaga/capsaga/saga"
)

// mixed runs statements that insert, update and delete rows of the table items,
// a transaction of up to ten changes at a time, until so many changes are made.
// The keys of one writer are its own.
func (w *world) mixed(ctx context.Context, writer, writers int, changes *atomic.Int64, total int64) error {
	random := rand.New(rand.NewPCG(uint64(writer), 2)) //nolint:gosec // a test that can be repeated
	for n := 0; changes.Load() < total && ctx.Err() == nil; n++ {
		key := writer + writers*random.IntN(2000)
		count := 1 + random.IntN(10)
		var sql string
		switch random.IntN(5) {
		case 0, 1:
			sql = fmt.Sprintf(`INSERT INTO items SELECT %d + %d * (n + %d), 'item ' || n, %d, NULL FROM generate_series(0, %d) n
				ON CONFLICT (id) DO UPDATE SET title = excluded.title, n = excluded.n`, writer, writers, random.IntN(2000), n, count-1)
		case 2, 3:
			sql = fmt.Sprintf("UPDATE items SET n = %d, title = title || '.' WHERE id %% %d = %d AND id >= %d AND id < %d AND length(title) < 200", n, writers, writer, key, key+writers*count)
		default:
			sql = fmt.Sprintf("DELETE FROM items WHERE id %% %d = %d AND id >= %d AND id < %d", writers, writer, key, key+writers*count)
		}
		tag, err := w.db.Exec(ctx, sql)
		if err != nil {
			return fmt.Errorf("%s: %w", sql, err)
		}
		changes.Add(tag.RowsAffected())
	}
	return ctx.Err()
}

// Workers that die by SIGKILL at random moments lose nothing, double nothing and
// never bring back an older row.
func TestStreamsSurviveSIGKILL(t *testing.T) {
	const writers = 4
	total, kills := int64(ifSoaking(100_000, 30_000)), ifSoaking(20, 6)
	w := connect(t, "testdata/items.yaml")
	w.exec("CREATE TABLE items (id bigint PRIMARY KEY, title text, n int, note text)")
	w.apply()
	p := w.startWorker()
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Minute)
	defer cancel()
	var changes atomic.Int64
	var load, watching sync.WaitGroup
	watched, unwatch := context.WithCancel(ctx)
	for _, look := range []func(context.Context) (map[string]saga.Version, error){w.redisVersions, w.elasticVersions} {
		watching.Go(func() { w.watchVersions(watched, look) })
	}
	for writer := range writers {
		load.Go(func() {
			if err := w.mixed(ctx, writer, writers, &changes, total); err != nil {
				t.Error(err)
			}
		})
	}
	random := rand.New(rand.NewPCG(7, 7)) //nolint:gosec // a test that can be repeated
	for n := range kills {
		reached := total * int64(n) / int64(kills)
		stacktest.Eventually(t, 5*time.Minute, func() error {
			if is := changes.Load(); is < reached {
				return fmt.Errorf("%d changes of %d", is, reached)
			}
			return nil
		})
		time.Sleep(time.Duration(random.IntN(1500)) * time.Millisecond) // the moment is to be random
		p.kill()
		p = w.launchWorker()
	}
	load.Wait()
	w.settle(3 * time.Minute)
	unwatch()
	watching.Wait()
	t.Logf("%d changes, %d kills", changes.Load(), kills)
	w.requireSinks("items", saga.Redis, saga.Kafka, saga.Elasticsearch)
}

// watchVersions looks at the versions that a sink holds again and again, and wants
// that none goes back.
func (w *world) watchVersions(ctx context.Context, look func(context.Context) (map[string]saga.Version, error)) {
	highest := map[string]saga.Version{}
	for ctx.Err() == nil {
		versions, err := look(ctx)
		if err != nil {
			continue
		}
		for key, version := range versions {
			if version < highest[key] {
				w.t.Errorf("row %s went back from version %s to %s", key, highest[key], version)
				return
			}
			highest[key] = version
		}
	}
}

// watchedKeys are those whose versions are watched.
const watchedKeys = 200

func (w *world) redisVersions(ctx context.Context) (map[string]saga.Version, error) {
	pipe := w.redis.Pipeline()
	for id := range watchedKeys {
		pipe.HGet(ctx, w.stack.Prefix.RedisKey("items", fmt.Sprint(id)), "v")
	}
	answers, _ := pipe.Exec(ctx) // a key that is not there is an error too
	versions := map[string]saga.Version{}
	for id, answer := range answers {
		text, ok := answer.(*goredis.StringCmd)
		if !ok || text.Err() != nil {
			continue
		}
		version, err := saga.ParseVersion(text.Val())
		if err != nil {
			return nil, err
		}
		versions[fmt.Sprint(id)] = version
	}
	return versions, ctx.Err()
}

func (w *world) elasticVersions(ctx context.Context) (map[string]saga.Version, error) {
	var ids []string
	for id := range watchedKeys {
		ids = append(ids, fmt.Sprint(id))
	}
	body, err := json.Marshal(map[string]any{"ids": ids})
	if err != nil {
		return nil, err
	}
	request, err := http.NewRequestWithContext(ctx, http.MethodPost, w.stack.ElasticsearchURL+"/"+w.index("items")+"/_mget?_source=false", bytes.NewReader(body))
	if err != nil {
		return nil, err
	}
	request.Header.Set("Content-Type", "application/json")
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		return nil, err
	}
	defer func() { _ = response.Body.Close() }()
	var answer struct {
		Docs []struct {
			ID      string `json:"_id"`
			Version int64  `json:"_version"`
			Found   bool   `json:"found"`
		} `json:"docs"`
	}
	if err := json.NewDecoder(response.Body).Decode(&answer); err != nil {
		return nil, err
	}
	versions := map[string]saga.Version{}
	for _, doc := range answer.Docs {
		if doc.Found {
			versions[doc.ID] = saga.Version(doc.Version)
		}
	}
	return versions, nil
}
