package redis_test

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	goredis "github.com/redis/go-redis/v9"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/capsaga/capsaga/internal/redis"
	"github.com/capsaga/capsaga/internal/stacktest"
	"github.com/capsaga/capsaga/saga"
)

// server is a Redis of the test's own, which it may set up as badly as it likes.
type server struct {
	address string
	dir     string
	raw     *goredis.Client // for the test's own commands
}

// launch starts the program that the stack's Redis runs too.
func launch(t testing.TB, flags ...string) server {
	t.Helper()
	options, err := goredis.ParseURL(stacktest.New(t).RedisURL)
	require.NoError(t, err)
	stack := goredis.NewClient(options)
	defer stack.Close()
	info, err := stack.Info(t.Context(), "server").Result()
	require.NoError(t, err)
	_, program, found := strings.Cut(info, "\nexecutable:")
	require.True(t, found, info)
	program, _, _ = strings.Cut(program, "\r\n")

	s := server{address: freeAddress(t), dir: filepath.Join(t.TempDir(), "data")}
	require.NoError(t, os.Mkdir(s.dir, 0o700))
	host, port, err := net.SplitHostPort(s.address)
	require.NoError(t, err)
	process := exec.Command(program, append([]string{"--bind", host, "--port", port, "--dir", s.dir, "--save", "900 1"}, flags...)...) //nolint:gosec // the stack's own program
	require.NoError(t, process.Start())
	t.Cleanup(func() {
		_ = process.Process.Kill()
		_ = process.Wait()
	})
	s.raw = goredis.NewClient(&goredis.Options{Addr: s.address, MaxRetries: -1})
	t.Cleanup(func() { _ = s.raw.Close() })
	stacktest.Eventually(t, 20*time.Second, func() error { return s.raw.Ping(context.Background()).Err() })
	return s
}

func freeAddress(t testing.TB) string {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	defer listener.Close()
	return listener.Addr().String()
}

// open returns a store of the server, which user may be empty for.
func (s server) open(t testing.TB, user string) *redis.Store {
	t.Helper()
	store, err := redis.Open("redis://"+user+s.address+"?read_timeout=5s", "p")
	require.NoError(t, err)
	t.Cleanup(func() { assert.NoError(t, store.Close()) })
	return store
}

// set changes a setting of the server.
func (s server) set(t *testing.T, name, value string) {
	t.Helper()
	require.NoError(t, s.raw.ConfigSet(t.Context(), name, value).Err())
}

// versions grow, so that each write has something to do.
var versions atomic.Int64

// applied writes one row and returns what became of it, as a whole or alone.
func applied(t *testing.T, store *redis.Store) error {
	t.Helper()
	results, err := store.Apply(t.Context(), []saga.Document{row("1", version+saga.Version(versions.Add(1)))}, nil)
	if err != nil {
		return err
	}
	return results[0].Err
}

// refused checks what a write came to.
func refused(t *testing.T, err error, class saga.Class, says string) {
	t.Helper()
	var e *saga.Error
	require.ErrorAs(t, err, &e)
	assert.Equal(t, class, e.Class, err)
	assert.ErrorContains(t, err, says)
}

// What a server that is set up badly, or in trouble, says to a write, and that
// the write passes when that is over.
func TestServerInTrouble(t *testing.T) {
	t.Parallel()
	s := launch(t)
	store := s.open(t, "")
	ctx := t.Context()
	require.NoError(t, applied(t, store))

	s.set(t, "maxmemory", "1")
	refused(t, applied(t, store), saga.Unavailable, "OOM")
	s.set(t, "maxmemory", "0")

	s.set(t, "min-replicas-to-write", "1")
	refused(t, applied(t, store), saga.Unavailable, "NOREPLICAS")
	s.set(t, "min-replicas-to-write", "0")

	require.NoError(t, s.raw.ReplicaOf(ctx, "127.0.0.1", "1").Err())
	refused(t, applied(t, store), saga.Unavailable, "READONLY")
	s.set(t, "replica-serve-stale-data", "no")
	refused(t, applied(t, store), saga.Unavailable, "MASTERDOWN")
	require.NoError(t, s.raw.ReplicaOf(ctx, "NO", "ONE").Err())

	require.NoError(t, s.raw.Do(ctx, "ACL", "SETUSER", "default", "-evalsha").Err())
	refused(t, applied(t, store), saga.Rejected, "NOPERM")
	require.NoError(t, s.raw.Do(ctx, "ACL", "SETUSER", "default", "+@all").Err())

	require.NoError(t, s.raw.Set(ctx, "p:users:1", "not a row", 0).Err())
	refused(t, applied(t, store), saga.Rejected, "WRONGTYPE")
	require.NoError(t, s.raw.Del(ctx, "p:users:1").Err())

	require.NoError(t, applied(t, store))
}

func TestServerThatCannotSave(t *testing.T) {
	t.Parallel()
	s := launch(t)
	require.NoError(t, os.RemoveAll(s.dir))
	stacktest.Eventually(t, 20*time.Second, func() error {
		_ = s.raw.BgSave(t.Context()).Err()
		info, err := s.raw.Info(t.Context(), "persistence").Result()
		if err == nil && !strings.Contains(info, "rdb_last_bgsave_status:err") {
			err = errors.New("it could save")
		}
		return err
	})
	refused(t, applied(t, s.open(t, "")), saga.Unavailable, "MISCONF")
}

func TestServerThatIsBusy(t *testing.T) {
	t.Parallel()
	s := launch(t)
	s.set(t, "lua-time-limit", "1")
	store := s.open(t, "")
	require.NoError(t, applied(t, store))
	over := make(chan error, 1)
	go func() { over <- s.raw.Eval(context.Background(), "while true do end", nil).Err() }()
	stacktest.Eventually(t, 20*time.Second, func() error {
		if err := applied(t, store); err == nil || !strings.Contains(err.Error(), "BUSY") {
			return fmt.Errorf("the script does not run yet: %w", err)
		}
		return nil
	})
	refused(t, applied(t, store), saga.Unavailable, "another script")
	killer := goredis.NewClient(&goredis.Options{Addr: s.address})
	defer killer.Close()
	require.NoError(t, killer.ScriptKill(t.Context()).Err())
	require.Error(t, <-over)
	require.NoError(t, applied(t, store))
}

func TestServerThatRefusesTheLogin(t *testing.T) {
	t.Parallel()
	s := launch(t)
	s.set(t, "maxclients", "1")
	err := applied(t, s.open(t, ""))
	require.Error(t, err)
	assert.NotEqual(t, saga.Rejected, saga.ClassOf(err), "the server hangs up so soon that its reply is not always read: %s", err)
	s.set(t, "maxclients", "100")
	s.set(t, "requirepass", "secret")
	refused(t, applied(t, s.open(t, "")), saga.Unavailable, "NOAUTH")
	refused(t, applied(t, s.open(t, ":wrong@")), saga.Unavailable, "WRONGPASS")
	require.NoError(t, applied(t, s.open(t, ":secret@")))
}

func TestNodeOfACluster(t *testing.T) {
	t.Parallel()
	s := launch(t, "--cluster-enabled", "yes")
	refused(t, applied(t, s.open(t, "")), saga.Unavailable, "CLUSTERDOWN")
}
