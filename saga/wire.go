package saga

import (
	"bytes"
	"encoding/json"
	"fmt"
	"regexp"
	"strings"
)

// Names that cross a process boundary. They are durable formats: a change needs
// a migration.
const (
	// WorkflowSaga is the Temporal workflow type of one saga.
	WorkflowSaga = "capsaga.Saga"
	// WorkflowBatch is the workflow type of many writes at once. Its input is a
	// Batch, its result a BatchOutcome, which is also the answer to the query state
	// and to the updates committed and visible; these take no argument.
	WorkflowBatch = "capsaga.Batch"

	// QueryState is the query that returns the whole Outcome so far.
	QueryState = "state"
	// UpdateCommitted waits for the pivot and answers with the Outcome.
	UpdateCommitted = "committed"
	// UpdateVisible waits for all sinks, or for the saga to park, and answers
	// with the Outcome.
	UpdateVisible = "visible"
	// What a parked saga takes. Each is answered with the Outcome when it has had
	// its effect, or when the saga has parked again. The update's id is the request's:
	// the same one twice has one effect.
	//
	// UpdateRetry tries the parked steps once more.
	UpdateRetry = "retry"
	// UpdateSkip gives up a parked step; its argument is a SkipInput.
	UpdateSkip = "skip"
	// UpdateCompensate undoes the saga.
	UpdateCompensate = "compensate"
	// UpdateEdit changes the saga's rows in PostgreSQL and brings them to all
	// sinks; its argument is an EditInput.
	UpdateEdit = "edit"
	// SignalRelease tells a parked saga that a system is back, whose name is its
	// argument. The gate sends it.
	SignalRelease = "release"

	// WorkflowGate is the workflow type that watches over one system that is away
	// and releases the sagas that are parked for it.
	WorkflowGate = "capsaga.Gate"
	// SignalParked tells a gate that a saga waits for its system.
	SignalParked = "parked"
	// WorkflowBulk is the workflow type of one request about many sagas.
	WorkflowBulk = "capsaga.Bulk"

	// Temporal search attributes.
	AttributeStatus     = "SagaStatus"     // Keyword
	AttributeErrorClass = "SagaErrorClass" // Keyword
	AttributeBlockedOn  = "SagaBlockedOn"  // KeywordList
	AttributeEntities   = "SagaEntities"   // KeywordList
	AttributeKeys       = "SagaKeys"       // KeywordList

	// Prefixes of the logical messages that open and close a saga's transaction
	// in the WAL.
	MessageBegin = "capsaga-begin"
	MessageEnd   = "capsaga-end"

	// Publications, as users of PostgreSQL see them.
	PublicationRedis         = "redispub"
	PublicationKafka         = "kafkapub"
	PublicationElasticsearch = "espub"

	// Schema is PostgreSQL's schema of Capsaga's own tables.
	Schema = "capsaga"

	// Headers of Kafka's records. The trace context's two are also the memo fields
	// of a saga's workflow by which a caller gives it, as JSON strings.
	HeaderSagaID      = "saga-id"
	HeaderEventID     = "event-id"
	HeaderVersion     = "version"
	HeaderUndoes      = "undoes"
	HeaderGeneration  = "generation"
	HeaderTraceParent = "traceparent"
	HeaderTraceState  = "tracestate"
	// HeaderClaimCheck is on a record that is too large for its topic and stands for
	// the row: its value is a ClaimCheck.
	HeaderClaimCheck = "claim-check"
	// HeaderParkedTopic is on the records of the parked topic and names the one that
	// refused them.
	HeaderParkedTopic = "parked-topic"
)

// ClaimCheck says where to find the row of a record that is too large for its topic.
type ClaimCheck struct {
	Schema string `json:"schema"`
	Table  string `json:"table"`
	// Entity is set where the table is one; Key is then the KEYENC as a JSON string,
	// else the object that is also the record's key, or null for a table without one.
	Entity string          `json:"entity,omitempty"`
	Key    json.RawMessage `json:"key"`
	// Version is the change's, in decimal: the row in PostgreSQL is at least as new.
	Version string `json:"version"`
}

const truncateKey = "__capsaga_truncate"

// TruncateKey is the key of the record that says, in a compacted topic, that the
// table was emptied. No row has it, as its only column is none of PostgreSQL's.
func TruncateKey(t Table) []byte {
	key, _ := json.Marshal(map[string]string{truncateKey: t.String()}) // of strings: no error
	return key
}

// IsTruncateKey reports whether a record's key is one of TruncateKey.
func IsTruncateKey(key []byte) bool {
	return bytes.HasPrefix(key, []byte(`{"`+truncateKey+`":`))
}

// WorkflowID returns the Temporal workflow id of a saga: "saga/" and the saga id,
// in which "%" and every byte outside of printable ASCII is percent-encoded, as
// Temporal's clients send a workflow id in a header that takes no others.
func WorkflowID(sagaID string) string {
	var b strings.Builder
	b.WriteString("saga/")
	for i := range len(sagaID) {
		if c := sagaID[i]; c < ' ' || c > '~' || c == '%' {
			fmt.Fprintf(&b, "%%%02X", c)
		} else {
			b.WriteByte(c)
		}
	}
	return b.String()
}

// WaitInput is the argument of the updates committed and visible.
type WaitInput struct {
	// Content is the digest of the write that the caller means; another content
	// under the same saga id is refused. Empty: whatever runs under the id.
	Content string `json:"content,omitempty"`
}

