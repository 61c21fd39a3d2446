package backfill_test

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/require"

	"github.com/capsaga/capsaga/internal/backfill"
	"github.com/capsaga/capsaga/internal/postgres"
	"github.com/capsaga/capsaga/internal/stacktest"
	"github.com/capsaga/capsaga/internal/stream"
	"github.com/capsaga/capsaga/saga"
)

// world is a database with a publication, its slot, and a sink in memory.
type world struct {
	t     testing.TB
	stack stacktest.Stack
	db    *postgres.DB
	log   *slog.Logger
}

func newWorld(t testing.TB) *world {
	t.Helper()
	w := &world{t: t, stack: stacktest.New(t), log: slog.New(slog.NewTextHandler(io.Discard, nil))}
	if testing.Verbose() {
		w.log = slog.New(slog.NewTextHandler(t.Output(), &slog.HandlerOptions{Level: slog.LevelDebug}))
	}
	_, err := postgres.Migrate(t.Context(), w.stack.PostgresURL)
	require.NoError(t, err)
	w.db, err = postgres.Open(context.Background(), w.stack.PostgresURL+"&pool_max_conns=40")
	require.NoError(t, err)
	t.Cleanup(w.db.Close)
	_, err = w.db.Epoch(t.Context())
	require.NoError(t, err)
	w.exec("CREATE PUBLICATION redispub FOR ALL TABLES WITH (publish_via_partition_root = true, publish_generated_columns = stored)")
	for _, p := range []string{saga.PublicationRedis} {
		w.exec("SELECT pg_create_logical_replication_slot($1, 'pgoutput')", w.stack.Prefix.Slot(p))
	}
	return w
}

func (w *world) exec(sql string, args ...any) {
	w.t.Helper()
	_, err := w.db.Pool().Exec(context.Background(), sql, args...)
	require.NoError(w.t, err, sql)
}

func (w *world) text(sql string, args ...any) (text string) {
	w.t.Helper()
	require.NoError(w.t, w.db.Pool().QueryRow(context.Background(), sql, args...).Scan(&text), sql)
	return text
}

// connect returns a session of the test's own.
func (w *world) connect() *pgx.Conn {
	w.t.Helper()
	conn, err := pgx.Connect(context.Background(), w.stack.PostgresURL)
	require.NoError(w.t, err)
	w.t.Cleanup(func() { _ = conn.Close(context.Background()) })
	return conn
}

// entity is one on a table of schema public.
func entity(table string, key ...string) *saga.Entity {
	return &saga.Entity{Name: table, Table: saga.Table{Schema: "public", Name: table}, Key: key, Redis: &saga.RedisSink{}}
}

func (w *world) submit(r backfill.Request) backfill.Backfill {
	w.t.Helper()
	b, err := backfill.Submit(context.Background(), w.db.Pool(), r)
	require.NoError(w.t, err)
	return b
}

// serve runs a service; stop waits for it.
func (w *world) serve(before func(step string), change ...func(*backfill.Config)) (stop func()) {
	config := backfill.Config{DB: w.db, Prefix: w.stack.Prefix, Logger: w.log, Poll: 20 * time.Millisecond}
	for _, c := range change {
		c(&config)
	}
	s := backfill.NewService(config)
	backfill.OnStep(s, before)
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() {
		defer close(done)
		_ = s.Run(ctx)
	}()
	var once sync.Once
	stop = func() {
		once.Do(func() {
			cancel()
			<-done
		})
	}
	w.t.Cleanup(stop)
	return stop
}

// await waits until a backfill has a state.
func (w *world) await(id int64, want backfill.State) backfill.Backfill {
	w.t.Helper()
	var b *backfill.Backfill
	stacktest.Eventually(w.t, 60*time.Second, func() (err error) {
		b, err = backfill.Find(context.Background(), w.db.Pool(), id)
		if err != nil || b == nil || b.State != want {
			return fmt.Errorf("backfill %d is %+v: %w", id, b, err)
		}
		return nil
	})
	return *b
}

// read replays the slot into a sink from its beginning.
func (w *world) read() *sink {
	w.t.Helper()
	s := &sink{rows: map[string]map[string]string{}, deleted: map[string]map[string]bool{}, versions: map[string]saga.Version{}}
	slot := w.stack.Prefix.Slot(saga.PublicationRedis)
	positions := stream.NewPositions(w.db.Pool(), slot)
	reader, err := stream.NewReader(stream.Config{
		URL: w.stack.PostgresURL, Slot: slot, Publications: []string{saga.PublicationRedis}, Sink: saga.Redis, Holder: "test",
		Registry: w.db, Database: w.db.Pool(), Positions: positions, Logger: w.log, Handler: s,
	})
	require.NoError(w.t, err)
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() {
		defer close(done)
		_ = reader.Run(ctx)
	}()
	s.settle = func() {
		w.t.Helper()
		lsn, err := saga.ParseLSN(w.text("SELECT pg_current_wal_flush_lsn()::text"))
		require.NoError(w.t, err)
		waiting, cancel := context.WithTimeout(context.Background(), 60*time.Second)
		defer cancel()
		for err = positions.Wait(waiting, lsn); err != nil; err = positions.Wait(waiting, lsn) {
			require.NoError(w.t, waiting.Err(), err)
		}
		s.mu.Lock()
		defer s.mu.Unlock()
		require.Empty(w.t, s.faults)
	}
	w.t.Cleanup(func() {
		cancel()
		<-done
	})
	return s
}

