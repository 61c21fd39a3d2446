package client_test

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	sdkpb "go.temporal.io/api/sdk/v1"
	"go.temporal.io/api/workflowservice/v1"

	"github.com/capsaga/capsaga/internal/activitytest"
	"github.com/capsaga/capsaga/saga"
)

func listRequest(query string) *workflowservice.ListWorkflowExecutionsRequest {
	return &workflowservice.ListWorkflowExecutionsRequest{Query: query}
}

func countRequest(query string) *workflowservice.CountWorkflowExecutionsRequest {
	return &workflowservice.CountWorkflowExecutionsRequest{Query: query}
}

// details returns what the Temporal UI shows as current details.
func (s *scene) details(t testing.TB, sagaID string) string {
	t.Helper()
	value, err := s.Temporal.QueryWorkflow(activitytest.Within(t, 10*time.Second), saga.WorkflowID(sagaID), "", "__temporal_workflow_metadata")
	require.NoError(t, err)
	var metadata sdkpb.WorkflowMetadata
	require.NoError(t, value.Get(&metadata))
	return metadata.GetCurrentDetails()
}
