package redis_test

import (
	"context"
	"encoding/json"
	"fmt"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	goredis "github.com/redis/go-redis/v9"
	"github.com/stretchr/testify/require"

	"github.com/capsaga/capsaga/saga"
)

const benchBatch = 1000

// BenchmarkApply applies batches of a thousand rows of 200 bytes to a server of its
// own, which keeps an append-only file; the floor is what a pipeline of SET, without
// any compare-and-set, takes for the same rows. Next to rows/s, which depend on who
// else uses the cores, stand the microseconds of CPU that a row costs on each side.
func BenchmarkApply(b *testing.B) {
	server := launch(b, "--appendonly", "yes", "--auto-aof-rewrite-percentage", "0")
	store, raw := server.open(b, ""), server.raw
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
			pipe.Set(ctx, saga.Prefix("p").RedisKey(doc.Entity, doc.Key), []byte(doc.Row), 0)
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
				require.NoError(b, raw.FlushAll(b.Context()).Err())
				ours, theirs := clientCPU(b), serverCPU(b, raw)
				benchWriters(b, writers, c.entity, c.fresh, c.write)
				rows := float64(b.N * benchBatch)
				b.ReportMetric((clientCPU(b)-ours)*1e6/rows, "client-µs/row")
				b.ReportMetric((serverCPU(b, raw)-theirs)*1e6/rows, "server-µs/row")
			})
		}
	}
}

// clientCPU returns the seconds of CPU that this process has used.
func clientCPU(b *testing.B) float64 {
	var usage syscall.Rusage
	require.NoError(b, syscall.Getrusage(syscall.RUSAGE_SELF, &usage))
	return time.Duration(usage.Utime.Nano() + usage.Stime.Nano()).Seconds()
}

// serverCPU returns the seconds of CPU that the server has used.
func serverCPU(b *testing.B, raw *goredis.Client) (seconds float64) {
	info, err := raw.Info(b.Context(), "cpu").Result()
	require.NoError(b, err)
	for _, name := range []string{"used_cpu_sys:", "used_cpu_user:"} {
		_, text, found := strings.Cut(info, name)
		require.True(b, found, info)
		text, _, _ = strings.Cut(text, "\r\n")
		part, err := strconv.ParseFloat(text, 64)
		require.NoError(b, err)
		seconds += part
	}
	return seconds
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
