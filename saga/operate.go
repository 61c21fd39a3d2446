package saga

import (
	"encoding/json"
	"fmt"
	"strings"
	"time"
)

// QueryProgress is the query of WorkflowBulk that returns its BulkProgress; its
// argument is the number of items that the caller has already.
const QueryProgress = "progress"

// Action is what an operator wants done to sagas.
type Action string

// The actions.
const (
	ActionReplay     Action = "replay"     // drive it on from where it stands
	ActionSkip       Action = "skip"       // give up a parked step
	ActionCompensate Action = "compensate" // undo it
	ActionEdit       Action = "edit"       // change what it wrote
)

// Operation is an action with its arguments, which are the same for all sagas
// that it is meant for.
type Operation struct {
	Action Action `json:"action"`
	// Step is what to skip; empty: the one that is parked, if it is one.
	Step   StepName `json:"step,omitempty"`
	Reason string   `json:"reason,omitempty"` // of a skip
	// Mutations are an edit's. An edit without them sets the columns of Set in the
	// row that the saga owns; Row, as entity/KEYENC, says which if it owns several.
	Mutations []Mutation `json:"mutations,omitempty"`
	Set       Columns    `json:"set,omitempty"`
	Row       string     `json:"row,omitempty"`
}

// Validate checks all of an operation that can be told without the saga.
func (o *Operation) Validate() error {
	edits := len(o.Mutations) > 0 || len(o.Set) > 0
	switch {
	case o.Action != ActionReplay && o.Action != ActionSkip && o.Action != ActionCompensate && o.Action != ActionEdit:
		return invalid("action %q: want replay, skip, compensate or edit", o.Action)
	case o.Action != ActionSkip && (o.Step != "" || o.Reason != ""):
		return invalid("step and reason go with skip alone")
	case o.Action != ActionEdit && (edits || o.Row != ""):
		return invalid("mutations, set and row go with edit alone")
	case o.Action == ActionEdit && !edits:
		return invalid("an edit needs mutations or columns to set")
	case len(o.Mutations) > 0 && len(o.Set) > 0:
		return invalid("an edit takes mutations or columns to set, not both")
	}
	return ValidateMutations(o.Mutations)
}

// Did says what a request did to a saga.
type Did string

// What a request can have done.
const (
	DidNothing    Did = "nothing" // there was nothing to do
	DidRetry      Did = "retried"
	DidStart      Did = "started" // a workflow that Temporal no longer ran
	DidSkip       Did = "skipped"
	DidCompensate Did = "compensated"
	DidEdit       Did = "edited"
)

// Answer is what a request did to a saga and where the saga stands now.
type Answer struct {
	Outcome
	Did Did `json:"did"`
	// Note says why there was nothing to do.
	Note string `json:"note,omitempty"`
}

// Filter selects sagas. What is left out does not narrow the selection.
type Filter struct {
	Statuses   []Status `json:"statuses,omitempty"`
	BlockedOn  string   `json:"blocked_on,omitempty"` // a system, see StepName.System
	Entity     string   `json:"entity,omitempty"`
	ErrorClass Class    `json:"error_class,omitempty"`
	// Since and Before bound when sagas began: at or after the one, before the
	// other.
	Since  time.Time `json:"since,omitzero"`
	Before time.Time `json:"before,omitzero"`
	// Stopped selects sagas that have not ended and whose workflow does not run.
	Stopped bool `json:"stopped,omitempty"`
}

// OpenStatuses are those of sagas that have not ended.
var OpenStatuses = []Status{Pending, Committed, Parked, Compensating}

// Open reports whether the filter selects sagas that have not ended, and no
// others.
func (f *Filter) Open() bool {
	for _, status := range f.Statuses {
		if status.Final() {
			return false
		}
	}
	return len(f.Statuses) > 0
}

// Bounds of a request about many sagas. Together they keep it, with what it has
// come to, within the 2 MiB that Temporal takes as one payload.
const (
	// MaxBulkBytes bounds a request.
	MaxBulkBytes = 768 << 10
	// MaxBulkItems is how many sagas a request's progress names, and
	// MaxBulkItemBytes how large they may be together. Of later ones it names those
	// that failed, MaxBulkFailures at most, and counts the rest.
	MaxBulkItems        = 10_000
	MaxBulkItemBytes    = 768 << 10
	MaxBulkFailures     = 1_000
	MaxBulkFailureBytes = 256 << 10
)

// BulkRequest asks for one operation on many sagas: those of IDs, or, without
// them, those that Filter selects. It is the input of WorkflowBulk.
type BulkRequest struct {
	// Request names the request: the same one is done once. Empty: each run of the
	// workflow is a request of its own.
	Request string `json:"request,omitempty"`
	// Identity is a digest of what was asked for, as it was asked: a time that was
	// given as "2h ago" is the same each time. It tells two uses of one name apart.
	Identity  string    `json:"identity"`
	Operation Operation `json:"operation"`
	IDs       []string  `json:"ids,omitempty"`
	Filter    Filter    `json:"filter,omitzero"`
	// Expected is how many sagas the requester counted, for the progress.
	Expected int `json:"expected,omitempty"`
	// State is set by the workflow itself, when it goes on as a new run.
	State *BulkState `json:"state,omitempty"`
}

