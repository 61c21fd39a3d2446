package listing_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	commonpb "go.temporal.io/api/common/v1"
	enumspb "go.temporal.io/api/enums/v1"
	"go.temporal.io/api/serviceerror"
	workflowpb "go.temporal.io/api/workflow/v1"
	"go.temporal.io/api/workflowservice/v1"
	"go.temporal.io/sdk/converter"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/capsaga/capsaga/internal/listing"
	"github.com/capsaga/capsaga/saga"
)

var noon = time.Date(2026, 1, 2, 12, 0, 0, 0, time.UTC)

// ledger is PostgreSQL in memory.
type ledger struct {
	entries []listing.LedgerEntry
	err     error
}

func (l *ledger) add(id string, status saga.Status, minute int) {
	l.entries = append(l.entries, listing.LedgerEntry{
		SagaID: id, WorkflowID: saga.WorkflowID(id), Status: status, CreatedAt: noon.Add(time.Duration(minute) * time.Minute),
	})
}

func (l *ledger) ListSagas(_ context.Context, f listing.ListFilter) ([]listing.LedgerEntry, error) {
	var found []listing.LedgerEntry
	for _, e := range l.entries {
		after := f.After == nil || e.CreatedAt.Before(f.After.CreatedAt) || e.CreatedAt.Equal(f.After.CreatedAt) && e.SagaID < f.After.ID
		if after && (f.Statuses == nil || slices.Contains(f.Statuses, e.Status)) && (f.IDs == nil || slices.Contains(f.IDs, e.SagaID)) {
			found = append(found, e)
		}
	}
	slices.SortFunc(found, func(a, b listing.LedgerEntry) int {
		if c := b.CreatedAt.Compare(a.CreatedAt); c != 0 {
			return c
		}
		return strings.Compare(b.SagaID, a.SagaID)
	})
	return found[:min(len(found), f.Limit)], l.err
}

// temporal is Temporal in memory: it honours of a query only whether the
// workflows run.
type temporal struct {
	runs    []*workflowpb.WorkflowExecutionInfo // the latest run of an id last
	queries []string
	err     error
}

func (t *temporal) add(id string, status saga.Status, minute int, state enumspb.WorkflowExecutionStatus) {
	payload, _ := converter.GetDefaultDataConverter().ToPayload(string(status))
	t.runs = append(t.runs, &workflowpb.WorkflowExecutionInfo{
		Execution: &commonpb.WorkflowExecution{WorkflowId: saga.WorkflowID(id), RunId: fmt.Sprint("run-", len(t.runs))},
		StartTime: timestamppb.New(noon.Add(time.Duration(minute) * time.Minute)), Status: state,
		SearchAttributes: &commonpb.SearchAttributes{IndexedFields: map[string]*commonpb.Payload{saga.AttributeStatus: payload}},
	})
}

func (t *temporal) ListWorkflow(_ context.Context, r *workflowservice.ListWorkflowExecutionsRequest) (*workflowservice.ListWorkflowExecutionsResponse, error) {
	t.queries = append(t.queries, r.GetQuery())
	answer := &workflowservice.ListWorkflowExecutionsResponse{}
	for _, run := range t.runs {
		running := run.GetStatus() == enumspb.WORKFLOW_EXECUTION_STATUS_RUNNING
		if running == strings.Contains(r.GetQuery(), "ExecutionStatus = 'Running'") {
			answer.Executions = append(answer.Executions, run)
		}
	}
	return answer, t.err
}

func (t *temporal) DescribeWorkflowExecution(_ context.Context, workflowID, _ string) (*workflowservice.DescribeWorkflowExecutionResponse, error) {
	for _, run := range slices.Backward(t.runs) {
		if run.GetExecution().GetWorkflowId() == workflowID {
			return &workflowservice.DescribeWorkflowExecutionResponse{WorkflowExecutionInfo: run}, t.err
		}
	}
	return nil, serviceerror.NewNotFound("no such workflow")
}

const (
	running    = enumspb.WORKFLOW_EXECUTION_STATUS_RUNNING
	terminated = enumspb.WORKFLOW_EXECUTION_STATUS_TERMINATED
	completed  = enumspb.WORKFLOW_EXECUTION_STATUS_COMPLETED
)

func mixed() (*ledger, *temporal, *listing.Lister) {
	l, t := &ledger{}, &temporal{}
	l.add("done", saga.Completed, 1)
	l.add("parked", saga.Parked, 2)
	t.add("parked", saga.Parked, 2, running)
	l.add("gone", saga.Committed, 3)
	l.add("ended", saga.Committed, 4)
	t.add("ended", saga.Pending, 4, terminated)
	t.add("new", saga.Pending, 5, running)
	t.add("stopped", saga.Pending, 6, terminated)
	t.add("again", saga.Pending, 7, terminated)
	t.add("again", saga.Pending, 8, running)
	t.add("malformed %", saga.RejectedEnd, 9, completed)
	return l, t, &listing.Lister{Ledger: l, Temporal: t, Prefix: "capsaga"}
}

