package redis_test

import (
	"context"
	"encoding/json"
	"fmt"
	"net"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	goredis "github.com/redis/go-redis/v9"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/capsaga/capsaga/internal/redis"
	"github.com/capsaga/capsaga/internal/sinktest"
	"github.com/capsaga/capsaga/internal/stacktest"
	"github.com/capsaga/capsaga/saga"
)

const version = saga.Version(9007199254740993)

// bench is a store with a raw client beside it.
type bench struct {
	*redis.Store
	raw    *goredis.Client
	prefix saga.Prefix
	url    string
}

func open(t *testing.T) bench {
	t.Helper()
	stack := stacktest.New(t)
	store, err := redis.Open(stack.RedisURL, stack.Prefix)
	require.NoError(t, err)
	options, err := goredis.ParseURL(stack.RedisURL)
	require.NoError(t, err)
	raw := goredis.NewClient(options)
	t.Cleanup(func() {
		removeKeys(t, raw, stack.Prefix)
		assert.NoError(t, raw.Close())
		assert.NoError(t, store.Close())
	})
	return bench{store, raw, stack.Prefix, stack.RedisURL}
}

func removeKeys(t testing.TB, raw *goredis.Client, prefix saga.Prefix) {
	ctx := context.Background()
	for cursor := uint64(0); ; {
		keys, next, err := raw.Scan(ctx, cursor, string(prefix)+":*", 1000).Result()
		require.NoError(t, err)
		if len(keys) > 0 {
			assert.NoError(t, raw.Del(ctx, keys...).Err())
		}
		if cursor = next; cursor == 0 {
			return
		}
	}
}

func row(key string, v saga.Version) saga.Document {
	return saga.Document{Entity: "users", Key: key, Version: v, Row: json.RawMessage(`{"id":` + key + `,"n":1.10}`)}
}

func tombstone(key string, v saga.Version) saga.Document {
	return saga.Document{Entity: "users", Key: key, Version: v}
}

func lives(ttl, tombstoneTTL time.Duration) func(string) (time.Duration, time.Duration) {
	return func(string) (time.Duration, time.Duration) { return ttl, tombstoneTTL }
}

// apply applies one document and returns whether it changed anything.
func (b bench) apply(t *testing.T, doc saga.Document, ttl, tombstoneTTL time.Duration) bool {
	t.Helper()
	applied, err := b.Apply(t.Context(), []saga.Document{doc}, lives(ttl, tombstoneTTL))
	require.NoError(t, err)
	require.NoError(t, applied[0].Err)
	return applied[0].Changed
}

func (b bench) fields(t *testing.T, key string) map[string]string {
	t.Helper()
	fields, err := b.raw.HGetAll(t.Context(), b.prefix.RedisKey("users", key)).Result()
	require.NoError(t, err)
	return fields
}

// life returns the time to live of a key; -1ns for ever.
func (b bench) life(t *testing.T, key string) time.Duration {
	t.Helper()
	life, err := b.raw.PTTL(t.Context(), b.prefix.RedisKey("users", key)).Result()
	require.NoError(t, err)
	return life
}

type sink struct{ *redis.Store }

func (s sink) Apply(ctx context.Context, docs []saga.Document) ([]saga.Applied, error) {
	return s.Store.Apply(ctx, docs, nil)
}

func TestConformance(t *testing.T) {
	t.Parallel()
	sinktest.Run(t, sink{open(t).Store})
}

func TestFloors(t *testing.T) {
	t.Parallel()
	b := open(t)
	two, err := redis.Open(b.url, b.prefix)
	require.NoError(t, err)
	t.Cleanup(func() { assert.NoError(t, two.Close()) })
	var entities atomic.Int64
	sinktest.RunFloors(t, sink{b.Store}, sink{two}, func(*testing.T) string { return fmt.Sprint("e", entities.Add(1)) })
}

