package e2e

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	goredis "github.com/redis/go-redis/v9"
	"github.com/stretchr/testify/require"
	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"
	sdkclient "go.temporal.io/sdk/client"
	sdklog "go.temporal.io/sdk/log"

	"github.com/capsaga/capsaga/internal/catalog"
	"github.com/capsaga/capsaga/internal/elastic"
	"github.com/capsaga/capsaga/internal/kafka"
	"github.com/capsaga/capsaga/internal/postgres"
	"github.com/capsaga/capsaga/internal/provision"
	"github.com/capsaga/capsaga/internal/stacktest"
	"github.com/capsaga/capsaga/saga"
	"github.com/capsaga/capsaga/saga/client"
)

// world is one instance of Capsaga on the stack: a database with the demo's
// tables, the catalog applied, and a client. It has no worker yet.
type world struct {
	t           testing.TB
	stack       stacktest.Stack
	catalogPath string
	keyless     bool              // tables without a key are published too
	keys        map[string]string // of tables whose key is not the column id
	db          *pgxpool.Pool
	redis       *goredis.Client
	temporal    sdkclient.Client
	client      *client.Client
}

// newWorld makes an instance with the demo's catalog.
func newWorld(t testing.TB) *world {
	t.Helper()
	return newWorldWith(t, filepath.Join(root, "deploy", "demo", "capsaga.yaml"))
}

func newWorldWith(t testing.TB, catalogPath string) *world {
	t.Helper()
	w := connect(t, catalogPath)
	schema, err := os.ReadFile(filepath.Join(root, "deploy", "demo", "schema.sql"))
	require.NoError(t, err)
	w.exec(string(schema))
	w.apply()
	return w
}

// key returns the column that identifies the rows of a table.
func (w *world) key(table string) string {
	if key := w.keys[table]; key != "" {
		return key
	}
	return "id"
}

// connect makes an instance without tables, to which no catalog is applied yet.
func connect(t testing.TB, catalogPath string) *world {
	t.Helper()
	ctx := context.Background()
	w := &world{t: t, stack: stacktest.New(t)}
	var err error
	w.catalogPath, err = filepath.Abs(catalogPath)
	require.NoError(t, err)
	db, err := postgres.Open(ctx, w.stack.PostgresURL)
	require.NoError(t, err)
	t.Cleanup(db.Close)
	w.db = db.Pool()
	options, err := goredis.ParseURL(w.stack.RedisURL)
	require.NoError(t, err)
	w.redis = goredis.NewClient(options)
	t.Cleanup(func() { _ = w.redis.Close() })
	w.temporal, err = sdkclient.Dial(sdkclient.Options{
		HostPort: w.stack.TemporalAddress, Logger: sdklog.NewStructuredLogger(slog.New(slog.DiscardHandler)),
	})
	require.NoError(t, err)
	t.Cleanup(w.temporal.Close)
	w.client, err = client.New(client.Options{Temporal: w.temporal, Prefix: w.stack.Prefix, Group: client.Group{Off: true}})
	require.NoError(t, err)
	return w
}

// apply provisions what the catalog names, and takes it away after the test.
func (w *world) apply() {
	w.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 90*time.Second)
	defer cancel()
	file, err := catalog.Load(w.catalogPath)
	require.NoError(w.t, err)
	brokers, err := kafka.Open(kafka.Config{Brokers: w.stack.KafkaBrokers})
	require.NoError(w.t, err)
	defer brokers.Close()
	search, err := elastic.Open(elastic.Config{URL: w.stack.ElasticsearchURL}, w.stack.Prefix)
	require.NoError(w.t, err)
	defer func() { _ = search.Close() }()
	_, err = provision.Apply(ctx, provision.Deps{
		PostgresURL: w.stack.PostgresURL, Kafka: brokers, Elasticsearch: search, Temporal: w.temporal,
		TemporalAddress: w.stack.TemporalAddress, Prefix: w.stack.Prefix,
	}, file.Catalog, provision.Options{AllowKeyless: w.keyless})
	require.NoError(w.t, err)
	w.t.Cleanup(w.forget)
}

