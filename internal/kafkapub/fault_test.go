package kafkapub_test

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"os/signal"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/capsaga/capsaga/internal/kafka"
	"github.com/capsaga/capsaga/internal/kafkapub"
	"github.com/capsaga/capsaga/internal/postgres"
	"github.com/capsaga/capsaga/internal/stacktest"
	"github.com/capsaga/capsaga/internal/stream"
	"github.com/capsaga/capsaga/saga"
)

// TestMain also runs this program as a worker that a test can kill.
func TestMain(m *testing.M) {
	if os.Getenv("KAFKAPUB_TEST_READER") != "" {
		if err := runReader(); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		return
	}
	os.Exit(m.Run())
}

func runReader() error {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM)
	defer stop()
	url := os.Getenv("KAFKAPUB_TEST_URL")
	prefix := saga.Prefix(os.Getenv("KAFKAPUB_TEST_PREFIX"))
	db, err := postgres.Open(ctx, url)
	if err != nil {
		return err
	}
	defer db.Close()
	client, err := kafka.Open(kafka.Config{Brokers: []string{os.Getenv("KAFKAPUB_TEST_BROKER")}})
	if err != nil {
		return err
	}
	defer client.Close()
	reader, err := stream.NewReader(stream.Config{
		URL: url, Slot: prefix.Slot(saga.PublicationKafka), Publications: []string{saga.PublicationKafka},
		Holder: fmt.Sprint("pid ", os.Getpid()), Registry: db, Database: db.Pool(),
		Handler: kafkapub.Open(client, kafkapub.Config{Prefix: prefix, DatabaseName: string(prefix), Database: db.Pool()}),
	})
	if err != nil {
		return err
	}
	return reader.Run(ctx)
}

// startProcess runs a reader in a process of its own.
func (w *world) startProcess() *exec.Cmd {
	w.t.Helper()
	program, err := os.Executable()
	require.NoError(w.t, err)
	cmd := exec.Command(program)
	cmd.Env = append(os.Environ(), "KAFKAPUB_TEST_READER=1", "KAFKAPUB_TEST_URL="+w.stack.PostgresURL,
		"KAFKAPUB_TEST_PREFIX="+string(w.stack.Prefix), "KAFKAPUB_TEST_BROKER="+w.stack.KafkaBrokers[0])
	require.NoError(w.t, cmd.Start())
	w.t.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
	})
	return cmd
}

// held waits until the slot has a holder of at least that generation.
func (w *world) held(generation int64) {
	w.t.Helper()
	stacktest.Eventually(w.t, 20*time.Second, func() error {
		var active bool
		var now int64
		err := w.pool().QueryRow(context.Background(), `
			SELECT s.active, c.generation FROM pg_replication_slots s JOIN capsaga.stream c ON c.slot = s.slot_name
			WHERE s.slot_name = $1`, w.slot).Scan(&active, &now)
		if err == nil && (!active || now < generation) {
			err = fmt.Errorf("active %v, generation %d", active, now)
		}
		return err
	})
}

// counters are rows whose n counts their changes, so that the events of a key
// must carry 1, 2, 3 and so on.
const counterKeys = 20

func (w *world) makeCounters() {
	w.exec("CREATE TABLE counters (id int PRIMARY KEY, n bigint, padding text)")
	w.exec("INSERT INTO counters SELECT id, 0, '' FROM generate_series(1, $1) id", counterKeys)
}

// count increments counters until ctx ends, one or a few in a transaction.
func (w *world) count(ctx context.Context, seed uint64) {
	random := rand.New(rand.NewPCG(seed, 3))
	for ctx.Err() == nil {
		from := 1 + random.IntN(counterKeys)
		to := min(from+random.IntN(4), counterKeys)
		_, _ = w.pool().Exec(context.Background(), `
			UPDATE counters SET n = n + 1, padding = (SELECT string_agg(md5(random()::text || g), '') FROM generate_series(1, $3::int) g) WHERE id IN
			(SELECT id FROM counters WHERE id BETWEEN $1 AND $2 ORDER BY id FOR UPDATE)`, from, to, random.IntN(60))
	}
}