// brief shows a list as id, status and workflow.
func brief(sagas []listing.Saga) []string {
	var lines []string
	for i := range sagas {
		lines = append(lines, strings.TrimSpace(fmt.Sprintf("%s %s %s", sagas[i].SagaID, sagas[i].Status, sagas[i].Workflow)))
	}
	return lines
}

var all = []string{
	"malformed % rejected", "again pending running", "stopped pending terminated", "new pending running",
	"ended committed terminated", "gone committed gone", "parked parked running", "done completed",
}

// A worker is about to start it: that is no saga that stopped.
func TestASagaThatWasNotStartedYet(t *testing.T) {
	t.Parallel()
	l, _, lister := mixed()
	l.add("cdc", saga.Parked, 10)
	l.entries[len(l.entries)-1].Unstarted = true
	page, err := lister.List(t.Context(), saga.Filter{Statuses: []saga.Status{saga.Parked}}, "", 50)
	require.NoError(t, err)
	require.Contains(t, brief(page.Sagas), "cdc parked not started")
	page, err = lister.List(t.Context(), saga.Filter{Stopped: true}, "", 50)
	require.NoError(t, err)
	require.NotContains(t, brief(page.Sagas), "cdc parked not started")
}

func TestBothSystemsAreMerged(t *testing.T) {
	t.Parallel()
	_, _, l := mixed()
	page, err := l.List(t.Context(), saga.Filter{}, "", 50)
	require.NoError(t, err)
	require.Equal(t, all, brief(page.Sagas))
	require.Empty(t, page.Next)
}

func TestPagesNeitherRepeatNorMiss(t *testing.T) {
	t.Parallel()
	for limit := 1; limit < 9; limit++ {
		_, _, l := mixed()
		var got []string
		for cursor, pages := "", 0; pages == 0 || cursor != ""; pages++ {
			page, err := l.List(t.Context(), saga.Filter{}, cursor, limit)
			require.NoError(t, err)
			require.LessOrEqual(t, len(page.Sagas), limit)
			got = append(got, brief(page.Sagas)...)
			cursor = page.Next
		}
		require.Equal(t, all, got, "limit %d", limit)
	}
}

func TestStoppedSagas(t *testing.T) {
	t.Parallel()
	_, _, l := mixed()
	page, err := l.List(t.Context(), saga.Filter{Stopped: true}, "", 2)
	require.NoError(t, err)
	require.Equal(t, []string{"stopped pending terminated", "ended committed terminated"}, brief(page.Sagas))
	page, err = l.List(t.Context(), saga.Filter{Stopped: true}, page.Next, 2)
	require.NoError(t, err)
	require.Equal(t, []string{"gone committed gone"}, brief(page.Sagas))
	require.Empty(t, page.Next)
}

func TestOneSystemIsAway(t *testing.T) {
	t.Parallel()
	away := errors.New("connection refused")
	l, _, list := mixed()
	l.err = away
	page, err := list.List(t.Context(), saga.Filter{}, "", 50)
	require.NoError(t, err)
	require.ErrorIs(t, page.LedgerErr, away)
	require.Contains(t, brief(page.Sagas), "parked parked running")
	require.Contains(t, brief(page.Sagas), "ended pending terminated")
	found, err := list.Find(t.Context(), saga.Filter{}, "", 50)
	require.NoError(t, err)
	require.Contains(t, found.Note, "the ledger is missing")

	_, temporal, list := mixed()
	temporal.err = away
	page, err = list.List(t.Context(), saga.Filter{}, "", 50)
	require.NoError(t, err)
	require.ErrorContains(t, page.TemporalErr, "connection refused")
	require.Equal(t, []string{"ended committed unknown", "gone committed unknown", "parked parked unknown", "done completed"}, brief(page.Sagas))
	_, err = list.Find(t.Context(), saga.Filter{}, "", 50)
	require.Error(t, err)

	l, temporal, list = mixed()
	l.err, temporal.err = away, away
	_, err = list.List(t.Context(), saga.Filter{}, "", 50)
	require.ErrorIs(t, err, away)
}

func TestQueries(t *testing.T) {
	t.Parallel()
	_, temporal, l := mixed()
	filter := saga.Filter{
		Statuses: []saga.Status{saga.Parked, saga.Completed}, BlockedOn: "it's", Entity: "products", ErrorClass: saga.Rejected,
		Since: noon, Before: noon.Add(time.Hour),
	}
	_, err := l.List(t.Context(), filter, "", 50)
	require.NoError(t, err)
	require.Equal(t, `TaskQueue = 'capsaga' AND WorkflowType = 'capsaga.Saga' AND SagaStatus IN ('parked') AND SagaBlockedOn = 'it\'s'`+
		` AND SagaEntities = 'products' AND SagaErrorClass = 'rejected' AND StartTime >= '2026-01-02T12:00:00Z' AND StartTime < '2026-01-02T13:00:00Z'`+
		` AND ExecutionStatus = 'Running'`, temporal.queries[0])
	_, err = l.List(t.Context(), filter, "yesterday", 50)
	require.ErrorContains(t, err, "the page before ended with")
}
