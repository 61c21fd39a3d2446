package client

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"

	sdkclient "go.temporal.io/sdk/client"

	"github.com/capsaga/capsaga/saga"
)

// The requests of an operator take a request id, by which the same request has
// one effect, however often it is made; the empty string stands for a new one. Two
// that ask for different things are two requests, even with the same id.
// Their errors are *saga.Error: saga.CodeUnknownSaga, saga.CodeNotParked where the
// saga stands elsewhere, saga.CodeWorkflowLost for one that Replay starts again,
// and saga.CodeStillRunning when ctx ended before the answer, while the request
// goes on. With saga.CodeNotParked comes the outcome, where it is known.

// Retry tries a saga's parked steps once more, and returns where it then stands.
func (c *Client) Retry(ctx context.Context, sagaID, request string) (saga.Outcome, error) {
	return c.command(ctx, sagaID, request, saga.UpdateRetry)
}

// Skip gives up a parked step for good: its system stays without what the saga
// wrote. An empty step means the only one that is parked.
func (c *Client) Skip(ctx context.Context, sagaID, request string, in saga.SkipInput) (saga.Outcome, error) {
	if in.Step == "" {
		o, err := c.status(ctx, sagaID)
		if err != nil {
			return saga.Outcome{}, err
		}
		if in.Step, err = onlyParked(&o); err != nil {
			return o, err
		}
	}
	return c.command(ctx, sagaID, request, saga.UpdateSkip, in)
}

// onlyParked returns the step that can be meant by no name.
func onlyParked(o *saga.Outcome) (saga.StepName, error) {
	var parked []saga.StepName
	for _, step := range o.Steps {
		if step.State == saga.StepParked {
			parked = append(parked, step.Name)
		}
	}
	switch len(parked) {
	case 0:
		return "", notParked("saga %q has no parked step: it is %s", o.SagaID, o.Status)
	case 1:
		return parked[0], nil
	}
	return "", invalid("saga %q has the parked steps %q: say which to skip", o.SagaID, parked)
}

// Compensate undoes a saga: with a new change in PostgreSQL, which reaches all
// that had the saga's.
func (c *Client) Compensate(ctx context.Context, sagaID, request string) (saga.Outcome, error) {
	return c.command(ctx, sagaID, request, saga.UpdateCompensate)
}

// Edit changes the rows of a parked saga in PostgreSQL, and brings them to all
// sinks.
func (c *Client) Edit(ctx context.Context, sagaID, request string, in saga.EditInput) (saga.Outcome, error) {
	if err := saga.ValidateMutations(in.Mutations); err != nil {
		return saga.Outcome{}, err
	}
	return c.command(ctx, sagaID, request, saga.UpdateEdit, in)
}

// Operate does to a saga what an operation says, which has no columns to set: see
// saga.Catalog.RowPatch. What is done already is no error.
func (c *Client) Operate(ctx context.Context, sagaID, request string, op saga.Operation) (saga.Answer, error) {
	if err := op.Validate(); err != nil {
		return saga.Answer{}, err
	}
	a, err := c.operate(ctx, sagaID, request, op)
	if codeOf(err) == saga.CodeUnknownSaga && c.started(ctx, sagaID) {
		return c.operate(ctx, sagaID, request, op)
	}
	return a, err
}

// started starts a saga that the ledger has and that has no workflow of its own: one
// of a batch, or that of a refused row which no worker has started yet. It returns
// true when the saga can be operated on.
func (c *Client) started(ctx context.Context, sagaID string) bool {
	if c.ledger == nil {
		return false
	}
	w, _, found, err := c.ledger.LedgerWrite(ctx, sagaID)
	if err != nil || !found {
		return false
	}
	if w.Stream == nil {
		a, err := c.Replay(ctx, sagaID, "", "")
		return err == nil && a.Did == saga.DidStart
	}
	if _, err := c.Adopt(ctx, *w, ""); err != nil {
		return false
	}
	_, err = c.Wait(ctx, sagaID, WaitVisible)
	return err == nil
}

