package bench

import (
	"bytes"
	"context"
	"net/http"
	"os"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/capsaga/capsaga/internal/config"
	"github.com/capsaga/capsaga/internal/stacktest"
)

// asWorker makes the test's own program the worker of another process.
const asWorker = "CAPSAGA_TEST_BENCH_WORKER"

func TestMain(m *testing.M) {
	if os.Getenv(asWorker) == "" {
		os.Exit(m.Run())
	}
	c, err := config.FromEnv(os.Environ())
	if err == nil {
		err = RunWorker(context.Background(), c, os.Stdin)
	}
	if err != nil {
		_, _ = os.Stderr.WriteString(err.Error() + "\n")
		os.Exit(1)
	}
}

// tiny is a run of all contestants on the tests' stack.
func tiny(t *testing.T) (stacktest.Stack, Options) {
	t.Helper()
	stack := stacktest.New(t)
	environ := append(os.Environ(),
		config.PostgresURL+"="+stack.PostgresURL, config.RedisURL+"="+stack.RedisURL,
		config.KafkaBrokers+"="+strings.Join(stack.KafkaBrokers, ","), config.ElasticsearchURL+"="+stack.ElasticsearchURL,
		config.TemporalAddress+"="+stack.TemporalAddress, config.TemporalNamespace+"=default", config.Prefix+"="+string(stack.Prefix),
		asWorker+"=1")
	systems, err := config.FromEnv(environ)
	require.NoError(t, err)
	return stack, Options{
		Systems: systems, Environ: environ,
		Repetitions: 1, Duration: 300 * time.Millisecond, Settle: time.Millisecond, Rows: 1000, Batch: 50,
	}
}

func TestBench(t *testing.T) {
	stack, o := tiny(t)
	var told []string
	o.Progress = func(p Progress) { told = append(told, p.Doing) }
	before := left(t, stack)
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Minute)
	defer cancel()
	r, err := Run(ctx, o)
	require.NoError(t, err)
	assert.Len(t, told, 2+2*len(r.Contestants))
	for _, c := range contestants {
		if !o.wants(c) {
			continue
		}
		i := 0
		for i < len(r.Contestants) && r.Contestants[i].Name != c.name {
			i++
		}
		require.Less(t, i, len(r.Contestants), c.name)
		f := r.Contestants[i]
		assert.Positive(t, f.Writes, c.name)
		assert.Positive(t, f.WritesPerSecond, c.name)
		assert.Positive(t, f.MemoryMB, c.name)
		if assert.NotNil(t, f.Visible, c.name) && assert.NotNil(t, f.Committed, c.name) {
			assert.Positive(t, f.Committed.P50, c.name)
			assert.GreaterOrEqual(t, f.Visible.P99, f.Visible.P50, c.name)
		}
	}
	var out bytes.Buffer
	require.NoError(t, r.WriteTable(&out))
	t.Log("\n" + out.String())
	assert.Equal(t, before, left(t, stack), "nothing of the bench is left")
}

// An interrupt ends a run early, and nothing of it is left either.
func TestInterruptedBench(t *testing.T) {
	stack, o := tiny(t)
	before := left(t, stack)
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	o.Only, o.Duration = []string{"c"}, time.Minute
	o.Progress = func(p Progress) {
		if p.Doing != "making an instance" {
			time.AfterFunc(time.Second, cancel)
		}
	}
	_, err := Run(ctx, o)
	require.ErrorContains(t, err, "stopped")
	assert.Equal(t, before, left(t, stack))
}

// A figure does not count if a row did not arrive.
func TestMissingRowFailsTheBench(t *testing.T) {
	stack, o := tiny(t)
	require.NoError(t, o.complete())
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	i, err := newInstance(ctx, o.Systems)
	defer func() { assert.NoError(t, i.remove(ctx)) }()
	require.NoError(t, err)
	s, err := openStage(ctx, i, alone, &o, 0)
	require.NoError(t, err)
	p := &plain{i.systems, i.plain}
	for system, spoil := range map[string]func(context.Context, int64) error{
		"postgresql": func(ctx context.Context, id int64) error {
			_, err := i.systems.pool.Exec(ctx, "DELETE FROM plain WHERE id = $1", id)
			return err
		},
		"redis": func(ctx context.Context, id int64) error {
			return i.systems.redis.Del(ctx, i.plain.redis+newRow(id, o.RowBytes).key()).Err()
		},
		"elasticsearch": func(ctx context.Context, id int64) error {
			return i.systems.elasticsearch(ctx, http.MethodDelete, "/"+i.plain.index+"/_doc/"+newRow(id, o.RowBytes).key(), nil, nil)
		},
	} {
		first := int64(1000 * (1 + len(system)))
		c := contestant{name: system, callers: 1, writer: func(*stage) (writer, error) {
			return func(ctx context.Context, w work) (sample, error) {
				s, err := p.naive(ctx, w)
				if id := w.rows[0].ID; err == nil && id == first+1 {
					err = spoil(ctx, id)
				}
				return s, err
			}, nil
		}}
		l := s.load(c, &o)
		l.duration = time.Minute
		small := o
		small.Rows = 3
		_, _, err := s.turn(ctx, c, l, &small, first)
		require.ErrorContains(t, err, system)
		require.ErrorContains(t, err, "1 of 3 rows are missing, the first is "+strconv.FormatInt(first+1, 10))
	}
	_ = stack
}

// left names what a bench would leave behind if it did.
func left(t *testing.T, stack stacktest.Stack) []string {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	conn, err := pgx.Connect(ctx, stack.PostgresURL)
	require.NoError(t, err)
	defer func() { _ = conn.Close(ctx) }()
	rows, err := conn.Query(ctx, `SELECT 'database ' || datname FROM pg_database WHERE datname LIKE 'bench%'
		UNION SELECT 'slot ' || slot_name FROM pg_replication_slots WHERE slot_name LIKE 'bench%' ORDER BY 1`)
	require.NoError(t, err)
	names, err := pgx.CollectRows(rows, pgx.RowTo[string])
	require.NoError(t, err)

	systems, err := config.FromEnv([]string{
		config.PostgresURL + "=" + stack.PostgresURL, config.RedisURL + "=" + stack.RedisURL,
		config.KafkaBrokers + "=" + strings.Join(stack.KafkaBrokers, ","), config.ElasticsearchURL + "=" + stack.ElasticsearchURL,
	})
	require.NoError(t, err)
	s, err := connect(ctx, systems)
	require.NoError(t, err)
	defer s.close()
	keys, err := s.redis.Keys(ctx, "bench*").Result()
	require.NoError(t, err)
	names = append(names, keys...)
	topics, err := s.admin.ListTopics(ctx)
	require.NoError(t, err)
	for _, topic := range topics.Names() {
		if strings.HasPrefix(topic, "bench") {
			names = append(names, "topic "+topic)
		}
	}
	var indices map[string]any
	require.NoError(t, s.elasticsearch(ctx, http.MethodGet, "/bench*/_alias", nil, &indices))
	for index := range indices {
		names = append(names, "index "+index)
	}
	return names
}
