package client

import (
	"context"
	"encoding/json"
	"errors"

	enumspb "go.temporal.io/api/enums/v1"
	"go.temporal.io/api/serviceerror"
	"go.temporal.io/sdk/converter"

	"github.com/capsaga/capsaga/saga"
)

// Adopt starts the workflow of a saga that the ledger has and Temporal may not have
// seen, and returns its run. One that was started before is left as it is, whatever
// became of it: its run is returned.
//
// The token is that of a commit that was made beside the start; empty without one. Then
// the id's workflow may be of another write, which had the id before and left nothing in
// the ledger: this one's takes its place when that is over.
func (c *Client) Adopt(ctx context.Context, w saga.Write, token string) (runID string, err error) {
	options := c.start(ctx, &w)
	options.WorkflowIDConflictPolicy = enumspb.WORKFLOW_ID_CONFLICT_POLICY_FAIL
	options.WorkflowIDReusePolicy = enumspb.WORKFLOW_ID_REUSE_POLICY_REJECT_DUPLICATE
	if token != "" {
		if runID, err = c.runOf(ctx, &w, token); runID != "" || err != nil {
			return runID, err
		}
		options.WorkflowIDReusePolicy = enumspb.WORKFLOW_ID_REUSE_POLICY_ALLOW_DUPLICATE
	}
	run, err := c.temporal.ExecuteWorkflow(ctx, options, saga.WorkflowSaga, w)
	var before *serviceerror.WorkflowExecutionAlreadyStarted
	switch {
	case errors.As(err, &before) && token == "":
		return before.RunId, nil
	case errors.As(err, &before):
		return "", reused(w.SagaID)
	case err != nil:
		return "", c.failed(ctx, w.SagaID, err)
	}
	return run.GetRunID(), nil
}

// runOf returns the run of the saga's workflow, if there is one that is this write's: it
// has the token, or the same content. One that has completed would have recorded it.
func (c *Client) runOf(ctx context.Context, w *saga.Write, token string) (string, error) {
	described, err := c.temporal.DescribeWorkflowExecution(ctx, saga.WorkflowID(w.SagaID), "")
	var missing *serviceerror.NotFound
	switch {
	case errors.As(err, &missing):
		return "", nil
	case err != nil:
		return "", c.failed(ctx, w.SagaID, err)
	}
	info := described.GetWorkflowExecutionInfo()
	run := info.GetExecution().GetRunId()
	var known string
	payload, ok := info.GetMemo().GetFields()[saga.MemoEarly]
	if ok && converter.GetDefaultDataConverter().FromPayload(payload, &known) == nil && known == token {
		return run, nil
	}
	if info.GetStatus() == enumspb.WORKFLOW_EXECUTION_STATUS_COMPLETED {
		return "", nil
	}
	first, err := c.temporal.GetWorkflowHistory(ctx, saga.WorkflowID(w.SagaID), run, false, enumspb.HISTORY_EVENT_FILTER_TYPE_ALL_EVENT).Next()
	if err != nil {
		return "", c.failed(ctx, w.SagaID, err)
	}
	var input json.RawMessage
	if err := converter.GetDefaultDataConverter().FromPayloads(first.GetWorkflowExecutionStartedEventAttributes().GetInput(), &input); err != nil {
		return "", nil // no write
	}
	if other, err := saga.ParseWrite(input); err != nil || other.Digest() != w.Digest() {
		return "", nil
	}
	return run, nil
}
