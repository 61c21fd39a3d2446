package redis_test

import (
	"context"
	"encoding/json"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	goredis "github.com/redis/go-redis/v9"
	"github.com/stretchr/testify/require"

	"github.com/capsaga/capsaga/internal/redis"
	"github.com/capsaga/capsaga/internal/stacktest"
	"github.com/capsaga/capsaga/saga"
)

const benchBatch = 1000

// BenchmarkApply applies batches of a thousand rows of 200 bytes; the floor is
// what a pipeline of SET, without any compare-and-set, takes for the same rows.
func BenchmarkApply(b *testing.B) {
	stack := stacktest.New(b)
	store, err := redis.Open(stack.RedisURL, stack.Prefix)
	require.NoError(b, err)
	options, err := goredis.ParseURL(stack.RedisURL)
	require.NoError(b, err)
	raw := goredis.NewClient(options)
	b.Cleanup(func() {
		removeKeys(b, raw, stack.Prefix)
		_ = raw.Close()
		_ = store.Close()
	})
	apply := func(lives func(string) (time.Duration, time.Duration)) func(context.Context, []saga.Document) error {
		return func(ctx context.Context, docs []saga.Document) error {
			applied, err := store.Apply(ctx, docs, lives)
			for _, a := range applied {
				if a.Err != nil || !a.Changed {
					return fmt.Errorf("not applied: %w", a.Err)
				}
			}
			return err
		}
	}
	set := func(ctx context.Context, docs []saga.Document) error {
		pipe := raw.Pipeline()
		for _, doc := range docs {
			pipe.Set(ctx, stack.Prefix.RedisKey(doc.Entity, doc.Key), []byte(doc.Row), 0)
		}
		_, err := pipe.Exec(ctx)
		return err
	}
	cases := []struct {
		name   string
		entity string
		fresh  bool // each row is a new one
		write  func(context.Context, []saga.Document) error
	}{
		{"set", "plain", true, set},
		{"insert", "inserted", true, apply(nil)},
		{"update", "updated", false, apply(nil)},
		{"expiring", "expiring", true, apply(lives(time.Hour, time.Minute))},
	}
	for _, c := range cases {
		for _, writers := range []int{1, 2} {
			b.Run(fmt.Sprintf("%s/writers=%d", c.name, writers), func(b *testing.B) {
				benchWriters(b, writers, c.entity, c.fresh, c.write)
				b.StopTimer()
				removeKeys(b, raw, stack.Prefix)
			})
		}
	}
}

func benchWriters(b *testing.B, writers int, entity string, fresh bool, write func(context.Context, []saga.Document) error) {
	text := strings.Repeat("x", 160)
	var mu sync.Mutex
	batch := 0
	b.ReportAllocs()
	var group sync.WaitGroup
	b.ResetTimer()
	for writer := range writers {
		group.Go(func() {
			docs := make([]saga.Document, benchBatch)
			for {
				mu.Lock()
				n := batch
				batch++
				mu.Unlock()
				if n >= b.N {
					return
				}
				for i := range docs {
					key := fmt.Sprint(writer*benchBatch + i)
					if fresh {
						key = fmt.Sprint(n*benchBatch + i)
					}
					docs[i] = saga.Document{Entity: entity, Key: key, Version: version + saga.Version(n), Row: json.RawMessage(`{"id":` + key + `,"text":"` + text + `"}`)}
				}
				if err := write(b.Context(), docs); err != nil {
					b.Error(err)
					return
				}
			}
		})
	}
	group.Wait()
	b.ReportMetric(float64(b.N*benchBatch)/b.Elapsed().Seconds(), "rows/s")
}
