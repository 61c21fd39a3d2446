package backfill

import (
	"context"
	"log/slog"
	"sync"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/capsaga/capsaga/internal/postgres"
	"github.com/capsaga/capsaga/saga"
)

// Config is what a Service needs.
type Config struct {
	DB     *postgres.DB
	Prefix saga.Prefix
	// Catalog is the worker's. A backfill of an entity that it does not know, or
	// knows otherwise, is left to a worker that does: the streams of this one would
	// pass over the rows.
	Catalog *saga.Catalog
	Logger  *slog.Logger // default slog.Default()
	// Limit is how many backfills this process runs at once; default 2.
	Limit int
	// MaxBehind is how many bytes of the WAL a stream may be behind before a backfill
	// waits for it: PostgreSQL keeps them on its disk. Default 256 MiB.
	MaxBehind int64
	// Poll is the time between two looks for what was requested; default 500 ms.
	// Columns is that between two looks at the tables' columns; default 5 s.
	Poll, Columns time.Duration
}

// Service runs what is requested. Of all workers one runs a backfill; when it
// stops, or dies, another goes on with it at its next look.
type Service struct {
	config Config
	log    *slog.Logger
	before func(step string) // of each runner

	mu       sync.Mutex
	running  map[int64]bool
	told     map[int64]string // by backfill, what interrupted it last
	troubled bool             // the database did not answer, which was said
}

// NewService returns a service.
func NewService(c Config) *Service {
	if c.Logger == nil {
		c.Logger = slog.Default()
	}
	if c.Limit <= 0 {
		c.Limit = 2
	}
	if c.MaxBehind <= 0 {
		c.MaxBehind = 256 << 20
	}
	if c.Poll <= 0 {
		c.Poll = 500 * time.Millisecond
	}
	if c.Columns <= 0 {
		c.Columns = 5 * time.Second
	}
	return &Service{config: c, log: c.Logger, running: map[int64]bool{}, told: map[int64]string{}}
}

// Run runs backfills until ctx ends. It returns when they have stopped, nil.
func (s *Service) Run(ctx context.Context) error {
	var group sync.WaitGroup
	defer group.Wait()
	looked := time.Now()
	for {
		err := s.look(ctx, &group)
		if err == nil && time.Since(looked) >= s.config.Columns {
			looked = time.Now()
			err = s.watchColumns(ctx)
		}
		s.tell(ctx, err)
		if sleep(ctx, s.config.Poll) != nil {
			return nil
		}
	}
}

// tell says once that the database does not answer.
func (s *Service) tell(ctx context.Context, err error) {
	if err != nil && !s.troubled && ctx.Err() == nil {
		s.log.Warn("cannot look for backfills", "error", err)
	}
	s.troubled = err != nil
}

// look starts runners for what is requested.
func (s *Service) look(ctx context.Context, group *sync.WaitGroup) error {
	open, err := query(ctx, s.config.DB.Pool(), "WHERE finished_at IS NULL ORDER BY id")
	if err != nil {
		return err
	}
	for _, b := range open {
		if !s.knows(&b) || !s.take(b.ID) {
			continue
		}
		group.Go(func() {
			defer s.give(b.ID)
			s.interrupted(ctx, b, s.attempt(ctx, b))
		})
	}
	return nil
}

// interrupted says what ended a runner before its backfill, unless it was the same
// the last time.
func (s *Service) interrupted(ctx context.Context, b Backfill, err error) {
	text := ""
	if err != nil && ctx.Err() == nil {
		text = postgres.ErrorText(err)
	}
	s.mu.Lock()
	news := text != s.told[b.ID]
	s.told[b.ID] = text
	if text == "" {
		delete(s.told, b.ID)
	}
	s.mu.Unlock()
	if news && text != "" {
		s.log.Warn("a backfill was interrupted and goes on", "entity", b.Entity, "backfill", b.ID, "error", text)
	}
}

func (s *Service) take(id int64) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.running[id] || len(s.running) >= s.config.Limit {
		return false
	}
	s.running[id] = true
	return true
}

func (s *Service) give(id int64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.running, id)
}

// knows reports whether the streams of this worker would take the backfill's rows.
func (s *Service) knows(b *Backfill) bool {
	if s.config.Catalog == nil {
		return true
	}
	e := s.config.Catalog.Entities[b.Entity]
	if e == nil || !b.of(e) {
		return false
	}
	for _, sink := range b.Sinks {
		if !e.HasSink(sink) {
			return false
		}
	}
	return true
}

const (
	lockClass = "hashtext('capsaga.backfill')"
	tryLock   = "SELECT pg_try_advisory_lock(" + lockClass + ", $1::int)"
)

// attempt runs a backfill unless another worker does. The right to it ends with the
// session, in which all of it is done.
func (s *Service) attempt(ctx context.Context, b Backfill) error {
	pooled, err := s.config.DB.Pool().Acquire(ctx)
	if err != nil {
		return err
	}
	conn := pooled.Hijack()
	defer closeSession(ctx, conn)
	var locked bool
	if err := conn.QueryRow(ctx, tryLock, b.ID).Scan(&locked); err != nil || !locked {
		return err
	}
	r := &runner{conn: conn, prefix: s.config.Prefix, log: s.log, job: b, maxBehind: s.config.MaxBehind, before: s.before}
	return r.run(ctx)
}

func closeSession(ctx context.Context, conn *pgx.Conn) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), time.Second)
	defer cancel()
	_ = conn.Close(ctx) // the server ends it sooner or later
}
