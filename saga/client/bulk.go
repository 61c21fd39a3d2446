package client

import (
	"context"
	"errors"
	"fmt"

	enumspb "go.temporal.io/api/enums/v1"
	"go.temporal.io/api/serviceerror"
	sdkclient "go.temporal.io/sdk/client"

	"github.com/capsaga/capsaga/saga"
)

// BulkRun is a request about many sagas that goes on without its requester.
type BulkRun struct {
	// WorkflowID and RunID are the workflow's; the run is the first of several when
	// the request is long.
	WorkflowID, RunID string

	client   *Client
	identity string
}

// Bulk starts a request about many sagas, or joins the one of the same name. A
// request with a name of its own (BulkRequest.Request) is done once for as long as
// Temporal remembers it. One without has its Identity for a name, and is done again
// when it has ended: its selection then has only what is still open.
func (c *Client) Bulk(ctx context.Context, r saga.BulkRequest) (*BulkRun, error) {
	if err := r.Validate(); err != nil {
		return nil, err
	}
	reuse := enumspb.WORKFLOW_ID_REUSE_POLICY_REJECT_DUPLICATE
	if r.Request == "" {
		reuse = enumspb.WORKFLOW_ID_REUSE_POLICY_ALLOW_DUPLICATE
	}
	if r.Request == "" && r.Identity == "" {
		return nil, invalid("a request about many sagas needs a name or an identity")
	}
	run := c.bulkRun(&r)
	started, err := c.temporal.ExecuteWorkflow(ctx, sdkclient.StartWorkflowOptions{
		ID: run.WorkflowID, TaskQueue: c.prefix.TaskQueue(),
		WorkflowIDConflictPolicy: enumspb.WORKFLOW_ID_CONFLICT_POLICY_USE_EXISTING, WorkflowIDReusePolicy: reuse,
		WorkflowExecutionErrorWhenAlreadyStarted: true,
		StaticSummary:                            saga.Brief(fmt.Sprintf("%s of many sagas", r.Operation.Action)),
	}, saga.WorkflowBulk, r)
	var before *serviceerror.WorkflowExecutionAlreadyStarted
	switch {
	case errors.As(err, &before):
		run.RunID = before.RunId
	case err != nil:
		return nil, c.bulkFailed(run.WorkflowID, err)
	default:
		run.RunID = started.GetRunID()
	}
	return run, nil
}

// FindBulk returns the request that Bulk would join, or whose result it would
// return; nil if it would start one.
func (c *Client) FindBulk(ctx context.Context, r saga.BulkRequest) (*BulkRun, error) {
	run := c.bulkRun(&r)
	description, err := c.temporal.DescribeWorkflowExecution(ctx, run.WorkflowID, "")
	var missing *serviceerror.NotFound
	if errors.As(err, &missing) {
		return nil, nil
	}
	if err != nil {
		return nil, c.bulkFailed(run.WorkflowID, err)
	}
	info := description.GetWorkflowExecutionInfo()
	run.RunID = info.GetExecution().GetRunId()
	if r.Request == "" && info.GetStatus() != enumspb.WORKFLOW_EXECUTION_STATUS_RUNNING {
		return nil, nil
	}
	return run, nil
}

// bulkRun names the workflow of a request.
func (c *Client) bulkRun(r *saga.BulkRequest) *BulkRun {
	name := r.Request
	if name == "" {
		name = r.Identity
	}
	return &BulkRun{WorkflowID: c.prefix.BulkID(name), client: c, identity: r.Identity}
}

// Progress returns how far the request is, with the items from an index on, and
// at most a thousand of them. What has ended is told without a worker.
func (r *BulkRun) Progress(ctx context.Context, since int) (saga.BulkProgress, error) {
	p, err := r.progress(ctx, since)
	if err == nil && p.Identity != r.identity {
		return saga.BulkProgress{}, invalid("request id in use: workflow %s was asked for something else; choose another id", r.WorkflowID)
	}
	return p, err
}

func (r *BulkRun) progress(ctx context.Context, since int) (p saga.BulkProgress, err error) {
	temporal := r.client.temporal
	description, err := temporal.DescribeWorkflowExecution(ctx, r.WorkflowID, "")
	if err != nil {
		return p, r.client.bulkFailed(r.WorkflowID, err)
	}
	switch description.GetWorkflowExecutionInfo().GetStatus() {
	case enumspb.WORKFLOW_EXECUTION_STATUS_RUNNING, enumspb.WORKFLOW_EXECUTION_STATUS_CONTINUED_AS_NEW:
		value, err := temporal.QueryWorkflow(ctx, r.WorkflowID, "", saga.QueryProgress, since)
		if err == nil {
			err = value.Get(&p)
		}
		if err != nil {
			return p, r.client.bulkFailed(r.WorkflowID, err)
		}
		return p, nil
	}
	if err := temporal.GetWorkflow(ctx, r.WorkflowID, "").Get(ctx, &p); err != nil {
		return p, &saga.Error{
			Class: saga.Ambiguous, System: "temporal", Code: saga.CodeWorkflowLost, Err: err,
			Message: fmt.Sprintf("workflow %s ended before its request was done (%s); make the request again for the rest", r.WorkflowID, err),
		}
	}
	p.Items = p.Items[min(max(since, 0), len(p.Items)):]
	return p, nil
}

// Cancel has the request stop between two sagas.
func (r *BulkRun) Cancel(ctx context.Context) error {
	if err := r.client.temporal.CancelWorkflow(ctx, r.WorkflowID, ""); err != nil {
		return r.client.bulkFailed(r.WorkflowID, err)
	}
	return nil
}

func (c *Client) bulkFailed(workflowID string, err error) error {
	return &saga.Error{
		Class: saga.Unavailable, System: "temporal", Code: saga.CodeUnavailable, Err: err,
		Message: fmt.Sprintf("workflow %s on task queue %s: no answer: %s", workflowID, c.prefix.TaskQueue(), err),
	}
}
