package bench

import (
	"math"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
)

func TestMedian(t *testing.T) {
	assert.InDelta(t, 2, median([]float64{3, 1, 2}), 0)
	assert.InDelta(t, 2.5, median([]float64{4, 1, 3, 2}), 0)
	assert.InDelta(t, 7, median([]float64{7}), 0)
	assert.True(t, math.IsNaN(median(nil)))
	values := []float64{3, 1, 2}
	median(values)
	assert.Equal(t, []float64{3, 1, 2}, values, "it is the caller's")
}

func TestPercentile(t *testing.T) {
	var hundred []time.Duration
	for i := range 100 {
		hundred = append(hundred, time.Duration(i+1))
	}
	for p, want := range map[float64]time.Duration{0: 1, 1: 1, 50: 50, 95: 95, 99: 99, 99.5: 100, 100: 100} {
		assert.Equal(t, want, percentile(hundred, p), "p%v", p)
	}
	assert.Equal(t, time.Duration(1), percentile([]time.Duration{1, 2}, 50))
	assert.Equal(t, time.Duration(2), percentile([]time.Duration{1, 2}, 99))
	assert.Zero(t, percentile(nil, 50))
}

func TestLatencies(t *testing.T) {
	l := latencyOf([]time.Duration{3 * time.Millisecond, time.Millisecond, 2500 * time.Microsecond})
	assert.Equal(t, &Latency{P50: 2.5, P95: 3, P99: 3}, l)
	assert.Nil(t, latencyOf(nil))
	assert.Equal(t, &Latency{2, 3, 4}, middle([]*Latency{{1, 2, 3}, nil, {9, 9, 9}, {2, 3, 4}}))
	assert.Nil(t, middle([]*Latency{nil}))
}
