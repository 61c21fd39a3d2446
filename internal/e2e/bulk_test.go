package e2e

import (
	"bytes"
	"context"
	"fmt"
	"os/exec"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/require"

	"github.com/capsaga/capsaga/internal/stacktest"
)

// 2,000 sagas are parked and replayed by one command, whose program is killed
// half-way and run again: each is tried once, and all complete.
func TestReplayOfManyParkedSagas(t *testing.T) {
	const parked = 2000
	w := newClashingWorld(t)
	p := w.startWorker()
	w.exec("ALTER TABLE products ALTER COLUMN genre SET DEFAULT 'Drama'") // which the index refuses
	began := time.Now()
	w.writeMany("many", parked)
	waiting := func(want int) error {
		if n := value[int](w, "SELECT count(*) FROM capsaga.saga WHERE status = 'parked'"); n != want {
			return fmt.Errorf("%d sagas are parked in the ledger", n)
		}
		return nil
	}
	stacktest.Eventually(t, 3*time.Minute, func() error { return waiting(parked) })
	t.Logf("%d sagas are parked after %s", parked, time.Since(began).Round(time.Second))
	before := w.attempts("elasticsearch")
	idle := p.cpuSeconds()
	time.Sleep(5 * time.Second) // what is measured is a length of time
	idle = p.cpuSeconds() - idle
	t.Logf("while they wait the worker uses %.0f ms of a core in 5 s", 1000*idle)
	require.Less(t, idle, 0.5, "seconds of a core that waiting costs in 5 s")
	w.allowGenre()

	args := []string{"replay", "--status", "parked", "--blocked-on", "elasticsearch", "--yes", "-o", "json"}
	began = time.Now()
	var said bytes.Buffer
	command := exec.Command(program(t, programCLI), args...)
	command.Env, command.Stderr = w.environ(), &said
	require.NoError(t, command.Start())
	stacktest.Eventually(t, 3*time.Minute, func() error {
		if n := value[int](w, "SELECT count(*) FROM capsaga.saga WHERE status = 'completed'"); n < parked/4 {
			return fmt.Errorf("%d sagas are completed; the command says %s", n, said.String())
		}
		return nil
	})
	require.NoError(t, command.Process.Kill())
	_ = command.Wait()
	require.Error(t, waiting(0), "the command was done before it was killed")

	r := w.capsaga("", args...)
	require.Zero(t, r.status, "%s", r.stderr)
	stacktest.Eventually(t, 3*time.Minute, func() error { return w.open(0) })
	t.Logf("all are replayed after %s", time.Since(began).Round(time.Second))
	require.Equal(t, parked, value[int](w, "SELECT count(*) FROM capsaga.saga WHERE status = 'completed'"))
	for id, attempts := range w.attempts("elasticsearch") {
		require.Equal(t, before[id]+1, attempts, "attempts of saga %s, which was to be tried once more", id)
	}
	w.requireAgree()

	// There is nothing left to do twice.
	r = w.capsaga("", args...)
	require.Zero(t, r.status, "%s%s", r.stdout, r.stderr)
}

// attempts returns by saga how often a step was tried, as the ledger has it.
func (w *world) attempts(step string) map[string]int {
	w.t.Helper()
	rows, err := w.db.Query(context.Background(), `SELECT id, (step->>'attempts')::int FROM capsaga.saga, json_array_elements(outcome->'steps') step WHERE step->>'name' = $1`, step)
	require.NoError(w.t, err)
	counts := map[string]int{}
	var id string
	var attempts int
	_, err = pgx.ForEachRow(rows, []any{&id, &attempts}, func() error {
		counts[id] = attempts
		return nil
	})
	require.NoError(w.t, err)
	return counts
}
