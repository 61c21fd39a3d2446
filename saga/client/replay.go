package client

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"

	commonpb "go.temporal.io/api/common/v1"
	enumspb "go.temporal.io/api/enums/v1"
	"go.temporal.io/api/serviceerror"
	workflowpb "go.temporal.io/api/workflow/v1"
	sdkclient "go.temporal.io/sdk/client"
	"go.temporal.io/sdk/converter"

	"github.com/capsaga/capsaga/saga"
)

// Ledger is what PostgreSQL remembers of sagas.
type Ledger interface {
	// LedgerWrite returns a saga's write as it was requested.
	LedgerWrite(ctx context.Context, sagaID string) (w *saga.Write, workflowID string, found bool, err error)
	// Recall returns the last outcome that is known of a saga, nil if none.
	Recall(ctx context.Context, sagaID string) (*saga.Outcome, error)
}

// Replay drives a saga on from where it stands, whatever happened to it. A parked
// one tries its parked steps once more. One whose workflow was terminated, failed
// or timed out, or that Temporal has forgotten, is started again: its commit finds
// what the ledger has, and only what is missing is done. One that runs, or that
// has ended, is left alone, which is no error; the answer's Did and Note say so.
//
// It waits until the saga has come to the level; without one it returns when the
// saga has been started, or has tried its steps. It may be called at once from
// several places, and beside the caller's own Write: they join one workflow.
func (c *Client) Replay(ctx context.Context, sagaID, request string, level Level) (saga.Answer, error) {
	for {
		answer, err := c.replay(ctx, sagaID, request, level)
		// Between the look at the saga and the request, it was ended from outside or
		// started and ended by another replay: look again.
		if errors.Is(err, errMoved) && ctx.Err() == nil {
			continue
		}
		return answer, err
	}
}

var errMoved = errors.New("the saga's workflow changed under way")

func (c *Client) replay(ctx context.Context, sagaID, request string, level Level) (saga.Answer, error) {
	description, err := c.temporal.DescribeWorkflowExecution(ctx, saga.WorkflowID(sagaID), "")
	var missing *serviceerror.NotFound
	if errors.As(err, &missing) {
		return c.restart(ctx, sagaID, nil, level)
	}
	if err != nil {
		return saga.Answer{}, c.failed(ctx, sagaID, err)
	}
	run := description.GetWorkflowExecutionInfo()
	switch run.GetStatus() {
	case enumspb.WORKFLOW_EXECUTION_STATUS_RUNNING:
		return c.release(ctx, sagaID, request, level)
	case enumspb.WORKFLOW_EXECUTION_STATUS_PAUSED:
		return nothing(saga.Outcome{SagaID: sagaID}, "its workflow is paused in Temporal: unpause it there"), nil
	case enumspb.WORKFLOW_EXECUTION_STATUS_COMPLETED:
		o, err := c.result(ctx, sagaID, "")
		return nothing(o, ended(o)), err
	}
	return c.restart(ctx, sagaID, run, level)
}

func ended(o saga.Outcome) string { return fmt.Sprintf("it has ended: %s", o.Status) }

func nothing(o saga.Outcome, note string) saga.Answer {
	return saga.Answer{Outcome: o, Did: saga.DidNothing, Note: note}
}

// release retries a running saga's parked steps.
func (c *Client) release(ctx context.Context, sagaID, request string, level Level) (saga.Answer, error) {
	o, err := c.Retry(ctx, sagaID, request)
	switch code := codeOf(err); {
	case code == saga.CodeWorkflowLost, code == saga.CodeUnknownSaga:
		return saga.Answer{}, errMoved
	case code == saga.CodeNotParked && o.Status.Final():
		return nothing(o, ended(o)), nil
	case code == saga.CodeNotParked:
		return nothing(o, "it runs, and goes on by itself"), nil
	}
	if err == nil && level != "" && !level.reached(&o) {
		o, err = c.Wait(ctx, sagaID, level)
	}
	return saga.Answer{Outcome: o, Did: saga.DidRetry}, err
}

