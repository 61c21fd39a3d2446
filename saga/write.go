package saga

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"time"
)

// Limits of one write.
const (
	MaxSagaIDBytes = 200
	MaxWriteBytes  = 1 << 20
	// MaxNesting bounds the depth of the JSON of a write.
	MaxNesting = 100
)

// Write is a request to change rows of entities as one saga. Its JSON form is
// the same in files, in the CLI and in the workflow's input.
type Write struct {
	// SagaID is the caller's idempotency key, 1 to MaxSagaIDBytes bytes.
	SagaID      string      `json:"saga_id"`
	Mutations   []Mutation  `json:"mutations,omitempty"`
	Consistency Consistency `json:"consistency,omitempty"`
	Policy      Policy      `json:"policy,omitzero"`
	// BeforeSteps run one after the other before the commit, and are undone in
	// reverse when it is refused, cancelled or compensated. AfterSteps run one after
	// the other when all sinks have the write.
	BeforeSteps []Task `json:"before_steps,omitempty"`
	AfterSteps  []Task `json:"after_steps,omitempty"`
	// Stream is set instead of all of the above but SagaID in the write of a saga
	// that a sink's stream has begun: it brings a row to its sink that plain SQL has
	// committed. Clients and the CLI refuse it.
	Stream *StreamChange `json:"stream,omitempty"`
}

// Consistency says what a commit waits for.
type Consistency string

// The levels of consistency. The empty string means AP.
const (
	AP Consistency = "ap" // the local commit
	CP Consistency = "cp" // the synchronous replica has applied it
)

// Policy says what happens when a step cannot go on. What a write leaves out, the
// catalog gives for its entities and their sinks; what the catalog leaves out has
// a default.
type Policy struct {
	OnReject OnReject `json:"on_reject,omitempty"` // default OnRejectPark
	// ParkAfter is how long a step is retried while its sink is unavailable;
	// default DefaultParkAfter.
	ParkAfter Duration `json:"park_after,omitempty"`
}

// Or returns the policy with what it leaves out taken from another.
func (p Policy) Or(other Policy) Policy {
	if p.OnReject == "" {
		p.OnReject = other.OnReject
	}
	if p.ParkAfter == 0 {
		p.ParkAfter = other.ParkAfter
	}
	return p
}

// caution orders the reactions to a rejection: where the entities of one write
// differ, the one that does least by itself holds.
var caution = map[OnReject]int{OnRejectPark: 2, OnRejectCompensate: 1, OnRejectSkip: 0}

// Cautious returns the more cautious of two policies: the reaction that does
// least by itself, and the shorter patience.
func (p Policy) Cautious(other Policy) Policy {
	strict := Policy{OnReject: p.OnRejectOrDefault(), ParkAfter: Duration(min(p.ParkAfterOrDefault(), other.ParkAfterOrDefault()))}
	if o := other.OnRejectOrDefault(); caution[o] > caution[strict.OnReject] {
		strict.OnReject = o
	}
	return strict
}

// OnReject says what happens when a sink rejects a step for good.
type OnReject string

// The reactions to a rejection.
const (
	OnRejectCompensate OnReject = "compensate"
	OnRejectPark       OnReject = "park"
	OnRejectSkip       OnReject = "skip"
)

// DefaultParkAfter is the time after which a step whose sink stays unavailable
// parks its saga.
const DefaultParkAfter = 15 * time.Minute

// Duration is a time.Duration that JSON carries as text, such as "5m".
type Duration time.Duration

// MarshalText writes the duration's text form.
func (d Duration) MarshalText() ([]byte, error) { return []byte(time.Duration(d).String()), nil }

// UnmarshalText reads the duration's text form.
func (d *Duration) UnmarshalText(b []byte) error {
	v, err := time.ParseDuration(string(b))
	if err != nil {
		return fmt.Errorf("duration %q: want a number with a unit, such as 5m or 30s", b)
	}
	*d = Duration(v)
	return nil
}

// Op is what a mutation does.
type Op string

// The operations.
const (
	Insert Op = "insert"
	Upsert Op = "upsert"
	Patch  Op = "patch"
	Delete Op = "delete"
	Add    Op = "add" // a patch with Add alone
)

// Columns maps a column's name to its value as JSON. A number keeps its literal
// text; nothing passes through a floating-point number on its way to the
// column's own type.
type Columns map[string]json.RawMessage

