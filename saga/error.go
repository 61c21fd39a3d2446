package saga

import (
	"errors"
	"fmt"
)

// Class says what to do about a failure.
type Class string

// The classes. An adapter decides the class of each of its system's errors in
// one place; nobody else looks at a driver's error.
const (
	// Unavailable: the system did not take the request; try again later.
	Unavailable Class = "unavailable"
	// Rejected: the system refuses this request for good; the policy decides.
	Rejected Class = "rejected"
	// Ambiguous: the request may have taken effect; treat it as maybe done. All
	// of Capsaga's effects are idempotent, so it is tried again too.
	Ambiguous Class = "ambiguous"
)

// Codes of errors, for programs. They are stable; messages are not.
const (
	CodeInvalidWrite        = "invalid_write"        // the write's form is wrong
	CodeUnknownEntity       = "unknown_entity"       // not in the catalog
	CodeUnknownColumn       = "unknown_column"       // not a column of the table
	CodeMissingKey          = "missing_key"          // a key column has no value
	CodeInvalidValue        = "invalid_value"        // does not fit the column
	CodeNotFound            = "not_found"            // patch or delete of an absent row
	CodeExpectUnmet         = "expect_unmet"         // an expect did not hold
	CodeConstraintViolation = "constraint_violation" // a constraint of the table
	CodeSagaIDReused        = "saga_id_reused"       // same id, other content
	CodeNoReplica           = "no_synchronous_replica"
	CodeUnavailable         = "unavailable"
	CodeRejected            = "rejected"
	CodeUnknownSaga         = "unknown_saga"  // no saga of this id is known
	CodeStillRunning        = "still_running" // the wait ended before the saga; it goes on
	CodeNotParked           = "not_parked"    // an operator's request that does not fit where the saga stands
	CodeConflict            = "conflict"      // an undo would overwrite or lose what others did since
	CodeStepRejected        = "step_rejected" // a before- or after-step of the service refused
	CodeWorkflowLost        = "workflow_lost" // the workflow ended without an outcome
)

// Error is a failure of one system, classified.
type Error struct {
	Class   Class
	System  string // "postgres", "redis", "kafka", "elasticsearch", "temporal", "catalog"
	Code    string
	Message string // what failed, where and what to do; holds no password
	Err     error  // the driver's error, for logs; may be nil
}

// Error returns the message with its system.
func (e *Error) Error() string { return fmt.Sprintf("%s: %s", e.System, e.Message) }

// Unwrap returns the driver's error.
func (e *Error) Unwrap() error { return e.Err }

// ClassOf returns the class of an error: that of the first *Error in its chain,
// else Unavailable, as what no adapter has recognised may pass.
func ClassOf(err error) Class {
	var e *Error
	if errors.As(err, &e) {
		return e.Class
	}
	return Unavailable
}
