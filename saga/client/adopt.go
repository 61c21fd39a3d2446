package client

import (
	"context"
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
// The token is that of a commit that was made beside the start; empty without one. A
// workflow that has another is of another write, which had the id before and left
// nothing in the ledger: this one's takes its place when that is over.
func (c *Client) Adopt(ctx context.Context, w saga.Write, token string) (runID string, err error) {
	options := c.start(ctx, &w)
	options.WorkflowIDConflictPolicy = enumspb.WORKFLOW_ID_CONFLICT_POLICY_FAIL
	options.WorkflowIDReusePolicy = enumspb.WORKFLOW_ID_REUSE_POLICY_REJECT_DUPLICATE
	if token != "" {
		if runID, err = c.runOf(ctx, w.SagaID, token); runID != "" || err != nil {
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

// runOf returns the run of the saga's workflow if it was started with the token.
func (c *Client) runOf(ctx context.Context, sagaID, token string) (string, error) {
	described, err := c.temporal.DescribeWorkflowExecution(ctx, saga.WorkflowID(sagaID), "")
	var missing *serviceerror.NotFound
	switch {
	case errors.As(err, &missing):
		return "", nil
	case err != nil:
		return "", c.failed(ctx, sagaID, err)
	}
	info := described.GetWorkflowExecutionInfo()
	var known string
	payload, ok := info.GetMemo().GetFields()[saga.MemoEarly]
	if !ok || converter.GetDefaultDataConverter().FromPayload(payload, &known) != nil || known != token {
		return "", nil
	}
	return info.GetExecution().GetRunId(), nil
}
