package worker

import (
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	sdkclient "go.temporal.io/sdk/client"

	"github.com/capsaga/capsaga/internal/activitytest"
	"github.com/capsaga/capsaga/internal/postgres"
	"github.com/capsaga/capsaga/internal/stacktest"
	"github.com/capsaga/capsaga/saga"
	"github.com/capsaga/capsaga/saga/client"
)

// adopter is a worker's part that starts the sagas of refused rows, on the real
// systems.
type adopter struct {
	*Worker
	t     *testing.T
	stack stacktest.Stack
}

func newAdopter(t *testing.T) *adopter {
	t.Helper()
	t.Parallel()
	a := &adopter{t: t, stack: stacktest.New(t), Worker: &Worker{log: slog.New(slog.DiscardHandler)}}
	_, err := postgres.Migrate(t.Context(), a.stack.PostgresURL)
	require.NoError(t, err)
	a.db, err = postgres.Open(t.Context(), a.stack.PostgresURL)
	require.NoError(t, err)
	t.Cleanup(a.db.Close)
	a.dial(a.stack.TemporalAddress)
	require.NoError(t, activitytest.AddAttributes(a.temporal))
	return a
}

func (a *adopter) dial(address string) {
	a.t.Helper()
	temporal, err := sdkclient.NewLazyClient(sdkclient.Options{HostPort: address, Logger: activitytest.Quiet{}})
	require.NoError(a.t, err)
	a.t.Cleanup(temporal.Close)
	a.temporal = temporal
	a.client, err = client.New(client.Options{Temporal: temporal, Prefix: a.stack.Prefix, Ledger: a.db})
	require.NoError(a.t, err)
}

// refuse enters a refused row into the ledger. Its workflow goes with the test.
func (a *adopter) refuse(key string) saga.Write {
	a.t.Helper()
	entity := &saga.Entity{Name: "products", Redis: &saga.RedisSink{}}
	r := saga.Refused{
		Sink: saga.Redis, Entity: entity, Key: string(a.stack.Prefix) + key, Version: 1 << 53,
		Error: saga.ErrorInfo{Code: saga.CodeRejected, Class: saga.Rejected, System: "redis", Message: "WRONGTYPE"},
	}
	require.NoError(a.t, a.db.AdoptRefused(a.t.Context(), []saga.Refused{r}))
	w := r.Write()
	a.t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
		defer cancel()
		_ = a.temporal.TerminateWorkflow(ctx, saga.WorkflowID(w.SagaID), "", "the test is over") // it may not run
	})
	return w
}

// run starts the part; the returned function stops it.
func (a *adopter) run() (stop func()) {
	var parts parts
	parts.start(a.t.Context(), a.adopt)
	return func() { require.NoError(a.t, parts.stop(nil)) }
}

// started returns nil when the saga runs and the ledger knows its run.
func (a *adopter) started(w saga.Write) error {
	described, err := a.temporal.DescribeWorkflowExecution(a.t.Context(), saga.WorkflowID(w.SagaID), "")
	if err != nil {
		return err
	}
	if noted, want := a.runOf(w), described.GetWorkflowExecutionInfo().GetExecution().GetRunId(); noted != want {
		return fmt.Errorf("the ledger has run %q of %s, and Temporal %q", noted, w.SagaID, want)
	}
	return nil
}

func (a *adopter) runOf(w saga.Write) (run string) {
	a.t.Helper()
	require.NoError(a.t, a.db.Pool().QueryRow(a.t.Context(), "SELECT run_id FROM capsaga.saga WHERE id = $1", w.SagaID).Scan(&run))
	return run
}

func TestRefusedRowsGetTheirWorkflows(t *testing.T) {
	a := newAdopter(t)
	first, second := a.refuse("-1"), a.refuse("-2")
	defer a.run()()
	for _, w := range []saga.Write{first, second, a.refuse("-3")} {
		stacktest.Eventually(t, 20*time.Second, func() error { return a.started(w) })
	}
}

// Temporal is away; the worker that starts anew when it is back finds the saga in
// the ledger.
func TestRefusedRowsWaitForTemporal(t *testing.T) {
	a := newAdopter(t)
	w := a.refuse("")
	a.dial("127.0.0.1:1")
	_, err := a.db.StartAdopted(t.Context(), adoptBatch, []string{}, a.client.Adopt)
	require.Error(t, err)
	require.NotEqual(t, saga.Rejected, saga.ClassOf(err), "%v", err)
	require.Empty(t, a.runOf(w))
	a.dial(a.stack.TemporalAddress)
	defer a.run()()
	stacktest.Eventually(t, 20*time.Second, func() error { return a.started(w) })
}

// A worker is killed between the start and the ledger's note of it. Meanwhile an
// operator has terminated the workflow: it is not for a worker to start it again.
func TestRefusedRowIsStartedOnce(t *testing.T) {
	a := newAdopter(t)
	w := a.refuse("")
	run, err := a.client.Adopt(t.Context(), w, "")
	require.NoError(t, err)
	require.Empty(t, a.runOf(w))
	require.NoError(t, a.temporal.TerminateWorkflow(t.Context(), saga.WorkflowID(w.SagaID), "", "by hand"))
	defer a.run()()
	stacktest.Eventually(t, 20*time.Second, func() error { return a.started(w) })
	require.Equal(t, run, a.runOf(w))
}

// Of a saga that committed before its workflow was seen, the workflow that was started
// beside the commit is told by its token, or by what it writes, whatever became of it.
// Another that has the id is another write's.
func TestAdoptOfAnEarlyCommit(t *testing.T) {
	a := newAdopter(t)
	ctx, token := t.Context(), saga.EarlyToken("mine")
	deletes := func(id string) saga.Write {
		return saga.Write{SagaID: string(a.stack.Prefix), Mutations: []saga.Mutation{{Entity: "products", Op: saga.Delete, Key: saga.Columns{"id": json.RawMessage(id)}}}}
	}
	w := deletes("1")
	begin := func(w saga.Write, token string) (runID string) {
		run, err := a.temporal.ExecuteWorkflow(ctx, sdkclient.StartWorkflowOptions{
			ID: saga.WorkflowID(w.SagaID), TaskQueue: a.stack.Prefix.TaskQueue(), Memo: map[string]any{saga.MemoEarly: token},
		}, saga.WorkflowSaga, w)
		require.NoError(t, err)
		return run.GetRunID()
	}
	end := func(run string) {
		require.NoError(t, a.temporal.TerminateWorkflow(ctx, saga.WorkflowID(w.SagaID), run, "by an operator"))
	}
	adopt := func() string {
		run, err := a.client.Adopt(ctx, w, token)
		require.NoError(t, err)
		return run
	}
	mine := begin(w, token)
	require.Equal(t, mine, adopt())
	end(mine)
	require.Equal(t, mine, adopt(), "what an operator has ended is not begun again")
	again := begin(w, saga.EarlyToken("again")) // the same write, from elsewhere
	require.Equal(t, again, adopt())
	end(again)
	require.Equal(t, again, adopt())

	other := begin(deletes("2"), saga.EarlyToken("other"))
	_, err := a.client.Adopt(ctx, w, token)
	require.Equal(t, saga.Rejected, saga.ClassOf(err), "the other has to end first: %v", err)
	end(other)
	run := adopt()
	require.NotContains(t, []string{mine, again, other}, run)
	end(run)
}
