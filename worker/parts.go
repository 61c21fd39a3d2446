package worker

import (
	"context"
	"errors"

	"golang.org/x/sync/errgroup"
)

// parts are the goroutines that a worker runs beside its sagas. They end when
// the worker has drained.
type parts struct {
	group  errgroup.Group
	cancel []context.CancelFunc
}

// start runs a part until stop.
func (p *parts) start(ctx context.Context, run func(context.Context) error) {
	ctx, cancel := context.WithCancel(context.WithoutCancel(ctx))
	p.cancel = append(p.cancel, cancel)
	p.group.Go(func() error { return run(ctx) })
}

// stop ends all parts, waits for them and returns what went wrong.
func (p *parts) stop(err error) error {
	for _, cancel := range p.cancel {
		cancel()
	}
	return errors.Join(err, p.group.Wait())
}