// Validate checks all of a request that can be told without the sagas.
func (r *BulkRequest) Validate() error {
	if err := r.Operation.Validate(); err != nil {
		return err
	}
	for i, id := range r.IDs {
		if id == "" || len(id) > MaxSagaIDBytes {
			return invalid("ids[%d]: want a saga id of 1 to %d bytes", i, MaxSagaIDBytes)
		}
	}
	if len(r.IDs) == 0 && !r.Filter.Open() && !r.Filter.Stopped {
		return invalid("a request selects sagas by ids or by statuses of sagas that have not ended: of pending, committed, parked and compensating")
	}
	encoded, err := json.Marshal(r)
	if err != nil {
		return invalid("a column's value is not JSON: %s", err)
	}
	if r.State == nil && len(encoded) > MaxBulkBytes {
		return invalid("the request has %d bytes: at most %d are allowed; split the ids over several, or select with a filter", len(encoded), MaxBulkBytes)
	}
	return nil
}

// BulkState is what one run of WorkflowBulk hands the next.
type BulkState struct {
	Cursor   string       `json:"cursor,omitempty"`
	Progress BulkProgress `json:"progress"`
}

// BulkItem is what became of one saga of a request.
type BulkItem struct {
	SagaID string `json:"saga_id"`
	Did    Did    `json:"did,omitempty"`
	Status Status `json:"status,omitempty"` // of the saga, where it is known
	Note   string `json:"note,omitempty"`
	// Error is set when the request was refused or not answered in time, or left
	// the saga parked.
	Error *ErrorInfo `json:"error,omitempty"`
}

// BulkProgress is how far a request about many sagas has come. It is the answer
// of QueryProgress and the result of WorkflowBulk.
type BulkProgress struct {
	Identity  string    `json:"identity"` // BulkRequest.Identity
	StartedAt time.Time `json:"started_at"`
	// Total is how many sagas there are to do; until all are selected, how many
	// are expected.
	Total int `json:"total"`
	// Done counts all sagas that were dealt with, Failed those of them that were
	// not brought to where the request wants them.
	Done   int `json:"done"`
	Failed int `json:"failed"`
	// Items are the sagas dealt with, in order, from the index on that was asked
	// for. See MaxBulkItems for how many are named.
	Items []BulkItem `json:"items"`
	// Unnamed counts the sagas dealt with that Items has no place for.
	Unnamed int `json:"unnamed,omitempty"`
	// Finished is true when there is nothing left to do, Cancelled when the
	// request was cancelled before that.
	Finished  bool `json:"finished"`
	Cancelled bool `json:"cancelled,omitempty"`
	// Note says what could not be looked at.
	Note string `json:"note,omitempty"`
}

// RowPatch returns the mutation that sets columns of a row that a saga owns. row
// names it as entity/KEYENC; it may be empty if the saga owns one row only.
func (c *Catalog) RowPatch(o *Outcome, row string, set Columns) (Mutation, error) {
	var owned []string
	for _, tag := range o.ETags {
		name := tag.Entity + "/" + tag.Key
		owned = append(owned, name)
		if row == name || row == "" && len(o.ETags) == 1 {
			return c.rowPatch(tag, set)
		}
	}
	switch {
	case len(owned) == 0:
		return Mutation{}, invalid("saga %q owns no rows, as it has not committed: give the mutations whole", o.SagaID)
	case row != "":
		return Mutation{}, invalid("saga %q does not own %s: it owns %s", o.SagaID, row, some(owned))
	}
	return Mutation{}, invalid("saga %q owns %d rows: say which, of %s", o.SagaID, len(owned), some(owned))
}

func (c *Catalog) rowPatch(tag ETag, set Columns) (Mutation, error) {
	e, err := c.Entity(tag.Entity)
	if err != nil {
		return Mutation{}, err
	}
	texts, err := DecodeKey(tag.Key)
	if err != nil || len(texts) != len(e.Key) {
		return Mutation{}, invalid("key %s of %s does not fit its key columns %s: give the mutations whole", tag.Key, tag.Entity, strings.Join(e.Key, ", "))
	}
	m := Mutation{Entity: tag.Entity, Op: Patch, Key: Columns{}, Set: set}
	for i, column := range e.Key {
		// The column's own type reads the text, whatever it is.
		if m.Key[column], err = json.Marshal(texts[i]); err != nil {
			return Mutation{}, err
		}
	}
	return m, nil
}

// some lists the first of many names.
func some(names []string) string {
	const most = 5
	if len(names) <= most {
		return strings.Join(names, ", ")
	}
	return fmt.Sprintf("%s and %d more", strings.Join(names[:most], ", "), len(names)-most)
}
