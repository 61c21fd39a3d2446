// Package worker runs sagas: it polls Temporal for them, does their effects, and
// brings PostgreSQL's changes to the sinks. A service may embed it; then its
// client and the worker share a process and sagas start without a round trip.
//
// A worker holds nothing durable. Killed at any point, another one (or itself,
// started again) goes on with every saga where it stood, and the stream's next
// holder repeats what was not confirmed.
package worker

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"slices"
	"time"

	sdkclient "go.temporal.io/sdk/client"
	sdklog "go.temporal.io/sdk/log"

	"github.com/capsaga/capsaga/activities"
	"github.com/capsaga/capsaga/internal/catalog"
	"github.com/capsaga/capsaga/internal/config"
	"github.com/capsaga/capsaga/internal/elastic"
	"github.com/capsaga/capsaga/internal/kafka"
	"github.com/capsaga/capsaga/internal/listing"
	"github.com/capsaga/capsaga/internal/notify"
	"github.com/capsaga/capsaga/internal/postgres"
	"github.com/capsaga/capsaga/internal/redis"
	"github.com/capsaga/capsaga/internal/stream"
	"github.com/capsaga/capsaga/internal/telemetry"
	"github.com/capsaga/capsaga/saga"
	"github.com/capsaga/capsaga/saga/client"
)

// Systems says where the systems are; SystemsFromEnv reads it from variables of
// the form of os.Environ.
type Systems = config.Config

// SystemsFromEnv reads the CAPSAGA_ and TEMPORAL_ variables. Its error names
// each one that is wrong.
func SystemsFromEnv(environ []string) (Systems, error) { return config.FromEnv(environ) }

// Role is a part of the work.
type Role string

// The roles. Every worker has all of them unless it is told otherwise.
const (
	// RoleSagas runs workflows and activities.
	RoleSagas Role = "sagas"
	// RoleStream brings PostgreSQL's changes to Redis, Kafka and Elasticsearch, a
	// stream each. Of the workers with this role one holds a stream, the others stand
	// by.
	RoleStream Role = "stream"
)

// Roles lists all roles.
var Roles = []Role{RoleSagas, RoleStream}

// DefaultDrainTimeout is how long a stopping worker lets activities finish.
const DefaultDrainTimeout = 20 * time.Second

// Config says what a worker works with. The zero value of each field but
// Systems has a default.
type Config struct {
	Systems Systems
	Catalog *saga.Catalog // default: the file that Systems.CatalogPath names
	Roles   []Role        // default: all
	// HTTPAddress is where /healthz, /readyz and /metrics are served; default
	// DefaultHTTPAddress, "off" for nowhere.
	HTTPAddress  string
	DrainTimeout time.Duration // default DefaultDrainTimeout
	Group        client.Group  // of the worker's own Client
	Logger       *slog.Logger  // default slog.Default()
}

// Worker is one worker.
type Worker struct {
	config Config
	log    *slog.Logger

	db       *postgres.DB
	redis    *redis.Store
	kafka    *kafka.Client
	elastic  *elastic.Store
	temporal sdkclient.Client

	positions *stream.Positions
	readers   []*stream.Reader // none without RoleStream
	saga      *activities.Saga
	gate      *activities.Gate
	bulk      *activities.Bulk
	client    *client.Client
	hub       *notify.Hub
	telemetry *telemetry.Telemetry
	health    *health
}

// Open builds a worker and checks its configuration. It waits for no server.
func Open(ctx context.Context, c Config) (*Worker, error) {
	if c.Logger == nil {
		c.Logger = slog.Default()
	}
	if c.DrainTimeout == 0 {
		c.DrainTimeout = DefaultDrainTimeout
	}
	if len(c.Roles) == 0 {
		c.Roles = Roles
	}
	for _, role := range c.Roles {
		if !slices.Contains(Roles, role) {
			return nil, fmt.Errorf("role %q: want one of %v", role, Roles)
		}
	}
	if c.Catalog == nil {
		file, err := catalog.Load(c.Systems.CatalogPath)
		if err != nil {
			return nil, err
		}
		c.Catalog = file.Catalog
	}
	w := &Worker{config: c, log: c.Logger}
	if err := w.connect(ctx); err != nil {
		w.close()
		return nil, err
	}
	return w, nil
}

// connect opens the adapters, none of which waits for its server.
func (w *Worker) connect(ctx context.Context) error {
	s := w.config.Systems
	var err error
	if w.telemetry, err = telemetry.New(); err != nil {
		return err
	}
	if w.redis, err = redis.Open(s.RedisURL, s.Prefix); err != nil {
		return err
	}
	if w.kafka, err = kafka.Open(s.Kafka); err != nil {
		return err
	}
	if w.elastic, err = elastic.Open(s.Elasticsearch, s.Prefix); err != nil {
		return err
	}
	if w.db, err = postgres.Open(ctx, s.PostgresURL, postgres.WithMarks(w.redis, w.elastic)); err != nil {
		return err
	}
	if w.temporal, err = w.dialTemporal(); err != nil {
		return err
	}
	if err := w.openStreams(); err != nil {
		return err
	}
	w.hub = notify.NewHub()
	p, probers := pivot{w.db}, w.probers()
	w.saga = activities.New(activities.Dependencies{
		Catalog: w.config.Catalog, Committer: p, Batches: p, Changer: p, Ledger: p, Rows: p,
		Redis: gatherRedis(w.redis, w.config.Catalog), Elasticsearch: gatherElasticsearch(w.elastic), Positions: w.positions,
		Gates:    newGates(w.temporal, s.Prefix, probers),
		Notifier: w.hub, Observer: w.telemetry,
	})
	w.gate = &activities.Gate{Probers: probers, Parked: &parkedSagas{w.temporal, s.Temporal.Namespace, s.Prefix}}
	if w.client, err = w.NewClient(client.Options{Group: w.config.Group}); err != nil {
		return err
	}
	w.bulk = activities.NewBulk(activities.BulkDependencies{
		Catalog: w.config.Catalog, Operator: w.client,
		Finder: &listing.Lister{Ledger: w.db, Temporal: w.temporal, Prefix: s.Prefix},
	})
	w.health = &health{pings: map[string]func(context.Context) error{
		"postgres": w.db.Ping, "redis": w.redis.Ping, "kafka": w.kafka.Ping, "elasticsearch": w.elastic.Ping,
		"temporal": func(ctx context.Context) error {
			_, err := w.temporal.CheckHealth(ctx, &sdkclient.CheckHealthRequest{})
			return err
		},
	}}
	return nil
}

