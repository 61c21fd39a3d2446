package bench

import (
	"context"
	"errors"
	"fmt"

	commonpb "go.temporal.io/api/common/v1"
	"go.temporal.io/api/serviceerror"
	"go.temporal.io/api/workflowservice/v1"
)

// endWorkflows terminates what of the run has not ended: sagas after an interrupt,
// and gates, whose worker is gone. They would stay open for ever, as the namespace
// does, and retention is only for those that have ended.
func (i *instance) endWorkflows(ctx context.Context) error {
	if i.temporal == nil {
		return nil
	}
	defer i.temporal.Close()
	service := i.temporal.WorkflowService()
	query := fmt.Sprintf("TaskQueue IN ('%s', '%s') AND ExecutionStatus = 'Running'", i.config.Prefix.TaskQueue(), bareQueue(i.config.Prefix))
	var page []byte
	for {
		listed, err := service.ListWorkflowExecutions(ctx, &workflowservice.ListWorkflowExecutionsRequest{
			Namespace: namespace, Query: query, NextPageToken: page,
		})
		if err != nil {
			return err
		}
		for _, info := range listed.GetExecutions() {
			_, err := service.TerminateWorkflowExecution(ctx, &workflowservice.TerminateWorkflowExecutionRequest{
				Namespace: namespace, Reason: "the bench is over",
				WorkflowExecution: &commonpb.WorkflowExecution{WorkflowId: info.GetExecution().GetWorkflowId(), RunId: info.GetExecution().GetRunId()},
			})
			var over *serviceerror.NotFound // the list lags behind
			if err != nil && !errors.As(err, &over) {
				return err
			}
		}
		if page = listed.GetNextPageToken(); len(page) == 0 {
			return nil
		}
	}
}
