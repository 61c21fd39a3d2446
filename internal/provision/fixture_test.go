package provision_test

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/require"
	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"
	"go.temporal.io/api/workflowservice/v1"
	"go.temporal.io/sdk/client"
	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/capsaga/capsaga/internal/catalog"
	"github.com/capsaga/capsaga/internal/elastic"
	"github.com/capsaga/capsaga/internal/kafka"
	"github.com/capsaga/capsaga/internal/provision"
	"github.com/capsaga/capsaga/internal/redis"
	"github.com/capsaga/capsaga/internal/stacktest"
	"github.com/capsaga/capsaga/saga"
)

const tables = `
CREATE TABLE products (id bigint PRIMARY KEY, title text);
CREATE TABLE users (id bigint PRIMARY KEY, name text);
CREATE TABLE other (id bigint PRIMARY KEY);
CREATE TABLE parts (id bigint PRIMARY KEY) PARTITION BY HASH (id);
CREATE TABLE parts_0 PARTITION OF parts FOR VALUES WITH (MODULUS 1, REMAINDER 0);
CREATE SCHEMA "odd ""schema""";
CREATE TABLE "odd ""schema"""."tab; le" (id bigint PRIMARY KEY);
`

const shop = `
version: 1
kafka_tables: all
entities:
  products:
    table: products
    key: [id]
    sinks:
      redis: {}
      kafka: {partitions: 2}
      elasticsearch: {mappings: {properties: {title: {type: text}}}}
  users:
    table: users
    key: [id]
    sinks: {redis: {}, kafka: {cleanup: delete}}
  odd:
    table: 'odd "schema".tab; le'
    key: [id]
    sinks: {redis: {}, kafka: {}}
`

// corner is a test's corner of the stack with what Apply needs.
type corner struct {
	stacktest.Stack
	t      *testing.T
	deps   provision.Deps
	conn   *pgx.Conn
	client client.Client
}

// newCorner makes the tables and uses a Temporal namespace; an empty name means
// the stack's own.
func newCorner(t *testing.T, namespace string) *corner {
	t.Helper()
	return newCornerOn(t, namespace, stacktest.New(t))
}

func newCornerOn(t *testing.T, namespace string, stack stacktest.Stack) *corner {
	t.Helper()
	c := &corner{Stack: stack, t: t}
	store, err := redis.Open(c.RedisURL, c.Prefix)
	require.NoError(t, err)
	t.Cleanup(func() { _ = store.Close() })
	brokers, err := kafka.Open(kafka.Config{Brokers: c.KafkaBrokers})
	require.NoError(t, err)
	t.Cleanup(brokers.Close)
	index, err := elastic.Open(elastic.Config{URL: c.ElasticsearchURL}, c.Prefix)
	require.NoError(t, err)
	c.client, err = client.NewLazyClient(client.Options{HostPort: c.TemporalAddress, Namespace: namespace})
	require.NoError(t, err)
	t.Cleanup(c.client.Close)
	c.conn, err = pgx.Connect(t.Context(), c.PostgresURL)
	require.NoError(t, err)
	t.Cleanup(func() { _ = c.conn.Close(context.Background()) })
	c.sql(tables)
	c.deps = provision.Deps{
		PostgresURL: c.PostgresURL, Redis: store, Kafka: brokers, Elasticsearch: index,
		Temporal: c.client, TemporalAddress: c.TemporalAddress, Namespace: namespace, Prefix: c.Prefix,
	}
	t.Cleanup(c.removeTopicsAndIndices)
	return c
}

func (c *corner) removeTopicsAndIndices() {
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	admin := c.kafkaAdmin()
	defer admin.Close()
	topics, err := admin.ListTopics(ctx)
	require.NoError(c.t, err)
	for name := range topics {
		if strings.HasPrefix(name, string(c.Prefix)+".") {
			_, err := admin.DeleteTopic(ctx, name)
			require.NoError(c.t, err)
		}
	}
	for _, path := range []string{"/_index_template/", "/"} {
		request, err := http.NewRequestWithContext(ctx, http.MethodDelete, c.ElasticsearchURL+path+c.Prefix.Alias("products")+map[string]string{"/": "-0*"}[path], nil)
		require.NoError(c.t, err)
		response, err := http.DefaultClient.Do(request)
		require.NoError(c.t, err)
		_ = response.Body.Close()
	}
}

// kafkaAdmin is a new client each time: one that lives on remembers which topics
// there were.
func (c *corner) kafkaAdmin() *kadm.Client {
	raw, err := kgo.NewClient(kgo.SeedBrokers(c.KafkaBrokers...))
	require.NoError(c.t, err)
	return kadm.NewClient(raw)
}

// newNamespace registers a namespace of the test's own.
func (c *corner) newNamespace() string {
	name := "ns-" + c.Database
	_, err := c.client.WorkflowService().RegisterNamespace(c.t.Context(), &workflowservice.RegisterNamespaceRequest{
		Namespace: name, WorkflowExecutionRetentionPeriod: durationpb.New(24 * time.Hour),
	})
	require.NoError(c.t, err)
	c.deps.Namespace = name
	return name
}