// requireCounted checks that, without the event-ids that came before, each key's
// events carry 0, 1, 2 and so on up to what the database has. It returns how
// many records were repetitions.
func (w *world) requireCounted() (repeated int) {
	w.t.Helper()
	seen := map[string]bool{}
	next := map[string]int64{}
	for _, e := range w.events(w.topic("counters")) {
		id := e.Headers[saga.HeaderEventID]
		if seen[id] {
			repeated++
			continue
		}
		seen[id] = true
		if after := e.decode(w.t)["after"].(map[string]any); e.Headers[saga.HeaderClaimCheck] == "" {
			require.Equal(w.t, fmt.Sprint(next[e.Key]), fmt.Sprint(after["n"]), "%s, event %s", e.Key, id)
		}
		next[e.Key]++
	}
	rows, err := w.pool().Query(context.Background(), "SELECT id, n FROM counters")
	require.NoError(w.t, err)
	defer rows.Close()
	for rows.Next() {
		var id int
		var n int64
		require.NoError(w.t, rows.Scan(&id, &n))
		require.Equal(w.t, n+1, next[fmt.Sprintf(`{"id":%d}`, id)], "the last change of key %d", id)
	}
	return repeated
}

// TestEachChangeIsThereOnceAfterCrashes kills the holder's process at random
// moments under load.
func TestEachChangeIsThereOnceAfterCrashes(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.makeCounters()
	ctx, cancel := context.WithCancel(context.Background())
	var group sync.WaitGroup
	for seed := range uint64(4) {
		group.Go(func() { w.count(ctx, seed) })
	}
	const crashes = 10
	for i := range crashes {
		process := w.startProcess()
		w.held(int64(i + 1))
		select {
		case <-time.After(time.Duration(rand.IntN(400)) * time.Millisecond):
		case <-ctx.Done():
		}
		require.NoError(t, process.Process.Kill())
		_ = process.Wait()
	}
	cancel()
	group.Wait()
	r := w.start()
	w.settle(r.positions)
	repeated := w.requireCounted()
	t.Logf("%d changes, %d repeated", r.Stats().Changes.Load(), repeated)
}

// TestStalledHolderIsReplaced holds back the bytes of the holder's connection:
// another has to take over within 5 s, and the first to notice.
func TestStalledHolderIsReplaced(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.makeCounters()
	link := newProxy(t, postgresAddress(w.stack.PortBase))
	first := w.start(func(c *stream.Config, _ *kafkapub.Config) { c.URL = link.url(c.URL) })
	w.held(1)
	second := w.start()
	w.exec("UPDATE counters SET n = n + 1")
	w.settle(second.positions)
	require.True(t, first.Stats().Holding.Load())

	link.stall(true)
	stalled := time.Now()
	w.exec("UPDATE counters SET n = n + 1")
	stacktest.Eventually(t, 10*time.Second, func() error {
		if !second.Stats().Holding.Load() {
			return errors.New("the second does not hold the stream")
		}
		return nil
	})
	took := time.Since(stalled)
	require.Less(t, took, 5*time.Second)
	stacktest.Eventually(t, time.Second, func() error {
		if first.Stats().Holding.Load() {
			return errors.New("the first still believes to hold the stream")
		}
		return nil
	})
	w.settle(second.positions)
	t.Logf("replaced after %s", took)
	w.requireCounted()
	events := w.events(w.topic("counters"))
	require.Equal(t, "2", events[len(events)-1].Headers[saga.HeaderGeneration])
	link.stall(false)
}

// TestKilledHolderIsReplaced takes the process away.
func TestKilledHolderIsReplaced(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.makeCounters()
	first := w.startProcess()
	w.held(1)
	second := w.start()
	require.NoError(t, first.Process.Kill())
	killed := time.Now()
	stacktest.Eventually(t, 10*time.Second, func() error {
		if !second.Stats().Holding.Load() {
			return errors.New("the second does not hold the stream")
		}
		return nil
	})
	require.Less(t, time.Since(killed), 5*time.Second)
	t.Logf("replaced after %s", time.Since(killed))
	w.settle(second.positions)
	w.requireCounted()
}

