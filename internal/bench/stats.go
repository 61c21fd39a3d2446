package bench

import (
	"math"
	"slices"
	"time"
)

// median returns the middle value, or the mean of the two in the middle; NaN of
// none.
func median(values []float64) float64 {
	if len(values) == 0 {
		return math.NaN()
	}
	sorted := slices.Sorted(slices.Values(values))
	middle := len(sorted) / 2
	if len(sorted)%2 == 1 {
		return sorted[middle]
	}
	return (sorted[middle-1] + sorted[middle]) / 2
}

// percentile returns the smallest of the sorted values that at least p of 100 of
// them do not exceed; zero of none.
func percentile(sorted []time.Duration, p float64) time.Duration {
	if len(sorted) == 0 {
		return 0
	}
	rank := int(math.Ceil(p / 100 * float64(len(sorted))))
	return sorted[min(max(rank, 1), len(sorted))-1]
}

// Latency is how long writes took, in milliseconds.
type Latency struct {
	P50 float64 `json:"p50_ms"`
	P95 float64 `json:"p95_ms"`
	P99 float64 `json:"p99_ms"`
}

func latencyOf(took []time.Duration) *Latency {
	if len(took) == 0 {
		return nil
	}
	slices.Sort(took)
	ms := func(p float64) float64 { return float64(percentile(took, p).Microseconds()) / 1000 }
	return &Latency{P50: ms(50), P95: ms(95), P99: ms(99)}
}

// middle is the median of each percentile.
func middle(all []*Latency) *Latency {
	var p50, p95, p99 []float64
	for _, l := range all {
		if l != nil {
			p50, p95, p99 = append(p50, l.P50), append(p95, l.P95), append(p99, l.P99)
		}
	}
	if len(p50) == 0 {
		return nil
	}
	return &Latency{P50: median(p50), P95: median(p95), P99: median(p99)}
}
