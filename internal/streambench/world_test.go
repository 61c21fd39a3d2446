package streambench

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"os"
	"strings"
	"syscall"
	"testing"
	"time"

	goredis "github.com/redis/go-redis/v9"
	"github.com/stretchr/testify/require"
	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/capsaga/capsaga/internal/elastic"
	"github.com/capsaga/capsaga/internal/kafka"
	"github.com/capsaga/capsaga/internal/kafkapub"
	"github.com/capsaga/capsaga/internal/postgres"
	"github.com/capsaga/capsaga/internal/redis"
	"github.com/capsaga/capsaga/internal/sinkpub"
	"github.com/capsaga/capsaga/internal/stacktest"
	"github.com/capsaga/capsaga/internal/stream"
	"github.com/capsaga/capsaga/saga"
)

// world is a database with the table items, the four systems, and slots.
type world struct {
	b       *testing.B
	stack   stacktest.Stack
	prefix  saga.Prefix // of the contest
	rows    int
	db      *postgres.DB
	redis   *redis.Store
	kafka   *kafka.Client
	elastic *elastic.Store
	catalog *saga.Catalog
}

// database gives a publisher what it asks of PostgreSQL.
type database struct{ *postgres.DB }

func (d database) Pool() postgres.Querier { return d.DB.Pool() }

func newWorld(b *testing.B) *world {
	ctx := context.Background()
	w := &world{b: b, stack: stacktest.New(b)}
	_, err := postgres.Migrate(ctx, w.stack.PostgresURL)
	require.NoError(b, err)
	w.db, err = postgres.Open(ctx, w.stack.PostgresURL)
	require.NoError(b, err)
	b.Cleanup(w.db.Close)
	w.kafka, err = kafka.Open(kafka.Config{Brokers: w.stack.KafkaBrokers})
	require.NoError(b, err)
	b.Cleanup(w.kafka.Close)
	items := &saga.Entity{
		Name: "items", Table: saga.Table{Schema: "public", Name: "items"}, Key: []string{"id"}, Redis: &saga.RedisSink{}, Kafka: &saga.KafkaSink{Partitions: 4},
		Elasticsearch: &saga.ElasticsearchSink{Settings: []byte(`{"number_of_shards":1,"number_of_replicas":0}`)},
	}
	w.catalog = &saga.Catalog{Entities: map[string]*saga.Entity{"items": items}}
	// 200 bytes a row.
	w.exec("CREATE TABLE items (id bigint PRIMARY KEY, title text, note text, n int, price bigint)")
	for _, publication := range []string{saga.PublicationKafka, saga.PublicationRedis, saga.PublicationElasticsearch} {
		w.exec("CREATE PUBLICATION " + publication + " FOR TABLE items")
	}
	b.Cleanup(w.forget)
	return w
}

// renew gives the next contest topics, keys and indices of its own: what another has
// written already would cost it nothing.
func (w *world) renew(name string) {
	w.forget()
	ctx := context.Background()
	var err error
	w.prefix = saga.Prefix(string(w.stack.Prefix) + "_" + name)
	w.redis, err = redis.Open(w.stack.RedisURL, w.prefix)
	require.NoError(w.b, err)
	w.elastic, err = elastic.Open(elastic.Config{URL: w.stack.ElasticsearchURL}, w.prefix)
	require.NoError(w.b, err)
	_, err = w.elastic.EnsureIndex(ctx, w.catalog.Entities["items"])
	require.NoError(w.b, err)
}

// forget deletes what is not the database's.
func (w *world) forget() {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	alias := string(w.stack.Prefix) + "*"
	for _, path := range []string{alias, "_index_template/" + alias} {
		if request, err := http.NewRequestWithContext(ctx, http.MethodDelete, w.stack.ElasticsearchURL+"/"+path, nil); err == nil {
			if response, err := http.DefaultClient.Do(request); err == nil {
				_ = response.Body.Close()
			}
		}
	}
	if client, err := kgo.NewClient(kgo.SeedBrokers(w.stack.KafkaBrokers...)); err == nil {
		admin := kadm.NewClient(client)
		if topics, err := admin.ListTopics(ctx); err == nil {
			for _, topic := range topics.Names() {
				if strings.HasPrefix(topic, string(w.stack.Prefix)) {
					_, _ = admin.DeleteTopic(ctx, topic)
				}
			}
		}
		client.Close()
	}
	w.forgetRedis(ctx)
}

func (w *world) forgetRedis(ctx context.Context) {
	options, err := goredis.ParseURL(w.stack.RedisURL)
	require.NoError(w.b, err)
	client := goredis.NewClient(options)
	defer func() { _ = client.Close() }()
	keys := client.Scan(ctx, 0, string(w.stack.Prefix)+"*", 5000).Iterator()
	var some []string
	for keys.Next(ctx) {
		if some = append(some, keys.Val()); len(some) == 5000 {
			client.Unlink(ctx, some...)
			some = some[:0]
		}
	}
	if len(some) > 0 {
		client.Unlink(ctx, some...)
	}
}

