package activities

import (
	"context"
	"fmt"
	"sync/atomic"
	"time"

	"go.temporal.io/sdk/activity"
	"go.temporal.io/sdk/temporal"
	"golang.org/x/sync/errgroup"

	"github.com/capsaga/capsaga/saga"
)

// ParkedSaga is the workflow of a saga that waits for a system.
type ParkedSaga struct {
	WorkflowID string
	RunID      string
	StartedAt  time.Time
}

// ParkedSagas finds the sagas that are parked because a system was away.
type ParkedSagas interface {
	// List returns up to limit of them that began before a moment, the youngest
	// first; a zero moment leaves none out.
	List(ctx context.Context, system string, before time.Time, limit int) ([]ParkedSaga, error)
	// Count counts those that began from one moment to another, both included; zero
	// moments leave none out.
	Count(ctx context.Context, system string, from, to time.Time) (int, error)
	// Release tells one that the system is back. One that has ended is no error.
	Release(ctx context.Context, p ParkedSaga, system string) error
}

// Gate is the activities of the gates. All its exported methods are activities.
type Gate struct {
	// Probers ask a system whether it takes writes, by the system's name. One that
	// only asks whether it listens would release sagas to a server that is full, or
	// that has become a replica.
	Probers map[string]func(ctx context.Context) error
	Parked  ParkedSagas
}

// ProbeInput is the input of ProbeSystem.
type ProbeInput struct {
	System string `json:"system"`
}

// ProbeOutput is the result of ProbeSystem.
type ProbeOutput struct {
	Attempt int `json:"attempt"` // more than one: the system was away at first
}

// ProbeSystem fails, and is retried, while a system is away.
func (g *Gate) ProbeSystem(ctx context.Context, in ProbeInput) (ProbeOutput, error) {
	probe, ok := g.Probers[in.System]
	if !ok {
		return ProbeOutput{}, temporal.NewNonRetryableApplicationError(fmt.Sprintf("no worker can probe %q", in.System), saga.CodeRejected, nil)
	}
	bounded, cancel := beforeDeadline(ctx)
	defer cancel()
	if err := probe(bounded); err != nil {
		e := errorInfo(saga.StepName(in.System), err)
		// What the system rejects, such as a password, can be mended too.
		return ProbeOutput{}, temporal.NewApplicationError(e.Message, string(e.Class))
	}
	return ProbeOutput{Attempt: int(activity.GetInfo(ctx).Attempt)}, nil
}

// CountInput is the input of CountParked.
type CountInput struct {
	System string    `json:"system"`
	From   time.Time `json:"from,omitzero"`
	To     time.Time `json:"to,omitzero"`
}

// CountOutput is the result of CountParked.
type CountOutput struct {
	Parked int `json:"parked"`
}

// CountParked counts the sagas that are parked for a system.
func (g *Gate) CountParked(ctx context.Context, in CountInput) (CountOutput, error) {
	n, err := g.Parked.Count(ctx, in.System, in.From, in.To)
	return CountOutput{Parked: n}, err
}

// WaveInput is the input of ReleaseWave.
type WaveInput struct {
	System string    `json:"system"`
	Size   int       `json:"size"`
	Before time.Time `json:"before,omitzero"`
}

// WaveOutput is the result of ReleaseWave.
type WaveOutput struct {
	Released int `json:"released"`
	// From and To say when the oldest and the youngest of the wave began.
	From time.Time `json:"from,omitzero"`
	To   time.Time `json:"to,omitzero"`
	More bool      `json:"more"` // there may be older ones
}

// releaseAtOnce is how many sagas are signalled side by side.
const releaseAtOnce = 16

// ReleaseWave tells some parked sagas that their system is back. Run again, it
// tells some of them twice, which costs an attempt and changes nothing.
func (g *Gate) ReleaseWave(ctx context.Context, in WaveInput) (WaveOutput, error) {
	sagas, err := g.Parked.List(ctx, in.System, in.Before, in.Size)
	if err != nil || len(sagas) == 0 {
		return WaveOutput{}, err
	}
	out := WaveOutput{From: sagas[len(sagas)-1].StartedAt, To: sagas[0].StartedAt, More: len(sagas) >= in.Size}
	var released atomic.Int64
	var failed atomic.Pointer[error]
	var group errgroup.Group
	group.SetLimit(releaseAtOnce)
	for _, p := range sagas {
		group.Go(func() error {
			if err := g.Parked.Release(ctx, p, in.System); err != nil {
				failed.Store(&err)
				return nil // its neighbours are not held up; the next sweep finds it again
			}
			released.Add(1)
			return nil
		})
	}
	_ = group.Wait()
	if out.Released = int(released.Load()); out.Released == 0 {
		return WaveOutput{}, *failed.Load()
	}
	return out, nil
}