// SkipInput is the argument of UpdateSkip.
type SkipInput struct {
	Step   StepName `json:"step"`
	Reason string   `json:"reason,omitempty"` // for the waiver's record
}

// EditInput is the argument of UpdateEdit: changes of rows that the saga owns.
type EditInput struct {
	Mutations []Mutation `json:"mutations"`
}

// GateID returns the workflow id of the gate of a system.
func (p Prefix) GateID(system string) string { return "gate/" + string(p) + "/" + system }

// BulkID returns the workflow id of a request about many sagas.
func (p Prefix) BulkID(request string) string { return "bulk/" + string(p) + "/" + request }

// BeginMessage is the JSON content of the logical message that opens a saga's
// transaction.
type BeginMessage struct {
	SagaID string `json:"saga_id"`
	// Undoes is the saga that the transaction compensates, else empty.
	Undoes      string `json:"undoes,omitempty"`
	TraceParent string `json:"traceparent,omitempty"`
	TraceState  string `json:"tracestate,omitempty"`
}

// EndMessage is the JSON content of the logical message that closes a saga's
// transaction. The message's own LSN, with the epoch, is the saga's version.
type EndMessage struct {
	SagaID string      `json:"saga_id"`
	Epoch  Epoch       `json:"epoch"`
	Owned  []OwnedKeys `json:"owned"`
}

// OwnedKeys names the rows of one table that the saga itself brings to Redis
// and Elasticsearch.
type OwnedKeys struct {
	Table string   `json:"table"` // schema.table, as Table.String
	Keys  []string `json:"keys"`  // KEYENC
}

// EventID identifies one record for ever: the epoch, the commit LSN of its
// transaction and its index in that transaction. A consumer that drops ids it has
// seen sees each record once. The index of a TRUNCATE's record has the number of the
// table in the statement and the partition behind it: 5.0.3.
func EventID(epoch Epoch, commit LSN, index int) string {
	return fmt.Sprintf("%d:%s:%d", epoch, commit, index)
}

// Prefix separates the instances that share one stack: it begins the names of
// topics, indices, Redis keys, slots and the task queue.
type Prefix string

// DefaultPrefix is used when CAPSAGA_PREFIX is unset.
const DefaultPrefix Prefix = "capsaga"

var prefixForm = regexp.MustCompile(`^[a-z][a-z0-9_]{0,31}$`)

// ParsePrefix checks a prefix; the empty string gives the default.
func ParsePrefix(s string) (Prefix, error) {
	if s == "" {
		return DefaultPrefix, nil
	}
	if !prefixForm.MatchString(s) {
		return "", fmt.Errorf("prefix %q: want a lower-case letter, then at most 31 of a-z, 0-9 and _", s)
	}
	return Prefix(s), nil
}

// ParkedTopic returns the Kafka topic of the records that other topics refuse.
func (p Prefix) ParkedTopic() string { return string(p) + ".parked" }

// TransactionTopic returns the Kafka topic of the transactions' begins and ends.
func (p Prefix) TransactionTopic() string { return string(p) + ".transaction" }

// TaskQueue returns the Temporal task queue of the workers.
func (p Prefix) TaskQueue() string { return string(p) }

// Slot returns the name of the replication slot of a publication.
func (p Prefix) Slot(publication string) string { return string(p) + "_" + publication }

// RedisKey returns the key of a row, whose KEYENC is key.
func (p Prefix) RedisKey(entity, key string) string {
	return string(p) + ":" + entity + ":" + key
}

// Alias returns the Elasticsearch alias of an entity, through which all reads
// and writes go.
func (p Prefix) Alias(entity string) string { return string(p) + "-" + entity }

// FirstIndex returns the index that an entity's alias is first created on.
func (p Prefix) FirstIndex(entity string) string { return p.Alias(entity) + "-000001" }

// maxTopicBytes is Kafka's limit on the length of a topic's name.
const maxTopicBytes = 249

// Topic returns the Kafka topic of a table. Schema and table are escaped
// injectively: a byte outside [A-Za-z0-9-] and "_" becomes "_xHH", and so does
// a "_" that stands before "x" and two hexadecimal digits. Of a name that is too long
// for Kafka it returns that name beside the error.
func (p Prefix) Topic(t Table) (string, error) {
	topic := string(p) + "." + escapeTopicPart(t.Schema) + "." + escapeTopicPart(t.Name)
	if len(topic) > maxTopicBytes {
		return topic, fmt.Errorf("topic of table %s: %d bytes, Kafka allows %d: use a shorter prefix or table name", t, len(topic), maxTopicBytes)
	}
	return topic, nil
}

func escapeTopicPart(s string) string {
	var b strings.Builder
	for i := range len(s) {
		c := s[i]
		switch {
		case c >= 'a' && c <= 'z', c >= 'A' && c <= 'Z', c >= '0' && c <= '9', c == '-':
			b.WriteByte(c)
		case c == '_' && !looksEscaped(s[i:]):
			b.WriteByte(c)
		default:
			fmt.Fprintf(&b, "_x%02X", c)
		}
	}
	return b.String()
}

func looksEscaped(s string) bool {
	return len(s) >= 4 && s[1] == 'x' && isHex(s[2]) && isHex(s[3])
}

func isHex(c byte) bool {
	return c >= '0' && c <= '9' || c >= 'a' && c <= 'f' || c >= 'A' && c <= 'F'
}
