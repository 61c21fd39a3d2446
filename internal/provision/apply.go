package provision

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/capsaga/capsaga/internal/backfill"
	"github.com/capsaga/capsaga/internal/catalog"
	"github.com/capsaga/capsaga/internal/elastic"
	"github.com/capsaga/capsaga/internal/kafka"
	"github.com/capsaga/capsaga/internal/postgres"
	"github.com/capsaga/capsaga/saga"
)

// Pinger tells whether a server answers; its error names the server's address.
type Pinger interface {
	Ping(ctx context.Context) error
}

// Kafka is what provisioning needs of a Kafka cluster.
type Kafka interface {
	Pinger
	DescribeTopics(ctx context.Context, names []string) (map[string]kafka.TopicState, error)
	EnsureTopics(ctx context.Context, specs []kafka.TopicSpec) (created []string, err error)
	AlterTopic(ctx context.Context, name string, settings map[string]string) error
}

// Elasticsearch is what provisioning needs of Elasticsearch.
type Elasticsearch interface {
	Pinger
	HasIndex(ctx context.Context, entity string) (bool, error)
	// EnsureIndex returns what it created or changed, in words.
	EnsureIndex(ctx context.Context, entity *saga.Entity) (created []string, err error)
	// BeginRebuild makes the index that EnsureIndex's *elastic.NeedsRebuild asks for.
	BeginRebuild(ctx context.Context, entity *saga.Entity) (index string, err error)
}

// Deps are the systems that Apply works on.
type Deps struct {
	PostgresURL string
	// Redis holds nothing that is made in advance; it is only asked whether it is
	// there. Nil is not asked.
	Redis Pinger
	Kafka Kafka
	// Elasticsearch may be nil when no entity has that sink.
	Elasticsearch Elasticsearch
	Temporal      Temporal
	// TemporalAddress is named when Temporal is away.
	TemporalAddress string
	Namespace       string // default "default"
	Prefix          saga.Prefix
}

// Options changes what Apply does.
type Options struct {
	// AllowKeyless publishes tables without a replica identity, on which
	// PostgreSQL then refuses UPDATE and DELETE.
	AllowKeyless bool
	// File is where the catalog was read from, so that problems name lines; nil:
	// they name fields only.
	File *catalog.File
	// SlotTimeout is how long the slot may wait for transactions that are open;
	// default 30s.
	SlotTimeout time.Duration
	// Progress, if set, is told each change as it is done.
	Progress func(Change)
}

// Action is what Apply did about one thing.
type Action string

// The actions.
const (
	Created   Action = "created"
	Changed   Action = "changed"
	Unchanged Action = "unchanged"
	Dropped   Action = "dropped"
)

// Change is one thing that a catalog needs, and what was done about it.
type Change struct {
	System string `json:"system"` // postgres, kafka, elasticsearch or temporal
	Kind   string `json:"kind"`   // schema, topic, index, search attribute, publication, slot, backfill
	Name   string `json:"name"`
	Action Action `json:"action"`
	Detail string `json:"detail,omitempty"` // what was created or changed about it
}

// Apply creates what the catalog names and is missing, and alters what differs.
// On an error it returns the changes that were done before it.
func Apply(ctx context.Context, deps Deps, c *saga.Catalog, o Options) ([]Change, error) {
	if deps.Prefix == "" {
		deps.Prefix = saga.DefaultPrefix
	}
	if deps.Namespace == "" {
		deps.Namespace = "default"
	}
	if o.SlotTimeout <= 0 {
		o.SlotTimeout = 30 * time.Second
	}
	a := &applier{deps: deps, catalog: c, options: o, made: map[string]backfill.Made{}}
	if err := a.ping(ctx); err != nil {
		return nil, err
	}
	db, err := postgres.Open(ctx, deps.PostgresURL)
	if err != nil {
		return nil, err
	}
	defer db.Close()
	pooled, err := db.Pool().Acquire(ctx)
	if err != nil {
		return nil, postgres.Classify("connect", err)
	}
	// The session holds an advisory lock, so it must not go back to a pool.
	a.conn = pooled.Hijack()
	defer a.closeSession(ctx)
	err = a.run(ctx)
	return a.changes, err
}

// applier is one run of Apply.
type applier struct {
	deps    Deps
	catalog *saga.Catalog
	options Options
	conn    *pgx.Conn
	topics  []topicPlan
	made    map[string]backfill.Made // by entity
	changes []Change
}

func (a *applier) done(c Change) {
	a.changes = append(a.changes, c)
	if a.options.Progress != nil {
		a.options.Progress(c)
	}
}

// ping asks every server first, so that nothing is half done when one is away,
// and all that are away are named at once.
func (a *applier) ping(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	checks := []func(context.Context) error{a.pingPostgres, a.deps.Kafka.Ping, a.pingTemporal}
	if a.deps.Redis != nil {
		checks = append(checks, a.deps.Redis.Ping)
	}
	if a.needsElasticsearch() {
		if a.deps.Elasticsearch == nil {
			return errors.New("provision: the catalog has an elasticsearch sink and Deps.Elasticsearch is nil")
		}
		checks = append(checks, a.deps.Elasticsearch.Ping)
	}
	results := make(chan error, len(checks))
	for _, check := range checks {
		go func() { results <- check(ctx) }()
	}
	var failures []error
	for range checks {
		if err := <-results; err != nil {
			failures = append(failures, err)
		}
	}
	return errors.Join(failures...)
}

func (a *applier) pingPostgres(ctx context.Context) error {
	db, err := postgres.Open(ctx, a.deps.PostgresURL)
	if err != nil {
		return err
	}
	defer db.Close()
	return db.Ping(ctx)
}

func (a *applier) needsElasticsearch() bool {
	for _, e := range a.catalog.Entities {
		if e.Elasticsearch != nil {
			return true
		}
	}
	return false
}

// check refuses what cannot be applied before anything is changed.
func (a *applier) check(ctx context.Context) error {
	file := a.options.File
	if file == nil {
		file = catalog.FileOf(a.catalog)
	}
	problems, err := catalog.Validate(ctx, a.conn, file, catalog.Options{
		Prefix: a.deps.Prefix, AllowKeyless: a.options.AllowKeyless,
	})
	if err != nil {
		return err
	}
	if err := problems.Err(); err != nil {
		return err
	}
	if err := a.checkSlots(ctx); err != nil {
		return err
	}
	if a.topics, err = a.planTopics(ctx); err != nil {
		return err
	}
	return a.checkAttributes(ctx)
}

func (a *applier) applyIndices(ctx context.Context) error {
	for _, name := range a.catalog.Names() {
		e := a.catalog.Entities[name]
		if e.Elasticsearch == nil {
			continue
		}
		there, err := a.deps.Elasticsearch.HasIndex(ctx, name)
		if err == nil && !there {
			err = a.beginsEmpty(ctx, name, saga.Elasticsearch)
		}
		if err != nil {
			return fmt.Errorf("entity %s: %w", name, err)
		}
		created, err := a.deps.Elasticsearch.EnsureIndex(ctx, e)
		var rebuild *elastic.NeedsRebuild
		if errors.As(err, &rebuild) {
			if err := a.beginRebuild(ctx, e, rebuild); err != nil {
				return err
			}
			continue
		}
		if err != nil {
			return fmt.Errorf("entity %s: %w", name, err)
		}
		a.done(indexChange(a.deps.Prefix.Alias(name), created))
	}
	return nil
}
