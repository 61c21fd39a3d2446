package activities

import (
	"context"
	"time"

	"go.temporal.io/sdk/activity"

	"github.com/capsaga/capsaga/internal/notify"
	"github.com/capsaga/capsaga/saga"
)

// Dependencies are what the activities work with. A sink that no entity of the
// catalog uses may be nil.
type Dependencies struct {
	Catalog       *saga.Catalog
	Committer     Committer
	Batches       BatchCommitter
	Changer       Changer
	Ledger        Ledger
	Rows          Rows
	Redis         Sink
	Elasticsearch Sink
	Positions     Positions
	Gates         Gates // optional

	Notifier *notify.Hub      // optional: tells waiters in this process
	Observer Observer         // optional
	Now      func() time.Time // default time.Now
	// ImageBytes bounds the memory for rows between their commit and their sinks;
	// default 64 MiB. A row that is not there any more is read again.
	ImageBytes int
}

// Saga is the activities of a saga. All its exported methods are activities.
type Saga struct {
	Dependencies
	images   *images
	early    earlyCommits
	breakers map[saga.StepName]*breaker
	pace     pace
}

// New returns the activities.
func New(d Dependencies) *Saga {
	if d.Now == nil {
		d.Now = time.Now
	}
	if d.ImageBytes == 0 {
		d.ImageBytes = defaultImageBytes
	}
	breakers := map[saga.StepName]*breaker{}
	for _, sink := range saga.Sinks {
		breakers[saga.StepName(sink)] = newBreaker()
	}
	return &Saga{
		Dependencies: d, images: newImages(d.ImageBytes), breakers: breakers,
		early: earlyCommits{sagas: map[string]*earlyCommit{}},
	}
}

// attempt runs one attempt of a step: within a deadline that leaves time to
// answer, observed, and with its error made Temporal's.
func (a *Saga) attempt(ctx context.Context, step saga.StepName, effect func(ctx context.Context) error) error {
	started := a.Now()
	info := activity.GetInfo(ctx)
	bounded, cancel := beforeDeadline(ctx)
	defer cancel()
	err := effect(bounded)
	class := saga.Class("")
	if err != nil {
		class = saga.ClassOf(err)
	}
	if a.Observer != nil {
		a.Observer.StepAttempt(step, info.IsLocalActivity, a.Now().Sub(started), class)
	}
	if err == nil {
		return nil
	}
	next := jittered(delay(int(info.Attempt)))
	if !info.IsLocalActivity { // a quick attempt is not repeated: what follows is the first patient one
		next = a.pace.book(systemOf(step), a.Now(), next)
	}
	return failure(step, err, int(info.Attempt), next)
}

// beforeDeadline ends an attempt a little before Temporal does. What is answered
// after Temporal's own deadline is thrown away, and with it the reason.
func beforeDeadline(ctx context.Context) (context.Context, context.CancelFunc) {
	deadline, ok := ctx.Deadline()
	if !ok {
		return context.WithCancel(ctx)
	}
	margin := min(time.Until(deadline)/10, 250*time.Millisecond)
	return context.WithDeadline(ctx, deadline.Add(-margin))
}