func TestConformanceOfRowsThatExpire(t *testing.T) {
	t.Parallel()
	sinktest.Run(t, expiring{open(t).Store})
}

type expiring struct{ *redis.Store }

func (s expiring) Apply(ctx context.Context, docs []saga.Document) ([]saga.Applied, error) {
	return s.Store.Apply(ctx, docs, lives(time.Hour, 0))
}

func TestLayout(t *testing.T) {
	t.Parallel()
	b := open(t)

	b.apply(t, row("7", version), 0, 0)
	assert.Equal(t, map[string]string{"v": "0009007199254740993", "d": `{"id":7,"n":1.10}`}, b.fields(t, "7"))
	assert.Equal(t, time.Duration(-1), b.life(t, "7"))

	b.apply(t, tombstone("7", version+1), 0, 0)
	assert.Equal(t, map[string]string{"v": "0009007199254740994", "del": "1"}, b.fields(t, "7"))
	assert.InDelta(t, saga.DefaultTombstoneTTL, b.life(t, "7"), float64(time.Minute))

	b.apply(t, row("7", version+2), 0, 0)
	assert.Equal(t, map[string]string{"v": "0009007199254740995", "d": `{"id":7,"n":1.10}`}, b.fields(t, "7"))
	assert.Equal(t, time.Duration(-1), b.life(t, "7"), "the tombstone's life must not end the row")
}

func TestLives(t *testing.T) {
	t.Parallel()
	b := open(t)
	cases := []struct {
		name              string
		doc               saga.Document
		ttl, tombstoneTTL time.Duration
		life              time.Duration
		expires           bool
	}{
		{"a row without a life", row("1", version), 0, time.Hour, -1, false},
		{"a row that outlives tombstones", row("2", version), 48 * time.Hour, time.Hour, 48 * time.Hour, false},
		{"a row that lives as long as tombstones", row("3", version), time.Hour, time.Hour, time.Hour, false},
		{"a row that tombstones outlive", row("4", version), time.Minute, time.Hour, time.Hour, true},
		{"a row with the default tombstones", row("5", version), time.Minute, 0, saga.DefaultTombstoneTTL, true},
		{"a tombstone", tombstone("6", version), time.Minute, time.Hour, time.Hour, false},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			b.apply(t, c.doc, c.ttl, c.tombstoneTTL)
			if c.life < 0 {
				assert.Equal(t, c.life, b.life(t, c.doc.Key))
			} else {
				assert.InDelta(t, c.life, b.life(t, c.doc.Key), float64(30*time.Second))
			}
			assert.Equal(t, c.expires, b.fields(t, c.doc.Key)["x"] != "")
		})
	}
}

// TestExpiredRowKeepsItsVersion is what a plain time to live on the key gets
// wrong: after the expiry an older row would come back.
func TestExpiredRowKeepsItsVersion(t *testing.T) {
	t.Parallel()
	b := open(t)
	b.apply(t, row("7", version), 20*time.Millisecond, time.Hour)
	b.eventuallyGone(t, "7")

	assert.False(t, b.apply(t, row("7", version-1), 20*time.Millisecond, time.Hour), "an older row came back")
	b.eventuallyGone(t, "7")
	assert.False(t, b.apply(t, tombstone("7", version-1), 0, 0))

	// The fill of an idle database has the same version again.
	assert.True(t, b.apply(t, row("7", version), time.Hour, 2*time.Hour))
	doc, found, err := b.Get(t.Context(), "users", "7")
	require.NoError(t, err)
	require.True(t, found)
	assert.Equal(t, row("7", version), doc)
	assert.False(t, b.apply(t, row("7", version), time.Hour, 2*time.Hour), "a row that is there is not set again")

	b.apply(t, row("7", version+1), 0, 0)
	assert.NotContains(t, b.fields(t, "7"), "x", "the row now lives for ever")
}

