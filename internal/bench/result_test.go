package bench

import (
	"encoding/json"
	"encoding/xml"
	"errors"
	"io"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// example is a result in which naive callers write 100 rows a second.
func example(t *testing.T) *Result {
	t.Helper()
	o := Options{Repetitions: 2}
	require.NoError(t, o.complete())
	ms := func(n int) []time.Duration { return []time.Duration{time.Duration(n) * time.Millisecond} }
	samples := map[string][]measured{
		naive1:   {{rows: 40, took: time.Second, committed: ms(2), visible: ms(4)}},
		naive32:  {{rows: 100, took: time.Second, committed: ms(2), visible: ms(20)}, {rows: 100, took: time.Second, visible: ms(20)}},
		ceiling:  {{rows: 2000, took: time.Second, committed: ms(9), visible: ms(90)}},
		group1:   {{rows: 50, took: time.Second, committed: ms(9), visible: ms(16)}},
		group256: {{rows: 499, took: time.Second, committed: ms(60), visible: ms(90)}},
		batch:    {{rows: 1300, took: time.Second, committed: ms(60), visible: ms(90), memory: 123, unsettled: true}},
	}
	var all []contestant
	for _, c := range contestants {
		if samples[c.name] != nil {
			all = append(all, c)
		}
	}
	machine := Machine{Cores: 2, CPU: "a <b> & c", Platform: "linux/amd64", Versions: map[string]string{"redis": "7.0.15"}}
	return newResult(&o, all, samples, machine, time.Now())
}

func TestRatios(t *testing.T) {
	want := map[string]string{
		targets[0].name: "0.650 met",
		targets[1].name: "13.0 met",
		targets[2].name: "4.99 NOT MET",
		targets[3].name: "9.00 ms NOT MET",
		targets[4].name: "2.25 NOT MET",
		targets[5].name: "4.00 met",
		targets[6].name: "- not measured",
		targets[7].name: "- not measured",
	}
	is := map[string]string{}
	for _, r := range example(t).Ratios {
		is[r.Name] = r.is() + " " + r.verdict()
	}
	assert.Equal(t, want, is)
}

func TestTable(t *testing.T) {
	var out strings.Builder
	require.NoError(t, example(t).WriteTable(&out))
	text := out.String()
	assert.Contains(t, text, "redis 7.0.15")
	assert.Regexp(t, `(?m)^a  naive dual write, 32 callers +100 +2\.00 .* 20\.0 `, text)
	assert.Regexp(t, `(?m)^e  batch sagas from NDJSON +1,300 .* 123$`, text)
	assert.Contains(t, text, "at most 8 ms")
	assert.Contains(t, text, "\n1 of 7 turns began although the machine had not come to rest in 20s")
	for line := range strings.Lines(text) {
		assert.Equal(t, strings.TrimRight(line, " \n")+"\n", line)
	}
}

func TestJSON(t *testing.T) {
	encoded, err := json.Marshal(example(t))
	require.NoError(t, err)
	var r Result
	require.NoError(t, json.Unmarshal(encoded, &r))
	assert.Equal(t, 200, r.Contestants[1].Writes)
	assert.Nil(t, r.Ratios[7].Met)
	assert.True(t, *r.Ratios[0].Met)
}

func TestSVGIsWellFormed(t *testing.T) {
	empty := newResult(&Options{}, nil, nil, Machine{}, time.Now())
	for name, result := range map[string]*Result{"example": example(t), "empty": empty} {
		var out strings.Builder
		require.NoError(t, result.WriteSVG(&out), name)
		assert.NotContains(t, out.String(), "NaN", name)
		assert.NotContains(t, out.String(), "Inf", name)
		assert.NotContains(t, out.String(), "%!", name)
		decoder := xml.NewDecoder(strings.NewReader(out.String()))
		for {
			_, err := decoder.Token()
			if errors.Is(err, io.EOF) {
				break
			}
			require.NoError(t, err, name)
		}
	}
}

func TestScale(t *testing.T) {
	s := newScale([]float64{0, 120, 17_000})
	assert.Equal(t, scale{1, 5}, s)
	assert.InDelta(t, labelWidth, s.x(10), 0.01)
	assert.InDelta(t, plotWidth-valueWidth, s.x(100_000), 0.01)
	assert.InDelta(t, labelWidth, s.x(0), 0)
	assert.Less(t, s.x(120), s.x(17_000))
	assert.Equal(t, scale{0, 1}, newScale(nil))
	assert.Equal(t, scale{1, 2}, newScale([]float64{100}), "one value has an axis, too")
}

func TestNumbers(t *testing.T) {
	for value, want := range map[float64]string{0.0123: "0.012", 1.2345: "1.23", 12.345: "12.3", 123.4: "123", 16700.2: "16,700", 1234567: "1,234,567"} {
		assert.Equal(t, want, count(value))
	}
}
