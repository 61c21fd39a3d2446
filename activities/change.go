package activities

import (
	"context"
	"time"

	"go.temporal.io/sdk/activity"

	"github.com/capsaga/capsaga/saga"
)

// ChangeInput is the input of Undo and of Edit.
type ChangeInput struct {
	SagaID string `json:"saga_id"`
	// RequestID and Mutations are an edit's.
	RequestID string          `json:"request_id,omitempty"`
	Mutations []saga.Mutation `json:"mutations,omitempty"`
	// The W3C trace context of the saga.
	TraceParent string `json:"traceparent,omitempty"`
	TraceState  string `json:"tracestate,omitempty"`
}

// ChangeOutput is the result of Undo and of Edit: where the saga's rows stand now.
type ChangeOutput struct {
	Version     saga.Version `json:"version"`
	CommittedAt time.Time    `json:"committed_at,omitzero"`
	FlushLSN    saga.LSN     `json:"flush_lsn,omitempty"`
	Owned       []saga.Owned `json:"owned,omitempty"`
	Attempt     int          `json:"attempt"`
}

// Undo takes back in PostgreSQL what the saga did there, in one transaction. It
// is idempotent by the ledger's key. A conflict with what others did since is a
// rejection: nothing has happened then.
func (a *Saga) Undo(ctx context.Context, in ChangeInput) (ChangeOutput, error) {
	return a.change(ctx, saga.StepUndo, in, func(ctx context.Context) (*ChangeResult, error) {
		return a.Changer.Undo(ctx, UndoRequest{
			SagaID: in.SagaID, Catalog: a.Catalog, TraceParent: in.TraceParent, TraceState: in.TraceState,
		})
	})
}

// Edit changes rows that the saga owns, in one transaction. It is idempotent by
// saga id and request id.
func (a *Saga) Edit(ctx context.Context, in ChangeInput) (ChangeOutput, error) {
	return a.change(ctx, stepEdit, in, func(ctx context.Context) (*ChangeResult, error) {
		return a.Changer.Edit(ctx, EditRequest{
			SagaID: in.SagaID, RequestID: in.RequestID, Mutations: in.Mutations,
			Catalog: a.Catalog, TraceParent: in.TraceParent, TraceState: in.TraceState,
		})
	})
}

func (a *Saga) change(ctx context.Context, step saga.StepName, in ChangeInput, do func(context.Context) (*ChangeResult, error)) (ChangeOutput, error) {
	var out ChangeOutput
	err := a.attempt(ctx, step, func(ctx context.Context) error {
		began := a.Now()
		r, err := do(ctx)
		if err != nil {
			return err
		}
		if e := r.Refused; e != nil {
			return &saga.Error{Class: saga.Rejected, System: e.System, Code: e.Code, Message: e.Message}
		}
		a.images.put(in.SagaID, r.Version, began, r.Owned)
		out = ChangeOutput{
			Version: r.Version, CommittedAt: r.CommittedAt, FlushLSN: r.FlushLSN, Owned: r.Owned,
			Attempt: int(activity.GetInfo(ctx).Attempt),
		}
		return nil
	})
	return out, err
}
