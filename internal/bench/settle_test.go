package bench

import (
	"context"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

func TestCores(t *testing.T) {
	before := parseCores("cpu  100 0 50 800 50 0 0 0 7 0\ncpu0 1 1 1 1\n")
	assert.Equal(t, cores{busy: 1500 * time.Millisecond, all: 10 * time.Second}, before)
	after := parseCores("cpu  110 0 55 880 55 0 0 0 7 0\n")
	assert.InDelta(t, 0.15, after.share(before), 0.001)
	assert.Zero(t, cores{}.share(cores{}), "a machine that tells nothing is idle")
	assert.Equal(t, cores{}, parseCores(""))
}

func TestSettle(t *testing.T) {
	for name, c := range map[string]struct {
		shares []float64 // busy in each window; the last one goes on
		reads  int
		want   bool
	}{
		"quiet":                 {[]float64{0.1}, 3, true},
		"one gap is no rest":    {[]float64{0.9, 0.1, 0.9, 0.1, 0.1}, 6, true},
		"the bound is not rest": {[]float64{0.15}, 0, false},
		"busy":                  {[]float64{0.9}, 0, false},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			var at cores
			reads := 0
			read := func() cores {
				is := at
				share := c.shares[min(reads, len(c.shares)-1)]
				at.all += time.Second
				at.busy += time.Duration(share * float64(time.Second))
				reads++
				return is
			}
			limit := 10 * time.Second // a settled machine does not wait for it
			if !c.want {
				limit = 20 * time.Millisecond
			}
			is, err := settleBy(context.Background(), limit, time.Millisecond, read)
			require.NoError(t, err)
			assert.Equal(t, c.want, is)
			if c.want {
				assert.Equal(t, c.reads, reads)
			}
		})
	}
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	_, err := settleBy(ctx, time.Minute, time.Millisecond, readCores)
	require.ErrorIs(t, err, context.Canceled)
}
