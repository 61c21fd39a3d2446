package activities

import (
	"context"

	"go.temporal.io/sdk/activity"

	"github.com/capsaga/capsaga/saga"
)

// What metrics call the work that is no step of the saga.
const (
	stepCancel saga.StepName = "cancel"
	stepRecord saga.StepName = "record"
	stepRecall saga.StepName = "recall"
	stepWaive  saga.StepName = "waive"
	stepEdit   saga.StepName = "edit"
	stepGate   saga.StepName = "gate"
)

// CancelOutput is the result of CancelCommit.
type CancelOutput struct {
	// Committed is true when the cancellation came too late.
	Committed bool `json:"committed"`
}

// CancelCommit makes sure that a saga whose commit did not answer never commits,
// or finds that it has. It is idempotent by the ledger's key.
func (a *Saga) CancelCommit(ctx context.Context, in CommitInput) (CancelOutput, error) {
	var out CancelOutput
	err := a.attempt(ctx, stepCancel, func(ctx context.Context) error {
		execution := activity.GetInfo(ctx).WorkflowExecution
		var err error
		out.Committed, err = a.Ledger.Cancel(ctx, in.Write, execution.ID, execution.RunID)
		return err
	})
	return out, err
}

// RecordInput is the input of RecordOutcome.
type RecordInput struct {
	Outcome saga.Outcome `json:"outcome"`
}

// RecordOutput is the result of RecordOutcome.
type RecordOutput struct {
	// Outdated is true of a stream's saga whose row was refused again at a later
	// version than the outcome's: nothing was stored, and Commit tells the rest.
	Outdated bool `json:"outdated,omitempty"`
}

// RecordOutcome stores where a committed saga stands in the ledger, which
// outlives the workflow's history, and tells the waiters of this process. It is
// idempotent: a final outcome never changes.
func (a *Saga) RecordOutcome(ctx context.Context, in RecordInput) (RecordOutput, error) {
	a.images.drop(in.Outcome.SagaID)
	a.Notifier.Publish(in.Outcome)
	var out RecordOutput
	err := a.attempt(ctx, stepRecord, func(ctx context.Context) (err error) {
		out.Outdated, err = a.Ledger.RecordOutcome(ctx, in.Outcome.SagaID, in.Outcome)
		return err
	})
	return out, err
}

// RecallInput is the input of Recall.
type RecallInput struct {
	SagaID string `json:"saga_id"`
}

// RecallOutput is the result of Recall.
type RecallOutput struct {
	Outcome *saga.Outcome `json:"outcome,omitempty"` // nil: the ledger does not know the saga
}

// Recall tells a workflow that begins with steps before the commit what an
// earlier one of the same saga came to.
func (a *Saga) Recall(ctx context.Context, in RecallInput) (RecallOutput, error) {
	var out RecallOutput
	err := a.attempt(ctx, stepRecall, func(ctx context.Context) error {
		var err error
		out.Outcome, err = a.Ledger.Recall(ctx, in.SagaID)
		return err
	})
	return out, err
}

// WaiveInput is the input of Waive.
type WaiveInput struct {
	SagaID  string        `json:"saga_id"`
	Step    saga.StepName `json:"step"`
	Version saga.Version  `json:"version,omitempty"`
	Rows    []saga.Owned  `json:"rows,omitempty"`
	Reason  string        `json:"reason,omitempty"`
}

// WaiveOutput is the result of Waive.
type WaiveOutput struct {
	// Version is that up to which the rows are waived.
	Version saga.Version `json:"version,omitempty"`
}

// Waive remembers that a step was given up, so that nobody repairs its rows
// later. It is idempotent by saga id and step.
func (a *Saga) Waive(ctx context.Context, in WaiveInput) (WaiveOutput, error) {
	var out WaiveOutput
	err := a.attempt(ctx, stepWaive, func(ctx context.Context) (err error) {
		out.Version, err = a.Ledger.Waive(ctx, Waiver(in))
		return err
	})
	return out, err
}

// GateInput is the input of OpenGate.
type GateInput struct {
	System string `json:"system"`
}

// GateOutput is the result of OpenGate.
type GateOutput struct{}

// OpenGate makes sure that someone watches a system that is away. It is
// idempotent: there is one gate per system.
func (a *Saga) OpenGate(ctx context.Context, in GateInput) (GateOutput, error) {
	if a.Gates == nil {
		return GateOutput{}, nil
	}
	return GateOutput{}, a.attempt(ctx, stepGate, func(ctx context.Context) error {
		return a.Gates.OpenGate(ctx, in.System)
	})
}