func (w *Worker) dialTemporal() (sdkclient.Client, error) {
	options := w.config.Systems.Temporal
	options.Logger = sagaLog{sdklog.NewStructuredLogger(w.log)}
	options.MetricsHandler = w.telemetry.SDK()
	temporal, err := sdkclient.NewLazyClient(options)
	if err != nil {
		return nil, fmt.Errorf("temporal at %s: %w", options.HostPort, err)
	}
	return temporal, nil
}

// Client returns a client in the worker's own process, whose sagas start without
// a round trip to the task queue.
func (w *Worker) Client() *client.Client { return w.client }

// NewClient returns a further client in the worker's own process, with options of its
// own; the connection, the prefix, the notifier, the committer and the ledger are the worker's.
func (w *Worker) NewClient(o client.Options) (*client.Client, error) {
	o.Temporal, o.Prefix, o.Notifier, o.Ledger = w.temporal, w.config.Systems.Prefix, w.hub, w.db
	o.Committer = activities.NewEarly(w.saga)
	return client.New(o)
}

// Notifier tells of the sagas that this worker runs.
func (w *Worker) Notifier() client.Notifier { return w.hub }

func (w *Worker) close() {
	if w.temporal != nil {
		w.temporal.Close()
	}
	if w.kafka != nil {
		w.kafka.Close()
	}
	if w.redis != nil {
		_ = w.redis.Close()
	}
	if w.elastic != nil {
		_ = w.elastic.Close()
	}
	if w.db != nil {
		w.db.Close()
	}
}

// noHTTP is the HTTPAddress that serves nowhere.
const noHTTP = "off"

// Run works until ctx ends, and then drains: it takes no new work, lets what
// runs finish, and hands the stream over. Servers that are away are waited for.
// Run may be called once.
func (w *Worker) Run(ctx context.Context) error {
	defer w.close()
	var parts parts
	if w.config.HTTPAddress != noHTTP {
		listener, err := listen(ctx, w.config.HTTPAddress, w.log)
		if err != nil {
			return fmt.Errorf("serve health and metrics: %w: free the address, or set CAPSAGA_HTTP_ADDRESS", err)
		}
		w.log.Info("serves health and metrics", "address", listener.Addr().String())
		server := &http.Server{Handler: w.health.routes(w.telemetry.Handler()), ReadHeaderTimeout: 5 * time.Second}
		parts.start(ctx, func(ctx context.Context) error {
			defer context.AfterFunc(ctx, func() { _ = server.Close() })()
			if err := server.Serve(listener); !errors.Is(err, http.ErrServerClosed) {
				return err
			}
			return nil
		})
	}
	if err := w.awaitSchema(ctx); err != nil {
		return parts.stop(nil) // told to stop before it began
	}
	for _, reader := range w.readers {
		parts.start(ctx, reader.Run)
	}
	if len(w.readers) > 0 {
		parts.start(ctx, w.backfills().Run)
	}
	parts.start(ctx, w.advanceMark)
	parts.start(ctx, w.prune)
	if w.config.Systems.Deployment.BuildID != "" {
		parts.start(ctx, w.watchDeployment)
	}
	if !slices.Contains(w.config.Roles, RoleSagas) {
		w.health.polling.Store(true)
		<-ctx.Done()
		return parts.stop(nil)
	}
	parts.start(ctx, w.adopt)
	err := w.runSagas(ctx)
	return parts.stop(err)
}

const (
	retryEvery = 2 * time.Second
	// markEvery bounds how much of the WAL a restored snapshot can take back
	// without being told.
	markEvery = time.Second
)

func sleep(ctx context.Context, d time.Duration) bool {
	select {
	case <-ctx.Done():
		return false
	case <-time.After(d):
		return true
	}
}

// awaitSchema waits until PostgreSQL answers and the catalog was applied: before
// that, a commit could only be refused.
func (w *Worker) awaitSchema(ctx context.Context) error {
	for {
		err := w.db.CheckSchema(ctx)
		if err == nil {
			return nil
		}
		w.log.Error("cannot begin yet", "error", err)
		if !sleep(ctx, retryEvery) {
			return ctx.Err()
		}
	}
}

// advanceMark keeps the high-water mark of the WAL near its end.
func (w *Worker) advanceMark(ctx context.Context) error {
	for failing := false; ; {
		err := w.db.AdvanceMark(ctx)
		if err != nil && !failing && ctx.Err() == nil {
			w.log.Warn("cannot advance the WAL's high-water mark", "error", err)
		}
		failing = err != nil
		if !sleep(ctx, markEvery) {
			return nil
		}
	}
}
