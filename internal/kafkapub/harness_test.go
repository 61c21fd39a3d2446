package kafkapub_test

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/stretchr/testify/require"
	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/capsaga/capsaga/internal/kafka"
	"github.com/capsaga/capsaga/internal/kafkapub"
	"github.com/capsaga/capsaga/internal/postgres"
	"github.com/capsaga/capsaga/internal/stacktest"
	"github.com/capsaga/capsaga/internal/stream"
	"github.com/capsaga/capsaga/saga"
)

// world is a database with publication and slot, and readers of it.
type world struct {
	t     testing.TB
	stack stacktest.Stack
	db    *postgres.DB
	kafka *kafka.Client
	slot  string
}

func newWorld(t testing.TB) *world {
	t.Helper()
	return newWorldOn(t, stacktest.New(t))
}

func newWorldOn(t testing.TB, stack stacktest.Stack) *world {
	t.Helper()
	ctx := context.Background()
	w := &world{t: t, stack: stack}
	w.slot = w.stack.Prefix.Slot(saga.PublicationKafka)
	_, err := postgres.Migrate(ctx, w.stack.PostgresURL)
	require.NoError(t, err)
	w.db, err = postgres.Open(ctx, w.stack.PostgresURL)
	require.NoError(t, err)
	t.Cleanup(w.db.Close)
	w.kafka, err = kafka.Open(kafka.Config{Brokers: w.stack.KafkaBrokers})
	require.NoError(t, err)
	t.Cleanup(w.kafka.Close)
	w.exec("CREATE PUBLICATION kafkapub FOR ALL TABLES")
	w.exec(fmt.Sprintf("SELECT pg_create_logical_replication_slot('%s', 'pgoutput')", w.slot))
	return w
}

func (w *world) pool() *pgxpool.Pool { return w.db.Pool() }

func (w *world) exec(sql string, args ...any) {
	w.t.Helper()
	_, err := w.pool().Exec(context.Background(), sql, args...)
	require.NoError(w.t, err, sql)
}

// topic returns the topic of a table of schema public.
func (w *world) topic(table string) string {
	name, err := w.stack.Prefix.Topic(saga.Table{Schema: "public", Name: table})
	require.NoError(w.t, err)
	return name
}

// running is a reader that runs.
type running struct {
	*stream.Reader
	positions *stream.Positions
	stop      func() // returns when it has stopped
}

// start runs a reader; change may alter its configurations.
func (w *world) start(change ...func(*stream.Config, *kafkapub.Config)) *running {
	w.t.Helper()
	log := slog.New(slog.NewTextHandler(io.Discard, nil))
	if testing.Verbose() {
		log = slog.New(slog.NewTextHandler(w.t.Output(), &slog.HandlerOptions{Level: slog.LevelDebug}))
	}
	positions := stream.NewPositions(w.pool(), w.slot)
	topics := kafkapub.Config{Prefix: w.stack.Prefix, DatabaseName: w.stack.Database, Database: w.pool(), Logger: log}
	config := stream.Config{
		URL: w.stack.PostgresURL, Slot: w.slot, Publications: []string{saga.PublicationKafka}, Holder: "test",
		Registry: w.db, Database: w.pool(), Positions: positions, Logger: log,
	}
	for _, c := range change {
		c(&config, &topics)
	}
	if config.Handler == nil {
		config.Handler = kafkapub.Open(w.kafka, topics)
	}
	reader, err := stream.NewReader(config)
	require.NoError(w.t, err)
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() {
		defer close(done)
		_ = reader.Run(ctx)
	}()
	stop := func() {
		cancel()
		<-done
	}
	w.t.Cleanup(stop)
	return &running{Reader: reader, positions: positions, stop: stop}
}

// flushed returns the position that all writes so far lie before.
func (w *world) flushed() saga.LSN {
	w.t.Helper()
	var text string
	require.NoError(w.t, w.pool().QueryRow(context.Background(), "SELECT pg_current_wal_flush_lsn()::text").Scan(&text))
	lsn, err := saga.ParseLSN(text)
	require.NoError(w.t, err)
	return lsn
}