// restart begins a saga anew whose workflow, run, ended without an outcome; run
// is nil when Temporal does not know one.
func (c *Client) restart(ctx context.Context, sagaID string, run *workflowpb.WorkflowExecutionInfo, level Level) (saga.Answer, error) {
	known, err := c.recall(ctx, sagaID)
	if err != nil && run == nil {
		return saga.Answer{}, err
	}
	if known != nil && over(known, run != nil) {
		return nothing(*known, ended(*known)), nil
	}
	w, memo, err := c.requested(ctx, sagaID, run)
	if err != nil {
		return saga.Answer{}, err
	}
	options := c.start(ctx, w)
	options.ID = saga.WorkflowID(sagaID)
	if memo != nil {
		delete(memo, saga.MemoEarly) // it may have gone further than that commit
		options.Memo = memo
	}
	o, err := c.begin(ctx, options, *w, level)
	return saga.Answer{Outcome: o, Did: saga.DidStart}, err
}

// over reports whether a saga whose workflow gave no outcome has nothing left to
// do. The ledger knows of a rejection and of a cancellation from the commit on,
// while before-steps may still have to be undone; of one that Temporal has
// forgotten that was done long ago.
func over(o *saga.Outcome, closed bool) bool {
	if closed {
		return o.Status == saga.Completed || o.Status == saga.Compensated
	}
	return o.Status.Final()
}

// begin starts the workflow, unless it has been started meanwhile.
func (c *Client) begin(ctx context.Context, options sdkclient.StartWorkflowOptions, w saga.Write, level Level) (saga.Outcome, error) {
	if level != "" {
		update := wait(w.SagaID, level, w.Digest())
		return c.ask(ctx, w.SagaID, w.Digest(), func(ctx context.Context) (sdkclient.WorkflowUpdateHandle, error) {
			return c.temporal.UpdateWithStartWorkflow(ctx, sdkclient.UpdateWithStartWorkflowOptions{
				StartWorkflowOperation: c.temporal.NewWithStartWorkflowOperation(options, saga.WorkflowSaga, w),
				UpdateOptions:          update,
			})
		})
	}
	_, err := c.temporal.ExecuteWorkflow(ctx, options, saga.WorkflowSaga, w)
	if alreadyStarted(err) {
		return saga.Outcome{}, errMoved
	}
	if err != nil {
		return saga.Outcome{}, c.failed(ctx, w.SagaID, err)
	}
	return saga.Outcome{SagaID: w.SagaID, Status: saga.Pending, Content: w.Digest()}, nil
}

// recall asks the ledger, if there is one.
func (c *Client) recall(ctx context.Context, sagaID string) (*saga.Outcome, error) {
	if c.ledger == nil {
		return nil, nil
	}
	return c.ledger.Recall(ctx, sagaID)
}

// requested returns what a saga was asked to write. The workflow that ended knows
// it to the byte, also when the saga had not committed or PostgreSQL is away, and
// with it the caller's trace; the ledger remembers it for longer.
func (c *Client) requested(ctx context.Context, sagaID string, run *workflowpb.WorkflowExecutionInfo) (*saga.Write, map[string]any, error) {
	if run != nil {
		w, err := c.input(ctx, run.GetExecution())
		if err != nil {
			return nil, nil, c.failed(ctx, sagaID, err)
		}
		return w, memoOf(run.GetMemo()), nil
	}
	unknown := &saga.Error{
		Class: saga.Rejected, System: "capsaga", Code: saga.CodeUnknownSaga,
		Message: fmt.Sprintf("no saga %q: Temporal does not know it, and neither does the ledger", sagaID),
	}
	if c.ledger == nil {
		return nil, nil, unknown
	}
	w, _, found, err := c.ledger.LedgerWrite(ctx, sagaID)
	if err == nil && !found {
		err = unknown
	}
	return w, nil, err
}

// input reads the write that a workflow was started with from its history.
func (c *Client) input(ctx context.Context, execution *commonpb.WorkflowExecution) (*saga.Write, error) {
	events := c.temporal.GetWorkflowHistory(ctx, execution.GetWorkflowId(), execution.GetRunId(), false, enumspb.HISTORY_EVENT_FILTER_TYPE_ALL_EVENT)
	if !events.HasNext() {
		return nil, fmt.Errorf("the history of %s is empty", execution.GetWorkflowId())
	}
	first, err := events.Next()
	if err != nil {
		return nil, err
	}
	var input json.RawMessage
	payloads := first.GetWorkflowExecutionStartedEventAttributes().GetInput()
	if err := converter.GetDefaultDataConverter().FromPayloads(payloads, &input); err != nil {
		return nil, err
	}
	return saga.ParseWrite(input)
}

// memoOf keeps a workflow's memo as it is.
func memoOf(m *commonpb.Memo) map[string]any {
	memo := map[string]any{}
	for name, payload := range m.GetFields() {
		memo[name] = converter.NewRawValue(payload)
	}
	return memo
}
