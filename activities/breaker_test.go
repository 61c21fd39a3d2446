package activities

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/capsaga/capsaga/saga"
)

const (
	quick   = true
	patient = false
)

var errAway = &saga.Error{Class: saga.Unavailable, System: "redis", Message: "nobody listens"}

// held returns a breaker of a sink that is known to be away at the moment that
// comes with it, with all of its probes used.
func held() (*breaker, time.Time) {
	b, now := newBreaker(), time.Now()
	b.record(now, now, errAway)
	now = now.Add(breakerHold)
	for b.admit(saga.StepRedis, now, patient) == nil {
		b.record(now, now, errAway)
	}
	return b, now
}

func TestBreakerRefusesQuickAttemptsAfterAFailure(t *testing.T) {
	t.Parallel()
	b, now := newBreaker(), time.Now()
	require.NoError(t, b.admit(saga.StepRedis, now, quick))
	b.record(now, now, &saga.Error{Class: saga.Rejected})
	require.NoError(t, b.admit(saga.StepRedis, now, quick), "a rejection is an answer")
	b.record(now, now, errAway)
	err := b.admit(saga.StepRedis, now.Add(breakerOpen-1), quick)
	require.EqualError(t, err, "redis: redis failed a moment ago, so no attempt was made: nobody listens")
	require.Equal(t, saga.Unavailable, saga.ClassOf(err))
	require.NoError(t, b.admit(saga.StepRedis, now.Add(breakerOpen), quick))
	b.record(now, now, errAway)
	b.record(now, now, nil)
	require.NoError(t, b.admit(saga.StepRedis, now, quick), "a success closes it")
}

// A saga that is alone with a sink's trouble makes each of its attempts.
func TestBreakerLetsASingleSagaTry(t *testing.T) {
	t.Parallel()
	b, now := newBreaker(), time.Now()
	b.record(now, now, errAway)
	for attempt := 1; attempt < 20; attempt++ {
		require.NoError(t, b.admit(saga.StepRedis, now, patient), "attempt %d", attempt)
		b.record(now, now, errAway)
		now = now.Add(delay(attempt) / 2) // the shortest that jitter makes of it
	}
}

func TestBreakerHoldsACrowd(t *testing.T) {
	t.Parallel()
	b, now := held()
	made := 0
	for range 10_000 { // 100 attempts a second
		now = now.Add(10 * time.Millisecond)
		if b.admit(saga.StepRedis, now, patient) == nil {
			made++
			b.record(now, now, errAway)
		}
		require.Error(t, b.admit(saga.StepRedis, now, quick), "quick attempts are no probes while failures come in")
	}
	require.InDelta(t, 400, made, 1, "4 a second")
	require.ErrorContains(t, b.admit(saga.StepRedis, now, patient), "nobody listens")
}

// The sink is back: the next probe finds it within a quarter of a second, however
// long it was away, and what hung meanwhile does not open the breaker again.
func TestBreakerClosesWithTheFirstAnswer(t *testing.T) {
	t.Parallel()
	b, now := held()
	hung := now
	require.Error(t, b.admit(saga.StepRedis, now, patient))
	now = now.Add(probeEvery)
	require.NoError(t, b.admit(saga.StepRedis, now, patient))
	b.record(now, now, nil)
	b.record(hung, now.Add(time.Second), errNoAnswer)
	require.NoError(t, b.admit(saga.StepRedis, now.Add(time.Second), quick), "an attempt from before the return has no news")
	b.record(now, now.Add(2*time.Second), errAway)
	require.Error(t, b.admit(saga.StepRedis, now.Add(2*time.Second), quick), "a failure after it has")
}

// With nobody else to probe, quick attempts find out by themselves.
func TestBreakerDoesNotStayOpenForWantOfPatientAttempts(t *testing.T) {
	t.Parallel()
	b, now := held()
	require.Error(t, b.admit(saga.StepRedis, now, quick))
	require.NoError(t, b.admit(saga.StepRedis, now.Add(breakerOpen), quick))
}

func TestRequestTellsTheBreaker(t *testing.T) {
	t.Parallel()
	now := time.Now()
	a := New(Dependencies{Now: func() time.Time { return now }})
	b := a.breakers[saga.StepKafka]
	open := func() bool { return b.admit(saga.StepKafka, now, quick) != nil }

	cancelled, cancel := context.WithCancel(context.Background())
	cancel()
	require.Error(t, a.request(cancelled, saga.StepKafka, func() error { return errors.New("context canceled") }))
	require.False(t, open(), "a caller who gave up says nothing of the sink")

	// A driver that does not heed its context.
	expired, cancel := context.WithDeadline(context.Background(), time.Now().Add(-time.Second))
	defer cancel()
	err := a.request(expired, saga.StepKafka, func() error {
		require.Eventually(t, open, 5*time.Second, time.Millisecond, "the hanging request is known before it ends")
		return nil
	})
	require.NoError(t, err)
	require.False(t, open())
}
