package e2e

import (
	"bufio"
	"context"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	sdkclient "go.temporal.io/sdk/client"

	"github.com/capsaga/capsaga/internal/stacktest"
	"github.com/capsaga/capsaga/saga"
	"github.com/capsaga/capsaga/saga/client"
	embed "github.com/capsaga/capsaga/worker"
)

// serviceCalls is the variable that makes this test's program a service that embeds a
// worker: the prefix of the ids that it writes, until it is killed.
const serviceCalls = "CAPSAGA_E2E_SERVICE"

// service writes sagas one after the other, and prints the id of each whose commit it
// was told.
func service(calls string) error {
	ctx := context.Background()
	systems, err := embed.SystemsFromEnv(os.Environ())
	if err != nil {
		return err
	}
	embedded, err := embed.Open(ctx, embed.Config{Systems: systems, HTTPAddress: "off", Logger: slog.New(slog.DiscardHandler)})
	if err != nil {
		return err
	}
	ended := make(chan error, 1)
	go func() { ended <- embedded.Run(ctx) }()
	go func() {
		for n := 0; ; n++ {
			id := fmt.Sprintf("%s-%d", calls, n)
			row := insert("users", "name", id, "email", id)
			o, err := embedded.Client().Write(ctx, saga.Write{SagaID: id, Mutations: []saga.Mutation{row, add("products", 1, "stock", 1)}}, client.WaitCommitted)
			if err == nil && o.Status == saga.Committed {
				fmt.Println(id)
			}
		}
	}()
	return <-ended
}

// serve runs the service until it has told of so many commits, and kills it a moment
// later. It returns the ids.
func (w *world) serve(name string, commits int, environ ...string) (told []string) {
	w.t.Helper()
	self, err := os.Executable()
	require.NoError(w.t, err)
	command := exec.Command(self)
	command.Env = w.environ(append([]string{serviceCalls + "=" + w.id("%s", name)}, environ...)...)
	out, err := command.StdoutPipe()
	require.NoError(w.t, err)
	var stderr strings.Builder
	command.Stderr = &stderr
	require.NoError(w.t, command.Start())
	hung := time.AfterFunc(time.Minute, func() { _ = command.Process.Kill() })
	defer hung.Stop()
	lines := bufio.NewScanner(out)
	for lines.Scan() {
		if told = append(told, lines.Text()); len(told) == commits {
			time.AfterFunc(time.Duration(rand.IntN(30))*time.Millisecond, func() { _ = command.Process.Kill() })
		}
	}
	_ = command.Wait()
	require.GreaterOrEqual(w.t, len(told), commits, "%s", stderr.String())
	return told
}

// A service commits a write while Temporal starts its workflow, and is killed. Whatever
// it was told as committed, and what it was not told of any more, is in the ledger; a
// worker starts the workflows that are missing, and the sinks get every row, once.
func TestKillBetweenTheCommitAndTheStart(t *testing.T) {
	w := newWorld(t)
	w.exec("INSERT INTO products (id, title, stock) VALUES (1, 'a film', 0)")
	// Where Temporal cannot be reached, none of the workflows is started.
	told := w.serve("away", 8, "TEMPORAL_ADDRESS=127.0.0.1:1")
	require.GreaterOrEqual(t, value[int](w, "SELECT count(*) FROM capsaga.saga WHERE run_id LIKE 'early/%' AND finished_at IS NULL"), len(told))
	for i := range ifSoaking(40, 5) {
		told = append(told, w.serve(fmt.Sprintf("there%d", i), 1+rand.IntN(60))...)
	}
	w.startWorker()
	stacktest.Eventually(t, 2*time.Minute, func() error {
		if open := value[int](w, "SELECT count(*) FROM capsaga.saga WHERE finished_at IS NULL"); open > 0 {
			return fmt.Errorf("%d sagas have not finished", open)
		}
		return nil
	})
	for _, id := range told {
		require.Equal(t, saga.Completed, w.shown(id).Status)
	}
	sagas := value[int](w, "SELECT count(*) FROM capsaga.saga WHERE status = 'completed'")
	t.Logf("%d commits were told, %d are in the ledger", len(told), sagas)
	require.GreaterOrEqual(t, sagas, len(told))
	require.Equal(t, sagas, value[int](w, "SELECT count(*) FROM users"))
	require.Equal(t, sagas, value[int](w, "SELECT stock FROM products"))
	w.requireAgree()
}

// A workflow of another write that had the id, and left nothing in the ledger, does not
// keep an early commit from its sinks.
func TestEarlyCommitAndAnotherWorkflow(t *testing.T) {
	w := newWorld(t)
	w.exec("INSERT INTO products (id, title, stock) VALUES (1, 'a film', 0)")
	told := w.serve("away", 1, "TEMPORAL_ADDRESS=127.0.0.1:1")
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	_, err := w.temporal.ExecuteWorkflow(ctx, sdkclient.StartWorkflowOptions{ID: saga.WorkflowID(told[0]), TaskQueue: w.stack.Prefix.TaskQueue()},
		saga.WorkflowSaga, map[string]any{"saga_id": told[0], "mutations": []any{}})
	require.NoError(t, err)
	w.startWorker()
	stacktest.Eventually(t, 30*time.Second, func() error {
		if open := value[int](w, "SELECT count(*) FROM capsaga.saga WHERE finished_at IS NULL"); open > 0 {
			return fmt.Errorf("%d sagas have not finished", open)
		}
		return nil
	})
	w.requireAgree()
}