// requireSame wants the sink's rows to be the table's, in the text forms of the
// stream.
func (w *world) requireSame(s *sink, e *saga.Entity) {
	w.t.Helper()
	s.settle()
	rows, err := w.db.Pool().Query(context.Background(), fmt.Sprintf(`SELECT whole::text FROM %q whole`, e.Table.Name))
	require.NoError(w.t, err)
	want, err := pgx.CollectRows(rows, pgx.RowTo[string])
	require.NoError(w.t, err)
	s.mu.Lock()
	defer s.mu.Unlock()
	got := map[string]bool{}
	for record := range maps.Values(s.rows[e.Name]) {
		got[record] = true
	}
	for _, record := range want {
		require.True(w.t, got[record], "the sink lacks %s", record)
	}
	require.Len(w.t, got, len(want), "the sink has rows that the table has not")
}

// sink keeps rows as the stream brings them. It is in order by itself: whatever
// comes last counts, so that a backfill that brought an older row after a newer
// one would be seen.
type sink struct {
	settle func()

	mu       sync.Mutex
	rows     map[string]map[string]string // by table and key, as records
	deleted  map[string]map[string]bool   // keys that were deleted, by table
	versions map[string]saga.Version      // the column v by table and key, if there is one
	marks    []saga.BackfillMessage
	reads    int
	chunks   []int // rows per chunk
	faults   []string
}

func (s *sink) Start(context.Context, stream.Lease) (stream.Session, error) { return s, nil }
func (s *sink) Begin(context.Context, *stream.Transaction) error            { return nil }
func (s *sink) Commit(context.Context, *stream.Transaction) error           { return nil }
func (s *sink) Trouble() error                                              { return nil }
func (s *sink) Close()                                                      {}
func (s *sink) Truncate(context.Context, *stream.Transaction, []*stream.Relation, int) error {
	return nil
}

func (s *sink) Mark(_ context.Context, _ *stream.Transaction, m *saga.BackfillMessage) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.marks = append(s.marks, *m)
	return nil
}

func (s *sink) Change(_ context.Context, _ *stream.Transaction, c *stream.Change) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	table := c.Relation.Table.Name
	if s.rows[table] == nil {
		s.rows[table], s.deleted[table] = map[string]string{}, map[string]bool{}
	}
	if c.Op == stream.Read {
		s.read(c)
	}
	if c.Old != nil {
		key := keyOf(c.Relation, c.Old)
		delete(s.rows[table], key)
		s.deleted[table][key] = true
	}
	if c.New != nil {
		c.FillUnchanged()
		key := keyOf(c.Relation, c.New)
		s.check(c, table, key)
		s.rows[table][key] = record(c.New)
		delete(s.deleted[table], key)
	}
	return nil
}

func (s *sink) read(c *stream.Change) {
	s.reads++
	if c.Index == 0 {
		s.chunks = append(s.chunks, 0)
	}
	s.chunks[len(s.chunks)-1]++
}

// check looks for rows that come back and for values that go back: a column v only
// rises.
func (s *sink) check(c *stream.Change, table, key string) {
	if c.Op == stream.Read && s.deleted[table][key] {
		s.faults = append(s.faults, fmt.Sprintf("the deleted row %s %s came back", table, key))
	}
	for i, column := range c.Relation.Columns {
		if column.Name != "v" {
			continue
		}
		var v saga.Version
		_, _ = fmt.Sscan(string(c.New[i].Text), &v)
		at := table + " " + key
		if v < s.versions[at] {
			s.faults = append(s.faults, fmt.Sprintf("%s went from %d back to %d by %c", at, s.versions[at], v, c.Op))
		}
		s.versions[at] = v
	}
}

func keyOf(r *stream.Relation, row stream.Tuple) string {
	var key []string
	for i, c := range r.Columns {
		if c.Identity {
			key = append(key, string(row[i].Text))
		}
	}
	return saga.EncodeKey(key)
}

// record writes a row as PostgreSQL writes a record.
func record(row stream.Tuple) string {
	var fields []string
	for _, v := range row {
		text := string(v.Text)
		if v.Kind == stream.Text && (text == "" || strings.ContainsAny(text, "\"\\(), \t\n\r\v\f")) {
			text = `"` + strings.NewReplacer(`"`, `""`, `\`, `\\`).Replace(text) + `"`
		}
		fields = append(fields, text)
	}
	return "(" + strings.Join(fields, ",") + ")"
}
