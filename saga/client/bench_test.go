package client_test

import (
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/capsaga/capsaga/internal/activitytest"
	"github.com/capsaga/capsaga/saga/client"
)

// BenchmarkWrite measures what Temporal and the SDK cost per saga: the systems
// answer at once.
func BenchmarkWrite(b *testing.B) {
	s := newScene(b)
	for name, c := range s.clients() {
		for _, level := range []client.Level{client.WaitCommitted, client.WaitVisible} {
			run := 0
			b.Run(fmt.Sprintf("%s/%s", name, level), func(b *testing.B) {
				run++
				var took []time.Duration
				for i := range b.N {
					w := activitytest.Write(s.ID(fmt.Sprintf("%s-%s-%d-%d-%d", name, level, b.N, run, i)))
					began := time.Now()
					_, err := c.Write(activitytest.Within(b, 20*time.Second), w, level)
					require.NoError(b, err)
					took = append(took, time.Since(began))
				}
				slices.Sort(took)
				b.ReportMetric(float64(took[len(took)/2].Microseconds())/1000, "p50-ms")
				b.ReportMetric(float64(took[len(took)*99/100].Microseconds())/1000, "p99-ms")
				b.ReportMetric(float64(took[len(took)-1].Microseconds())/1000, "max-ms")
			})
		}
	}
}
