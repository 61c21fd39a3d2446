package workflows

import (
	"errors"
	"fmt"
	"time"

	"go.temporal.io/sdk/temporal"
	"go.temporal.io/sdk/workflow"

	"github.com/capsaga/capsaga/activities"
	"github.com/capsaga/capsaga/saga"
)

// gateEffects names the activities; it is never called.
var gateEffects *activities.Gate

const (
	// firstWave is how many sagas are released when a system has come back; each
	// wave that leaves is followed by one of twice the size, up to largestWave.
	firstWave   = 10
	largestWave = 500
	// lookEvery is the time between two looks at a wave, of which there are at most
	// looksAtMost; at stillLooks of them without a change nobody waits any longer.
	lookEvery   = time.Second
	looksAtMost = 15
	stillLooks  = 3
	// poisonPause follows a wave that stays parked though its system answers.
	poisonPause = 2 * time.Second
	// firstPause is the time between two sweeps over the parked sagas. It doubles
	// while sweeps are of no use, up to longestPause.
	firstPause   = 5 * time.Second
	longestPause = time.Hour
	// gateIdle is how long a gate stays when nobody is parked and nobody parks.
	gateIdle = time.Minute
	// A probe is a single activity for as long as possible: its retries leave nothing
	// in the history. It ends now and then so that the details are told anew, soon
	// for the first time.
	firstProbe = 10 * time.Second
	laterProbe = 5 * time.Minute
)

// GateState is the argument of the gate: its system, and what one run hands over
// to the next.
type GateState struct {
	System string        `json:"system"`
	Size   int           `json:"size,omitempty"`  // of the next wave
	Pause  saga.Duration `json:"pause,omitempty"` // before the next sweep
	Heard  time.Time     `json:"heard,omitzero"`  // when a saga last said that it has parked
}

// Gate watches over one system that is away, and when it is back releases the
// sagas that are parked for it: ten at first, then in ever larger waves, so that
// a server that has just come back is not knocked down again.
//
// A sweep goes once over all parked sagas, the youngest first, as Temporal's SQL
// visibility lists them. So one that stays parked whatever its system says is
// asked once a sweep and holds nobody up, and the sweeps become rarer while they
// are of no use. The gate closes when nobody has been parked for a minute.
func Gate(ctx workflow.Context, state GateState) error {
	g := &gate{GateState: state, parked: workflow.GetSignalChannel(ctx, saga.SignalParked)}
	if g.Size == 0 {
		g.Size, g.Pause = firstWave, saga.Duration(firstPause)
	}
	for {
		over, err := g.round(ctx)
		switch {
		case errors.Is(err, errHandOver), err == nil && !over && workflow.GetInfo(ctx).GetContinueAsNewSuggested():
			g.drain(ctx)
			return workflow.NewContinueAsNewError(ctx, saga.WorkflowGate, g.GateState)
		case err != nil || over:
			return err
		}
	}
}

// errHandOver says that the history has become long enough.
var errHandOver = errors.New("hand over to a new run")

// gate is one run's state.
type gate struct {
	GateState
	parked   workflow.ReceiveChannel
	waiting  int // the sagas that were parked when last counted
	released int // by this run
}

// round waits for the system, goes over the parked sagas once and rests. It
// reports true when there is nothing left to watch for.
func (g *gate) round(ctx workflow.Context) (over bool, err error) {
	g.drain(ctx)
	if _, err := g.awaitSystem(ctx); err != nil {
		return false, err
	}
	left, err := g.sweep(ctx)
	if err != nil {
		return false, err
	}
	if err := g.count(ctx); err != nil {
		return false, err
	}
	silence := workflow.Now(ctx).Sub(g.Heard)
	if news := g.drain(ctx); g.waiting == 0 && silence >= gateIdle && !news {
		return true, nil
	}
	if left > 0 {
		g.Pause = saga.Duration(firstPause)
	}
	return false, g.rest(ctx)
}

// drain takes the signals that have come in, and reports whether there were any.
func (g *gate) drain(ctx workflow.Context) (news bool) {
	for g.parked.ReceiveAsync(nil) {
		news, g.Heard = true, workflow.Now(ctx)
	}
	return news
}

// awaitSystem returns when the system answers, and reports whether it was away.
func (g *gate) awaitSystem(ctx workflow.Context) (away bool, err error) {
	limit := firstProbe
	for {
		if !away {
			g.describe(ctx, "Asks %s whether it takes writes.", g.System)
		}
		options := gateActivity(fmt.Sprintf("is %s back?", g.System))
		options.StartToCloseTimeout, options.ScheduleToCloseTimeout = 5*time.Second, limit
		var out activities.ProbeOutput
		err := workflow.ExecuteActivity(workflow.WithActivityOptions(ctx, options), gateEffects.ProbeSystem, activities.ProbeInput{System: g.System}).Get(ctx, &out)
		if away = away || err != nil || out.Attempt > 1; away {
			g.Size, g.Pause = firstWave, saga.Duration(firstPause)
		}
		switch {
		case err == nil || ctx.Err() != nil || isFinal(err):
			return away, err
		case workflow.GetInfo(ctx).GetContinueAsNewSuggested():
			return true, errHandOver
		}
		if err := g.count(ctx); err != nil {
			return true, err
		}
		limit = laterProbe
		g.describe(ctx, "**%s is away.** %s for it. At %s it said: %s", g.System, sagasWait(g.waiting),
			workflow.Now(ctx).UTC().Format(time.DateTime), plain(probeError(err)))
	}
}

