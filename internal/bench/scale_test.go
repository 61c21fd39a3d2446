package bench

import (
	"bytes"
	"context"
	"encoding/json"
	"encoding/xml"
	"errors"
	"io"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

func TestScaleOptions(t *testing.T) {
	var o ScaleOptions
	require.NoError(t, o.complete())
	assert.Equal(t, []int{1, 2, 4}, o.Workers)
	assert.Equal(t, DefaultCallers, o.Callers)
	for want, o := range map[string]ScaleOptions{
		"--only rows":         {Only: []string{"batch", "rows"}},
		"--batches 1001":      {Batches: []int{1, 1001}},
		"--row-sizes 10":      {RowSizes: []int{10}},
		"--workers 0":         {Workers: []int{0}},
		"--tables":            {Tables: []int{100, 10}},
		"--callers -1":        {Callers: -1},
		"--grow-time -1s":     {GrowTime: -time.Second},
		"--settle -1s":        {Settle: -time.Second},
		"--writes 2000000: w": {Writes: 2_000_000},
	} {
		require.ErrorContains(t, o.Check(), want)
	}
}

func TestSpread(t *testing.T) {
	assert.Equal(t, []int{0, 3, 6}, spread(10, 3))
	assert.Equal(t, []int{0, 1}, spread(2, 20))
	assert.Empty(t, spread(0, 20))
}

func TestRowsAtAStep(t *testing.T) {
	rows := rowRange{first: 10, last: 31, step: 10, bytes: 100, again: "-1"}
	assert.Equal(t, 3, rows.size())
	from, err := newFile("bench", rows)
	require.NoError(t, err)
	w, err := from.next(2)
	require.NoError(t, err)
	assert.Contains(t, string(w.lines[1]), `"bench-20-1"`)
	assert.EqualValues(t, 30, from.end())
	tally := &tally{verification: &verification{rowRange: rows}, seen: make([]bool, rows.size())}
	for _, id := range []int64{10, 20, 30} {
		tally.take(newRow(id, 100))
	}
	require.NoError(t, tally.result())
	tally.take(newRow(15, 100))
	require.ErrorContains(t, tally.result(), "row 15 was not written")
}

func scaleExample() *ScaleResult {
	r := newScaleResult(&ScaleOptions{Repetitions: 2, Settle: time.Second, Batch: 500, RowBytes: 100, Callers: 8, Writes: 1000})
	sample := func(rows int) scaleSample {
		return scaleSample{
			measured: measured{
				rows: rows, took: time.Second, visible: []time.Duration{40 * time.Millisecond},
				usage: usage{500 * time.Millisecond, time.Second}, memory: 90, unsettled: rows == 1000,
			},
			histories: histories{workflows: rows / 500, events: 17, bytes: 50_000}, rowBytes: 100,
		}
	}
	for _, p := range scaleParts {
		points := []Point{pointOf(1, []scaleSample{sample(1000), sample(1000)}), pointOf(2000, []scaleSample{sample(2000)})}
		if p.name == "growth" {
			points[1].Growth = &Growth{Rows: 1999, Seconds: 1, WritesPerSecond: 1999, Short: true}
		}
		r.Parts = append(r.Parts, Part{p.name, p.title, p.unit, points})
	}
	return r
}

func TestScaleResult(t *testing.T) {
	r := scaleExample()
	at := r.Parts[0].Points[1]
	assert.InDelta(t, 0.2, at.MBPerSecond, 0.001)
	assert.InDelta(t, 250, at.ProcessCPU, 0.001)
	assert.InDelta(t, 500, at.MachineCPU, 0.001)
	assert.InDelta(t, 2, at.WorkflowsPer1000, 0.001)
	assert.InDelta(t, 100, at.HistoryBytesPerWrite(), 0.001)
	assert.InDelta(t, 0.034, at.EventsPerWrite(), 0.0001)

	var out bytes.Buffer
	require.NoError(t, r.WriteTable(&out))
	assert.Regexp(t, `(?m)^2,000 +2,000 +2\.00 +0\.200 +40\.0 `, out.String())
	assert.Contains(t, out.String(), "to 2,000 at 1,999/s (its time was over")
	assert.Contains(t, out.String(), "8 of 12 turns began although the machine had not come to rest in 1s")
	_, err := json.Marshal(r)
	require.NoError(t, err)
}

func TestScaleSVGIsWellFormed(t *testing.T) {
	for name, r := range map[string]*ScaleResult{"example": scaleExample(), "empty": newScaleResult(&ScaleOptions{})} {
		var out bytes.Buffer
		require.NoError(t, r.WriteSVG(&out), name)
		for _, wrong := range []string{"NaN", "Inf", "%!"} {
			assert.NotContains(t, out.String(), wrong, name)
		}
		decoder := xml.NewDecoder(&out)
		for {
			_, err := decoder.Token()
			if errors.Is(err, io.EOF) {
				break
			}
			require.NoError(t, err, name)
		}
	}
}

func TestScalingRun(t *testing.T) {
	stack, tiny := tiny(t)
	before := left(t, stack)
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Minute)
	defer cancel()
	r, err := RunScale(ctx, ScaleOptions{
		Systems: tiny.Systems, Environ: tiny.Environ,
		Workers: []int{1, 2}, Batches: []int{1, 50}, RowSizes: []int{100, 100_000}, Tables: []int{200, 1000},
		Batch: 50, Callers: 4, Repetitions: 1, Duration: 300 * time.Millisecond, Settle: time.Millisecond, Rows: 1000, Writes: 150,
	})
	require.NoError(t, err)
	require.Len(t, r.Parts, len(scaleParts))
	for _, part := range r.Parts {
		require.Len(t, part.Points, 2, part.Name)
		for _, at := range part.Points {
			assert.Positive(t, at.Writes, part.Name)
			assert.Positive(t, at.MemoryMB, part.Name)
			assert.NotNil(t, at.Visible, part.Name)
			assert.Greater(t, at.Events, 3.0, part.Name)
			assert.Greater(t, at.HistoryBytes, 1000.0, part.Name)
		}
	}
	batches, growth := r.Parts[1].Points, r.Parts[3].Points
	assert.InDelta(t, 1000, batches[0].WorkflowsPer1000, 0.1, "a batch of one is a workflow")
	assert.InDelta(t, 20, batches[1].WorkflowsPer1000, 5)
	assert.Equal(t, 1000, growth[1].At)
	assert.Equal(t, 150, growth[1].Writes)
	assert.Equal(t, 800, growth[1].Growth.Rows)
	var out bytes.Buffer
	require.NoError(t, r.WriteTable(&out))
	t.Log("\n" + out.String())
	assert.Equal(t, before, left(t, stack), "nothing of the bench is left")
}
