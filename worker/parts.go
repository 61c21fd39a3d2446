package worker

import (
	"context"
	"errors"

	"golang.org/x/sync/errgroup"
)

// parts are the goroutines that a worker runs beside its sagas. They end when
// the worker has drained.
type parts struct {
	ctx   context.Context
	group *errgroup.Group
}

func newParts(ctx context.Context) *parts {
	return &parts{ctx: ctx, group: &errgroup.Group{}}
}

func (p *parts) start(run func(context.Context) error) {
	p.group.Go(func() error { return run(p.ctx) })
}

// stop ends all parts, waits for them and returns what went wrong.
func (p *parts) stop(cancel context.CancelFunc, err error) error {
	cancel()
	return errors.Join(err, p.group.Wait())
}