// settle waits until all writes so far are confirmed.
func (w *world) settle(p *stream.Positions) {
	w.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 90*time.Second)
	defer cancel()
	lsn := w.flushed()
	for {
		err := p.Wait(ctx, lsn)
		if err == nil {
			return
		}
		require.NoError(w.t, ctx.Err(), err)
	}
}

// event is a record that was read back.
type event struct {
	Topic     string
	Partition int32
	Key       string
	Value     string // empty for a tombstone
	Tombstone bool
	Headers   map[string]string
}

func (e event) decode(t testing.TB) map[string]any {
	t.Helper()
	decoder := json.NewDecoder(strings.NewReader(e.Value))
	decoder.UseNumber()
	var v map[string]any
	require.NoError(t, decoder.Decode(&v), e.Value)
	return v
}

// events reads all records of the topics that are there now.
func (w *world) events(topics ...string) []event {
	w.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 60*time.Second)
	defer cancel()
	client, err := kgo.NewClient(kgo.SeedBrokers(w.stack.KafkaBrokers...), kgo.ConsumeTopics(topics...),
		kgo.ConsumeResetOffset(kgo.NewOffset().AtStart()), kgo.FetchMaxWait(50*time.Millisecond))
	require.NoError(w.t, err)
	defer client.Close()
	left := endOffsets(ctx, w.t, client, topics)
	var events []event
	for len(left) > 0 {
		fetches := client.PollFetches(ctx)
		require.NoError(w.t, fetches.Err())
		fetches.EachRecord(func(r *kgo.Record) {
			events = append(events, newEvent(r))
			at := fmt.Sprint(r.Topic, "/", r.Partition)
			if r.Offset+1 >= left[at] {
				delete(left, at)
			}
		})
	}
	return events
}

func newEvent(r *kgo.Record) event {
	e := event{
		Topic: r.Topic, Partition: r.Partition, Key: string(r.Key), Value: string(r.Value),
		Tombstone: r.Value == nil, Headers: map[string]string{},
	}
	for _, h := range r.Headers {
		e.Headers[h.Key] = string(h.Value)
	}
	return e
}

// endOffsets returns where each partition that is not empty ends.
func endOffsets(ctx context.Context, t testing.TB, client *kgo.Client, topics []string) map[string]int64 {
	t.Helper()
	ends, err := kadm.NewClient(client).ListEndOffsets(ctx, topics...)
	require.NoError(t, err)
	left := map[string]int64{}
	ends.Each(func(o kadm.ListedOffset) {
		require.NoError(t, o.Err)
		if o.Offset > 0 {
			left[fmt.Sprint(o.Topic, "/", o.Partition)] = o.Offset
		}
	})
	return left
}

// admin is a client of its own for each use: one that lives on remembers topics.
func (w *world) admin() *kadm.Client {
	w.t.Helper()
	client, err := kgo.NewClient(kgo.SeedBrokers(w.stack.KafkaBrokers...))
	require.NoError(w.t, err)
	w.t.Cleanup(client.Close)
	return kadm.NewClient(client)
}

// setTopic changes a setting of a table's topic.
func (w *world) setTopic(table, name, value string) {
	w.t.Helper()
	results, err := w.admin().AlterTopicConfigs(context.Background(), []kadm.AlterConfig{{Name: name, Value: &value}}, w.topic(table))
	require.NoError(w.t, err)
	for _, r := range results {
		require.NoError(w.t, r.Err)
	}
}

// makeTopic makes a table's topic, once a deleted one of its name is gone.
func (w *world) makeTopic(table string) {
	w.t.Helper()
	admin := w.admin()
	stacktest.Eventually(w.t, 20*time.Second, func() error {
		_, err := admin.CreateTopic(context.Background(), 1, 1, nil, w.topic(table))
		return err
	})
}

func (w *world) deleteTopic(table string) {
	w.t.Helper()
	_, err := w.admin().DeleteTopic(context.Background(), w.topic(table))
	require.NoError(w.t, err)
}
