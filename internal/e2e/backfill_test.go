package e2e

import (
	"bufio"
	"context"
	"encoding/json"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/capsaga/capsaga/saga"
)

// backfillLine is a line of `backfill -o json`.
type backfillLine struct {
	ID      int64   `json:"id"`
	Entity  string  `json:"entity"`
	State   string  `json:"state"`
	Rows    int64   `json:"rows"`
	Visible bool    `json:"visible"`
	Error   string  `json:"error"`
	Seconds float64 `json:"seconds"`
}

func (r result) backfill(t testing.TB) (line backfillLine) {
	t.Helper()
	require.NoError(t, json.Unmarshal([]byte(r.stdout), &line), "%s%s", r.stdout, r.stderr)
	return line
}

// What the sinks have lost comes back by the CLI, which waits until it is there; it
// says what it waits for, and a Ctrl-C leaves the backfill running.
// The TRUNCATE of one partition is not published: a backfill that sweeps finds out
// what it took.
func TestBackfillSweeps(t *testing.T) {
	w := connect(t, "testdata/items.yaml")
	w.exec(`CREATE TABLE items (id bigint PRIMARY KEY, title text, n int, note text) PARTITION BY RANGE (id);
		CREATE TABLE items_low PARTITION OF items FOR VALUES FROM (0) TO (500);
		CREATE TABLE items_high PARTITION OF items FOR VALUES FROM (500) TO (MAXVALUE);
		INSERT INTO items SELECT n, 'item ' || n, n, NULL FROM generate_series(1, 1000) n`)
	w.apply()
	w.startWorker()
	w.settle(60 * time.Second)
	w.exec("TRUNCATE items_high")
	without := w.capsaga("", "backfill", "items")
	require.Zero(t, without.status, without.stderr)
	require.Len(t, w.inRedis("items"), 1000, "a plain backfill removes nothing")
	swept := w.capsaga("", "backfill", "items", "--sweep")
	require.Zero(t, swept.status, swept.stderr)
	w.settle(60 * time.Second)
	require.Len(t, w.inPostgres("items"), 499)
	w.requireSinks("items", saga.Redis, saga.Kafka, saga.Elasticsearch)
}

func TestBackfillByHand(t *testing.T) {
	w := connect(t, "testdata/items.yaml")
	w.exec(`CREATE TABLE items (id bigint PRIMARY KEY, title text, n int, note text);
		INSERT INTO items SELECT n, 'item ' || n, n, NULL FROM generate_series(1, 3000) n`)
	w.apply()
	noWorker := w.capsaga("", "backfill", "items", "--timeout", "6s")
	require.Equal(t, 1, noWorker.status)
	require.Contains(t, noWorker.stderr, "items: follows backfill 1, which is under way (new in the catalog)")
	require.Contains(t, noWorker.stderr, "items: no worker takes it: start a capsaga-worker with the role stream and this catalog")
	require.Contains(t, noWorker.stderr, "not all rows are in the sinks within 6s: the workers go on with items; `capsaga backfill items` follows it again")

	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	command := exec.CommandContext(ctx, program(t, programCLI), "backfill", "items")
	command.Env = w.environ()
	stderr, err := command.StderrPipe()
	require.NoError(t, err)
	require.NoError(t, command.Start())
	told, err := bufio.NewReader(stderr).ReadString('\n')
	require.NoError(t, err)
	require.Contains(t, told, "items: follows backfill 1")
	require.NoError(t, command.Process.Signal(syscall.SIGINT))
	rest, err := io.ReadAll(stderr)
	require.NoError(t, err)
	require.Error(t, command.Wait())
	require.Equal(t, 1, command.ProcessState.ExitCode())
	require.Contains(t, string(rest), "stopped to look: the workers go on with items")

	w.startWorker()
	byHand := w.capsaga("", "backfill", "items", "-o", "json")
	require.Zero(t, byHand.status, byHand.stderr)
	line := byHand.backfill(t)
	require.Equal(t, backfillLine{ID: line.ID, Entity: "items", State: "done", Rows: 3000, Visible: true, Seconds: line.Seconds}, line)
	w.requireSinks("items", saga.Redis, saga.Kafka, saga.Elasticsearch)

	for key := range w.inRedis("items") {
		require.NoError(t, w.redis.Del(ctx, w.stack.Prefix.RedisKey("items", key)).Err())
	}
	require.Empty(t, w.inRedis("items"))
	again := w.capsaga("", "backfill", "--all", "--sinks", "redis")
	require.Zero(t, again.status, again.stderr)
	require.Contains(t, again.stdout, "items: 3,000 rows, ")
	require.Contains(t, again.stdout, "are in redis after")
	w.requireSinks("items", saga.Redis, saga.Kafka, saga.Elasticsearch)

	w.exec("ALTER TABLE items RENAME COLUMN id TO nr")
	failed := w.capsaga("", "backfill", "items", "--sinks", "redis")
	require.Equal(t, 1, failed.status)
	require.Contains(t, failed.stdout, "items: failed: postgres: table public.items has no unique index on the key id any more")
	require.Contains(t, failed.stdout, "then run `capsaga backfill items`")
	list := w.capsaga("", "backfill", "--list")
	require.Zero(t, list.status)
	require.Contains(t, list.stdout, "failed")
	require.Zero(t, w.capsaga("", "backfill", "items", "--cancel").status)

	refused := w.capsaga("", "catalog", "drop", "items")
	require.Equal(t, 1, refused.status)
	require.Contains(t, refused.stderr, "entity items is in the catalog: take it out of the file")
	without := filepath.Join(t.TempDir(), "without.yaml")
	require.NoError(t, os.WriteFile(without, []byte("version: 1\nentities:\n  others: {table: others, key: [id], sinks: {redis: {}}}\n"), 0o600))
	dry := runCLI(t, w.environ("CAPSAGA_CATALOG="+without), "", "catalog", "drop", "items", "--dry-run")
	require.Zero(t, dry.status, dry.stderr)
	require.Contains(t, dry.stdout, "3000 keys")
	require.Contains(t, dry.stderr, "nothing was changed")
	require.Len(t, w.inRedis("items"), 3000)
	dropped := runCLI(t, w.environ("CAPSAGA_CATALOG="+without), "", "catalog", "drop", "items")
	require.Zero(t, dropped.status, dropped.stderr)
	require.Equal(t, dry.stdout, dropped.stdout)
	require.Empty(t, w.inRedis("items"))
}