// sweep goes once over the sagas that are parked, in waves, and returns how many
// have left.
func (g *gate) sweep(ctx workflow.Context) (left int, err error) {
	var before time.Time
	for {
		wave, still, err := g.wave(ctx, before)
		if err != nil || wave.Released == 0 {
			return left, err
		}
		left += wave.Released - still
		g.released += wave.Released - still
		before = wave.From
		switch {
		case still == 0:
			g.Size = min(2*g.Size, largestWave)
		case 2*still > wave.Released:
			g.Size = firstWave
			away, err := g.awaitSystem(ctx)
			if err != nil {
				return left, err
			}
			if away {
				before = time.Time{} // those of this wave, and who has parked meanwhile
				continue
			}
			if err := g.sleep(ctx, poisonPause, "spares "+g.System); err != nil {
				return left, err
			}
		}
		if !wave.More {
			return left, nil
		}
	}
}

// wave releases some sagas and returns how many of them are parked still, when
// the others have gone.
func (g *gate) wave(ctx workflow.Context, before time.Time) (wave activities.WaveOutput, still int, err error) {
	g.describe(ctx, "%s answers. Releases the sagas that wait for it, %d at a time; %d have left.", g.System, g.Size, g.released)
	options := gateActivity(fmt.Sprintf("release up to %d sagas", g.Size))
	in := activities.WaveInput{System: g.System, Size: g.Size, Before: before}
	err = workflow.ExecuteActivity(workflow.WithActivityOptions(ctx, options), gateEffects.ReleaseWave, in).Get(ctx, &wave)
	if err != nil || wave.Released == 0 {
		return wave, 0, err
	}
	still = wave.Released
	for look, unchanged := 0, 0; look < looksAtMost && still > 0 && unchanged < stillLooks; look++ {
		if err := g.sleep(ctx, lookEvery, fmt.Sprintf("%d released", wave.Released)); err != nil {
			return wave, still, err
		}
		n, err := g.countOf(ctx, activities.CountInput{System: g.System, From: wave.From, To: wave.To})
		if err != nil {
			return wave, still, err
		}
		if n >= still {
			unchanged++
			continue
		}
		still, unchanged = n, 0
	}
	return wave, still, nil
}

// rest waits before the next sweep, and not as long when a saga has parked
// meanwhile. That may be one that was released for nothing, whose news must not
// keep it from its rest.
func (g *gate) rest(ctx workflow.Context) error {
	pause := time.Duration(g.Pause)
	g.Pause = min(2*g.Pause, saga.Duration(longestPause))
	if g.waiting == 0 {
		g.describe(ctx, "%s answers and no saga waits for it. Closes when none parks for %s.", g.System, gateIdle)
		pause = min(pause, max(gateIdle-workflow.Now(ctx).Sub(g.Heard), firstPause))
	} else {
		g.describe(ctx, "%s answers, yet %s for it and stayed parked when they were released. Tries them again at %s. To see them: `capsaga list --status parked --blocked-on %s`",
			g.System, sagasWait(g.waiting), workflow.Now(ctx).Add(pause).UTC().Format(time.DateTime), g.System)
	}
	summary := fmt.Sprintf("%d parked", g.waiting)
	if err := g.sleep(ctx, pause/4, summary); err != nil {
		return err
	}
	if g.drain(ctx) {
		return nil
	}
	resting, cancel := workflow.WithCancel(ctx)
	defer cancel()
	timer := workflow.NewTimerWithOptions(resting, pause-pause/4, workflow.TimerOptions{Summary: summary})
	workflow.NewSelector(ctx).AddFuture(timer, func(workflow.Future) {}).AddReceive(g.parked, func(workflow.ReceiveChannel, bool) {}).Select(ctx)
	return ctx.Err()
}

func (g *gate) count(ctx workflow.Context) (err error) {
	g.waiting, err = g.countOf(ctx, activities.CountInput{System: g.System})
	return err
}

func (g *gate) countOf(ctx workflow.Context, in activities.CountInput) (int, error) {
	var out activities.CountOutput
	options := gateActivity("who is parked?")
	err := workflow.ExecuteActivity(workflow.WithActivityOptions(ctx, options), gateEffects.CountParked, in).Get(ctx, &out)
	return out.Parked, err
}

func (g *gate) sleep(ctx workflow.Context, d time.Duration, summary string) error {
	return workflow.NewTimerWithOptions(ctx, d, workflow.TimerOptions{Summary: summary}).Get(ctx, nil)
}

func (g *gate) describe(ctx workflow.Context, format string, args ...any) {
	workflow.SetCurrentDetails(ctx, fmt.Sprintf(format, args...))
}

// gateActivity returns options of an activity that is tried until it succeeds.
func gateActivity(summary string) workflow.ActivityOptions {
	return workflow.ActivityOptions{
		StartToCloseTimeout: time.Minute,
		RetryPolicy:         &temporal.RetryPolicy{InitialInterval: time.Second, BackoffCoefficient: 2, MaximumInterval: 15 * time.Second},
		Summary:             summary,
	}
}

// isFinal reports whether an activity will never succeed.
func isFinal(err error) bool {
	var app *temporal.ApplicationError
	return errors.As(err, &app) && app.NonRetryable()
}

// probeError says why a probe failed.
func probeError(err error) string {
	var app *temporal.ApplicationError
	if errors.As(err, &app) {
		return app.Message()
	}
	return "no answer in time"
}

func sagasWait(n int) string {
	if n == 1 {
		return "1 saga waits"
	}
	return fmt.Sprintf("%d sagas wait", n)
}
