package activities

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"golang.org/x/time/rate"

	"github.com/capsaga/capsaga/saga"
)

const (
	// breakerOpen is how long quick attempts are refused after one has failed.
	breakerOpen = 2 * time.Second
	// breakerHold is how long a sink fails without a success between before patient
	// attempts are held back too. A sink that is only slow succeeds sooner.
	breakerHold = time.Second
	// probeEvery is how often an attempt goes through to a sink that is held away,
	// so its return is noticed that soon. probeBurst lets a few sagas that are alone
	// with their trouble have their plain backoff.
	probeEvery = 250 * time.Millisecond
	probeBurst = 4
)

// breaker spares everyone a sink that does not answer. A quick attempt would
// hold up its workflow's answer for a time-out, and thousands of patient ones
// would take all of the worker's activity slots for theirs. So while the sink is
// known to be away, a few attempts a second find out whether it is back, and the
// others fail at once with the last reason. The first answer closes the breaker.
//
// It is about requests that failed as a whole. A sink that answers and refuses a
// row, even for now, as an index that is blocked among others that are not, is
// not away.
type breaker struct {
	probes *rate.Limiter

	mu       sync.Mutex
	answered time.Time // when the last answer came
	failing  time.Time // since when there was none; zero: the breaker is closed
	until    time.Time // no quick attempts before
	reason   string
}

func newBreaker() *breaker {
	return &breaker{probes: rate.NewLimiter(rate.Every(probeEvery), probeBurst)}
}

// admit returns an error for an attempt that is not to be made now.
func (b *breaker) admit(step saga.StepName, now time.Time, quick bool) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	switch {
	case b.failing.IsZero():
		return nil
	case quick && now.Before(b.until):
	case now.Sub(b.failing) < breakerHold:
		return nil
	case b.probes.AllowN(now, 1):
		return nil
	}
	return &saga.Error{
		Class: saga.Unavailable, System: systemOf(step), Code: saga.CodeUnavailable,
		Message: fmt.Sprintf("%s failed a moment ago, so no attempt was made: %s", systemOf(step), b.reason),
	}
}

// record takes an attempt's end into account; err is nil when the sink answered.
// A failure of an attempt that began before the last answer says nothing new. It
// reports whether the sink is back by this answer.
func (b *breaker) record(began, now time.Time, err error) (back bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	switch {
	case err == nil || saga.ClassOf(err) == saga.Rejected:
		back = !b.failing.IsZero()
		b.answered, b.failing, b.until = now, time.Time{}, time.Time{}
	case !began.Before(b.answered):
		if b.failing.IsZero() {
			b.failing = now
		}
		b.until, b.reason = now.Add(breakerOpen), reasonOf(err)
	}
	return back
}

// reasonOf is what an error says without its system.
func reasonOf(err error) string {
	var classified *saga.Error
	if errors.As(err, &classified) {
		return classified.Message
	}
	return err.Error()
}

// request makes one request of a step to its sink and lets the breaker know how
// that went.
func (a *Saga) request(ctx context.Context, step saga.StepName, do func() error) error {
	b, began := a.breakers[step], a.Now()
	note := func(err error) {
		// A caller who gave up says nothing about the sink.
		if err == nil || !errors.Is(ctx.Err(), context.Canceled) {
			if b.record(began, a.Now(), err) {
				a.pace.clear(systemOf(step))
			}
		}
	}
	// A driver that hangs beyond its context has failed too.
	stop := context.AfterFunc(ctx, func() { note(errNoAnswer) })
	err := do()
	stop()
	note(err)
	return err
}

var errNoAnswer = errors.New("no answer in time")
