package workflows_test

import (
	"context"
	"fmt"
	"strconv"
	"strings"
	"testing"

	"github.com/stretchr/testify/mock"
	"github.com/stretchr/testify/require"
	"go.temporal.io/sdk/activity"
	"go.temporal.io/sdk/converter"
	"go.temporal.io/sdk/testsuite"
	"go.temporal.io/sdk/workflow"

	"github.com/capsaga/capsaga/activities"
	"github.com/capsaga/capsaga/internal/activitytest"
	"github.com/capsaga/capsaga/saga"
	"github.com/capsaga/capsaga/workflows"
)

// bulkStage is Temporal's test environment with a selection of numbered sagas.
type bulkStage struct {
	*testsuite.TestWorkflowEnvironment
	sagas  int // of the selection
	acted  []string
	failed func(id string) *saga.ErrorInfo
	pages  int
}

func newBulkStage(t *testing.T, sagas int) *bulkStage {
	t.Helper()
	var suite testsuite.WorkflowTestSuite
	suite.SetLogger(activitytest.Quiet{})
	s := &bulkStage{TestWorkflowEnvironment: suite.NewTestWorkflowEnvironment(), sagas: sagas}
	workflows.Register(s)
	bulk := activities.NewBulk(activities.BulkDependencies{})
	s.RegisterActivity(bulk)
	s.OnActivity(bulk.SelectSagas, mock.Anything, mock.Anything).Return(s.page)
	s.OnActivity(bulk.OperateSagas, mock.Anything, mock.Anything).Return(s.operate)
	return s
}

func (s *bulkStage) page(_ context.Context, in activities.SelectInput) (out activities.SelectOutput, err error) {
	s.pages++
	from, _ := strconv.Atoi(in.Cursor)
	to := min(s.sagas, from+activities.BulkPage)
	for i := from; i < to; i++ {
		out.IDs = append(out.IDs, fmt.Sprint("saga-", i))
	}
	if to < s.sagas {
		out.Next = strconv.Itoa(to)
	}
	return out, nil
}

func (s *bulkStage) operate(_ context.Context, in activities.OperateInput) (out activities.OperateOutput, err error) {
	for _, id := range in.IDs {
		item := saga.BulkItem{SagaID: id, Did: saga.DidRetry, Status: saga.Completed}
		if s.failed != nil {
			item.Error = s.failed(id)
		}
		out.Items = append(out.Items, item)
	}
	s.acted = append(s.acted, in.IDs...)
	return out, nil
}

var parkedOnes = saga.BulkRequest{
	Identity: "x", Operation: saga.Operation{Action: saga.ActionReplay}, Filter: saga.Filter{Statuses: []saga.Status{saga.Parked}}, Expected: 300,
}

func (s *bulkStage) result(t *testing.T) saga.BulkProgress {
	t.Helper()
	require.True(t, s.IsWorkflowCompleted())
	require.NoError(t, s.GetWorkflowError())
	var p saga.BulkProgress
	require.NoError(t, s.GetWorkflowResult(&p))
	return p
}

func TestBulkDealsWithEachSagaOnce(t *testing.T) {
	t.Parallel()
	s := newBulkStage(t, 250)
	s.failed = func(id string) *saga.ErrorInfo {
		if strings.HasSuffix(id, "7") {
			return &saga.ErrorInfo{Code: saga.CodeNotParked}
		}
		return nil
	}
	s.ExecuteWorkflow(workflows.Bulk, parkedOnes)
	p := s.result(t)
	require.Len(t, s.acted, 250)
	require.Equal(t, 250, p.Total)
	require.Equal(t, 250, p.Done)
	require.Equal(t, 25, p.Failed)
	require.True(t, p.Finished)
	require.Len(t, p.Items, 250)
	for i, item := range p.Items {
		require.Equal(t, fmt.Sprint("saga-", i), item.SagaID)
	}
	value, err := s.QueryWorkflow(saga.QueryProgress, 240)
	require.NoError(t, err)
	require.NoError(t, value.Get(&p))
	require.Len(t, p.Items, 10)
	require.Equal(t, "saga-240", p.Items[0].SagaID)
}

func TestBulkTakesIDsInPages(t *testing.T) {
	t.Parallel()
	s := newBulkStage(t, 0)
	request := saga.BulkRequest{Identity: "x", Operation: saga.Operation{Action: saga.ActionCompensate}}
	for i := range 2*activities.BulkPage + 1 {
		request.IDs = append(request.IDs, fmt.Sprint(i))
	}
	s.ExecuteWorkflow(workflows.Bulk, request)
	p := s.result(t)
	require.Equal(t, request.IDs, s.acted)
	require.Zero(t, s.pages, "ids are no selection")
	require.Equal(t, len(request.IDs), p.Total)
}

// A long request goes on as a new run that neither repeats nor forgets, and names
// what it has room for.
func TestBulkGoesOnAsANewRun(t *testing.T) {
	t.Parallel()
	const sagas = 15_000
	request, runs := parkedOnes, 0
	var p saga.BulkProgress
	var acted []string
	for ; !p.Finished; runs++ {
		require.Less(t, runs, 10)
		s := newBulkStage(t, sagas)
		s.failed = func(id string) *saga.ErrorInfo {
			if strings.HasSuffix(id, "00") || strings.HasPrefix(id, "saga-12") {
				return &saga.ErrorInfo{Code: saga.CodeNotParked}
			}
			return nil
		}
		s.ExecuteWorkflow(workflows.Bulk, request)
		acted = append(acted, s.acted...)
		var next *workflow.ContinueAsNewError
		if s.GetWorkflowError() == nil {
			p = s.result(t)
			continue
		}
		require.ErrorAs(t, s.GetWorkflowError(), &next)
		require.Less(t, len(next.Input.GetPayloads()[0].GetData()), 2<<20)
		require.NoError(t, converter.GetDefaultDataConverter().FromPayloads(next.Input, &request))
	}
	require.Equal(t, 3, runs)
	require.Len(t, acted, sagas)
	require.Equal(t, sagas, p.Done)
	require.Len(t, p.Items, saga.MaxBulkItems+saga.MaxBulkFailures)
	require.Equal(t, sagas-len(p.Items), p.Unnamed)
}

func TestBulkStopsWhenCancelled(t *testing.T) {
	t.Parallel()
	s := newBulkStage(t, 1000)
	s.SetOnActivityCompletedListener(func(*activity.Info, converter.EncodedValue, error) {
		if len(s.acted) == 300 {
			s.CancelWorkflow()
		}
	})
	s.ExecuteWorkflow(workflows.Bulk, parkedOnes)
	p := s.result(t)
	require.True(t, p.Cancelled)
	require.False(t, p.Finished)
	require.Equal(t, 300, p.Done)
}

func TestBulkRefusesWhatIsNoRequest(t *testing.T) {
	t.Parallel()
	s := newBulkStage(t, 10)
	s.ExecuteWorkflow(workflows.Bulk, saga.BulkRequest{Operation: saga.Operation{Action: saga.ActionReplay}})
	require.ErrorContains(t, s.GetWorkflowError(), "selects sagas")
	require.Empty(t, s.acted)
}
