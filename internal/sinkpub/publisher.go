package sinkpub

import (
	"context"
	"log/slog"

	"github.com/capsaga/capsaga/internal/pgtext"
	"github.com/capsaga/capsaga/internal/postgres"
	"github.com/capsaga/capsaga/internal/stream"
	"github.com/capsaga/capsaga/saga"
)

// Store is the sink. Its methods are idempotent, and Apply is called by several
// goroutines at once.
type Store interface {
	// Apply sets each document where it is newer. The answer has an entry per
	// document; the error is for a request that failed as a whole.
	Apply(ctx context.Context, docs []saga.Document) ([]saga.Applied, error)
	// Truncate forgets all rows of an entity up to a version, and from then on
	// applies nothing of it below that.
	Truncate(ctx context.Context, entity string, floor saga.Version) error
	// Sweep removes the rows of an entity below a version.
	Sweep(ctx context.Context, entity string, floor saga.Version) (removed int, err error)
}

// Rebuilder is a store in which a new index can take the place of the present one.
type Rebuilder interface {
	// Next returns the index that is being filled, if there is one.
	Next(ctx context.Context, entity string) (index string, found bool, err error)
	ApplyTo(ctx context.Context, index string, docs []saga.Document) ([]saga.Applied, error)
	// FinishRebuild puts the index in the present one's place. It does nothing where
	// that has happened, or where the index is gone.
	FinishRebuild(ctx context.Context, entity, index string) error
}

// Database is what the streams ask of PostgreSQL.
type Database interface {
	Pool() postgres.Querier
	// ReadRows reads rows by their KEYENC; see postgres.DB.ReadRows.
	ReadRows(ctx context.Context, e *saga.Entity, keys []string, after []uint32) ([]postgres.RowRead, error)
}

// Config is what a Publisher needs.
type Config struct {
	Sink     saga.Sink
	Catalog  *saga.Catalog
	Database Database
	Store    Store
	// Adopt makes parked sagas of rows that the sink refuses. They are durable when
	// it returns nil.
	Adopt func(ctx context.Context, refused []saga.Refused) error
	// Resync asks for a backfill that also removes what is no row any more.
	Resync func(ctx context.Context, e *saga.Entity) error
	Logger *slog.Logger // default slog.Default()
	// MaxDocuments bounds one request; default what suits the sink.
	MaxDocuments int

	entities map[saga.Table]*saga.Entity
}

// maxBatchBytes bounds the rows of one request.
const maxBatchBytes = 4 << 20

// load is what a sink is given to do at once.
type load struct {
	documents int // in a request
	// requests is how many are under way: while the sink works on one, the next is
	// made ready.
	requests int
}

// loads are what BenchmarkStreamBacklog is fastest with. A request to Elasticsearch
// keeps one thread of it busy, and waits for its disk in the end.
var loads = map[saga.Sink]load{
	saga.Redis:         {documents: 1000, requests: 2},
	saga.Elasticsearch: {documents: 2000, requests: 3},
}

// Publisher applies a stream to a sink. It is a stream.Handler.
type Publisher struct {
	config Config
	types  *pgtext.Types
}

// New returns a publisher.
func New(config Config) *Publisher {
	if config.Logger == nil {
		config.Logger = slog.Default()
	}
	if config.MaxDocuments <= 0 {
		config.MaxDocuments = loads[config.Sink].documents
	}
	config.Logger = config.Logger.With("sink", config.Sink)
	config.entities = map[saga.Table]*saga.Entity{}
	for _, e := range config.Catalog.Entities {
		if e.HasSink(config.Sink) {
			config.entities[e.Table] = e
		}
	}
	return &Publisher{config: config, types: pgtext.NewTypes(config.Database.Pool())}
}

// Start begins a session for a holder of the slot.
func (p *Publisher) Start(ctx context.Context, _ stream.Lease) (stream.Session, error) {
	applying, cancel := context.WithCancel(context.WithoutCancel(ctx))
	s := &session{
		config: p.config, types: p.types, shapes: map[uint32]*shape{},
		rebuilds: map[string]string{}, handovers: map[string][]handover{}, touched: map[string]bool{},
		applier: newApplier(p.config), cancel: cancel,
	}
	for range loads[p.config.Sink].requests {
		s.running.Go(func() { s.applier.run(applying) })
	}
	return s, nil
}
