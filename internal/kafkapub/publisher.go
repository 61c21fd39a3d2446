package kafkapub

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"time"

	"github.com/capsaga/capsaga/internal/kafka"
	"github.com/capsaga/capsaga/internal/pgtext"
	"github.com/capsaga/capsaga/internal/postgres"
	"github.com/capsaga/capsaga/internal/stream"
	"github.com/capsaga/capsaga/saga"
)

// Topics creates what is missing of topics, and looks at what is in them.
type Topics interface {
	EnsureTopics(ctx context.Context, specs []kafka.TopicSpec) (created []string, err error)
	// LastKey returns the key of a newest record; found is false for an empty
	// topic.
	LastKey(ctx context.Context, topic string) (key []byte, found bool, err error)
}

// Producer writes the records of one holder of the stream.
type Producer interface {
	// Prepare is called before the first record to a topic.
	Prepare(ctx context.Context, topic string) error
	// Produce calls done once, or returns an error and does not.
	Produce(ctx context.Context, r kafka.Record, done func(error)) error
	// LastError says what keeps records from being acknowledged.
	LastError() error
	// Abort drops what is buffered and closes the producer.
	Abort()
}

// Config is what a Publisher needs.
type Config struct {
	Prefix saga.Prefix
	// DatabaseName is source.db of the records.
	DatabaseName string
	// Database is a pool of normal connections, to look types and keys up.
	Database postgres.Querier
	Topics   Topics
	// NewProducer makes the producer of one holder.
	NewProducer func() (Producer, error)
	// Settings gives a table's topic settings; nil, and zero fields, mean the
	// defaults. A table without a key always gets a topic with delete policy.
	Settings func(saga.Table) saga.KafkaSink
	Logger   *slog.Logger // default slog.Default()
}

// Publisher publishes a stream to Kafka. It is a stream.Handler.
type Publisher struct {
	config Config
	types  *pgtext.Types
}

// Open returns a publisher to a cluster.
func Open(client *kafka.Client, config Config) *Publisher {
	config.Topics = client
	config.NewProducer = func() (Producer, error) { return client.NewProducer() }
	return New(config)
}

// New returns a publisher.
func New(config Config) *Publisher {
	if config.Logger == nil {
		config.Logger = slog.Default()
	}
	return &Publisher{config: config, types: pgtext.NewTypes(config.Database)}
}

// CatalogSettings returns the topic settings of the catalog's entities, for
// Config.Settings.
func CatalogSettings(catalog *saga.Catalog) func(saga.Table) saga.KafkaSink {
	settings := map[saga.Table]saga.KafkaSink{}
	for _, entity := range catalog.Entities {
		if entity.Kafka != nil {
			settings[entity.Table] = *entity.Kafka
		}
	}
	return func(table saga.Table) saga.KafkaSink { return settings[table] }
}

// Start begins a session with a producer of its own.
func (p *Publisher) Start(_ context.Context, lease stream.Lease) (stream.Session, error) {
	producer, err := p.config.NewProducer()
	if err != nil {
		return nil, err
	}
	return &session{
		config: p.config, types: p.types, producer: producer, log: p.config.Logger,
		plans: map[uint32]*plan{}, keys: map[saga.Table]string{}, generation: fmt.Append(nil, lease.Generation),
	}, nil
}

const (
	retryFirst = 100 * time.Millisecond
	retryLast  = 2 * time.Second
	// attemptTimeout bounds one attempt of what persist repeats.
	attemptTimeout = 10 * time.Second
)

// persist repeats an action while the cluster is away, and remembers why.
func (s *session) persist(ctx context.Context, action func(context.Context) error) error {
	defer s.trouble.Store(nil)
	for pause := retryFirst; ; pause = min(pause*2, retryLast) {
		attempt, cancel := context.WithTimeout(ctx, attemptTimeout)
		err := action(attempt)
		cancel()
		if err == nil || ctx.Err() != nil || saga.ClassOf(err) == saga.Rejected {
			return errors.Join(err, ctx.Err())
		}
		s.trouble.Store(&err)
		select {
		case <-time.After(pause):
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// about names the table, and where there is one the event, in an error that
// names only the topic.
func about(p *plan, event string, err error) error {
	var known *saga.Error
	if !errors.As(err, &known) {
		return err
	}
	named := *known
	named.Message = fmt.Sprintf("table %s: %s", p.relation.Table, known.Message)
	if event != "" {
		named.Message = fmt.Sprintf("table %s, event %s: %s", p.relation.Table, event, known.Message)
	}
	return &named
}

func tableNames(relations []*stream.Relation) string {
	names := make([]string, len(relations))
	for i, r := range relations {
		names[i] = r.Table.String()
	}
	return strings.Join(names, ", ")
}