// forget deletes the topics, indices and keys, which would pile up on a stack
// that stays.
func (w *world) forget() {
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	for _, path := range []string{w.index("*"), "_index_template/" + w.index("*")} {
		request, err := http.NewRequestWithContext(ctx, http.MethodDelete, w.stack.ElasticsearchURL+"/"+path, nil)
		if err != nil {
			continue
		}
		if response, err := http.DefaultClient.Do(request); err == nil {
			_ = response.Body.Close()
		}
	}
	if broker, err := kgo.NewClient(kgo.SeedBrokers(w.stack.KafkaBrokers...)); err == nil {
		_, _ = kadm.NewClient(broker).DeleteTopics(ctx, w.topic("products"), w.topic("users"))
		broker.Close()
	}
	keys := w.redis.Scan(ctx, 0, string(w.stack.Prefix)+":*", 1000).Iterator()
	for keys.Next(ctx) {
		w.redis.Del(ctx, keys.Val())
	}
}

// index returns the name of an entity's indices, or a pattern.
func (w *world) index(entity string) string { return w.stack.Prefix.Alias(entity) }

// topic returns the topic of a table of schema public.
func (w *world) topic(table string) string {
	topic, err := w.stack.Prefix.Topic(saga.Table{Schema: "public", Name: table})
	require.NoError(w.t, err)
	return topic
}

func (w *world) exec(sql string, args ...any) {
	w.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	var err error
	if len(args) == 0 { // may be several statements
		_, err = w.db.Exec(ctx, sql, pgx.QueryExecModeSimpleProtocol)
	} else {
		_, err = w.db.Exec(ctx, sql, args...)
	}
	require.NoError(w.t, err, sql)
}

// value scans the only column of the only row.
func value[T any](w *world, sql string, args ...any) (v T) {
	w.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	require.NoError(w.t, w.db.QueryRow(ctx, sql, args...).Scan(&v), sql)
	return v
}

// environ is what the programs of this instance run with.
func (w *world) environ(more ...string) []string {
	var environ []string
	for _, variable := range os.Environ() {
		if !strings.HasPrefix(variable, "CAPSAGA_") && !strings.HasPrefix(variable, "TEMPORAL_") {
			environ = append(environ, variable)
		}
	}
	environ = append(environ,
		"CAPSAGA_POSTGRES_URL="+w.stack.PostgresURL, "CAPSAGA_REDIS_URL="+w.stack.RedisURL,
		"CAPSAGA_KAFKA_BROKERS="+strings.Join(w.stack.KafkaBrokers, ","),
		"CAPSAGA_ELASTICSEARCH_URL="+w.stack.ElasticsearchURL, "TEMPORAL_ADDRESS="+w.stack.TemporalAddress,
		"CAPSAGA_CATALOG="+w.catalogPath, "CAPSAGA_PREFIX="+string(w.stack.Prefix))
	return append(environ, more...)
}

// id makes a saga id of the instance's own: all share Temporal's namespace.
func (w *world) id(format string, args ...any) string {
	return string(w.stack.Prefix) + "-" + fmt.Sprintf(format, args...)
}

// write writes a saga and wants it to come to a status.
func (w *world) write(level client.Level, status saga.Status, write saga.Write) saga.Outcome {
	w.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 60*time.Second)
	defer cancel()
	o, err := w.client.Write(ctx, write, level)
	require.NoError(w.t, err)
	require.Equal(w.t, status, o.Status, "%+v", o)
	return o
}

// elasticsearch does a request and returns the answer's body.
func (w *world) elasticsearch(method, path, body string) []byte {
	w.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	request, err := http.NewRequestWithContext(ctx, method, w.stack.ElasticsearchURL+path, strings.NewReader(body))
	require.NoError(w.t, err)
	request.Header.Set("Content-Type", "application/json")
	response, err := http.DefaultClient.Do(request)
	require.NoError(w.t, err)
	defer func() { _ = response.Body.Close() }()
	answer, err := io.ReadAll(response.Body)
	require.NoError(w.t, err)
	require.Less(w.t, response.StatusCode, 300, "%s %s: %s", method, path, answer)
	return answer
}