// Mutation is one change to one row of one entity.
type Mutation struct {
	Entity string  `json:"entity"`
	Op     Op      `json:"op"`
	Row    Columns `json:"row,omitempty"` // insert, upsert
	Key    Columns `json:"key,omitempty"` // patch, delete, add
	Set    Columns `json:"set,omitempty"` // patch
	Add    Columns `json:"add,omitempty"` // patch, add: integers and numerics
	Expect *Expect `json:"expect,omitempty"`
}

// KeyColumns returns where the mutation names its key: Key, or Row for an
// insert or upsert.
func (m *Mutation) KeyColumns() Columns {
	if m.Op == Insert || m.Op == Upsert {
		return m.Row
	}
	return m.Key
}

// Expect states what must hold of the row before the mutation; unmet, the whole
// write is rejected.
type Expect struct {
	ETag   string      `json:"etag,omitempty"`
	Exists *bool       `json:"exists,omitempty"`
	Where  []Condition `json:"where,omitempty"`
}

// Condition compares a column with a value: ["stock", ">=", 1] in JSON. "=" and
// "<>" treat null as a value.
type Condition struct {
	Column   string
	Operator string
	Value    json.RawMessage
}

// Operators lists what a Condition may use.
var Operators = []string{"=", "<>", "<", "<=", ">", ">="}

// MarshalJSON writes [column, operator, value].
func (c Condition) MarshalJSON() ([]byte, error) {
	return json.Marshal([]any{c.Column, c.Operator, c.Value})
}

// UnmarshalJSON reads [column, operator, value].
func (c *Condition) UnmarshalJSON(b []byte) error {
	var parts []json.RawMessage
	if err := json.Unmarshal(b, &parts); err != nil || len(parts) != 3 {
		return fmt.Errorf("condition %.60s: want [column, operator, value]", b)
	}
	if err := json.Unmarshal(parts[0], &c.Column); err != nil {
		return fmt.Errorf("condition %.60s: the column's name is not a string", b)
	}
	if err := json.Unmarshal(parts[1], &c.Operator); err != nil {
		return fmt.Errorf("condition %.60s: the operator is not a string", b)
	}
	c.Value = parts[2]
	return nil
}

// Validate checks all of a write that needs no catalog and no database. Its
// errors are *Error with CodeInvalidWrite and name the mutation and the field.
func (w *Write) Validate() error {
	switch {
	case w.SagaID == "":
		return invalid("saga_id is missing: give each write its own idempotency key")
	case len(w.SagaID) > MaxSagaIDBytes:
		return invalid("saga_id has %d bytes: at most %d are allowed", len(w.SagaID), MaxSagaIDBytes)
	case strings.ContainsRune(w.SagaID, 0):
		return invalid("saga_id holds a NUL character, which PostgreSQL cannot store")
	case w.Stream != nil:
		return w.validateStream()
	case len(w.Mutations) == 0:
		return invalid("mutations is empty: a write changes at least one row")
	}
	switch w.Consistency {
	case "", AP, CP:
	default:
		return invalid("consistency %q: want ap or cp", w.Consistency)
	}
	switch w.Policy.OnReject {
	case "", OnRejectCompensate, OnRejectPark, OnRejectSkip:
	default:
		return invalid("policy.on_reject %q: want compensate, park or skip", w.Policy.OnReject)
	}
	if w.Policy.ParkAfter < 0 {
		return invalid("policy.park_after is negative")
	}
	if err := ValidateMutations(w.Mutations); err != nil {
		return err
	}
	if err := w.validateTasks(); err != nil {
		return invalid("%s", err)
	}
	return nil
}

// ValidateMutations checks all of a list of mutations that needs no catalog and
// no database, as Write.Validate does.
func ValidateMutations(mutations []Mutation) error {
	for i := range mutations {
		if err := mutations[i].validate(); err != nil {
			return invalid("mutations[%d]: %s", i, err)
		}
	}
	return nil
}

func invalid(format string, args ...any) *Error {
	return &Error{Class: Rejected, System: "capsaga", Code: CodeInvalidWrite, Message: fmt.Sprintf(format, args...)}
}

func (m *Mutation) validate() error {
	if !ValidEntityName(m.Entity) {
		return fmt.Errorf("entity %q: want the name of an entity of the catalog", m.Entity)
	}
	if err := m.validateFields(); err != nil {
		return err
	}
	if m.Expect == nil {
		return nil
	}
	for i, c := range m.Expect.Where {
		if c.Column == "" || !validOperator(c.Operator) {
			return fmt.Errorf("expect.where[%d]: want [column, operator, value] with an operator of %s", i, strings.Join(Operators, " "))
		}
	}
	if m.Op == Insert {
		return fmt.Errorf("expect: an insert expects the row's absence already; use upsert or patch")
	}
	if m.Expect.Exists != nil && !*m.Expect.Exists && (m.Op != Upsert || m.Expect.ETag != "" || len(m.Expect.Where) > 0) {
		return fmt.Errorf("expect.exists false goes with upsert alone, and with no other expectation")
	}
	return nil
}