func (c *Client) operate(ctx context.Context, sagaID, request string, op saga.Operation) (a saga.Answer, err error) {
	switch op.Action {
	case saga.ActionReplay:
		return c.Replay(ctx, sagaID, request, WaitVisible)
	case saga.ActionSkip:
		a.Did = saga.DidSkip
		a.Outcome, err = c.Skip(ctx, sagaID, request, saga.SkipInput{Step: op.Step, Reason: op.Reason})
		if err == nil && !WaitVisible.reached(&a.Outcome) {
			// The skip stands, whether or not the rest is done in time.
			if o, err := c.Wait(ctx, sagaID, WaitVisible); err == nil {
				a.Outcome = o
			}
		}
	case saga.ActionCompensate:
		a.Did = saga.DidCompensate
		a.Outcome, err = c.Compensate(ctx, sagaID, request)
	case saga.ActionEdit:
		a.Did = saga.DidEdit
		a.Outcome, err = c.Edit(ctx, sagaID, request, saga.EditInput{Mutations: op.Mutations})
	}
	if err == nil {
		return a, nil
	}
	a.Did = ""
	if codeOf(err) == saga.CodeNotParked && done(&a.Outcome, op) {
		a.Did, a.Note = saga.DidNothing, fmt.Sprintf("it is %s already", a.Status)
		return a, nil
	}
	return a, err
}

// done reports whether an outcome is what an operation would bring about.
func done(o *saga.Outcome, op saga.Operation) bool {
	switch op.Action {
	case saga.ActionCompensate:
		return o.Status == saga.Compensated || o.Status == saga.Cancelled || o.Status == saga.RejectedEnd
	case saga.ActionSkip:
		step := o.Step(op.Step)
		return step != nil && step.State == saga.StepSkipped
	}
	return false
}

// command sends a saga an update that only a running one takes.
func (c *Client) command(ctx context.Context, sagaID, request, update string, args ...any) (saga.Outcome, error) {
	id, err := updateID(request, update, args)
	if err != nil {
		return saga.Outcome{}, err
	}
	options := sdkclient.UpdateWorkflowOptions{
		UpdateID: id, WorkflowID: saga.WorkflowID(sagaID), UpdateName: update, Args: args,
		WaitForStage: sdkclient.WorkflowUpdateStageCompleted,
	}
	for {
		o, err := persist[saga.Outcome](ctx, func(ctx context.Context) (sdkclient.WorkflowUpdateHandle, error) {
			return c.temporal.UpdateWorkflow(ctx, options)
		})
		if err == nil {
			return o, nil
		}
		if !closedBefore(err) {
			return c.refusedBy(ctx, sagaID, c.failed(ctx, sagaID, err))
		}
		// It may have been begun anew meanwhile, and then it takes the update.
		if o, err = c.status(ctx, sagaID); err != nil {
			return saga.Outcome{}, err
		}
		if o.Status.Final() {
			return o, notParked("saga %q has ended: it is %s", sagaID, o.Status)
		}
	}
}

// updateID names an update for Temporal, which gives one that it knows the first
// one's answer, whatever it asks for. So what is asked for is in the name, too.
func updateID(request, update string, args []any) (string, error) {
	if request == "" {
		return rand.Text(), nil
	}
	encoded, err := json.Marshal(args)
	if err != nil {
		return "", invalid("%s: %s", update, err)
	}
	sum := sha256.Sum256(encoded)
	return fmt.Sprintf("%s/%s-%s", request, update, hex.EncodeToString(sum[:8])), nil
}

// refusedBy adds to a refusal where the saga stands.
func (c *Client) refusedBy(ctx context.Context, sagaID string, err error) (saga.Outcome, error) {
	if codeOf(err) != saga.CodeNotParked {
		return saga.Outcome{}, err
	}
	o, lookErr := c.Status(ctx, sagaID)
	if lookErr != nil {
		return saga.Outcome{}, err
	}
	return o, err
}

func notParked(format string, args ...any) error {
	return &saga.Error{Class: saga.Rejected, System: "capsaga", Code: saga.CodeNotParked, Message: fmt.Sprintf(format, args...)}
}
