package bench

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	sdkclient "go.temporal.io/sdk/client"

	"github.com/capsaga/capsaga/saga/client"
)

// measureWorkers goes along the number of workers, each in a process of its own; the
// callers are in this one.
func measureWorkers(ctx context.Context, s *scaling) ([]Point, error) {
	c, err := client.New(client.Options{Temporal: s.instance.temporal, Prefix: s.instance.config.Prefix, Group: wholeBatches})
	if err != nil {
		return nil, err
	}
	return s.along(s.options.Workers, func(n int) (sample scaleSample, err error) {
		f := &fleet{scaling: s, client: c}
		defer func() { err = errors.Join(err, f.close()) }()
		if err := f.open(ctx, n); err != nil {
			return sample, err
		}
		return s.turn(ctx, shape{
			client: c, explain: f.explain, others: f.pids(),
			batch: s.options.Batch, rows: s.fresh(s.options.RowBytes),
		})
	})
}

// fleet is some workers in processes of their own.
type fleet struct {
	*scaling
	client  *client.Client
	workers []*remote
}

// open starts n workers and waits until all of them take work.
func (f *fleet) open(ctx context.Context, n int) error {
	o := f.options
	for range n {
		r, err := startRemote(f.instance, &Options{Program: o.Program, Arguments: o.Arguments, Environ: o.Environ})
		if err != nil {
			return err
		}
		f.workers = append(f.workers, r)
	}
	id := f.next
	f.next++
	if err := f.instance.ready(ctx, f.client, id, o.RowBytes, f.explain); err != nil {
		return err
	}
	return f.polling(ctx)
}

// polling waits until Temporal has heard of every worker.
func (f *fleet) polling(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, readyTimeout)
	defer cancel()
	queue := f.instance.config.Prefix.TaskQueue()
	for {
		// The plain form tells of one partition of the queue alone, where a worker may
		// have no poller.
		//nolint:staticcheck // what is to replace it does not tell of workers without a version
		described, err := f.instance.temporal.DescribeTaskQueueEnhanced(ctx, sdkclient.DescribeTaskQueueEnhancedOptions{
			TaskQueue: queue, TaskQueueTypes: []sdkclient.TaskQueueType{sdkclient.TaskQueueTypeWorkflow}, ReportPollers: true,
		})
		var pollers []sdkclient.TaskQueuePollerInfo
		for _, version := range described.VersionsInfo { //nolint:staticcheck // as above
			pollers = append(pollers, version.TypesInfo[sdkclient.TaskQueueTypeWorkflow].Pollers...)
		}
		missing := 0
		for _, pid := range f.pids() {
			if !polls(pollers, pid) {
				missing++
			}
		}
		if err == nil && missing == 0 {
			return nil
		}
		if !pause(ctx, 100*time.Millisecond) {
			return f.explain(errors.Join(fmt.Errorf("%d of %d workers do not poll after %s", missing, len(f.workers), readyTimeout), err))
		}
	}
}

// polls looks for a process among the pollers, whose identities begin with its id.
func polls(pollers []sdkclient.TaskQueuePollerInfo, pid int) bool {
	for _, poller := range pollers {
		if strings.HasPrefix(poller.Identity, fmt.Sprintf("%d@", pid)) {
			return true
		}
	}
	return false
}

func (f *fleet) pids() []int {
	pids := make([]int, len(f.workers))
	for i, r := range f.workers {
		pids[i] = r.pid()
	}
	return pids
}

// explain adds to an error what the workers said.
func (f *fleet) explain(err error) error {
	for _, r := range f.workers {
		err = r.explain(err)
	}
	return err
}

func (f *fleet) close() error {
	var errs []error
	for _, r := range f.workers {
		errs = append(errs, r.close())
	}
	return errors.Join(errs...)
}
