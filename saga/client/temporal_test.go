package client_test

import (
	"context"
	"maps"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	enumspb "go.temporal.io/api/enums/v1"
	"go.temporal.io/api/operatorservice/v1"
	sdkpb "go.temporal.io/api/sdk/v1"
	"go.temporal.io/api/workflowservice/v1"
	sdkclient "go.temporal.io/sdk/client"

	"github.com/capsaga/capsaga/saga"
)

func listRequest(query string) *workflowservice.ListWorkflowExecutionsRequest {
	return &workflowservice.ListWorkflowExecutionsRequest{Query: query}
}

// details returns what the Temporal UI shows as current details.
func (s *scene) details(t testing.TB, sagaID string) string {
	t.Helper()
	value, err := s.temporal.QueryWorkflow(within(t, 10*time.Second), saga.WorkflowID(sagaID), "", "__temporal_workflow_metadata")
	require.NoError(t, err)
	var metadata sdkpb.WorkflowMetadata
	require.NoError(t, value.Get(&metadata))
	return metadata.GetCurrentDetails()
}

// addAttributes makes the namespace know the sagas' search attributes, as
// `capsaga catalog apply` does.
func addAttributes(c sdkclient.Client) error {
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	listed, err := c.OperatorService().ListSearchAttributes(ctx, &operatorservice.ListSearchAttributesRequest{Namespace: "default"})
	if err != nil {
		return err
	}
	missing := map[string]enumspb.IndexedValueType{
		saga.AttributeStatus:     enumspb.INDEXED_VALUE_TYPE_KEYWORD,
		saga.AttributeErrorClass: enumspb.INDEXED_VALUE_TYPE_KEYWORD,
		saga.AttributeBlockedOn:  enumspb.INDEXED_VALUE_TYPE_KEYWORD_LIST,
		saga.AttributeEntities:   enumspb.INDEXED_VALUE_TYPE_KEYWORD_LIST,
		saga.AttributeKeys:       enumspb.INDEXED_VALUE_TYPE_KEYWORD_LIST,
	}
	maps.DeleteFunc(missing, func(name string, _ enumspb.IndexedValueType) bool {
		_, known := listed.GetCustomAttributes()[name]
		return known
	})
	if len(missing) == 0 {
		return nil
	}
	_, err = c.OperatorService().AddSearchAttributes(ctx, &operatorservice.AddSearchAttributesRequest{Namespace: "default", SearchAttributes: missing})
	return err
}
