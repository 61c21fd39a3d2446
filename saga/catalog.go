package saga

import (
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"
)

// Sink is a system that converges to PostgreSQL.
type Sink string

// The sinks.
const (
	Redis         Sink = "redis"
	Kafka         Sink = "kafka"
	Elasticsearch Sink = "elasticsearch"
)

// Sinks lists all sinks in the order in which they are shown.
var Sinks = []Sink{Redis, Kafka, Elasticsearch}

// Table names a table of PostgreSQL, unquoted.
type Table struct{ Schema, Name string }

// ParseTable reads "schema.table", or "table" for one in schema public. The
// first dot separates, so a schema's name holds none.
func ParseTable(s string) (Table, error) {
	schema, name, ok := strings.Cut(s, ".")
	if !ok {
		schema, name = "public", s
	}
	if schema == "" || name == "" || strings.ContainsRune(s, 0) {
		return Table{}, fmt.Errorf("table %q: want schema.table", s)
	}
	return Table{Schema: schema, Name: name}, nil
}

// String returns schema.table, unquoted.
func (t Table) String() string { return t.Schema + "." + t.Name }

// MarshalText writes schema.table.
func (t Table) MarshalText() ([]byte, error) { return []byte(t.String()), nil }

// UnmarshalText reads schema.table.
func (t *Table) UnmarshalText(b []byte) error {
	parsed, err := ParseTable(string(b))
	if err == nil {
		*t = parsed
	}
	return err
}

// Catalog names the entities and where their rows go.
type Catalog struct {
	// KafkaTables lists the tables that kafkapub publishes; nil means all.
	KafkaTables []Table
	// TransactionMetadata publishes the begin and end of each transaction, and says
	// in each event which of its transaction it is.
	TransactionMetadata bool
	// DecimalHandlingMode and TimePrecisionMode are how events have numbers and times;
	// empty: DecimalString and TimeAdaptive.
	DecimalHandlingMode DecimalMode
	TimePrecisionMode   TimeMode
	Entities            map[string]*Entity
	// LedgerRetention is how long the ledger remembers a finished saga; zero:
	// DefaultLedgerRetention.
	LedgerRetention time.Duration
	Streams         Streams
}

// DecimalMode is how events have numeric and money: Debezium's decimal.handling.mode.
type DecimalMode string

// The decimal modes.
const (
	DecimalString  DecimalMode = "string"  // digit by digit
	DecimalPrecise DecimalMode = "precise" // the unscaled value's bytes
	DecimalDouble  DecimalMode = "double"  // the nearest double, which may lose digits
)

// TimeMode is how events have dates, times and timestamps without a time zone:
// Debezium's time.precision.mode.
type TimeMode string

// The time modes. TimeConnect loses what is finer than a millisecond.
const (
	TimeAdaptive             TimeMode = "adaptive" // milliseconds or microseconds, by the column's precision
	TimeAdaptiveMicroseconds TimeMode = "adaptive_time_microseconds"
	TimeConnect              TimeMode = "connect" // milliseconds
	TimeISOString            TimeMode = "isostring"
	TimeMicroseconds         TimeMode = "microseconds"
	TimeNanoseconds          TimeMode = "nanoseconds"
	TimeStructured           TimeMode = "structured" // objects, also with a time zone, and intervals
)

// Streams says how the streams' replication slots are made.
type Streams struct {
	// Failover has standbys keep copies of the slots, so that a promoted standby's
	// streams go on where the primary's were. The price is that all streams wait for
	// the standbys that the server names in synchronized_standby_slots.
	Failover bool
}

// DefaultLedgerRetention is how long the ledger remembers a finished saga.
const DefaultLedgerRetention = 30 * 24 * time.Hour

// Retention returns how long the ledger remembers a finished saga.
func (c *Catalog) Retention() time.Duration {
	if c.LedgerRetention > 0 {
		return c.LedgerRetention
	}
	return DefaultLedgerRetention
}

// Entity is a table with its sinks.
type Entity struct {
	Name  string
	Table Table
	// Key lists the columns that identify a row; they must be unique.
	Key           []string
	Redis         *RedisSink
	Kafka         *KafkaSink
	Elasticsearch *ElasticsearchSink
	// Policy is that of writes of the entity that do not say.
	Policy Policy
}