func (b bench) eventuallyGone(t *testing.T, key string) {
	t.Helper()
	require.Eventually(t, func() bool {
		_, found, err := b.Get(t.Context(), "users", key)
		return err == nil && !found
	}, 10*time.Second, 5*time.Millisecond)
}

func TestTombstoneIsForgotten(t *testing.T) {
	t.Parallel()
	b := open(t)
	b.apply(t, tombstone("7", version), 0, 20*time.Millisecond)
	b.eventuallyGone(t, "7")
	assert.Empty(t, b.fields(t, "7"))
}

func TestForgottenScript(t *testing.T) {
	t.Parallel()
	b := open(t)
	for round := range 3 {
		require.NoError(t, b.raw.ScriptFlush(t.Context()).Err())
		docs := make([]saga.Document, 50)
		for i := range docs {
			docs[i] = row(fmt.Sprint(i), version+saga.Version(round))
		}
		applied, err := b.Apply(t.Context(), docs, nil)
		require.NoError(t, err)
		for i, a := range applied {
			require.Equal(t, saga.Applied{Changed: true}, a, "document %d", i)
		}
	}
}

func TestWrongTypeIsTheItemsError(t *testing.T) {
	t.Parallel()
	b := open(t)
	require.NoError(t, b.raw.Set(t.Context(), b.prefix.RedisKey("users", "2"), "text", 0).Err())
	applied, err := b.Apply(t.Context(), []saga.Document{row("1", version), row("2", version), row("3", version)}, nil)
	require.NoError(t, err)
	assert.Equal(t, saga.Applied{Changed: true}, applied[0])
	assert.Equal(t, saga.Rejected, saga.ClassOf(applied[1].Err))
	assert.ErrorContains(t, applied[1].Err, b.prefix.RedisKey("users", "2"))
	assert.ErrorContains(t, applied[1].Err, "WRONGTYPE")
	assert.Equal(t, saga.Applied{Changed: true}, applied[2])

	_, _, err = b.Get(t.Context(), "users", "2")
	assert.Equal(t, saga.Rejected, saga.ClassOf(err))
}

func TestForeignHash(t *testing.T) {
	t.Parallel()
	b := open(t)
	require.NoError(t, b.raw.HSet(t.Context(), b.prefix.RedisKey("users", "1"), "v", "new", "d", "{}").Err())
	_, _, err := b.Get(t.Context(), "users", "1")
	assert.Equal(t, saga.Rejected, saga.ClassOf(err))
	assert.ErrorContains(t, err, "not written by Capsaga")
}

func TestMarks(t *testing.T) {
	t.Parallel()
	b := open(t)
	_, found, err := b.Mark(t.Context(), "epoch")
	require.NoError(t, err)
	assert.False(t, found)
	require.NoError(t, b.SetMark(t.Context(), "epoch", "1/42"))
	value, found, err := b.Mark(t.Context(), "epoch")
	require.NoError(t, err)
	assert.True(t, found)
	assert.Equal(t, "1/42", value)
	raw, err := b.raw.Get(t.Context(), string(b.prefix)+":_epoch").Result()
	require.NoError(t, err)
	assert.Equal(t, "1/42", raw)
}

func TestWrongPassword(t *testing.T) {
	t.Parallel()
	stack := stacktest.New(t)
	store, err := redis.Open("redis://nobody:hunter2@"+stack.RedisURL[len("redis://"):], stack.Prefix)
	require.NoError(t, err)
	defer store.Close()
	err = store.Ping(t.Context())
	assert.Equal(t, saga.Unavailable, saga.ClassOf(err))
	assert.ErrorContains(t, err, "WRONGPASS")
	assert.NotContains(t, err.Error(), "hunter2")
	applied, err := store.Apply(t.Context(), []saga.Document{row("1", version)}, nil)
	require.NoError(t, err)
	assert.Equal(t, saga.Unavailable, saga.ClassOf(applied[0].Err))
}

