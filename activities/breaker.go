package activities

import (
	"fmt"
	"sync"
	"time"

	"github.com/capsaga/capsaga/saga"
)

// breakerOpen is how long quick attempts are refused after one has failed.
const breakerOpen = 2 * time.Second

// breaker spares a sink that was just seen away its quick attempts: they would
// hold up their workflow's answer for a time-out each. Patient attempts are not
// held back, and the first success closes the breaker.
type breaker struct {
	mu     sync.Mutex
	until  time.Time
	reason string
}

// check returns an error while quick attempts are refused.
func (b *breaker) check(step saga.StepName, now time.Time) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	if !now.Before(b.until) {
		return nil
	}
	return &saga.Error{
		Class: saga.Unavailable, System: string(step), Code: saga.CodeUnavailable,
		Message: fmt.Sprintf("%s failed a moment ago, so no quick attempt was made: %s", step, b.reason),
	}
}

// record takes an attempt's error into account, nil for success.
func (b *breaker) record(now time.Time, err error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	switch {
	case err == nil:
		b.until = time.Time{}
	case saga.ClassOf(err) != saga.Rejected:
		b.until, b.reason = now.Add(breakerOpen), err.Error()
	}
}
