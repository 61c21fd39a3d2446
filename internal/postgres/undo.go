package postgres

import (
	"context"

	"github.com/capsaga/capsaga/saga"
)

// Undo is not built yet.
func (db *DB) Undo(_ context.Context, r UndoRequest) (*ChangeResult, error) {
	return nil, refuse(saga.CodeRejected, "saga %q: undo is not built yet", r.SagaID)
}

// Edit is not built yet.
func (db *DB) Edit(_ context.Context, r EditRequest) (*ChangeResult, error) {
	return nil, refuse(saga.CodeRejected, "saga %q: edit is not built yet", r.SagaID)
}
