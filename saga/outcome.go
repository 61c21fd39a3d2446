package saga

import (
	"encoding/json"
	"time"
)

// Status is where a saga stands.
type Status string

// The statuses. A final one never changes again.
const (
	Pending      Status = "pending"
	Committed    Status = "committed"
	Parked       Status = "parked"
	Compensating Status = "compensating"

	Completed   Status = "completed"
	RejectedEnd Status = "rejected"
	Compensated Status = "compensated"
	Cancelled   Status = "cancelled"
	Failed      Status = "failed"
)

// Final reports whether the status never changes again.
func (s Status) Final() bool {
	switch s {
	case Completed, RejectedEnd, Compensated, Cancelled, Failed:
		return true
	}
	return false
}

// StepName names a step of the saga: StepCommit, that of a sink, a task's name, or
// what undoes one of them.
type StepName string

// The steps.
const (
	StepCommit        StepName = "commit"
	StepRedis         StepName = StepName(Redis)
	StepKafka         StepName = StepName(Kafka)
	StepElasticsearch StepName = StepName(Elasticsearch)
)

// StepState is where one step stands.
type StepState string

// The states of a step.
const (
	StepPending  StepState = "pending"
	StepRunning  StepState = "running"
	StepRetrying StepState = "retrying"
	StepDone     StepState = "done"
	StepParked   StepState = "parked"
	StepRejected StepState = "rejected"
	// StepSkipped: not done and not wanted: the policy or an operator gave it up, or
	// the saga was cancelled or undone before.
	StepSkipped StepState = "skipped"
)

// Over reports whether the step is done, or given up: nobody will run it again.
func (s StepState) Over() bool { return s == StepDone || s == StepSkipped }

// Step is one step's state.
type Step struct {
	Name      StepName   `json:"name"`
	State     StepState  `json:"state"`
	Attempts  int        `json:"attempts"`
	StartedAt time.Time  `json:"started_at,omitzero"`
	Duration  Duration   `json:"duration"`
	Error     *ErrorInfo `json:"error,omitempty"`
}

// WaitsFor names the system that has to be back, or mended, before the step can go
// on: its own, or PostgreSQL when that did not give it the rows to bring.
func (s *Step) WaitsFor() string {
	if e := s.Error; e != nil && e.Class != Rejected && e.System == StepCommit.System() {
		return e.System
	}
	return s.Name.System()
}

// ErrorInfo is an error in an outcome.
type ErrorInfo struct {
	Code    string `json:"code"`
	Message string `json:"message"`
	Class   Class  `json:"class,omitempty"`
	System  string `json:"system,omitempty"`
}

// ETag is the etag that a saga left on a row it owns: what a later write's
// expect.etag may name. A row that the saga deleted has none, and one that plain
// SQL wrote ETagUnknown.
type ETag struct {
	Entity string `json:"entity"`
	Key    string `json:"key"` // KEYENC
	ETag   string `json:"etag,omitempty"`
}

// Confirmation says which PostgreSQL servers have a commit for certain.
type Confirmation string

// The confirmations.
const (
	ConfirmedByReplica Confirmation = "replica"
	ConfirmedLocally   Confirmation = "local"
)

// Outcome is what a saga came to, or where it stands.
type Outcome struct {
	SagaID    string       `json:"saga_id"`
	Status    Status       `json:"status"`
	Version   Version      `json:"version,omitempty"`
	Confirmed Confirmation `json:"confirmed,omitempty"`
	Token     string       `json:"token,omitempty"`
	ETags     []ETag       `json:"etags,omitempty"`
	Steps     []Step       `json:"steps,omitempty"`
	Error     *ErrorInfo   `json:"error,omitempty"`
	// Stream is set in the outcome of a saga that commits nothing: see StreamChange.
	Stream *StreamChange `json:"stream,omitempty"`
	// Content is the digest of the write, by which a second start with other
	// content is refused.
	Content string `json:"content,omitempty"`
}

// Own notes which rows the saga has, at which version.
func (o *Outcome) Own(version Version, owned []Owned) {
	o.Version, o.Token, o.ETags = version, NewToken(version, owned).String(), nil
	for _, row := range owned {
		o.ETags = append(o.ETags, ETag{Entity: row.Entity, Key: row.Key, ETag: row.ETag})
	}
}

// Step returns the named step, or nil.
func (o *Outcome) Step(name StepName) *Step {
	for i := range o.Steps {
		if o.Steps[i].Name == name {
			return &o.Steps[i]
		}
	}
	return nil
}

// Undoing reports whether the saga is being undone, or was. A saga that is parked
// meanwhile says so by its steps alone.
func (o *Outcome) Undoing() bool {
	for i := range o.Steps {
		if o.Steps[i].Name.Undoes() {
			return true
		}
	}
	return o.Status == Compensating || o.Status == Compensated
}

// Owned is a row that a saga changed and brings to its sinks.
type Owned struct {
	Entity string `json:"entity"`
	Key    string `json:"key"` // KEYENC
	// ETag is the etag that the saga left; empty if the row is gone, ETagUnknown if
	// plain SQL wrote it.
	ETag string `json:"etag,omitempty"`
	// Version is set where it is not that of the saga's last change of PostgreSQL: a
	// row that an earlier one deleted is gone at that one's version, as nothing keeps
	// others from inserting it since.
	Version Version `json:"version,omitempty"`
	// Row is the row as the saga left it; only in memory, never in history.
	Row json.RawMessage `json:"-"`
}

// Gone reports whether the saga left the row deleted.
func (o Owned) Gone() bool { return o.ETag == "" }
