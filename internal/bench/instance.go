package bench

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"time"

	"github.com/jackc/pgx/v5"
	"go.temporal.io/api/serviceerror"
	"go.temporal.io/api/workflowservice/v1"
	sdkclient "go.temporal.io/sdk/client"
	sdklog "go.temporal.io/sdk/log"
	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/capsaga/capsaga/internal/catalog"
	"github.com/capsaga/capsaga/internal/config"
	"github.com/capsaga/capsaga/internal/elastic"
	"github.com/capsaga/capsaga/internal/kafka"
	"github.com/capsaga/capsaga/internal/provision"
	"github.com/capsaga/capsaga/internal/redis"
	"github.com/capsaga/capsaga/saga"
)

// places are where rows go and are looked for.
type places struct {
	table string
	redis string // before the key
	hash  bool   // a row in Redis is Capsaga's hash
	topic string
	index string
}

// instance is what the bench has of the systems for itself.
type instance struct {
	config   config.Config // with the bench's namespace, and a database, a prefix and a catalog of its own
	outer    string        // the address of the user's database
	database string
	folder   string // of the catalog's file
	catalog  *saga.Catalog
	systems  *systems
	temporal sdkclient.Client

	sagas, plain places
}

// newInstance makes an instance. What it returns is to be removed also when it
// fails: it then has what was made until there.
func newInstance(ctx context.Context, c config.Config) (*instance, error) {
	var random [4]byte
	_, _ = rand.Read(random[:]) // never fails
	name := "bench" + hex.EncodeToString(random[:])
	i := &instance{config: c, outer: c.PostgresURL, database: name}
	i.config.Prefix = saga.Prefix(name)
	i.config.Temporal.Namespace = namespace
	i.config.Temporal.Logger = sdklog.NewStructuredLogger(slog.New(slog.DiscardHandler))
	i.config.Deployment = config.Deployment{Name: name}
	for _, step := range []func(context.Context) error{i.makeDatabase, i.makeNamespace, i.connect, i.makeTables, i.apply, i.makePlain} {
		if err := step(ctx); err != nil {
			return i, err
		}
	}
	return i, nil
}

func (i *instance) makeDatabase(ctx context.Context) (err error) {
	if i.config.PostgresURL, err = inDatabase(i.outer, i.database); err != nil {
		return err
	}
	if err := i.outside(ctx, "CREATE DATABASE "+i.database); err != nil {
		return fmt.Errorf("make a database for the bench: %w: the user of %s needs the right to create databases", err, config.PostgresURL)
	}
	return nil
}

// inDatabase returns an address with another database in it.
func inDatabase(address, database string) (string, error) {
	u, err := url.Parse(address)
	if err != nil || u.Scheme != "postgres" && u.Scheme != "postgresql" {
		if _, err := pgx.ParseConfig(address); err != nil {
			return "", fmt.Errorf("postgresql: the address is not understood; check %s", config.PostgresURL)
		}
		return address + " dbname=" + database, nil
	}
	u.Path = "/" + database
	query := u.Query()
	query.Del("dbname")
	query.Del("database")
	u.RawQuery = query.Encode()
	return u.String(), nil
}

// outside runs a statement on a connection to the user's own database.
func (i *instance) outside(ctx context.Context, sql string, args ...any) error {
	conn, err := pgx.Connect(ctx, i.outer)
	if err != nil {
		return fmt.Errorf("postgresql does not answer; check that it runs and %s", config.PostgresURL)
	}
	defer func() { _ = conn.Close(ctx) }()
	_, err = conn.Exec(ctx, sql, args...)
	return err
}

// namespace is that of all runs, which stays. A namespace of a run's own would have
// to be deleted, workflow by workflow, and Temporal would be at that for minutes, to
// the cost of whatever is measured next. Here workflows go by themselves when their
// retention, the shortest that every Temporal takes, is over. Runs are apart by their
// task queues and by the prefix, which is in all workflow ids.
const (
	namespace = "capsaga-bench"
	retention = 24 * time.Hour
)

