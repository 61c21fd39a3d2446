package e2e

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os/exec"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	commonpb "go.temporal.io/api/common/v1"
	"go.temporal.io/api/serviceerror"
	"go.temporal.io/api/workflowservice/v1"

	"github.com/capsaga/capsaga/internal/listing"
	"github.com/capsaga/capsaga/saga"
)

// jam gives each of some products a Redis key that holds something else than a
// row, which parks whoever writes it.
func (w *world) jam(ids ...int) {
	w.t.Helper()
	for _, id := range ids {
		require.NoError(w.t, w.redis.Set(context.Background(), w.stack.Prefix.RedisKey("products", fmt.Sprint(id)), "x", 0).Err())
	}
}

func (w *world) unjam(ids ...int) {
	w.t.Helper()
	for _, id := range ids {
		require.NoError(w.t, w.redis.Del(context.Background(), w.stack.Prefix.RedisKey("products", fmt.Sprint(id))).Err())
	}
}

// crowd parks a saga for each of the products 1 to n, and returns their ids.
func (w *world) crowd(n int) (ids []string, products []int) {
	w.t.Helper()
	var file strings.Builder
	for i := 1; i <= n; i++ {
		ids, products = append(ids, w.id("%04d", i)), append(products, i)
		fmt.Fprintf(&file, `{"saga_id":%q,"mutations":[{"entity":"products","op":"upsert","row":{"id":%d,"title":"Film %d"}}]}`+"\n", ids[i-1], i, i)
	}
	w.jam(products...)
	r := w.capsaga(file.String(), "write", "-", "-o", "json", "--concurrency", "64")
	require.Equal(w.t, 3, r.status, r.stderr)
	for _, o := range r.outcomes(w.t) {
		require.Equal(w.t, saga.Parked, o.Status, "%+v", o)
	}
	return ids, products
}

// list runs `capsaga list`.
func (w *world) list(environ []string, flags ...string) (sagas []listing.Saga, stderr string) {
	w.t.Helper()
	r := runCLI(w.t, w.environ(environ...), "", append([]string{"list", "-o", "json"}, flags...)...)
	require.Zero(w.t, r.status, r.stderr)
	require.NoError(w.t, json.Unmarshal([]byte(r.stdout), &sagas))
	return sagas, r.stderr
}

// items reads the results of a request about many sagas.
func (r result) items(t testing.TB) map[string]saga.BulkItem {
	t.Helper()
	byID := map[string]saga.BulkItem{}
	for text := range strings.Lines(r.stdout) {
		var item saga.BulkItem
		require.NoError(t, json.Unmarshal([]byte(text), &item), text)
		require.NotContains(t, byID, item.SagaID)
		byID[item.SagaID] = item
	}
	return byID
}

// An operator finds a crowd of parked sagas, some of whose workflows were
// terminated, and moves all of them on with one command, which is killed half-way
// and run again.
func TestACrowdIsMovedOnByOneCommand(t *testing.T) {
	const sagas = 130
	w := newWorld(t)
	w.startWorker()
	ids, products := w.crowd(sagas)
	for _, id := range ids[:3] {
		w.terminate(id)
	}

	found, _ := w.list(nil, "--status", "parked", "--blocked-on", "redis", "--entity", "products", "--limit", "1000")
	require.Len(t, found, sagas)
	for i := range found {
		require.Equal(t, saga.Rejected, found[i].Error.Class)
		require.False(t, i > 0 && found[i].CreatedAt.After(found[i-1].CreatedAt), "newest first")
	}
	stopped, _ := w.list(nil, "--stopped")
	require.Len(t, stopped, 3)
	require.Equal(t, listing.Terminated, stopped[0].Workflow)
	require.Len(t, w.pages("--status", "parked", "--limit", "40"), sagas)

	poison := ids[sagas-1]
	w.unjam(products[:sagas-1]...)
	dry := w.capsaga("", "replay", "--status", "parked", "--dry-run")
	require.Zero(t, dry.status, dry.stderr)
	require.Equal(t, sagas-3, strings.Count(dry.stdout, "try its parked steps once more"))
	require.Equal(t, 3, strings.Count(dry.stdout, "start it again where it stood"))
	unsure := w.capsaga("", "replay", "--status", "parked")
	require.Equal(t, 2, unsure.status)
	require.Contains(t, unsure.stderr, "--yes is needed")

	command := []string{"replay", "--status", "parked", "--request-id", "night-shift", "--yes", "-o", "json"}
	w.killedAfterFirstLine(command...)
	r := w.capsaga("", command...)
	require.Equal(t, 3, r.status, r.stderr)
	require.Contains(t, r.stderr, "1 of 130 sagas did not get where replay brings them")
	items := r.items(t)
	require.Len(t, items, sagas)
	for i, id := range ids {
		item := items[id]
		switch {
		case id == poison:
			require.Equal(t, saga.Parked, item.Status)
			require.Contains(t, item.Error.Message, "WRONGTYPE")
		case i < 3:
			require.Equal(t, saga.DidStart, item.Did)
			require.Equal(t, saga.Completed, item.Status)
		default:
			require.Equal(t, saga.DidRetry, item.Did, "%+v", item)
			require.Equal(t, saga.Completed, item.Status)
		}
	}
	again := w.capsaga("", command...)
	require.Equal(t, r.stdout, again.stdout, "the same request twice did something twice")

	left, _ := w.list(nil, "--status", "parked")
	require.Len(t, left, 1)
	require.Equal(t, poison, left[0].SagaID)
	require.Equal(t, 2, w.shown(poison).Step(saga.StepRedis).Attempts)
	one := w.capsaga("", "skip", poison, "--step", "redis", "--reason", "nobody reads it", "-o", "json")
	require.Zero(t, one.status, one.stderr)
	var answer saga.Answer
	require.NoError(t, json.Unmarshal([]byte(one.stdout), &answer))
	require.Equal(t, saga.Completed, answer.Status)
	nothing := w.capsaga("", "replay", "--status", "parked", "--yes")
	require.Zero(t, nothing.status, nothing.stderr)
	require.Contains(t, nothing.stderr, "no saga matches")

	folder := t.TempDir()
	kept := w.capsaga("", append([]string{"history", "download", folder}, ids[:5]...)...)
	require.Zero(t, kept.status, kept.stderr)
	verified := w.capsaga("", "history", "verify", folder)
	require.Zero(t, verified.status, verified.stdout)
	require.Equal(t, 5, strings.Count(verified.stdout, " ok\n"))
}

