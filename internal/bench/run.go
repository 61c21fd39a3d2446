package bench

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"
)

// Run measures. It returns when its instance is removed. On an error there is no
// result: a part of the figures would not have been taken side by side.
func Run(ctx context.Context, o Options) (result *Result, err error) {
	if err := o.complete(); err != nil {
		return nil, err
	}
	r := &run{options: &o, samples: map[string][]measured{}, next: 1}
	for _, c := range contestants {
		if o.wants(c) {
			r.contestants = append(r.contestants, c)
		}
	}
	r.total = (o.Repetitions + 1) * len(r.contestants)
	began := time.Now()
	r.tell("making an instance")
	r.instance, err = newInstance(ctx, o.Systems)
	defer func() {
		r.repetition = min(r.repetition, o.Repetitions)
		r.tell("removing the instance")
		if removeErr := r.instance.remove(ctx); removeErr != nil {
			err = errors.Join(err, removeErr)
		}
	}()
	if err != nil {
		return nil, err
	}
	machine := readMachine(ctx, r.instance)
	for r.repetition = 0; r.repetition <= o.Repetitions; r.repetition++ {
		if err := r.repeat(ctx); err != nil {
			if ctx.Err() != nil {
				err = errors.New("stopped: there are no figures")
			}
			return nil, err
		}
	}
	return newResult(&o, r.contestants, r.samples, machine, began), nil
}

// run is a run under way.
type run struct {
	options     *Options
	contestants []contestant
	instance    *instance
	samples     map[string][]measured // by contestant, one of each repetition
	repetition  int                   // 0 warms up and does not count
	next        int64                 // the first id that is free
	done, total int
}

func (r *run) tell(doing string) {
	r.options.Progress(Progress{Doing: doing, Repetition: r.repetition, Repetitions: r.options.Repetitions, Done: r.done, Total: r.total})
}

// repeat lets every contestant have a turn; in every second repetition the other
// way round.
func (r *run) repeat(ctx context.Context) error {
	order := slices.Clone(r.contestants)
	if r.repetition%2 == 1 {
		slices.Reverse(order)
	}
	for _, p := range stagesOf(order) {
		if err := r.perform(ctx, p, order); err != nil {
			return err
		}
	}
	return nil
}

// perform gives the contestants of one stage their turns.
func (r *run) perform(ctx context.Context, p place, order []contestant) (err error) {
	s, err := openStage(ctx, r.instance, p, r.options, r.next)
	r.next++
	defer func() { err = errors.Join(err, s.close()) }()
	if err != nil {
		return err
	}
	for _, c := range order {
		if c.place != p {
			continue
		}
		r.tell(c.title)
		if err := r.turn(ctx, s, c); err != nil {
			return fmt.Errorf("%s: %w", c.title, err)
		}
		r.done++
	}
	return nil
}

// warmUp bounds the turns that do not count, whose work is to fill caches and
// connections.
const warmUp = time.Second

func (r *run) turn(ctx context.Context, s *stage, c contestant) error {
	l := s.load(c, r.options)
	if r.repetition == 0 {
		l.duration = min(l.duration, warmUp)
	}
	m, next, err := s.turn(ctx, c, l, r.options, r.next)
	r.next = next
	if err != nil {
		return err
	}
	if r.repetition > 0 {
		r.samples[c.name] = append(r.samples[c.name], m)
	}
	return nil
}