func (w *world) exec(sql string, args ...any) {
	_, err := w.db.Pool().Exec(context.Background(), sql, args...)
	require.NoError(w.b, err, sql)
}

func (w *world) slot(name string) string {
	slot := w.stack.Prefix.Slot(name)
	w.exec("SELECT pg_create_logical_replication_slot($1, 'pgoutput')", slot)
	return slot
}

// dropSlot waits for the walsender to leave, which takes it a moment.
func (w *world) dropSlot(slot string) {
	stacktest.Eventually(w.b, 10*time.Second, func() error {
		_, err := w.db.Pool().Exec(context.Background(), "SELECT pg_drop_replication_slot($1)", slot)
		return err
	})
}

// fill inserts rows from the id after first on, in transactions of 100.
func (w *world) fill(first, rows int) {
	w.exec(`CREATE OR REPLACE PROCEDURE fill(first int, rows int) LANGUAGE plpgsql AS $$
		BEGIN FOR i IN 0..rows / 100 - 1 LOOP
			INSERT INTO items SELECT first + i * 100 + n, 'item ' || n || ' of the catalogue, with a title of some length',
				'a note of a hundred bytes and a bit, as a description of the item would be, or the body of a message', n, n * 99
			FROM generate_series(1, 100) n;
			COMMIT;
		END LOOP; END $$`)
	w.exec("CALL fill($1, $2)", first, rows)
	w.rows = rows
}

// start runs a stream; stop returns when it has ended.
func (w *world) start(slot, publication string, sink saga.Sink) (positions *stream.Positions, stop func()) {
	log := slog.New(slog.NewTextHandler(io.Discard, nil))
	positions = stream.NewPositions(w.db.Pool(), slot)
	reader, err := stream.NewReader(stream.Config{
		URL: w.stack.PostgresURL, Slot: slot, Publications: []string{publication}, Sink: sink, Holder: "bench",
		Registry: w.db, Database: w.db.Pool(), Positions: positions, Logger: log, Handler: w.handler(sink, log),
	})
	require.NoError(w.b, err)
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() {
		defer close(done)
		_ = reader.Run(ctx)
	}()
	return positions, func() {
		cancel()
		<-done
	}
}

func (w *world) handler(sink saga.Sink, log *slog.Logger) stream.Handler {
	if sink == saga.Kafka {
		return kafkapub.Open(w.kafka, kafkapub.Config{
			Prefix: w.prefix, DatabaseName: w.stack.Database, Database: w.db.Pool(), Logger: log, Catalog: w.catalog,
		})
	}
	config := sinkpub.Config{
		Sink: sink, Catalog: w.catalog, Database: database{w.db}, Logger: log,
		Adopt: func(_ context.Context, refused []saga.Refused) error {
			return fmt.Errorf("%d rows are refused: %v", len(refused), refused[0].Error)
		},
	}
	if sink == saga.Redis {
		config.Store = sinkpub.Redis(w.redis, w.catalog)
	} else {
		config.Store = w.elastic
	}
	return sinkpub.New(config)
}

// confirmed waits until a stream has confirmed all that was written so far.
func (w *world) confirmed(positions *stream.Positions) {
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Minute)
	defer cancel()
	for {
		err := positions.Wait(ctx, w.flushed())
		if err == nil {
			return
		}
		require.NoError(w.b, ctx.Err(), err)
	}
}

func (w *world) flushed() saga.LSN {
	var text string
	require.NoError(w.b, w.db.Pool().QueryRow(context.Background(), "SELECT pg_current_wal_flush_lsn()::text").Scan(&text))
	lsn, err := saga.ParseLSN(text)
	require.NoError(w.b, err)
	return lsn
}

func cpuTime() time.Duration {
	var usage syscall.Rusage
	_ = syscall.Getrusage(syscall.RUSAGE_SELF, &usage)
	return time.Duration(usage.Utime.Nano() + usage.Stime.Nano())
}

// measure runs f and returns how long it took, this process's CPU time and the
// most memory that it had.
func measure(b *testing.B, f func()) (took, cpu time.Duration, peakMB float64) {
	_ = os.WriteFile("/proc/self/clear_refs", []byte("5"), 0) // the peak begins anew
	began, used := time.Now(), cpuTime()
	f()
	return time.Since(began), cpuTime() - used, stacktest.StatusMB(b, os.Getpid(), stacktest.Peak)
}

// topic makes a topic with as many partitions as the table's.
func (w *world) topic(name string) {
	_, err := w.kafka.EnsureTopics(context.Background(), []kafka.TopicSpec{{Name: name, Partitions: 4}})
	require.NoError(w.b, err)
}
