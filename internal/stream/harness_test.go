package stream_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/stretchr/testify/require"

	"github.com/capsaga/capsaga/internal/postgres"
	"github.com/capsaga/capsaga/internal/stacktest"
	"github.com/capsaga/capsaga/internal/stream"
	"github.com/capsaga/capsaga/saga"
)

// world is a database with a published table and a slot, and readers of it.
type world struct {
	t      testing.TB
	url    string
	prefix saga.Prefix
	slot   string
	db     *postgres.DB

	mu   sync.Mutex
	seen map[string]int // how often each row was handed over
	gaps []stream.Gap
	// refusals is how often OnGap fails yet.
	refusals int
}

func newWorld(t testing.TB) *world {
	t.Helper()
	stack := stacktest.New(t)
	return newWorldOn(t, stack.PostgresURL, stack.Prefix)
}

func newWorldOn(t testing.TB, url string, prefix saga.Prefix) *world {
	t.Helper()
	w := &world{t: t, url: url, prefix: prefix, slot: prefix.Slot(saga.PublicationRedis), seen: map[string]int{}}
	_, err := postgres.Migrate(t.Context(), url)
	require.NoError(t, err)
	w.open()
	w.exec("CREATE TABLE items (id text PRIMARY KEY)")
	w.exec("CREATE PUBLICATION redispub FOR TABLE items")
	w.ensure(false)
	return w
}

func (w *world) open() {
	var err error
	w.db, err = postgres.Open(context.Background(), w.url)
	require.NoError(w.t, err)
	w.t.Cleanup(w.db.Close)
}

// ensure makes the slot as `capsaga catalog apply` does.
func (w *world) ensure(failover bool) postgres.SlotChange {
	w.t.Helper()
	conn, err := w.pool().Acquire(w.t.Context())
	require.NoError(w.t, err)
	defer conn.Release()
	change, err := postgres.EnsureSlot(w.t.Context(), conn.Conn(),
		postgres.Slot{Name: w.slot, Publication: saga.PublicationRedis, Failover: failover}, 20*time.Second, true)
	require.NoError(w.t, err)
	return change
}

func (w *world) pool() *pgxpool.Pool { return w.db.Pool() }

func (w *world) exec(sql string, args ...any) {
	w.t.Helper()
	_, err := w.pool().Exec(context.Background(), sql, args...)
	require.NoError(w.t, err, sql)
}

func (w *world) insert(id string) {
	w.t.Helper()
	w.exec("INSERT INTO items VALUES ($1)", id)
}

func (w *world) text(sql string, args ...any) (s string) {
	w.t.Helper()
	require.NoError(w.t, w.pool().QueryRow(context.Background(), sql, args...).Scan(&s), sql)
	return s
}

// dropSlot drops the slot once its walsender has gone.
func (w *world) dropSlot() {
	w.t.Helper()
	stacktest.Eventually(w.t, 10*time.Second, func() error {
		_, err := w.pool().Exec(context.Background(), "SELECT pg_drop_replication_slot($1)", w.slot)
		return err
	})
}

func (w *world) createSlot() {
	w.t.Helper()
	w.exec("SELECT pg_create_logical_replication_slot($1, 'pgoutput')", w.slot)
}

func (w *world) status() stream.Info {
	w.t.Helper()
	infos, err := stream.Status(context.Background(), w.pool(), w.prefix)
	require.NoError(w.t, err)
	require.Len(w.t, infos, 1)
	return infos[0]
}

// mortal is a registry that a holder which has died does not reach any more.
type mortal struct {
	*postgres.DB
	dead atomic.Bool
}

var errDead = errors.New("the process is dead")

func (m *mortal) SettleStream(ctx context.Context, slot string, pid uint32, generation int64, confirmed saga.LSN) (saga.LSN, error) {
	if m.dead.Load() {
		return 0, errDead
	}
	return m.DB.SettleStream(ctx, slot, pid, generation, confirmed)
}

func (m *mortal) ProgressStream(ctx context.Context, slot string, generation int64, confirmed saga.LSN, oldest time.Time) error {
	if m.dead.Load() {
		return errDead
	}
	return m.DB.ProgressStream(ctx, slot, generation, confirmed, oldest)
}

func (m *mortal) CloseGap(ctx context.Context, slot string, gap postgres.StreamGap) error {
	if m.dead.Load() {
		return errDead
	}
	return m.DB.CloseGap(ctx, slot, gap)
}

// running is a reader that runs.
type running struct {
	*stream.Reader
	w         *world
	registry  *mortal
	positions *stream.Positions
	stop      func() // returns when it has stopped
}

