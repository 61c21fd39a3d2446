package bench

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"go.temporal.io/sdk/interceptor"

	"github.com/capsaga/capsaga/saga/client"
)

// scalePart is one line along which batch sagas are measured.
type scalePart struct {
	name, title, unit string
	values            func(*ScaleOptions) []int
	measure           func(context.Context, *scaling) ([]Point, error)
}

var scaleParts = []scalePart{
	{"workers", "Workers, each in a process of its own", "workers", func(o *ScaleOptions) []int { return o.Workers }, measureWorkers},
	{"batch", "Rows of a batch", "rows", func(o *ScaleOptions) []int { return o.Batches }, measureBatches},
	{"bytes", "Size of a row", "bytes", func(o *ScaleOptions) []int { return o.RowSizes }, measureRowSizes},
	{"growth", "Rows of the table that is written to", "rows", func(o *ScaleOptions) []int { return o.Tables }, measureGrowth},
}

// ScaleParts names the parts of a scaling run.
func ScaleParts() []string {
	var names []string
	for _, p := range scaleParts {
		names = append(names, p.name)
	}
	return names
}

// RunScale measures batch sagas along the parts. Each part has an instance of its
// own, so that none has the tables of another; it is removed before the next part
// begins. On an error there is no result.
func RunScale(ctx context.Context, o ScaleOptions) (*ScaleResult, error) {
	if err := o.complete(); err != nil {
		return nil, err
	}
	s := &scaling{options: &o}
	var parts []scalePart
	for _, p := range scaleParts {
		if len(o.Only) == 0 || slices.Contains(o.Only, p.name) {
			parts = append(parts, p)
			s.total += len(p.values(&o)) * (o.Repetitions + 1)
		}
	}
	result := newScaleResult(&o)
	for _, p := range parts {
		s.part = p
		points, err := s.perform(ctx, result)
		if err != nil {
			if ctx.Err() != nil {
				err = errors.New("stopped: there are no figures")
			}
			return nil, fmt.Errorf("%s: %w", p.name, err)
		}
		result.Parts = append(result.Parts, Part{Name: p.name, Title: p.title, Unit: p.unit, Points: points})
	}
	result.Took = time.Since(result.Started).Round(time.Second).String()
	return result, nil
}

// scaling is a scaling run under way.
type scaling struct {
	options     *ScaleOptions
	part        scalePart
	instance    *instance // of the part
	starts      *starts
	next        int64 // the first id that is free
	repetition  int   // 0 warms up and does not count
	done, total int
}

func (s *scaling) tell(doing string) {
	s.options.Progress(Progress{
		Doing: doing, Part: s.part.name, Repetition: s.repetition, Repetitions: s.options.Repetitions,
		Done: s.done, Total: s.total,
	})
}

// perform measures one part in an instance of its own.
func (s *scaling) perform(ctx context.Context, result *ScaleResult) (points []Point, err error) {
	s.next, s.repetition, s.starts = 0, 0, &starts{}
	systems := s.options.Systems
	systems.Temporal.Interceptors = append(slices.Clone(systems.Temporal.Interceptors), interceptor.ClientInterceptor(s.starts))
	s.tell("making an instance")
	s.instance, err = newInstance(ctx, systems)
	defer func() {
		s.tell("removing the instance")
		err = errors.Join(err, s.instance.remove(ctx))
	}()
	if err != nil {
		return nil, err
	}
	if result.Machine.Cores == 0 {
		result.Machine = readMachine(ctx, s.instance)
	}
	return s.part.measure(ctx, s)
}

// shape is what one turn writes, and how.
type shape struct {
	client  *client.Client
	explain func(error) error
	others  []int // processes that work for it
	batch   int
	rows    rowRange
	// whole turns end with their last row and not with their time.
	whole bool
}

// scaleSample is one measurement.
type scaleSample struct {
	measured
	histories
	rowBytes int // of one row as JSON
}

// turn measures once, reads back what was written, and looks at the workflows.
func (s *scaling) turn(ctx context.Context, sh shape) (sample scaleSample, err error) {
	o, i := s.options, s.instance
	l := load{
		callers: o.Callers, batch: batchRows(sh.batch, sh.rows.bytes), duration: o.Duration, settle: o.Settle,
		others: sh.others, worker: self(),
	}
	if len(sh.others) > 0 {
		l.worker = sh.others[0]
	}
	if s.repetition == 0 {
		l.duration, l.settle = min(l.duration, warmUp), 1
	}
	if sh.whole {
		l.duration = o.GrowTime
	}
	from, err := newFile(i.config.Prefix, sh.rows)
	if err != nil {
		return sample, err
	}
	s.starts.forget()
	v := &verification{systems: i.systems, places: i.sagas, rowRange: sh.rows}
	sample.measured, err = measureVerified(ctx, l, from, writeBatches(sh.client, i.config.Prefix, sh.explain), v)
	s.done++
	if err != nil {
		return sample, err
	}
	sample.rowBytes = len(newRow(sh.rows.first, sh.rows.bytes).json())
	sample.histories, err = s.starts.histories(ctx, i.temporal)
	return sample, err
}

// fresh returns rows that were not written before.
func (s *scaling) fresh(rowBytes int) rowRange {
	first := s.next
	s.next += int64(turnRows(s.options.Rows, rowBytes))
	return rowRange{first: first, last: s.next, step: 1, bytes: rowBytes}
}

// along lets every value have its turn in every repetition; in every second one the
// other way round, so that a machine whose speed drifts treats all alike.
func (s *scaling) along(values []int, turn func(value int) (scaleSample, error)) ([]Point, error) {
	samples := make([][]scaleSample, len(values))
	for s.repetition = 0; s.repetition <= s.options.Repetitions; s.repetition++ {
		for at := range values {
			if s.repetition%2 == 1 {
				at = len(values) - 1 - at
			}
			s.tell(thousands(int64(values[at])) + " " + s.part.unit)
			sample, err := turn(values[at])
			if err != nil {
				return nil, fmt.Errorf("%d %s: %w", values[at], s.part.unit, err)
			}
			if s.repetition > 0 {
				samples[at] = append(samples[at], sample)
			}
		}
	}
	s.repetition = s.options.Repetitions
	points := make([]Point, len(values))
	for at, value := range values {
		points[at] = pointOf(value, samples[at])
	}
	return points, nil
}