// RedisSink is an entity's cache.
type RedisSink struct {
	TTL time.Duration // zero: rows do not expire
	// TombstoneTTL is how long the version of a deleted row is remembered;
	// zero: DefaultTombstoneTTL.
	TombstoneTTL time.Duration
	Policy       Policy // goes before the entity's
}

// DefaultTombstoneTTL is how long sinks remember the version of a deleted row.
const DefaultTombstoneTTL = 24 * time.Hour

// KafkaSink is an entity's topic.
type KafkaSink struct {
	Partitions  int    // default 1
	Replication int    // default 1
	Cleanup     string // "compact" (default), "delete" or "compact,delete"
	Policy      Policy // goes before the entity's
}

// ElasticsearchSink is an entity's index. Both fields are JSON objects that are
// passed to Elasticsearch as they are.
type ElasticsearchSink struct {
	Mappings json.RawMessage
	Settings json.RawMessage
	Policy   Policy // goes before the entity's
}

// ValidEntityName reports whether a name may name an entity: a-z, then a-z, 0-9
// and "_".
func ValidEntityName(name string) bool {
	for i := range len(name) {
		c := name[i]
		if (c < 'a' || c > 'z') && (i == 0 || (c < '0' || c > '9') && c != '_') {
			return false
		}
	}
	return name != ""
}

// Entity returns the entity of that name, or an invalid_entity error that lists
// the names there are.
func (c *Catalog) Entity(name string) (*Entity, error) {
	if e, ok := c.Entities[name]; ok {
		return e, nil
	}
	return nil, &Error{
		Class: Rejected, System: "catalog", Code: CodeUnknownEntity,
		Message: fmt.Sprintf("unknown entity %q: the catalog has %s", name, strings.Join(c.Names(), ", ")),
	}
}

// Uses reports whether any entity's rows go to a sink.
func (c *Catalog) Uses(sink Sink) bool {
	for _, e := range c.Entities {
		if e.HasSink(sink) {
			return true
		}
	}
	return false
}

// Names returns the entities' names, sorted.
func (c *Catalog) Names() []string {
	return sortedNames(c.Entities)
}

// sortedNames returns a map's keys in order, so that of several mistakes the same
// one is told each time, also when a workflow is replayed.
func sortedNames[V any](m map[string]V) []string { return slices.Sorted(maps.Keys(m)) }

// Sinks returns the sinks that the entity's rows go to, in the order of Sinks.
func (e *Entity) Sinks() []Sink {
	var sinks []Sink
	if e.Redis != nil {
		sinks = append(sinks, Redis)
	}
	if e.Kafka != nil {
		sinks = append(sinks, Kafka)
	}
	if e.Elasticsearch != nil {
		sinks = append(sinks, Elasticsearch)
	}
	return sinks
}

// HasSink reports whether the entity's rows go to a sink.
func (e *Entity) HasSink(sink Sink) bool { return slices.Contains(e.Sinks(), sink) }

// PolicyFor returns what the catalog says of a sink's steps: the sink's policy,
// and what that leaves out, the entity's.
func (e *Entity) PolicyFor(sink Sink) Policy {
	var own Policy
	switch {
	case sink == Redis && e.Redis != nil:
		own = e.Redis.Policy
	case sink == Kafka && e.Kafka != nil:
		own = e.Kafka.Policy
	case sink == Elasticsearch && e.Elasticsearch != nil:
		own = e.Elasticsearch.Policy
	}
	return own.Or(e.Policy)
}

// TombstoneLife is the shortest time that any sink of the entity remembers a
// deleted row. An apply older than half of it re-reads the row instead of
// sending what it holds.
func (e *Entity) TombstoneLife() time.Duration {
	if e.Redis != nil && e.Redis.TombstoneTTL > 0 {
		return min(e.Redis.TombstoneTTL, DefaultTombstoneTTL)
	}
	return DefaultTombstoneTTL
}

// RedisLives returns how long Redis keeps an entity's rows (zero: for ever) and the
// versions of its deleted rows.
func (c *Catalog) RedisLives(entity string) (ttl, tombstoneTTL time.Duration) {
	e := c.Entities[entity]
	if e == nil || e.Redis == nil {
		return 0, DefaultTombstoneTTL
	}
	if e.Redis.TombstoneTTL > 0 {
		return e.Redis.TTL, e.Redis.TombstoneTTL
	}
	return e.Redis.TTL, DefaultTombstoneTTL
}
