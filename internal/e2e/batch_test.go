package e2e

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/capsaga/capsaga/internal/listing"
	"github.com/capsaga/capsaga/internal/stacktest"
	"github.com/capsaga/capsaga/saga"
	"github.com/capsaga/capsaga/saga/client"
)

// The demo's films in batches, by a CLI that is killed in the middle and started
// again: all complete once, all systems agree, the same file again changes nothing,
// and each saga is found by its own id.
func TestFilmsInBatches(t *testing.T) {
	w := newWorld(t)
	w.startWorker()
	path, sagas := w.filmsFile()
	w.killedAfterFirstLine("write", path, "-o", "json", "--batch", "100", "--concurrency", "2")
	first := w.capsaga("", "write", path, "-o", "json", "--batch", "500")
	require.Zero(t, first.status, first.stderr)
	outcomes := first.outcomes(t)
	require.Len(t, outcomes, len(sagas))
	for _, o := range outcomes {
		require.Equal(t, saga.Completed, o.Status, "%+v", o)
		require.NotEmpty(t, o.Token)
	}
	w.requireConverged(sagas)
	events := len(w.events("products"))
	ledger := value[string](w, ledgerDigest)

	second := w.capsaga("", "write", path, "-o", "json", "--batch", "500")
	require.Zero(t, second.status, second.stderr)
	for line, o := range second.outcomes(t) {
		require.Equal(t, saga.Completed, o.Status)
		require.Equal(t, outcomes[line].Version, o.Version)
		require.Equal(t, outcomes[line].Token, o.Token)
	}
	require.Len(t, w.events("products"), events, "the second run has published")
	require.Equal(t, ledger, value[string](w, ledgerDigest), "the second run has changed the ledger")
	require.Less(t, value[int](w, "SELECT count(DISTINCT workflow_id) FROM capsaga.saga"), 60)

	one := w.shown(outcomes[1].SagaID)
	require.Equal(t, saga.Completed, one.Status)
	require.Equal(t, saga.StepDone, one.Step(saga.StepElasticsearch).State)
	found, _ := w.list(nil, "--status", "completed", "--limit", "5")
	require.Len(t, found, 5)
	require.True(t, strings.HasPrefix(found[0].WorkflowID, "batch/"))
}

// In a batch the writes that fail are sagas of their own, with their own policies,
// and an operator deals with each alone; the others have completed.
func TestABatchSplitsWhatFails(t *testing.T) {
	w := newWorld(t)
	w.startWorker()
	c := w.grouped(client.Group{})
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Minute)
	defer cancel()
	w.jam(3, 5)
	var writes []saga.Write
	for id := 1; id <= 40; id++ {
		write := saga.Write{SagaID: w.id("%d", id), Mutations: []saga.Mutation{upsert("products", "id", id, "title", fmt.Sprint("film ", id))}}
		if id == 5 {
			write.Policy.OnReject = saga.OnRejectSkip
		}
		writes = append(writes, write)
	}
	writes = append(writes, saga.Write{SagaID: w.id("refused"), Mutations: []saga.Mutation{patch("products", 4711, "title", "nobody")}})
	for i, r := range c.WriteBatch(ctx, writes, client.WaitVisible) {
		require.NoError(t, r.Err)
		want := saga.Completed
		switch i {
		case 2:
			want = saga.Parked
		case 4:
			require.Equal(t, saga.StepSkipped, r.Outcome.Step(saga.StepRedis).State)
		case 40:
			want = saga.RejectedEnd
		}
		require.Equal(t, want, r.Outcome.Status, "%d: %+v", i, r.Outcome.Error)
	}
	parked, _ := w.list(nil, "--status", "parked")
	require.Len(t, parked, 1)
	require.Equal(t, writes[2].SagaID, parked[0].SagaID)
	require.Equal(t, listing.Running, parked[0].Workflow)
	w.unjam(3, 5)
	r := w.capsaga("", "replay", writes[2].SagaID, "-o", "json")
	require.Zero(t, r.status, r.stderr)
	require.Equal(t, saga.Completed, w.shown(writes[2].SagaID).Status)
	require.Equal(t, 40, value[int](w, "SELECT count(*) FROM products"))
}

// Many lines through a worker and a CLI of bounded memory, with a kill of either in
// the middle; the whole form, of a million lines, is for `make soak`.
func TestAFileOfManyWrites(t *testing.T) {
	const limitMB = 300
	count := ifSoaking(1_000_000, 20_000)
	w := newWorld(t)
	p := w.startWorker()
	path := filepath.Join(t.TempDir(), "many.ndjson")
	file, err := os.Create(path)
	require.NoError(t, err)
	out := bufio.NewWriter(file)
	for id := 1; id <= count; id++ {
		write := saga.Write{SagaID: w.id("%d", id), Mutations: []saga.Mutation{upsert("products", "id", id, "title", fmt.Sprint("film ", id), "price_cents", id%1000)}}
		body, err := json.Marshal(write)
		require.NoError(t, err)
		_, _ = out.Write(append(body, '\n'))
	}
	require.NoError(t, out.Flush())
	require.NoError(t, file.Close())

	written := func() int { return value[int](w, "SELECT count(*) FROM products") }
	command := exec.Command(program(t, programCLI), "write", path, "-o", "json", "--batch", "500", "--timeout", "10m")
	command.Env = w.environ()
	require.NoError(t, command.Start())
	require.Eventually(t, func() bool { return written() > count/4 }, 30*time.Minute, 10*time.Millisecond)
	require.NoError(t, command.Process.Kill())
	_ = command.Wait()
	p.kill()
	p = w.launchWorker()

	began, before := time.Now(), written()
	second := exec.Command(program(t, programCLI), "write", path, "-o", "json", "--batch", "500", "--timeout", "10m")
	second.Env = w.environ()
	var stderr strings.Builder
	answers, err := second.StdoutPipe()
	require.NoError(t, err)
	second.Stderr = &stderr
	require.NoError(t, second.Start())
	lines, completed := bufio.NewScanner(answers), 0
	lines.Buffer(nil, 1<<20)
	peakCLI, peakWorker := 0, 0
	for lines.Scan() {
		if strings.Contains(lines.Text(), `"status":"completed"`) {
			completed++
		}
		// The last lines come through the pipe of a program that may have ended.
		if completed%1000 == 0 && completed <= count-1000 {
			peakCLI, peakWorker = max(peakCLI, peakMB(t, second.Process.Pid)), max(peakWorker, peakMB(t, p.pid()))
		}
	}
	require.NoError(t, second.Wait(), stderr.String())
	require.Equal(t, count, completed)
	t.Logf("%d of %d writes were there after the kill; the second run took %s; at most %d MB in the CLI and %d MB in the worker", before, count, time.Since(began).Round(time.Second), peakCLI, peakWorker)
	require.Less(t, peakCLI, limitMB)
	require.Less(t, peakWorker, limitMB)
	require.Equal(t, count, value[int](w, "SELECT count(*) FROM products"))
	require.Equal(t, count, value[int](w, "SELECT count(*) FROM capsaga.saga WHERE status = 'completed'"))
	w.requireAgree()
}

func peakMB(t *testing.T, pid int) int { return int(stacktest.StatusMB(t, pid, stacktest.Peak)) }
