package workflows_test

import (
	"context"
	"errors"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	sdkpb "go.temporal.io/api/sdk/v1"
	"go.temporal.io/sdk/temporal"
	"go.temporal.io/sdk/testsuite"
	"go.temporal.io/sdk/workflow"

	"github.com/capsaga/capsaga/activities"
	"github.com/capsaga/capsaga/internal/activitytest"
	"github.com/capsaga/capsaga/saga"
	"github.com/capsaga/capsaga/workflows"
)

// gated is the sagas that are parked for one system, and that system.
type gated struct {
	mu       sync.Mutex
	away     func(probe int) bool // by the number of the probe, from 1 on
	stubborn func(started time.Time) bool
	parked   []time.Time // when each began, the youngest first
	probes   int
	waves    []int             // how many were released in each
	asked    map[time.Time]int // how often each was released
	moments  []time.Time       // when each wave was
	onCount  func(c *gated)    // at each count of all
	env      *testsuite.TestWorkflowEnvironment
}

func newGated(t *testing.T, parked int) *gated {
	t.Helper()
	var suite testsuite.WorkflowTestSuite
	suite.SetLogger(activitytest.Quiet{})
	c := &gated{env: suite.NewTestWorkflowEnvironment(), asked: map[time.Time]int{}}
	c.away = func(int) bool { return false }
	c.stubborn = func(time.Time) bool { return false }
	began := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	for i := range parked {
		c.parked = append(c.parked, began.Add(-time.Duration(i)*time.Millisecond))
	}
	c.env.RegisterWorkflowWithOptions(workflows.Gate, workflow.RegisterOptions{Name: saga.WorkflowGate})
	c.env.RegisterActivity(&activities.Gate{
		Parked:  c,
		Probers: map[string]func(context.Context) error{"redis": c.probe},
	})
	c.env.SetTestTimeout(time.Minute)
	return c
}

func (c *gated) probe(context.Context) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.probes++
	if c.away(c.probes) {
		return &saga.Error{Class: saga.Unavailable, System: "redis", Message: "nobody listens"}
	}
	return nil
}

func (c *gated) List(_ context.Context, system string, before time.Time, limit int) ([]activities.ParkedSaga, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if system != "redis" {
		return nil, errors.New("another system")
	}
	var wave []activities.ParkedSaga
	for _, began := range c.parked {
		if len(wave) < limit && (before.IsZero() || began.Before(before)) {
			wave = append(wave, activities.ParkedSaga{StartedAt: began})
		}
	}
	if len(wave) > 0 {
		c.waves = append(c.waves, len(wave))
		c.moments = append(c.moments, c.env.Now())
	}
	return wave, nil
}

func (c *gated) Count(_ context.Context, _ string, from, to time.Time) (n int, err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if from.IsZero() && c.onCount != nil {
		c.onCount(c)
	}
	for _, began := range c.parked {
		if from.IsZero() || !began.Before(from) && !began.After(to) {
			n++
		}
	}
	return n, nil
}

func (c *gated) Release(_ context.Context, p activities.ParkedSaga, _ string) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.asked[p.StartedAt]++
	if !c.stubborn(p.StartedAt) {
		c.parked = slices.DeleteFunc(c.parked, p.StartedAt.Equal)
	}
	return nil
}

// details returns what the Temporal UI shows of the gate.
func (c *gated) details(t *testing.T) string {
	t.Helper()
	value, err := c.env.QueryWorkflow("__temporal_workflow_metadata")
	require.NoError(t, err)
	var metadata sdkpb.WorkflowMetadata
	require.NoError(t, value.Get(&metadata))
	return metadata.GetCurrentDetails()
}

// run plays a gate that a saga has just signalled.
func (c *gated) run(t *testing.T) {
	t.Helper()
	c.env.RegisterDelayedCallback(func() { c.env.SignalWorkflow(saga.SignalParked, nil) }, 0)
	c.env.ExecuteWorkflow(saga.WorkflowGate, workflows.GateState{System: "redis"})
	require.True(t, c.env.IsWorkflowCompleted())
}

func TestGateReleasesInGrowingWaves(t *testing.T) {
	t.Parallel()
	c := newGated(t, 2000)
	c.away = func(probe int) bool { return probe <= 20 }
	began := c.env.Now()
	c.run(t)
	require.NoError(t, c.env.GetWorkflowError())
	require.Equal(t, []int{10, 20, 40, 80, 160, 320, 500, 500, 370}, c.waves)
	require.Empty(t, c.parked)
	require.Len(t, c.asked, 2000)
	for began, n := range c.asked {
		require.Equal(t, 1, n, "each was told once, also that of %s", began)
	}
	require.GreaterOrEqual(t, c.moments[0].Sub(began), 2*time.Minute, "not before the system answered")
	require.Less(t, c.moments[8].Sub(c.moments[0]), 20*time.Second)
	require.Less(t, c.env.Now().Sub(c.moments[8]), 3*time.Minute, "it closes when nobody is parked any more")
}

