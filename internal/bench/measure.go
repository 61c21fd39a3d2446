package bench

import (
	"context"
	"errors"
	"fmt"
	"os"
	"runtime/debug"
	"sync"
	"time"
)

// sample is how long one call took, from its begin; zero where it was not measured.
type sample struct{ committed, visible time.Duration }

// work is what one call writes.
type work struct {
	rows  []row
	lines [][]byte // NDJSON of them, instead of rows
}

func (w work) size() int { return len(w.rows) + len(w.lines) }

// writer does some work and returns when it is visible.
type writer func(ctx context.Context, w work) (sample, error)

// load is how a contestant is driven.
type load struct {
	callers, batch int
	duration       time.Duration
	settle         time.Duration // the longest wait for rest before it
	others         []int         // processes that work for it
	worker         int           // the process whose memory counts
}

// measured is what came of it.
type measured struct {
	rows               int
	took               time.Duration
	committed, visible []time.Duration // of the calls
	usage              usage
	memory             float64 // MB
	unsettled          bool    // the machine was not at rest when it began
}

// source hands out the rows of a measurement in the order of their ids.
type source interface {
	// next returns the next n rows; fewer, or none, where there are no more.
	next(n int) (work, error)
	// end is the id that would be next.
	end() int64
}

// measureVerified waits for rest, measures, and reads back what was written, unless
// the verification has no places: then there is nothing to read.
func measureVerified(ctx context.Context, l load, from source, write writer, v *verification) (m measured, err error) {
	rows := v.places != places{}
	if rows {
		if err := v.mark(ctx); err != nil {
			return m, fmt.Errorf("kafka: %w", err)
		}
	}
	settled, err := settle(ctx, l.settle)
	if err != nil {
		return m, err
	}
	m, err = measure(ctx, l, from, write)
	m.unsettled = !settled
	v.last = from.end()
	if err == nil && m.rows == 0 {
		err = errors.New("nothing was written in the time of the measurement: give --duration more")
	}
	if err == nil && rows {
		err = v.verify(ctx)
	}
	return m, err
}

// measure lets the callers write until the time is over or the rows are all
// written. What is under way then is finished and counts, with its time.
func measure(ctx context.Context, l load, from source, write writer) (measured, error) {
	debug.FreeOSMemory() // also collects: what came before is not this one's memory
	forgetPeak(l.worker)
	run := &running{load: l, source: from, write: write}
	before, began := used(l.others), time.Now()
	run.deadline = began.Add(l.duration)
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	run.cancel = cancel
	var callers sync.WaitGroup
	for range l.callers {
		callers.Go(func() { run.call(ctx) })
	}
	callers.Wait()
	run.result.took = time.Since(began)
	run.result.usage = used(l.others).since(before)
	run.result.memory = peakMB(l.worker)
	if run.err == nil {
		run.err = ctx.Err() // interrupted from outside
	}
	return run.result, run.err
}

// running is a measurement under way.
type running struct {
	load
	source   source
	write    writer
	deadline time.Time
	cancel   context.CancelFunc

	mu     sync.Mutex
	result measured
	err    error // the first one
}

func (r *running) call(ctx context.Context) {
	for ctx.Err() == nil && time.Now().Before(r.deadline) {
		w, err := r.source.next(r.batch)
		if err == nil && w.size() == 0 {
			return
		}
		var s sample
		if err == nil {
			s, err = r.write(ctx, w)
		}
		r.note(w.size(), s, err)
	}
}

func (r *running) note(rows int, s sample, err error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if err != nil {
		if r.err == nil {
			r.err = err
		}
		r.cancel()
		return
	}
	r.result.rows += rows
	if s.committed > 0 {
		r.result.committed = append(r.result.committed, s.committed)
	}
	if s.visible > 0 {
		r.result.visible = append(r.result.visible, s.visible)
	}
}

// self is this process.
func self() int { return os.Getpid() }
