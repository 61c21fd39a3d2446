package bench

import (
	"context"
	"time"
)

// The machine is at rest when little of it was busy in some windows in a row: one
// alone may be the gap between two merges. Idle servers take a few percent.
const (
	restWindow  = 500 * time.Millisecond
	restWindows = 2
	restShare   = 0.15
)

// settle waits until the machine is at rest, and returns false if it was not within
// the limit. Where the machine does not tell, it is taken to be.
func settle(ctx context.Context, limit time.Duration) (bool, error) {
	return settleBy(ctx, limit, restWindow, readCores)
}

func settleBy(ctx context.Context, limit, window time.Duration, read func() cores) (bool, error) {
	deadline := time.Now().Add(limit)
	before, quiet := read(), 0
	for time.Now().Before(deadline) {
		if !pause(ctx, min(window, time.Until(deadline))) {
			return false, ctx.Err()
		}
		after := read()
		if quiet++; after.share(before) >= restShare {
			quiet = 0
		}
		if quiet == restWindows {
			return true, nil
		}
		before = after
	}
	return false, nil
}
