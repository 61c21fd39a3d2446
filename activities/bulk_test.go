package activities_test

import (
	"context"
	"encoding/json"
	"errors"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.temporal.io/sdk/testsuite"

	"github.com/capsaga/capsaga/activities"
	"github.com/capsaga/capsaga/internal/activitytest"
	"github.com/capsaga/capsaga/saga"
)

// operator answers for single sagas, and selects them.
type operator struct {
	mu       sync.Mutex
	requests []string
	asked    map[string]saga.Operation
	answer   func(ctx context.Context, sagaID string, try int) (saga.Answer, error)
	note     string
	finds    int
}

func (o *operator) Operate(ctx context.Context, sagaID, request string, op saga.Operation) (saga.Answer, error) {
	o.mu.Lock()
	o.requests = append(o.requests, request)
	if o.asked == nil {
		o.asked = map[string]saga.Operation{}
	}
	o.asked[sagaID] = op
	try := strings.Count(strings.Join(o.requests, " "), request)
	o.mu.Unlock()
	if o.answer != nil {
		return o.answer(ctx, sagaID, try)
	}
	return saga.Answer{Did: saga.DidRetry, Outcome: saga.Outcome{SagaID: sagaID, Status: saga.Completed}}, nil
}

func (o *operator) Status(_ context.Context, sagaID string) (saga.Outcome, error) {
	return saga.Outcome{SagaID: sagaID, ETags: []saga.ETag{{Entity: "products", Key: sagaID}}}, nil
}

func (o *operator) Find(context.Context, saga.Filter, string, int) (activities.Found, error) {
	o.finds++
	return activities.Found{IDs: []string{"a"}, Next: "x", Note: o.note}, nil
}

func bulkEnvironment(o *operator, timeout time.Duration) (*testsuite.TestActivityEnvironment, *activities.Bulk) {
	var suite testsuite.WorkflowTestSuite
	suite.SetLogger(activitytest.Quiet{})
	env := suite.NewTestActivityEnvironment()
	bulk := activities.NewBulk(activities.BulkDependencies{Catalog: activitytest.Catalog(), Finder: o, Operator: o, ItemTimeout: timeout})
	env.RegisterActivity(bulk)
	return env, bulk
}

// page runs OperateSagas.
func page(t *testing.T, o *operator, in activities.OperateInput, told ...saga.BulkItem) []saga.BulkItem {
	t.Helper()
	env, bulk := bulkEnvironment(o, 200*time.Millisecond)
	if told != nil {
		env.SetHeartbeatDetails(told)
	}
	value, err := env.ExecuteActivity(bulk.OperateSagas, in)
	require.NoError(t, err)
	var out activities.OperateOutput
	require.NoError(t, value.Get(&out))
	return out.Items
}

var replay = saga.Operation{Action: saga.ActionReplay}

func TestAPageGoesOnBehindWhatWasTold(t *testing.T) {
	t.Parallel()
	o := &operator{}
	told := saga.BulkItem{SagaID: "b", Did: saga.DidStart, Status: saga.Completed}
	items := page(t, o, activities.OperateInput{Request: "r", Operation: replay, IDs: []string{"a", "b", "c"}}, told)
	require.Len(t, items, 3)
	require.Equal(t, told, items[1])
	require.ElementsMatch(t, []string{"r/a", "r/c"}, o.requests)
}

func TestWhatBecomesOfASaga(t *testing.T) {
	t.Parallel()
	refused := &saga.Error{Class: saga.Rejected, System: "capsaga", Code: saga.CodeNotParked, Message: strings.Repeat("ü", 400)}
	o := &operator{answer: func(ctx context.Context, id string, try int) (saga.Answer, error) {
		parked := saga.Outcome{SagaID: id, Status: saga.Parked, Error: &saga.ErrorInfo{Code: saga.CodeRejected, Message: "field title"}}
		switch {
		case id == "parked":
			return saga.Answer{Did: saga.DidRetry, Outcome: parked}, nil
		case id == "refused":
			return saga.Answer{Outcome: saga.Outcome{Status: saga.Committed}}, refused
		case id == "away for once" && try == 1:
			return saga.Answer{}, activitytest.Unavailable("temporal")
		case id == "silent":
			<-ctx.Done()
			return saga.Answer{}, errors.New("no answer")
		}
		return saga.Answer{Did: saga.DidRetry, Outcome: saga.Outcome{Status: saga.Completed}}, nil
	}}
	items := page(t, o, activities.OperateInput{Request: "r", Operation: replay, IDs: []string{"parked", "refused", "away for once", "silent", "good"}})
	require.Equal(t, "field title", items[0].Error.Message)
	require.Equal(t, saga.DidRetry, items[0].Did)
	require.Equal(t, saga.CodeNotParked, items[1].Error.Code)
	require.Equal(t, saga.Committed, items[1].Status)
	require.LessOrEqual(t, len(items[1].Error.Message), 300)
	require.True(t, strings.HasSuffix(items[1].Error.Message, "ü…"))
	require.Nil(t, items[2].Error)
	require.Equal(t, saga.CodeStillRunning, items[3].Error.Code)
	require.Nil(t, items[4].Error)
}

func TestColumnsToSetBecomeAMutationPerSaga(t *testing.T) {
	t.Parallel()
	o := &operator{}
	set := saga.Columns{"title": json.RawMessage(`"x"`)}
	page(t, o, activities.OperateInput{Request: "r", Operation: saga.Operation{Action: saga.ActionEdit, Set: set}, IDs: []string{"1", "2"}})
	for _, id := range []string{"1", "2"} {
		op := o.asked[id]
		require.Empty(t, op.Set)
		require.Equal(t, []saga.Mutation{{Entity: "products", Op: saga.Patch, Key: saga.Columns{"id": json.RawMessage(`"` + id + `"`)}, Set: set}}, op.Mutations)
	}
}

// A selection that lacks one of the systems is not taken at once: it may be back
// for the next attempt.
func TestAnIncompleteSelectionIsTriedAgain(t *testing.T) {
	t.Parallel()
	o := &operator{}
	env, bulk := bulkEnvironment(o, time.Second)
	value, err := env.ExecuteActivity(bulk.SelectSagas, activities.SelectInput{})
	require.NoError(t, err)
	var out activities.SelectOutput
	require.NoError(t, value.Get(&out))
	require.Equal(t, activities.SelectOutput{IDs: []string{"a"}, Next: "x"}, out)
	o.note = "the ledger is missing"
	_, err = env.ExecuteActivity(bulk.SelectSagas, activities.SelectInput{})
	require.ErrorContains(t, err, "the ledger is missing")
}
