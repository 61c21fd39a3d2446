package postgres

import (
	"time"

	"github.com/capsaga/capsaga/saga"
)

// UndoRequest asks to undo what a saga left.
type UndoRequest struct {
	SagaID                  string
	Catalog                 *saga.Catalog
	TraceParent, TraceState string
}

// EditRequest asks to change rows that a saga owns.
type EditRequest struct {
	SagaID string
	// RequestID makes the edit happen once.
	RequestID               string
	Mutations               []saga.Mutation
	Catalog                 *saga.Catalog
	TraceParent, TraceState string
}

// ChangeResult is what became of an undo or an edit, now or by an earlier call.
type ChangeResult struct {
	// Refused says why nothing happened. It is not remembered: a later call tries
	// again. Nil: the change has committed.
	Refused     *saga.ErrorInfo
	Version     saga.Version
	CommittedAt time.Time
	// FlushLSN was read right after COMMIT, or, of an earlier change, just now.
	FlushLSN saga.LSN
	// Owned has all rows that the saga owns, as they are at Version.
	Owned []saga.Owned
}
