package kafkapub

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"github.com/capsaga/capsaga/internal/kafka"
	"github.com/capsaga/capsaga/internal/pgtext"
	"github.com/capsaga/capsaga/internal/postgres"
	"github.com/capsaga/capsaga/internal/stream"
	"github.com/capsaga/capsaga/saga"
)

// Topics is the cluster for all but producing.
type Topics interface {
	// EnsureTopics creates what is missing of topics.
	EnsureTopics(ctx context.Context, specs []kafka.TopicSpec) (created []string, err error)
	TopicID(ctx context.Context, name string) (id string, err error)
	Topic(ctx context.Context, name string) (kafka.Topic, error)
	// EndOffset and Read are for the parked topic, which has one partition.
	EndOffset(ctx context.Context, topic string) (int64, error)
	// Read hands over the records from an offset up to the topic's present end, which
	// it returns.
	Read(ctx context.Context, topic string, from int64, take func(offset int64, r kafka.Record) error) (end int64, err error)
}

// Producer writes the records of one holder of the stream; kafka.Producer is one.
type Producer interface {
	// Prepare is called before the first record to a topic.
	Prepare(topic kafka.Topic)
	Produce(r kafka.Record)
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
	// Database is a pool of normal connections, to look types and keys up, and for
	// what is known of the topics (capsaga.topic).
	Database postgres.Querier
	Topics   Topics
	// NewProducer makes the producer of one holder.
	NewProducer func(kafka.Outcome) (Producer, error)
	// Catalog gives the settings of the entities' topics and of the encodings; nil, and
	// what it does not say, mean the defaults. A table without a key always gets a topic with delete
	// policy.
	Catalog *saga.Catalog
	// Refill is told of a table whose topic begins anew, as its key is another one or
	// the topic was deleted: its rows are to be backfilled. When it returns, that has
	// to be sure to happen; it may be told more than once. May be nil: then the log
	// alone says it.
	Refill func(ctx context.Context, table saga.Table) error
	Logger *slog.Logger // default slog.Default()
}

// entity returns the entity of a table; nil where it is none.
func (c *Config) entity(table saga.Table) *saga.Entity {
	if c.Catalog == nil {
		return nil
	}
	for _, e := range c.Catalog.Entities {
		if e.Table == table {
			return e
		}
	}
	return nil
}

// topicSpec is how a table's topic is created.
func (c *Config) topicSpec(topic string, table saga.Table, keyed bool) kafka.TopicSpec {
	spec := kafka.TopicSpec{Name: topic}
	if e := c.entity(table); e != nil && e.Kafka != nil {
		spec.Partitions, spec.Replication, spec.Cleanup = e.Kafka.Partitions, e.Kafka.Replication, e.Kafka.Cleanup
	}
	if !keyed {
		spec.Cleanup = cleanupDelete
	}
	return spec
}

// Publisher publishes a stream to Kafka. It is a stream.Handler.
type Publisher struct {
	config Config
	types  *pgtext.Types
	memory memory
}

// Open returns a publisher to a cluster.
func Open(client *kafka.Client, config Config) *Publisher {
	config.Topics = client
	config.NewProducer = func(outcome kafka.Outcome) (Producer, error) { return client.NewProducer(outcome) }
	return New(config)
}

// New returns a publisher.
func New(config Config) *Publisher {
	if config.Logger == nil {
		config.Logger = slog.Default()
	}
	return &Publisher{config: config, types: pgtext.NewTypes(config.Database)}
}

// Start begins a session with a producer of its own.
func (p *Publisher) Start(ctx context.Context, lease stream.Lease) (stream.Session, error) {
	s := &session{
		config: p.config, types: p.types, log: p.config.Logger, memory: &p.memory,
		register: &register{db: p.config.Database, slot: lease.Slot, generation: lease.Generation},
		plans:    map[uint32]*plan{}, targets: map[string]*target{}, known: map[string]known{},
		parked:     &target{spec: kafka.TopicSpec{Name: p.config.Prefix.ParkedTopic(), Cleanup: cleanupDelete, Retention: "-1"}},
		generation: fmt.Append(nil, lease.Generation), modes: modesOf(p.config.Catalog),
	}
	if c := p.config.Catalog; c != nil && c.TransactionMetadata {
		s.meta = &transactions{target: transactionTarget(p.config.Prefix), counts: map[*target]int64{}}
		s.targets[s.meta.target.spec.Name] = s.meta.target
	}
	entries, err := s.register.entries(ctx)
	if err != nil {
		return nil, err
	}
	diverted := s.recall(entries)
	if s.producer, err = p.config.NewProducer(kafka.Outcome{Acknowledged: s.acknowledged, Failed: s.failed}); err != nil {
		return nil, err
	}
	if diverted {
		s.startDrainer()
		s.drainer.leave()
	}
	return s, nil
}

// recall takes over what earlier holders knew of the topics.
func (s *session) recall(entries []entry) (diverted bool) {
	for _, e := range entries {
		if e.Diverted {
			s.target(e.Topic, saga.Table{}).diverted = true
			diverted = true
		}
		s.known[e.Topic] = known{e.Key, e.ID}
	}
	return diverted
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

// about names the table in an error that names only the topic.
func about(table saga.Table, err error) error {
	return prefixed(err, "table "+table.String())
}

// inEvent names the event.
func inEvent(id string, err error) error { return prefixed(err, "event "+id) }

func prefixed(err error, what string) error {
	var known *saga.Error
	if !errors.As(err, &known) {
		return err
	}
	named := *known
	named.Message = what + ": " + known.Message
	return &named
}

// refusal is a refusal that the session foresees.
type refusal struct{ text string }

func (r *refusal) Error() string { return r.text }

func refused(format string, args ...any) *saga.Error {
	text := fmt.Sprintf(format, args...)
	return &saga.Error{Class: saga.Rejected, System: string(saga.Kafka), Code: saga.CodeRejected, Message: text, Err: &refusal{text}}
}

func isRefusal(err error) bool {
	var r *refusal
	return errors.As(err, &r)
}