// start runs a reader; change may alter its configuration.
func (w *world) start(change ...func(*stream.Config)) *running {
	w.t.Helper()
	log := slog.New(slog.DiscardHandler)
	if testing.Verbose() {
		log = slog.New(slog.NewTextHandler(w.t.Output(), &slog.HandlerOptions{Level: slog.LevelDebug}))
	}
	r := &running{w: w, registry: &mortal{DB: w.db}, positions: stream.NewPositions(w.pool(), w.slot)}
	config := stream.Config{
		URL: w.url, Slot: w.slot, Publications: []string{saga.PublicationRedis}, Sink: saga.Redis, Holder: "test",
		Registry: r.registry, Database: w.pool(), Positions: r.positions, Handler: &memory{world: w}, OnGap: w.onGap, Logger: log,
	}
	for _, c := range change {
		c(&config)
	}
	var err error
	r.Reader, err = stream.NewReader(config)
	require.NoError(w.t, err)
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() {
		defer close(done)
		_ = r.Run(ctx)
	}()
	r.stop = func() {
		cancel()
		<-done
	}
	w.t.Cleanup(r.stop)
	return r
}

// kill ends the reader without a last word of it.
func (r *running) kill() {
	r.registry.dead.Store(true)
	r.w.exec("SELECT pg_terminate_backend(active_pid) FROM pg_replication_slots WHERE slot_name = $1 AND active_pid IS NOT NULL", r.w.slot)
	r.stop()
}

// settle waits until the reader holds the stream and all writes so far are
// confirmed.
func (r *running) settle() {
	r.w.t.Helper()
	stacktest.Eventually(r.w.t, 30*time.Second, func() error {
		if !r.Stats().Holding.Load() {
			return errors.New("the reader does not hold the stream")
		}
		return nil
	})
	ctx, cancel := context.WithTimeout(context.Background(), 40*time.Second)
	defer cancel()
	lsn, err := saga.ParseLSN(r.w.text("SELECT pg_current_wal_flush_lsn()::text"))
	require.NoError(r.w.t, err)
	for {
		err := r.positions.Wait(ctx, lsn)
		if err == nil {
			return
		}
		require.NoError(r.w.t, ctx.Err(), err)
	}
}

// rest waits until the slot stands, to the byte, at least where the WAL ends now:
// the stream has come to rest, unless others go on writing.
func (w *world) rest() {
	w.t.Helper()
	end := w.text("SELECT pg_current_wal_flush_lsn()::text")
	stacktest.Eventually(w.t, 10*time.Second, func() error {
		if at := w.text("SELECT confirmed_flush_lsn::text FROM pg_replication_slots WHERE slot_name = $1 AND confirmed_flush_lsn < $2::text::pg_lsn UNION ALL SELECT '' ORDER BY 1 DESC LIMIT 1", w.slot, end); at != "" {
			return fmt.Errorf("the slot stands at %s, the WAL at %s", at, end)
		}
		return nil
	})
}

func (w *world) onGap(_ context.Context, gap stream.Gap) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.gaps = append(w.gaps, gap)
	if w.refusals > 0 {
		w.refusals--
		return errors.New("the backfill cannot be requested now")
	}
	return nil
}

// asked returns the gaps that OnGap was called with.
func (w *world) asked() []stream.Gap {
	w.mu.Lock()
	defer w.mu.Unlock()
	return append([]stream.Gap(nil), w.gaps...)
}

// awaitGaps waits until OnGap was called at least that often and no gap is open.
func (w *world) awaitGaps(n int) []stream.Gap {
	w.t.Helper()
	stacktest.Eventually(w.t, 20*time.Second, func() error {
		if gaps, info := w.asked(), w.status(); len(gaps) < n || info.Gap == nil || info.Gap.Open {
			return fmt.Errorf("asked %d times for a backfill, gap %+v", len(gaps), info.Gap)
		}
		return nil
	})
	return w.asked()
}

func (w *world) times(id string) int {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.seen[id]
}

// memory is a handler that keeps the rows in the world and acknowledges at once,
// unless it is told that the sink is away.
type memory struct {
	*world
	hold    sync.Mutex
	away    bool
	waiting []func(error)
}

// setAway says whether the sink is away; when it is back, what waits is
// acknowledged.
func (m *memory) setAway(away bool) {
	m.hold.Lock()
	defer m.hold.Unlock()
	m.away = away
	m.acknowledge()
}

func (m *memory) acknowledge() {
	if m.away {
		return
	}
	for _, done := range m.waiting {
		done(nil)
	}
	m.waiting = nil
}

func (m *memory) Start(context.Context, stream.Lease) (stream.Session, error) {
	m.hold.Lock()
	defer m.hold.Unlock()
	m.waiting = nil
	return &session{memory: m}, nil
}

type session struct{ *memory }

func (s *session) Begin(context.Context, *stream.Transaction) error  { return nil }
func (s *session) Commit(context.Context, *stream.Transaction) error { return nil }
func (s *session) Trouble() error                                    { return nil }
func (s *session) Close()                                            {}
func (s *session) Mark(context.Context, *stream.Transaction, *saga.BackfillMessage) error {
	return nil
}

func (s *session) Truncate(context.Context, *stream.Transaction, []*stream.Relation, int) error {
	return nil
}

func (s *session) Change(ctx context.Context, tx *stream.Transaction, c *stream.Change) error {
	done, err := tx.Track(ctx, 100)
	if err != nil {
		return err
	}
	s.mu.Lock()
	s.seen[string(c.New[0].Text)]++
	s.mu.Unlock()
	s.hold.Lock()
	defer s.hold.Unlock()
	s.waiting = append(s.waiting, done)
	s.acknowledge()
	return nil
}
