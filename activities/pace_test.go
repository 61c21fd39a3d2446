package activities

import (
	"container/heap"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/capsaga/capsaga/saga"
)

func TestPaceOfASingleSagaIsItsBackoff(t *testing.T) {
	t.Parallel()
	var p pace
	now := time.Now()
	for attempt := 1; attempt <= 30; attempt++ {
		own := jittered(delay(attempt))
		require.Equal(t, own, p.book("redis", now, own), "attempt %d", attempt)
		now = now.Add(own)
	}
}

// A saga that has waited for long does not make a new one wait as long.
func TestPaceGivesTheFirstMomentThatHasRoom(t *testing.T) {
	t.Parallel()
	var p pace
	now := time.Unix(1000, 0)
	require.Equal(t, 30*time.Second, p.book("redis", now, 30*time.Second))
	for range paceRoom {
		require.Equal(t, 150*time.Millisecond, p.book("redis", now, 150*time.Millisecond))
	}
	require.Equal(t, 200*time.Millisecond, p.book("redis", now, 150*time.Millisecond), "the next place")
	require.Equal(t, 220*time.Millisecond, p.book("redis", now, 150*time.Millisecond), "beside it")
	require.Equal(t, 150*time.Millisecond, p.book("kafka", now, 150*time.Millisecond), "another system")
}

// When the system is back, who fails then does not queue behind those who will not.
func TestPaceForgetsTheCrowdOfASystemThatIsBack(t *testing.T) {
	t.Parallel()
	a := New(Dependencies{})
	b, now := a.breakers[saga.StepRedis], time.Now()
	a.Now = func() time.Time { return now }
	away := &saga.Error{Class: saga.Unavailable, System: "redis", Message: "away"}
	require.Error(t, a.request(t.Context(), saga.StepRedis, func() error { return away }))
	require.False(t, b.failing.IsZero())
	for range 10_000 {
		a.pace.book("redis", now, time.Second)
	}
	require.Greater(t, a.pace.book("redis", now, time.Second), 20*time.Second)
	now = now.Add(time.Minute)
	require.NoError(t, a.request(t.Context(), saga.StepRedis, func() error { return nil }))
	require.Equal(t, time.Second, a.pace.book("redis", now, time.Second))

	// Answers of a system that was not away clear nothing: others may fail beside them.
	for range 10_000 {
		a.pace.book("redis", now, time.Second)
	}
	require.NoError(t, a.request(t.Context(), saga.StepRedis, func() error { return nil }))
	require.Greater(t, a.pace.book("redis", now, time.Second), 20*time.Second)
}

// moments is a heap of attempts to come.
type moments []waiting

type waiting struct {
	at      time.Time
	attempt int
}

func (m moments) Len() int           { return len(m) }
func (m moments) Less(i, j int) bool { return m[i].at.Before(m[j].at) }
func (m moments) Swap(i, j int)      { m[i], m[j] = m[j], m[i] }
func (m *moments) Push(x any)        { *m = append(*m, x.(waiting)) } //nolint:forcetypeassert // a heap of these alone
func (m *moments) Pop() any {
	last := (*m)[len(*m)-1]
	*m = (*m)[:len(*m)-1]
	return last
}

// A sink is away for ten minutes while sagas wait for it.
func TestPaceOfACrowd(t *testing.T) {
	t.Parallel()
	for _, test := range []struct{ sagas, perSecond int }{{100, 51}, {3000, 56}, {5000, 160}, {10_000, 320}} {
		var p pace
		begin := time.Unix(1_000_000, 0)
		crowd := &moments{}
		for i := range test.sagas { // they come in at 200 a second
			heap.Push(crowd, waiting{begin.Add(time.Duration(i) * 5 * time.Millisecond), 1})
		}
		perSecond := map[int64]int{}
		for (*crowd)[0].at.Before(begin.Add(10 * time.Minute)) {
			w := heap.Pop(crowd).(waiting) //nolint:forcetypeassert // a heap of these alone
			if w.attempt > 1 {
				perSecond[w.at.Unix()]++
			}
			next := p.book("redis", w.at, jittered(delay(w.attempt)))
			require.Positive(t, next)
			require.LessOrEqual(t, next, paceHorizon+paceGrain, "a saga waits no longer after the sink's return")
			heap.Push(crowd, waiting{w.at.Add(next), w.attempt + 1})
		}
		most := 0
		for _, n := range perSecond {
			most = max(most, n)
		}
		t.Logf("%d sagas: at most %d attempts in a second", test.sagas, most)
		require.LessOrEqual(t, most, test.perSecond, "%d sagas", test.sagas)
		require.LessOrEqual(t, len(p.booked["redis"]), int(2*pacePlaces)+1, "what has passed is forgotten")
	}
}
