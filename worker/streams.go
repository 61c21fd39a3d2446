package worker

import (
	"context"
	"fmt"
	"os"
	"slices"

	"github.com/capsaga/capsaga/internal/backfill"
	"github.com/capsaga/capsaga/internal/kafkapub"
	"github.com/capsaga/capsaga/internal/postgres"
	"github.com/capsaga/capsaga/internal/sinkpub"
	"github.com/capsaga/capsaga/internal/stream"
	"github.com/capsaga/capsaga/saga"
)

// publicationOf names the publication that carries a sink's changes.
var publicationOf = map[saga.Sink]string{
	saga.Redis: saga.PublicationRedis, saga.Kafka: saga.PublicationKafka, saga.Elasticsearch: saga.PublicationElasticsearch,
}

// streamed is PostgreSQL as the streams see it.
type streamed struct{ *postgres.DB }

func (s streamed) Pool() postgres.Querier { return s.DB.Pool() }

// openStreams makes a reader of each stream that the catalog needs. The one to
// Kafka is always there, as it carries the tables that are no entities too.
func (w *Worker) openStreams() error {
	s := w.config.Systems
	w.positions = stream.NewPositions(w.db.Pool(), s.Prefix.Slot(saga.PublicationKafka))
	if !slices.Contains(w.config.Roles, RoleStream) {
		return nil
	}
	w.telemetry.Slots(func(ctx context.Context) ([]stream.Info, error) { return stream.Status(ctx, w.db.Pool(), s.Prefix) })
	handlers := map[saga.Sink]stream.Handler{
		saga.Kafka: kafkapub.Open(w.kafka, kafkapub.Config{
			Prefix: s.Prefix, DatabaseName: w.db.Pool().Config().ConnConfig.Database, Database: w.db.Pool(),
			Catalog: w.config.Catalog, Refill: w.refill, Logger: w.log,
		}),
		saga.Redis:         w.sinkHandler(saga.Redis, sinkpub.Redis(w.redis, w.config.Catalog)),
		saga.Elasticsearch: w.sinkHandler(saga.Elasticsearch, w.elastic),
	}
	watch := stream.NewWatch(w.db.Pool())
	for _, sink := range saga.Sinks {
		if sink != saga.Kafka && !w.config.Catalog.Uses(sink) {
			continue
		}
		if err := w.openStream(sink, handlers[sink], watch); err != nil {
			return err
		}
	}
	return nil
}

func (w *Worker) sinkHandler(sink saga.Sink, store sinkpub.Store) stream.Handler {
	handler := sinkpub.New(sinkpub.Config{
		Sink: sink, Catalog: w.config.Catalog, Database: streamed{w.db}, Store: store, Logger: w.log,
		Adopt: w.db.AdoptRefused,
		Resync: func(ctx context.Context, e *saga.Entity) error {
			return backfill.Resync(ctx, w.db.Pool(), e, sink, backfill.Gap)
		},
	})
	return backfill.Guard(handler, w.db.Pool(), w.config.Catalog, sink)
}

func (w *Worker) openStream(sink saga.Sink, handler stream.Handler, watch *stream.Watch) error {
	s := w.config.Systems
	config := stream.Config{
		URL: s.PostgresURL, Slot: s.Prefix.Slot(publicationOf[sink]), Publications: []string{publicationOf[sink]}, Sink: sink,
		Holder: holder(), Registry: w.db, Database: w.db.Pool(), Watch: watch, Handler: handler, Logger: w.log,
		Failover: w.config.Catalog.Streams.Failover, OnGap: w.closeGap,
	}
	if sink == saga.Kafka {
		config.Positions = w.positions
	}
	reader, err := stream.NewReader(config)
	if err != nil {
		return err
	}
	w.readers = append(w.readers, reader)
	w.telemetry.Stream(publicationOf[sink], reader.Stats())
	return nil
}

func holder() string {
	host, err := os.Hostname()
	if err != nil {
		host = "unknown"
	}
	return fmt.Sprintf("%s:%d", host, os.Getpid())
}

// refill asks for the rows of an entity whose topic begins anew.
func (w *Worker) refill(ctx context.Context, table saga.Table) error {
	for _, e := range w.config.Catalog.Entities {
		if e.Table == table && e.HasSink(saga.Kafka) {
			return backfill.Resync(ctx, w.db.Pool(), e, saga.Kafka, backfill.Anew)
		}
	}
	return nil
}
