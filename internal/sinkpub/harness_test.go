package sinkpub_test

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/capsaga/capsaga/internal/postgres"
	"github.com/capsaga/capsaga/internal/sinkpub"
	"github.com/capsaga/capsaga/internal/stacktest"
	"github.com/capsaga/capsaga/internal/stream"
	"github.com/capsaga/capsaga/saga"
)

// database gives a publisher what it asks of PostgreSQL.
type database struct{ *postgres.DB }

func (d database) Pool() postgres.Querier { return d.DB.Pool() }

// world is a database with a publication and its slot, and a sink in memory.
type world struct {
	t     testing.TB
	stack stacktest.Stack
	db    *postgres.DB
	slot  string
	store *memory
}

func newWorld(t testing.TB) *world {
	t.Helper()
	ctx := context.Background()
	w := &world{t: t, stack: stacktest.New(t), store: newMemory()}
	w.slot = w.stack.Prefix.Slot(saga.PublicationRedis)
	_, err := postgres.Migrate(ctx, w.stack.PostgresURL)
	require.NoError(t, err)
	w.db, err = postgres.Open(ctx, w.stack.PostgresURL)
	require.NoError(t, err)
	t.Cleanup(w.db.Close)
	w.exec("CREATE PUBLICATION redispub FOR ALL TABLES WITH (publish_via_partition_root = true, publish_generated_columns = stored)")
	w.exec(fmt.Sprintf("SELECT pg_create_logical_replication_slot('%s', 'pgoutput')", w.slot))
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

// entity is one on a table of schema public.
func entity(table string, key ...string) *saga.Entity {
	return &saga.Entity{Name: table, Table: saga.Table{Schema: "public", Name: table}, Key: key, Redis: &saga.RedisSink{}}
}

// running is a reader that runs.
type running struct {
	*stream.Reader
	positions *stream.Positions
	stop      func()
}

// start applies the changes of the entities' tables to the store.
func (w *world) start(change func(*sinkpub.Config), entities ...*saga.Entity) *running {
	w.t.Helper()
	log := slog.New(slog.NewTextHandler(io.Discard, nil))
	if testing.Verbose() {
		log = slog.New(slog.NewTextHandler(w.t.Output(), nil))
	}
	catalog := &saga.Catalog{Entities: map[string]*saga.Entity{}}
	for _, e := range entities {
		catalog.Entities[e.Name] = e
	}
	config := sinkpub.Config{
		Sink: saga.Redis, Catalog: catalog, Database: database{w.db}, Store: w.store, Logger: log,
		Adopt: func(_ context.Context, refused []saga.Refused) error {
			return fmt.Errorf("refused: %v", refused[0].Error)
		},
		Resync: func(context.Context, *saga.Entity) error { return nil },
	}
	if change != nil {
		change(&config)
	}
	positions := stream.NewPositions(w.db.Pool(), w.slot)
	reader, err := stream.NewReader(stream.Config{
		URL: w.stack.PostgresURL, Slot: w.slot, Publications: []string{saga.PublicationRedis}, Sink: saga.Redis, Holder: "test",
		Registry: w.db, Database: w.db.Pool(), Positions: positions, Logger: log, Handler: sinkpub.New(config),
	})
	require.NoError(w.t, err)
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() {
		defer close(done)
		_ = reader.Run(ctx)
	}()
	r := &running{Reader: reader, positions: positions, stop: func() {
		cancel()
		<-done
	}}
	w.t.Cleanup(r.stop)
	return r
}

// settle waits until all writes so far are confirmed.
func (w *world) settle(r *running) {
	w.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 60*time.Second)
	defer cancel()
	lsn, err := saga.ParseLSN(w.text("SELECT pg_current_wal_flush_lsn()::text"))
	require.NoError(w.t, err)
	for {
		err := r.positions.Wait(ctx, lsn)
		if err == nil {
			return
		}
		require.NoError(w.t, ctx.Err(), err)
	}
}

// memory is a sink that keeps the rules of the real ones. Those are tested with
// the same rules in package sinktest.
type memory struct {
	mu     sync.Mutex
	docs   map[string]saga.Document // by entity/key
	floors map[string]saga.Version
	// requests holds the sizes of the requests.
	requests []int
	// fail, if set, is asked before a request; refuse before each document.
	fail   func() error
	refuse func(saga.Document) error
}

func newMemory() *memory {
	return &memory{docs: map[string]saga.Document{}, floors: map[string]saga.Version{}}
}

func (m *memory) Apply(ctx context.Context, docs []saga.Document) ([]saga.Applied, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.fail != nil {
		if err := m.fail(); err != nil {
			return nil, err
		}
	}
	m.requests = append(m.requests, len(docs))
	applied := make([]saga.Applied, len(docs))
	for i, doc := range docs {
		if m.refuse != nil {
			if applied[i].Err = m.refuse(doc); applied[i].Err != nil {
				continue
			}
		}
		applied[i].Changed = m.set(doc)
	}
	return applied, ctx.Err()
}

func (m *memory) set(doc saga.Document) bool {
	at := doc.Entity + "/" + doc.Key
	held, known := m.docs[at]
	if doc.Version < m.floors[doc.Entity] || known && (held.Version > doc.Version || held.Version == doc.Version && !doc.Again) {
		return false
	}
	m.docs[at] = doc
	return true
}

func (m *memory) Truncate(_ context.Context, entity string, floor saga.Version) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.floors[entity] = max(m.floors[entity], floor)
	for at, doc := range m.docs {
		if doc.Entity == entity && doc.Version <= floor {
			delete(m.docs, at)
		}
	}
	return nil
}

func (m *memory) Sweep(_ context.Context, entity string, floor saga.Version) (removed int, err error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, doc := range m.docs {
		if doc.Entity == entity && doc.Version < floor && !doc.Deleted() {
			m.set(saga.Document{Entity: entity, Key: doc.Key, Version: floor})
			removed++
		}
	}
	return removed, nil
}

// rows returns the rows of an entity by key, without tombstones.
func (m *memory) rows(entity string) map[string]string {
	m.mu.Lock()
	defer m.mu.Unlock()
	rows := map[string]string{}
	for _, doc := range m.docs {
		if doc.Entity == entity && !doc.Deleted() {
			rows[doc.Key] = string(doc.Row)
		}
	}
	return rows
}

// requireSame wants the sink's rows to be the table's, to the byte.
func (w *world) requireSame(e *saga.Entity) {
	w.t.Helper()
	columns := ""
	for i, name := range e.Key {
		if i > 0 {
			columns += ", "
		}
		columns += fmt.Sprintf("format('%%s', t.%q)", name)
	}
	rows, err := w.db.Pool().Query(context.Background(), fmt.Sprintf("SELECT ARRAY[%s], row_to_json(t.*)::text FROM %q t", columns, e.Table.Name))
	require.NoError(w.t, err)
	want := map[string]string{}
	for rows.Next() {
		var key []string
		var row string
		require.NoError(w.t, rows.Scan(&key, &row))
		want[saga.EncodeKey(key)] = row
	}
	require.NoError(w.t, rows.Err())
	got := w.store.rows(e.Name)
	for key, row := range want {
		require.Equal(w.t, fmt.Sprintf("%.300s", row), fmt.Sprintf("%.300s", got[key]), "row %s", key)
		require.True(w.t, row == got[key], "row %s", key)
	}
	require.Len(w.t, got, len(want))
}