func TestServerAway(t *testing.T) {
	t.Parallel()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	address := listener.Addr().String()
	require.NoError(t, listener.Close())
	store, err := redis.Open("redis://:hunter2@"+address, "away")
	require.NoError(t, err)
	defer store.Close()

	began := time.Now()
	_, applyErr := store.Apply(t.Context(), []saga.Document{row("1", version)}, nil)
	_, _, getErr := store.Get(t.Context(), "users", "1")
	for _, err := range []error{applyErr, getErr, store.Ping(t.Context())} {
		assert.Equal(t, saga.Unavailable, saga.ClassOf(err))
		assert.ErrorContains(t, err, address)
		assert.NotContains(t, err.Error(), "hunter2")
	}
	assert.Less(t, time.Since(began), 5*time.Second, "the driver must not retry")
}

// TestSilentServer accepts and never answers: what was sent may have been done.
func TestSilentServer(t *testing.T) {
	t.Parallel()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	defer listener.Close()
	store, err := redis.Open("redis://"+listener.Addr().String()+"?read_timeout=100ms", "silent")
	require.NoError(t, err)
	defer store.Close()

	_, err = store.Apply(t.Context(), []saga.Document{row("1", version)}, nil)
	assert.Equal(t, saga.Ambiguous, saga.ClassOf(err))
	_, _, err = store.Get(t.Context(), "users", "1")
	assert.Equal(t, saga.Unavailable, saga.ClassOf(err), "a read has no effect to be unsure of")
}

func TestOpenHidesThePassword(t *testing.T) {
	t.Parallel()
	for _, url := range []string{
		"redis://:hunter2@host:port/0", "redis://:hunter2%zz@host/0", "redis://:hunter2/x@host/0", "redis://:12/hunter2@host",
		"hunter2", "http://:hunter2@host", "redis://:hunter2@host/zero", "redis://:hunter2@host/0/1", "redis://host/0?hunter2=1", "",
	} {
		_, err := redis.Open(url, "p")
		require.Error(t, err, url)
		assert.Equal(t, saga.Rejected, saga.ClassOf(err))
		assert.NotContains(t, fmt.Sprintf("%v %+v", err, err), "hunter2")
	}
}

// TestManyAtOnce holds that what is dealt out to many scripts comes back in order,
// refusals with their own document.
func TestManyAtOnce(t *testing.T) {
	t.Parallel()
	b := open(t)
	var docs []saga.Document
	var want []string
	for i := range 1000 {
		key := fmt.Sprint(i)
		doc := saga.Document{Entity: []string{"users", "things"}[i%2], Key: key, Version: version, Row: json.RawMessage(`{"id":` + key + `}`)}
		switch {
		case i%10 == 3:
			require.NoError(t, b.raw.Set(t.Context(), b.prefix.RedisKey(doc.Entity, key), "text", 0).Err())
			want = append(want, "set "+b.prefix.RedisKey(doc.Entity, key)+": WRONGTYPE")
		case i%100 == 4:
			doc.Row = json.RawMessage{}
			want = append(want, "the row is empty")
		case i%100 == 5:
			doc.Version = 0
			want = append(want, "no version")
		case i%100 == 6:
			doc.Row = json.RawMessage(`"` + strings.Repeat("long", 100_000) + `"`)
			want = append(want, "")
		default:
			want = append(want, "")
		}
		docs = append(docs, doc)
	}
	applied, err := b.Apply(t.Context(), docs, nil)
	require.NoError(t, err)
	for i, a := range applied {
		if want[i] == "" {
			require.Equal(t, saga.Applied{Changed: true}, a, "document %d", i)
			got, found, err := b.Get(t.Context(), docs[i].Entity, docs[i].Key)
			require.NoError(t, err)
			require.True(t, found)
			require.Equal(t, docs[i], got)
			continue
		}
		require.Equal(t, saga.Rejected, saga.ClassOf(a.Err), "document %d", i)
		require.ErrorContains(t, a.Err, want[i], "document %d", i)
		require.False(t, a.Changed)
	}
}
