package attack

import (
	"context"
	"math/rand/v2"
	"os"
	"slices"
	"strconv"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/capsaga/capsaga/saga"
)

const (
	// wantChanges is how many changes of rows the attack makes at least.
	wantChanges = 50_000
	// atMost ends an attack that a slow machine does not get through: it fails.
	atMost = 4 * time.Minute
)

// seed returns the seed of the run: CAPSAGA_ATTACK_SEED, or a new one each time.
func seed(t *testing.T) uint64 {
	n := rand.Uint64()
	if text := os.Getenv("CAPSAGA_ATTACK_SEED"); text != "" {
		var err error
		n, err = strconv.ParseUint(text, 10, 64)
		require.NoError(t, err, "CAPSAGA_ATTACK_SEED")
	}
	t.Logf("the same statements again: CAPSAGA_ATTACK_SEED=%d", n)
	return n
}

func none(t *testing.T, problems []string, rule string) {
	t.Helper()
	shown := problems[:min(len(problems), 10)]
	assert.Empty(t, shown, "%s: %d problems, the first are shown", rule, len(problems))
}

// TestVersionAttack writes to twenty keys from sixteen connections, observes, and
// then checks every rule of the versions.
func TestVersionAttack(t *testing.T) {
	a, seed := newArena(t), seed(t)
	ctx, cancel := context.WithTimeout(t.Context(), atMost)
	defer cancel()
	epoch, err := a.db.Epoch(ctx)
	require.NoError(t, err)

	run := a.attack(ctx, seed, epoch)
	changes := int(run.observer.changes.Load())
	require.GreaterOrEqual(t, changes, wantChanges)
	h, err := newHistories(epoch, run.observer.transactions)
	require.NoError(t, err)
	assert.Len(t, h, 3*keys, "every key of every table was changed")

	t.Run("versions rise per key in commit order", func(t *testing.T) {
		none(t, checkContents(run.observer.transactions), "commit order is the order of the contents")
		none(t, h.checkOrder(), "both versions lie below both of the next")
	})
	t.Run("simpler rules fall", func(t *testing.T) {
		// An insert writes its record before it waits on the unique index: see
		// TestRecordPositionsRunBackwards. By chance it happens here often enough,
		// because the plain transactions insert keys that others hold and delete.
		records := h.falls(byRecord)
		assert.Positive(t, records, "record positions as versions: the attack has to catch them")
		begins := h.falls(byBegin)
		assert.Positive(t, begins, "a saga's first message as its version: the attack has to catch it")
		t.Logf("of %d changes, versions by record fall %d times, by a saga's first message %d times", changes, records, begins)
	})
	t.Run("sagas report what the stream shows", func(t *testing.T) {
		none(t, checkReports(epoch, run.observer.transactions, run.workload.reports), "reports")
		compared, problems := checkETags(run.filler.sound, run.workload.reports)
		none(t, problems, "etags")
		assert.Positive(t, compared)
		assert.Positive(t, run.workload.counts.etags.Load())
		a.checkReader(ctx, t, run)
	})
	t.Run("fills never take a sink back", func(t *testing.T) { a.checkFills(ctx, t, seed, h, run.filler) })
}

// attackRun is what a run left.
type attackRun struct {
	workload *workload
	filler   *filler
	observer *observer
}

// attack runs until enough changes were observed.
func (a *arena) attack(ctx context.Context, seed uint64, epoch saga.Epoch) attackRun {
	a.t.Helper()
	o, err := observe(ctx, a.stack.PostgresURL, a.slot("observer"))
	require.NoError(a.t, err)
	observed := make(chan error, 1)
	go func() { observed <- o.run(ctx) }()

	started := time.Now()
	more := func() bool { return o.changes.Load() < wantChanges && ctx.Err() == nil && len(observed) == 0 }
	w := &workload{arena: a, seed: seed, more: more}
	f := &filler{arena: a, seed: seed, epoch: epoch, more: more}
	filled := make(chan error, 1)
	go func() { filled <- f.run(ctx) }()
	require.NoError(a.t, w.run(ctx), "the workload")
	require.NoError(a.t, <-filled, "the fills")
	a.exec("SELECT pg_logical_emit_message(true, $1, '')", lastMessage)
	require.NoError(a.t, <-observed)

	c := &w.counts
	a.t.Logf("%d changes in %s: %d plain transactions (%d conflicts, %d deadlocks), %d sagas (%d rejected, %d calls repeated)",
		o.changes.Load(), time.Since(started).Round(time.Millisecond), c.plain.Load(), c.conflicts.Load(), c.deadlocks.Load(),
		c.sagas.Load(), c.rejected.Load(), c.retried.Load())
	a.t.Logf("%d fills, %d naive ones; %d reads of a locked row, %d of none", len(f.sound), len(f.naive), f.shown, f.absent)
	return attackRun{workload: w, filler: f, observer: o}
}

// checkReader lets stream.Reader read the same WAL: it and the sagas agree to the
// byte.
func (a *arena) checkReader(ctx context.Context, t *testing.T, run attackRun) {
	var position string
	require.NoError(t, a.db.Pool().QueryRow(ctx, "SELECT pg_current_wal_flush_lsn()::text").Scan(&position))
	until, err := saga.ParseLSN(position)
	require.NoError(t, err)
	seen, err := a.readSagas(ctx, until)
	require.NoError(t, err)
	var problems []string
	for _, r := range run.workload.reports {
		s, ok := seen[r.id]
		if !ok || s.end != r.version.LSN() || s.version < r.version {
			problems = append(problems, "saga "+r.id+": reported "+r.version.LSN().String()+", and the reader has "+s.end.String())
		}
	}
	none(t, problems, "the reader's end message is the version")
	assert.Len(t, seen, len(run.workload.reports))
}

// checkFills applies everything to a sink in several orders.
func (a *arena) checkFills(ctx context.Context, t *testing.T, seed uint64, h histories, f *filler) {
	sound, lost, problems := h.fillApplies(f.sound)
	none(t, problems, "fills read committed rows")
	assert.Zero(t, lost, "fills whose version covers a change that they lack")
	naive, naiveLost, problems := h.fillApplies(f.naive)
	none(t, problems, "naive fills read committed rows")
	assert.Positive(t, naiveLost, "naive fills: the attack has to catch them")

	stream := h.applies()
	overwritten := 0
	for i := range uint64(3) {
		s := &sink{rows: map[rowKey]apply{}}
		s.deliver(rand.New(rand.NewPCG(seed, 2000+i)), slices.Concat(stream, sound))
		assert.Zero(t, s.lost, "fills that overwrote newer content")
		problems, err := s.differences(ctx, a.db.Pool())
		require.NoError(t, err)
		none(t, problems, "the sink is as PostgreSQL")

		s = &sink{rows: map[rowKey]apply{}}
		s.deliver(rand.New(rand.NewPCG(seed, 2000+i)), slices.Concat(stream, naive))
		overwritten += s.lost
	}
	assert.Positive(t, overwritten, "naive fills that overwrote newer content: the attack has to catch them")
	t.Logf("lost updates: %d in %d fills, %d in %d naive ones", lost, len(sound), naiveLost, len(naive))
}