func (c *corner) sql(text string) {
	c.t.Helper()
	_, err := c.conn.Exec(c.t.Context(), text)
	require.NoError(c.t, err)
}

func (c *corner) text(query string, args ...any) (s string) {
	c.t.Helper()
	require.NoError(c.t, c.conn.QueryRow(c.t.Context(), query, args...).Scan(&s))
	return s
}

func parse(t *testing.T, text string) *saga.Catalog {
	t.Helper()
	f, err := catalog.Parse("capsaga.yaml", []byte(text))
	require.NoError(t, err)
	return f.Catalog
}

func (c *corner) apply(text string) []provision.Change {
	c.t.Helper()
	changes, err := provision.Apply(c.t.Context(), c.deps, parse(c.t, text), provision.Options{})
	require.NoError(c.t, err)
	return changes
}

func (c *corner) refused(text string) string {
	c.t.Helper()
	_, err := provision.Apply(c.t.Context(), c.deps, parse(c.t, text), provision.Options{})
	var failure *saga.Error
	require.ErrorAs(c.t, err, &failure)
	return err.Error()
}

// state writes down all that Apply makes, for comparison.
func (c *corner) state() string {
	c.t.Helper()
	var b strings.Builder
	b.WriteString(c.text(`
		SELECT coalesce(string_agg(format('%s all=%s %s %s', pubname, puballtables, pubviaroot, (SELECT string_agg(format('%s.%s', schemaname, tablename), ',' ORDER BY schemaname, tablename)
			FROM pg_publication_tables t WHERE t.pubname = p.pubname AND NOT puballtables)), E'\n' ORDER BY pubname), '') FROM pg_publication p`))
	b.WriteString("\n" + c.text(`SELECT coalesce(string_agg(format('%s %s', replace(slot_name, $1, ''), plugin), ',' ORDER BY slot_name), '') FROM pg_replication_slots WHERE database = $2`, string(c.Prefix), c.Database))
	b.WriteString("\n" + c.text(`SELECT coalesce(string_agg(relname, ',' ORDER BY relname), '') FROM pg_class WHERE relkind = 'r' AND relnamespace = to_regnamespace('capsaga')`))
	admin := c.kafkaAdmin()
	defer admin.Close()
	topics, err := admin.ListTopics(c.t.Context())
	require.NoError(c.t, err)
	for _, topic := range topics.Sorted() {
		name, ours := strings.CutPrefix(topic.Topic, string(c.Prefix)+".")
		if !ours {
			continue
		}
		configs, err := admin.DescribeTopicConfigs(c.t.Context(), topic.Topic)
		require.NoError(c.t, err)
		fmt.Fprintf(&b, "\n%s partitions=%d", name, len(topic.Partitions))
		for _, config := range configs[0].Configs {
			if config.Key == kafka.SettingCleanup || name == "parked" && config.Key == kafka.SettingRetention {
				fmt.Fprintf(&b, " %s", config.MaybeValue())
			}
		}
	}
	response, err := http.Get(c.ElasticsearchURL + "/_alias/" + c.Prefix.Alias("products"))
	require.NoError(c.t, err)
	_ = response.Body.Close()
	fmt.Fprintf(&b, "\nalias %d\n", response.StatusCode)
	return b.String()
}

const shopState = `espub all=f t public.products
kafkapub all=t t ` + `
redispub all=f t odd "schema".tab; le,public.products,public.users
_espub pgoutput,_kafkapub pgoutput,_redispub pgoutput
backfill,batch,change,conflict,entity,epoch,migration,saga,stream,topic,waiver
odd_x20_x22schema_x22.tab_x3B_x20le partitions=1 compact
parked partitions=1 delete -1
public.other partitions=1 compact
public.parts partitions=1 compact
public.products partitions=2 compact
public.users partitions=1 delete
alias 200
`

var errLost = errors.New("the answer was lost")

// lossy does what it is asked and then loses the answer of one call, as a crash
// in the middle of a step would.
type lossy struct {
	provision.Kafka
	provision.Elasticsearch
	left int // calls until the answer is lost
}

func (l *lossy) Ping(ctx context.Context) error { return l.Kafka.Ping(ctx) }

func (l *lossy) lose(err error) error {
	if l.left--; l.left == 0 {
		return errLost
	}
	return err
}

func (l *lossy) EnsureTopics(ctx context.Context, specs []kafka.TopicSpec) ([]string, error) {
	created, err := l.Kafka.EnsureTopics(ctx, specs)
	return created, l.lose(err)
}

func (l *lossy) AlterTopic(ctx context.Context, name string, settings map[string]string) error {
	return l.lose(l.Kafka.AlterTopic(ctx, name, settings))
}

func (l *lossy) EnsureIndex(ctx context.Context, e *saga.Entity) ([]string, error) {
	created, err := l.Elasticsearch.EnsureIndex(ctx, e)
	return created, l.lose(err)
}