// validateFields checks that the mutation has the fields of its operation and
// no others.
func (m *Mutation) validateFields() error {
	type field struct {
		name    string
		columns Columns
		allowed bool
	}
	fields := []field{
		{"row", m.Row, m.Op == Insert || m.Op == Upsert},
		{"key", m.Key, m.Op == Patch || m.Op == Delete || m.Op == Add},
		{"set", m.Set, m.Op == Patch},
		{"add", m.Add, m.Op == Patch || m.Op == Add},
	}
	switch m.Op {
	case Insert, Upsert, Patch, Delete, Add:
	default:
		return fmt.Errorf("op %q: want insert, upsert, patch, delete or add", m.Op)
	}
	for _, f := range fields {
		if !f.allowed && f.columns != nil {
			return fmt.Errorf("%s does not go with op %s", f.name, m.Op)
		}
	}
	switch {
	case len(m.KeyColumns()) == 0 && (m.Op == Insert || m.Op == Upsert):
		return fmt.Errorf("row is missing or empty")
	case len(m.KeyColumns()) == 0:
		return fmt.Errorf("key is missing or empty")
	case m.Op == Patch && len(m.Set)+len(m.Add) == 0:
		return fmt.Errorf("a patch needs set or add")
	case m.Op == Add && len(m.Add) == 0:
		return fmt.Errorf("add is missing or empty")
	}
	if len(m.Set) > 0 && len(m.Add) > 0 {
		for _, column := range sortedNames(m.Add) {
			if _, both := m.Set[column]; both {
				return fmt.Errorf("column %q is in both set and add", column)
			}
		}
	}
	return nil
}

func validOperator(operator string) bool {
	for _, known := range Operators {
		if operator == known {
			return true
		}
	}
	return false
}

// ParkAfterOrDefault returns the policy's ParkAfter or the default.
func (p Policy) ParkAfterOrDefault() time.Duration {
	if p.ParkAfter > 0 {
		return time.Duration(p.ParkAfter)
	}
	return DefaultParkAfter
}

// OnRejectOrDefault returns the policy's OnReject or the default.
func (p Policy) OnRejectOrDefault() OnReject {
	if p.OnReject == "" {
		return OnRejectPark
	}
	return p.OnReject
}

// Summary says in one line what the write changes and where it goes, such as
// "products/42 upsert → redis, kafka". Without known sinks it ends at the last
// change.
func (w *Write) Summary() string {
	if w.Stream != nil {
		return w.Stream.Summary()
	}
	var parts []string
	for i := range w.Mutations {
		if i == 3 && len(w.Mutations) > 4 {
			parts = append(parts, fmt.Sprintf("and %d more", len(w.Mutations)-i))
			break
		}
		m := &w.Mutations[i]
		parts = append(parts, m.Target()+" "+string(m.Op))
	}
	return strings.Join(parts, ", ")
}

// Entities returns the entities that the write names, sorted, each once.
func (w *Write) Entities() []string {
	var names []string
	if w.Stream != nil {
		names = append(names, w.Stream.Entity)
	}
	for i := range w.Mutations {
		names = append(names, w.Mutations[i].Entity)
	}
	slices.Sort(names)
	return slices.Compact(names)
}

// Target names the mutation's entity and, where it is short, its key, for
// people: "products/42".
func (m *Mutation) Target() string {
	if m.Op == Insert || m.Op == Upsert {
		if id, ok := m.Row["id"]; ok && len(id) <= 60 {
			return m.Entity + "/" + unquote(id)
		}
		return m.Entity
	}
	if len(m.Key) == 1 {
		for _, v := range m.Key {
			if len(v) <= 60 {
				return m.Entity + "/" + unquote(v)
			}
		}
	}
	return m.Entity
}

// unquote returns a string's text, and any other value as it stands.
func unquote(v json.RawMessage) string {
	if len(v) > 0 && (v[0] == '-' || v[0] >= '0' && v[0] <= '9') {
		return string(v) // what most keys are
	}
	var s string
	if json.Unmarshal(v, &s) == nil {
		return s
	}
	return string(v)
}