func (i *instance) makeNamespace(ctx context.Context) (err error) {
	if i.temporal, err = sdkclient.NewLazyClient(i.config.Temporal); err != nil {
		return fmt.Errorf("temporal: %w", err)
	}
	ctx, cancel := context.WithTimeout(ctx, 20*time.Second)
	defer cancel()
	service := i.temporal.WorkflowService()
	// To look for it first would have Temporal remember for a while that it is missing.
	_, err = service.RegisterNamespace(ctx, &workflowservice.RegisterNamespaceRequest{
		Namespace: namespace, WorkflowExecutionRetentionPeriod: durationpb.New(retention),
		Description: "of all runs of capsaga bench, which leaves it for the next one",
	})
	var exists *serviceerror.NamespaceAlreadyExists
	if err == nil || errors.As(err, &exists) {
		return nil
	}
	// Who may not make namespaces may have been given this one.
	if _, missing := service.DescribeNamespace(ctx, &workflowservice.DescribeNamespaceRequest{Namespace: namespace}); missing != nil {
		return fmt.Errorf("make namespace "+namespace+" for the bench at temporal %s: %w", i.config.Temporal.HostPort, err)
	}
	return nil
}

func (i *instance) connect(ctx context.Context) (err error) {
	i.systems, err = connect(ctx, i.config)
	return err
}

func (i *instance) makeTables(ctx context.Context) error {
	_, err := i.systems.pool.Exec(ctx, tables)
	return err
}

// apply provisions the sagas' entity as `capsaga catalog apply` would.
func (i *instance) apply(ctx context.Context) (err error) {
	if i.folder, err = os.MkdirTemp("", "capsaga-bench-"); err != nil {
		return err
	}
	i.config.CatalogPath = filepath.Join(i.folder, config.DefaultCatalog)
	if err := os.WriteFile(i.config.CatalogPath, []byte(catalogText), 0o600); err != nil {
		return err
	}
	file, err := catalog.Parse(i.config.CatalogPath, []byte(catalogText))
	if err != nil {
		return err
	}
	i.catalog = file.Catalog
	c := i.config
	deps := provision.Deps{
		PostgresURL: c.PostgresURL, Prefix: c.Prefix, Temporal: i.temporal,
		TemporalAddress: c.Temporal.HostPort, Namespace: c.Temporal.Namespace,
	}
	topics, err := kafka.Open(c.Kafka)
	if err != nil {
		return err
	}
	defer topics.Close()
	store, err := redis.Open(c.RedisURL, c.Prefix)
	if err != nil {
		return err
	}
	defer func() { _ = store.Close() }()
	index, err := elastic.Open(c.Elasticsearch, c.Prefix)
	if err != nil {
		return err
	}
	defer func() { _ = index.Close() }()
	deps.Kafka, deps.Redis, deps.Elasticsearch = topics, store, index
	if _, err = provision.Apply(ctx, deps, i.catalog, provision.Options{File: file}); err != nil {
		return err
	}
	topic, err := c.Prefix.Topic(saga.Table{Schema: "public", Name: entity})
	i.sagas = places{table: entity, redis: c.Prefix.RedisKey(entity, ""), hash: true, topic: topic, index: c.Prefix.Alias(entity)}
	return err
}

// makePlain makes the topic and the index of the writers without sagas, as the
// sagas' own are.
func (i *instance) makePlain(ctx context.Context) error {
	prefix := string(i.config.Prefix)
	i.plain = places{table: "plain", redis: prefix + "-plain:", topic: prefix + ".plain", index: prefix + "-plain"}
	topics, err := kafka.Open(i.config.Kafka)
	if err != nil {
		return err
	}
	defer topics.Close()
	if _, err := topics.EnsureTopics(ctx, []kafka.TopicSpec{{Name: i.plain.topic, Partitions: partitions}}); err != nil {
		return err
	}
	body := fmt.Sprintf(`{"mappings": %s, "settings": %s}`, mappings, settings)
	return i.systems.elasticsearch(ctx, http.MethodPut, "/"+i.plain.index, []byte(body), nil)
}