// shown runs `capsaga show`.
func (w *world) shown(id string) *saga.Outcome {
	w.t.Helper()
	r := w.capsaga("", "show", id, "-o", "json")
	require.Zero(w.t, r.status, r.stderr)
	o := new(saga.Outcome)
	require.NoError(w.t, json.Unmarshal([]byte(r.stdout), o))
	return o
}

// pages lists all pages and returns the sagas by their ids.
func (w *world) pages(flags ...string) map[string]listing.Saga {
	w.t.Helper()
	all := map[string]listing.Saga{}
	for after := ""; ; {
		sagas, stderr := w.list(nil, append(flags, "--after", after)...)
		for i := range sagas {
			require.NotContains(w.t, all, sagas[i].SagaID)
			all[sagas[i].SagaID] = sagas[i]
		}
		_, next, more := strings.Cut(strings.TrimSpace(stderr), " --after ")
		if !more {
			return all
		}
		after = next
	}
}

// killedAfterFirstLine runs the CLI until it has printed something.
func (w *world) killedAfterFirstLine(args ...string) {
	w.t.Helper()
	command := exec.Command(program(w.t, programCLI), args...)
	command.Env = w.environ()
	stdout, err := command.StdoutPipe()
	require.NoError(w.t, err)
	require.NoError(w.t, command.Start())
	require.True(w.t, bufio.NewScanner(stdout).Scan())
	require.NoError(w.t, command.Process.Kill())
	_ = command.Wait() // it was killed
}

// With PostgreSQL or Temporal away, the other one is listed, and what is missing
// is said.
func TestListsWithOneSystemAway(t *testing.T) {
	w := newWorld(t)
	w.startWorker()
	ids, _ := w.crowd(3)
	// Temporal's visibility follows a moment later.
	var found []listing.Saga
	var stderr string
	require.Eventually(t, func() bool {
		found, stderr = w.list([]string{"CAPSAGA_POSTGRES_URL=postgres://127.0.0.1:1/x"}, "--status", "parked")
		return len(found) == len(ids)
	}, 20*time.Second, 100*time.Millisecond)
	require.Contains(t, stderr, "the ledger is missing")
	require.Equal(t, listing.Running, found[0].Workflow)

	found, stderr = w.list([]string{"TEMPORAL_ADDRESS=127.0.0.1:1"}, "--status", "parked")
	require.Len(t, found, len(ids))
	require.Contains(t, stderr, "Temporal is missing")
	require.Equal(t, listing.Unknown, found[0].Workflow)
}

// A saga that Temporal has forgotten, as its history is past its retention, is
// started again from the ledger and finishes what was missing.
func TestReplayOfAForgottenSaga(t *testing.T) {
	w := newWorld(t)
	w.startWorker()
	ids, products := w.crowd(1)
	w.forgetWorkflow(ids[0])
	require.Equal(t, saga.Parked, w.shown(ids[0]).Status)
	stopped, _ := w.list(nil, "--stopped")
	require.Len(t, stopped, 1)
	require.Equal(t, listing.Gone, stopped[0].Workflow)
	before := w.shown(ids[0])

	w.unjam(products...)
	r := w.capsaga("", "replay", ids[0], "-o", "json")
	require.Zero(t, r.status, r.stderr)
	var answer saga.Answer
	require.NoError(t, json.Unmarshal([]byte(r.stdout), &answer))
	require.Equal(t, saga.DidStart, answer.Did)
	require.Equal(t, saga.Completed, answer.Status)
	require.Equal(t, before.Version, answer.Version, "it was not committed again")
	require.Equal(t, 1, value[int](w, "SELECT count(*) FROM products"))
}

// forgetWorkflow has Temporal delete a workflow, as it does itself when the
// retention is over.
func (w *world) forgetWorkflow(id string) {
	w.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 60*time.Second)
	defer cancel()
	execution := &commonpb.WorkflowExecution{WorkflowId: saga.WorkflowID(id)}
	_, err := w.temporal.WorkflowService().DeleteWorkflowExecution(ctx, &workflowservice.DeleteWorkflowExecutionRequest{
		Namespace: "default", WorkflowExecution: execution,
	})
	require.NoError(w.t, err)
	require.Eventually(w.t, func() bool {
		_, err := w.temporal.DescribeWorkflowExecution(ctx, saga.WorkflowID(id), "")
		var missing *serviceerror.NotFound
		return errors.As(err, &missing)
	}, 50*time.Second, 50*time.Millisecond)
}