// TestSuspendedHolderIsReplaced stops the process with SIGSTOP and lets it go on
// after its successor began.
func TestSuspendedHolderIsReplaced(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.makeCounters()
	first := w.startProcess()
	w.held(1)
	second := w.start()
	ctx, cancel := context.WithCancel(context.Background())
	var group sync.WaitGroup
	group.Go(func() { w.count(ctx, 7) })
	w.settle(second.positions) // the first publishes
	require.NoError(t, first.Process.Signal(syscall.SIGSTOP))
	stopped := time.Now()
	w.held(2)
	took := time.Since(stopped)
	require.Less(t, took, 5*time.Second)
	require.NoError(t, first.Process.Signal(syscall.SIGCONT))
	w.settle(second.positions)
	cancel()
	group.Wait()
	w.settle(second.positions)
	require.True(t, second.Stats().Holding.Load())
	t.Logf("replaced after %s, %d repeated", took, w.requireCounted())
}

// TestIdleDatabaseIsConfirmed writes to another database only.
func TestIdleDatabaseIsConfirmed(t *testing.T) {
	t.Parallel()
	w, other := newWorld(t), newWorld(t)
	r := w.start()
	w.held(1)
	other.exec("CREATE TABLE noise (id int)")
	for range 3 {
		other.exec("INSERT INTO noise SELECT generate_series(1, 10000)")
		start := time.Now()
		w.settle(r.positions)
		require.Less(t, time.Since(start), time.Second)
	}
	infos, err := stream.Status(context.Background(), w.pool(), w.stack.Prefix)
	require.NoError(t, err)
	require.Len(t, infos, 1)
	require.Equal(t, saga.PublicationKafka, infos[0].Name)
	require.Equal(t, w.slot, infos[0].Slot)
	require.Equal(t, "test", infos[0].Holder)
	require.True(t, infos[0].Active)
	require.Empty(t, infos[0].Error)
}

// TestStoppedReaderLeavesNothingToRepeat stops a reader in order, under load.
func TestStoppedReaderLeavesNothingToRepeat(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.makeCounters()
	ctx, cancel := context.WithCancel(context.Background())
	var group sync.WaitGroup
	group.Go(func() { w.count(ctx, 9) })
	for i := range 3 {
		r := w.start()
		w.held(int64(i + 1))
		w.settle(r.positions)
		r.stop()
	}
	cancel()
	group.Wait()
	r := w.start()
	w.settle(r.positions)
	// A transaction that was handed over in part is handed over again.
	require.LessOrEqual(t, w.requireCounted(), 3*4)
}

// TestLongUnpublishedTransactionsArePassedOver writes to a table that is not
// published: the walsender says little while it passes over it.
func TestLongUnpublishedTransactionsArePassedOver(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.makeCounters()
	w.exec("DROP PUBLICATION kafkapub")
	w.exec("CREATE PUBLICATION kafkapub FOR TABLE counters")
	w.exec("SELECT pg_drop_replication_slot($1)", w.slot)
	w.exec("SELECT pg_create_logical_replication_slot($1, 'pgoutput')", w.slot)
	w.exec("UPDATE counters SET n = 1")
	w.exec("CREATE TABLE bulk (id int)")
	w.exec("INSERT INTO bulk SELECT generate_series(1, 1000000)")
	w.exec("UPDATE counters SET n = 2")
	r := w.start()
	start := time.Now()
	w.settle(r.positions)
	t.Logf("passed over after %s", time.Since(start))
	require.Zero(t, r.Stats().Losses.Load())
	require.EqualValues(t, 1, r.Stats().Generation.Load())
	require.Len(t, w.events(w.topic("counters")), 2*counterKeys)
}
