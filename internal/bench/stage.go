package bench

import (
	"context"
	"errors"
	"slices"
)

// stage is where contestants that need the same worker take their turns.
type stage struct {
	place    place
	instance *instance
	embedded *embedded
	remote   *remote
	bare     *bare
}

// open starts the worker of a place and waits until it works; warm is the id of a
// row for that. What it returns is to be closed also when it fails.
func openStage(ctx context.Context, i *instance, p place, o *Options, warm int64) (s *stage, err error) {
	s = &stage{place: p, instance: i}
	switch p {
	case withWorker:
		if s.embedded, err = startEmbedded(ctx, i); err != nil {
			return s, err
		}
		if s.bare, err = startBare(i); err != nil {
			return s, err
		}
		return s, i.ready(ctx, s.embedded.worker.Client(), warm, o.RowBytes, s.embedded.log.explain)
	case withRemote:
		if s.remote, err = startRemote(i, o); err != nil {
			return s, err
		}
		return s, i.ready(ctx, s.remote.client, warm, o.RowBytes, s.remote.log.explain)
	}
	return s, nil
}

// close stops the worker; when it returns, nothing of it runs any more.
func (s *stage) close() error {
	var errs []error
	if s.bare != nil {
		s.bare.close()
	}
	if s.embedded != nil {
		errs = append(errs, s.embedded.close())
	}
	if s.remote != nil {
		errs = append(errs, s.remote.close())
	}
	return errors.Join(errs...)
}

// load says how a contestant is driven here.
func (s *stage) load(c contestant, o *Options) load {
	l := load{callers: c.callers, batch: 1, duration: o.Duration, settle: o.Settle, worker: self()}
	if c.batched {
		l.batch = batchRows(o.Batch, o.RowBytes)
	}
	if s.remote != nil {
		l.worker, l.others = s.remote.pid(), []int{s.remote.pid()}
	}
	return l
}

// turn measures one contestant once and reads back what it wrote. It returns the
// first id that is free then.
func (s *stage) turn(ctx context.Context, c contestant, l load, o *Options, first int64) (m measured, next int64, err error) {
	write, err := c.writer(s)
	if err != nil {
		return m, first, err
	}
	rows := rowRange{first: first, last: first + int64(turnRows(o.Rows, o.RowBytes)), step: 1, bytes: o.RowBytes}
	var from source = &counter{rowRange: rows}
	if c.file {
		if from, err = newFile(s.instance.config.Prefix, rows); err != nil {
			return m, first, err
		}
	}
	v := &verification{systems: s.instance.systems, places: s.instance.sagas, rowRange: rows}
	if s.place == alone {
		v.places = s.instance.plain
	}
	if c.noRows {
		v.places = places{}
	}
	m, err = measureVerified(ctx, l, from, write, v)
	return m, from.end(), err
}

// places are the stages that the contestants need, in the order of their turns.
func stagesOf(all []contestant) (order []place) {
	for _, c := range all {
		if !slices.Contains(order, c.place) {
			order = append(order, c.place)
		}
	}
	return order
}
