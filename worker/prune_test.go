package worker

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

func TestPruneAllGoesOnUntilABatchIsNotFull(t *testing.T) {
	t.Parallel()
	left := 2*pruneBatch + 3
	batches := 0
	prune := func(_ context.Context, olderThan time.Duration, limit int) (int, error) {
		require.Equal(t, time.Hour, olderThan)
		batches++
		n := min(left, limit)
		left -= n
		return n, nil
	}
	n, err := pruneAll(t.Context(), time.Hour, prune)
	require.NoError(t, err)
	require.Equal(t, 2*pruneBatch+3, n)
	require.Equal(t, 3, batches)

	n, err = pruneAll(t.Context(), time.Hour, func(context.Context, time.Duration, int) (int, error) { return 0, errors.New("away") })
	require.EqualError(t, err, "away")
	require.Zero(t, n)

	ended, cancel := context.WithCancel(t.Context())
	cancel()
	n, err = pruneAll(ended, time.Hour, func(_ context.Context, _ time.Duration, limit int) (int, error) { return limit, nil })
	require.NoError(t, err)
	require.Equal(t, pruneBatch, n, "a worker that stops does not go on")
}
