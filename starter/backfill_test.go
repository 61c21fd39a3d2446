package main

import (
	"bytes"
	"context"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/capsaga/capsaga/internal/backfill"
	"github.com/capsaga/capsaga/saga"
)

// looks answers each look at a backfill with the next of its progresses, and with
// the last one from then on.
type looks map[int64][]backfill.Progress

func (s looks) look(_ context.Context, id int64) (backfill.Progress, error) {
	steps := s[id]
	if len(steps) > 1 {
		s[id] = steps[1:]
	}
	return steps[0], nil
}

func progress(entity string, state backfill.State, rows int64) backfill.Progress {
	return backfill.Progress{Taken: true, Backfill: backfill.Backfill{
		Entity: entity, State: state, Rows: rows, Estimated: 100, Sinks: []saga.Sink{saga.Redis}, Bytes: 2048,
	}}
}

func visible(p backfill.Progress) backfill.Progress {
	p.Visible = true
	return p
}

// watched follows what was seen.
func watched(t *testing.T, s looks, change func(*backfillRun)) (stdout, stderr string, err error) {
	t.Helper()
	var out, notes bytes.Buffer
	run := &backfillRun{app: &app{stdout: &out, stderr: &notes, output: asTable}, look: s.look, began: time.Now()}
	for id := range int64(len(s)) {
		run.items = append(run.items, &backfillItem{id: id, began: time.Now(), Progress: s[id][0]})
	}
	if change != nil {
		change(run)
	}
	err = run.follow(t.Context())
	return out.String(), notes.String(), err
}

func TestBackfillsAreFollowed(t *testing.T) {
	t.Parallel()
	good := []backfill.Progress{progress("products", backfill.Requested, 0), progress("products", backfill.Running, 40), visible(progress("products", backfill.Done, 100))}
	failed := progress("users", backfill.Failed, 0)
	failed.Error = "no table"

	out, notes, err := watched(t, looks{0: good}, nil)
	require.NoError(t, err)
	assert.Contains(t, out, "products: 100 rows, 2.0 KiB, are in redis after")
	assert.Empty(t, notes)

	out, _, err = watched(t, looks{0: good, 1: {failed}}, nil)
	var exit *exitError
	require.ErrorAs(t, err, &exit)
	assert.Equal(t, statusSome, exit.status)
	assert.Contains(t, out, "users: failed: no table")

	_, _, err = watched(t, looks{0: {failed}}, nil)
	require.EqualError(t, err, "1 of 1 backfills did not end: each is named above")

	out, _, err = watched(t, looks{0: good}, func(r *backfillRun) { r.app.output = asJSON })
	require.NoError(t, err)
	assert.Contains(t, out, `"entity":"products"`)
	assert.Contains(t, out, `"visible":true`)
	assert.Equal(t, 1, strings.Count(out, "\n"))

	out, notes, err = watched(t, looks{0: good}, func(r *backfillRun) { r.bars = &bars{out: r.app.stderr} })
	require.NoError(t, err)
	assert.Contains(t, notes, "40 of about 100 rows")
	assert.Contains(t, notes, "40%")
	assert.Contains(t, out, "products: 100 rows")

	_, _, err = watched(t, looks{0: good[1:2]}, func(r *backfillRun) { r.timeout = time.Millisecond })
	require.ErrorContains(t, err, "not all rows are in the sinks within 1ms: the workers go on with products; `capsaga backfill products` follows it again")
}

// Who waits for nobody is told, once, and when it can have been noticed at all.
func TestBackfillIdleReasons(t *testing.T) {
	t.Parallel()
	now := time.Now()
	idle := progress("products", backfill.Requested, 0)
	idle.Taken = false
	i := &backfillItem{}
	i.update(idle, now)
	assert.Empty(t, i.idleReason(now.Add(idleAfter)))
	i.update(idle, now.Add(idleAfter+time.Second))
	assert.Contains(t, i.idleReason(now.Add(idleAfter+time.Second)), "no worker takes it")

	queued := idle
	queued.Queued = true
	i.update(queued, now.Add(time.Minute))
	assert.Empty(t, i.idleReason(now.Add(time.Minute)), "the workers run others first")

	waits := progress("products", backfill.Running, 1)
	waits.Error = "waits for a row"
	i.update(waits, now.Add(2*time.Minute))
	assert.Equal(t, "waits for a row", i.idleReason(now.Add(2*time.Minute)))

	behind := progress("products", backfill.Done, 100)
	behind.Behind = []backfill.Behind{{Publication: saga.PublicationRedis, Bytes: 5}}
	i.update(behind, now.Add(3*time.Minute))
	assert.Empty(t, i.idleReason(now.Add(3*time.Minute)))
	i.update(behind, now.Add(4*time.Minute))
	assert.Contains(t, i.idleReason(now.Add(4*time.Minute)), "no worker holds the stream redispub")
	behind.Behind[0].Held = true
	i.update(behind, now.Add(5*time.Minute))
	assert.Empty(t, i.idleReason(now.Add(5*time.Minute)), "a sink that is slow is no reason to start a worker")
}

func TestBars(t *testing.T) {
	t.Parallel()
	assert.Equal(t, strings.Repeat("█", 12)+strings.Repeat("·", 12), bar(50, 100))
	assert.Equal(t, strings.Repeat("█", 24), bar(150, 100))
	assert.Equal(t, strings.Repeat("·", 24), bar(5, 0))
	assert.Equal(t, " 50%", percent(50, 100))
	assert.Equal(t, "3s left", timeLeft(250, 100))
	assert.Empty(t, timeLeft(0, 100))
	var out bytes.Buffer
	b := &bars{out: &out}
	b.clear()
	assert.Empty(t, out.String())
	b.draw([]string{"one", "two"})
	b.draw([]string{"three"})
	assert.Contains(t, out.String(), "\x1b[2A")
}
