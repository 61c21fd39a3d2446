package bench

import (
	"encoding/json"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/capsaga/capsaga/saga"
)

func TestOptions(t *testing.T) {
	var o Options
	require.NoError(t, o.complete())
	assert.Equal(t, DefaultRepetitions, o.Repetitions)
	assert.Equal(t, DefaultDuration, o.Duration)
	for want, o := range map[string]Options{
		"--repetitions -1": {Repetitions: -1},
		"--batch 1001":     {Batch: 1001},
		"--row-bytes 10":   {RowBytes: 10},
		"--rows 2000000":   {Rows: 2_000_000},
		"--duration -1s":   {Duration: -1_000_000_000},
		"--settle -1s":     {Settle: -1_000_000_000},
		"--only z":         {Only: []string{"a", "z"}},
	} {
		require.ErrorContains(t, o.Check(), want)
	}
	o = Options{Only: []string{"a", bare32}}
	require.NoError(t, o.complete())
	var names []string
	for _, c := range contestants {
		if o.wants(c) {
			names = append(names, c.name)
		}
	}
	assert.Equal(t, []string{naive1, naive32, bare32}, names)
}

func TestLargeRowsMakeSmallBatches(t *testing.T) {
	for size, want := range map[int]int{100: 1000, 1000: 1000, 10_000: 148, 100_000: 14, maxRowBytes: 7} {
		rows := batchRows(saga.MaxBatchWrites, size)
		assert.Equal(t, want, rows, size)
		encoded, err := json.Marshal(newRow(99_999_999, size).write("bench01234567"))
		require.NoError(t, err)
		assert.LessOrEqual(t, rows*len(encoded), saga.MaxBatchBytes, "%d rows of %d bytes", rows, size)
	}
	assert.Equal(t, DefaultRows, turnRows(DefaultRows, DefaultRowBytes))
	assert.Equal(t, 2681, turnRows(DefaultRows, 100_000))
}

func TestInDatabase(t *testing.T) {
	for address, want := range map[string]string{
		"postgres://u:p%40@h:1/shop?sslmode=disable":          "postgres://u:p%40@h:1/bench?sslmode=disable",
		"postgresql://h/shop?dbname=other&application_name=a": "postgresql://h/bench?application_name=a",
		"host=h dbname=shop":                                  "host=h dbname=shop dbname=bench",
	} {
		is, err := inDatabase(address, "bench")
		require.NoError(t, err)
		assert.Equal(t, want, is)
	}
	_, err := inDatabase("=", "bench")
	require.Error(t, err)
}

func TestRowsFollowFromTheirIDs(t *testing.T) {
	assert.Equal(t, newRow(7, 100), newRow(7, 100))
	assert.NotEqual(t, newRow(7, 100).Payload, newRow(8, 100).Payload)
	assert.InDelta(t, 100, len(newRow(123_456, 100).json()), 15)
	assert.InDelta(t, 10_000, len(newRow(123_456, 10_000).json()), 15)
	w := newRow(7, 100).write("bench")
	require.NoError(t, w.Validate())
}

func TestTally(t *testing.T) {
	v := &verification{rowRange: rowRange{first: 10, last: 13, step: 1, bytes: 100}}
	for want, rows := range map[string][]row{
		"1 of 3 rows are missing, the first is 11": {newRow(10, 100), newRow(12, 100)},
		"row 13 was not written":                   {newRow(10, 100), newRow(13, 100)},
		"row 10 has other content":                 {newRow(10, 101)},
	} {
		tally := &tally{verification: v, seen: make([]bool, 3)}
		for _, r := range rows {
			tally.take(r)
		}
		require.ErrorContains(t, tally.result(), want)
	}
	all := &tally{verification: v, seen: make([]bool, 3)}
	for _, id := range []int64{12, 10, 11, 12} { // a record may come twice
		all.take(newRow(id, 100))
	}
	require.NoError(t, all.result())
}

func TestSourcesHandOutAllRowsOnce(t *testing.T) {
	rows := rowRange{first: 5, last: 12, step: 1, bytes: 100}
	inFile, err := newFile("bench", rows)
	require.NoError(t, err)
	for _, s := range []source{&counter{rowRange: rows}, inFile} {
		var sizes []int
		for {
			w, err := s.next(3)
			require.NoError(t, err)
			if w.size() == 0 {
				break
			}
			sizes = append(sizes, w.size())
		}
		assert.Equal(t, []int{3, 3, 1}, sizes)
		assert.EqualValues(t, 12, s.end())
	}
}