// A wave knocks the server down again: the gate starts small when it is back.
func TestGateStartsSmallAgain(t *testing.T) {
	t.Parallel()
	c := newGated(t, 1000)
	c.stubborn = func(time.Time) bool { return len(c.waves) == 4 }
	probes := 0
	c.away = func(probe int) bool {
		if len(c.waves) == 4 && probes == 0 {
			probes = probe
		}
		return probes > 0 && probe < probes+5
	}
	c.run(t)
	require.NoError(t, c.env.GetWorkflowError())
	require.Equal(t, []int{10, 20, 40, 80, 10, 20, 40, 80, 160, 320, 300}, c.waves)
	require.Empty(t, c.parked)
}

// One saga stays parked whatever its system says: the others leave, and it is
// tried ever more rarely.
func TestGateIsNotWedgedByAPoisonSaga(t *testing.T) {
	t.Parallel()
	c := newGated(t, 50)
	poison := c.parked[3]
	c.stubborn = poison.Equal
	c.onCount = func(c *gated) { // it says each time that it has parked again
		if len(c.waves) > 0 && len(c.waves) < 20 {
			c.env.RegisterDelayedCallback(func() { c.env.SignalWorkflow(saga.SignalParked, nil) }, time.Second)
		}
	}
	var details string
	c.env.RegisterDelayedCallback(func() { details = c.details(t) }, 25*time.Minute)
	c.env.RegisterDelayedCallback(c.env.CancelWorkflow, 24*time.Hour)
	c.run(t)
	require.True(t, temporal.IsCanceledError(c.env.GetWorkflowError()), "it never gives the saga up: %v", c.env.GetWorkflowError())
	require.Equal(t, []time.Time{poison}, c.parked)
	require.Contains(t, details, "redis answers, yet 1 saga waits for it")
	require.Less(t, c.asked[poison], 60, "in a day")
	require.Greater(t, c.asked[poison], 20)
	for i, n := range c.asked {
		require.True(t, i.Equal(poison) || n == 1)
	}
}

func TestGateGoesOnPastManyPoisonSagas(t *testing.T) {
	t.Parallel()
	c := newGated(t, 300)
	oldestPoison := c.parked[99]
	c.stubborn = func(began time.Time) bool { return !began.Before(oldestPoison) }
	c.env.RegisterDelayedCallback(c.env.CancelWorkflow, 10*time.Minute)
	c.run(t)
	require.Len(t, c.parked, 100, "all others have left")
}

// Whoever parks just before the gate closes is not forgotten.
func TestGateLooksOnceMoreBeforeItCloses(t *testing.T) {
	t.Parallel()
	c := newGated(t, 1)
	latecomer := time.Date(2026, 1, 1, 1, 0, 0, 0, time.UTC)
	began := c.env.Now()
	late := false
	c.onCount = func(c *gated) {
		if !late && c.env.Now().Sub(began) > 50*time.Second { // the look before the end
			late = true
			c.parked = append(c.parked, latecomer)
			c.env.SignalWorkflow(saga.SignalParked, nil)
		}
	}
	c.run(t)
	require.NoError(t, c.env.GetWorkflowError())
	require.True(t, late)
	require.Equal(t, 1, c.asked[latecomer])
	require.Empty(t, c.parked)
}

// While the system is away its gate says so, and since its history must not grow
// for ever it hands over to a new run in time.
func TestGateTellsThatTheSystemIsAway(t *testing.T) {
	t.Parallel()
	c := newGated(t, 10_000)
	c.away = func(int) bool { return true }
	var details string
	c.env.RegisterDelayedCallback(func() { details = c.details(t) }, 30*time.Minute)
	c.env.RegisterDelayedCallback(func() { c.env.SetContinueAsNewSuggested(true) }, 2*time.Hour)
	c.run(t)
	require.Contains(t, details, "**redis is away.** 10000 sagas wait for it.")
	require.Contains(t, details, "it said: nobody listens")
	require.Empty(t, c.waves)
	var next *workflow.ContinueAsNewError
	require.ErrorAs(t, c.env.GetWorkflowError(), &next)
	require.Equal(t, saga.WorkflowGate, next.WorkflowType.Name)
}

func TestGateOfASystemThatNobodyCanProbe(t *testing.T) {
	t.Parallel()
	c := newGated(t, 1)
	c.env.ExecuteWorkflow(saga.WorkflowGate, workflows.GateState{System: "reserve"})
	require.True(t, c.env.IsWorkflowCompleted())
	require.ErrorContains(t, c.env.GetWorkflowError(), `no worker can probe "reserve"`)
}
