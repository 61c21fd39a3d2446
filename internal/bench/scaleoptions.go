package bench

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/capsaga/capsaga/internal/config"
	"github.com/capsaga/capsaga/saga"
)

// ScaleOptions say along what a scaling run goes, and how far. The zero value of each
// field but Systems has a default.
type ScaleOptions struct {
	// Systems, Program, Arguments and Environ are as those of Options.
	Systems   config.Config
	Program   string
	Arguments []string
	Environ   []string // of the form of os.Environ

	Only     []string // names of parts; default all
	Workers  []int    // processes; default 1, 2, 4
	Batches  []int    // rows of a batch; default 1, 10, 100, 500, 1000
	RowSizes []int    // bytes, about; default 100, 1000, 10,000, 100,000
	Tables   []int    // rows; default 10^4, 10^5, 10^6

	// What is not along a part's own line is this.
	Batch, RowBytes int // default 500 and 100
	Callers         int // of batches, side by side; default 8

	Repetitions int           // default 3
	Duration    time.Duration // of one measurement; default 2s
	Settle      time.Duration // the longest wait for rest before it; default 20s
	Rows        int           // that end a measurement before its time; default 60,000
	Writes      int           // of one measurement on a table; default 10,000
	GrowTime    time.Duration // that a table may take to grow to the next size; default 3m

	// Progress, if set, is told what begins.
	Progress func(Progress)
}

// The defaults, by which a whole run takes less than ten minutes on two cores.
const (
	DefaultScaleRepetitions = 3
	DefaultScaleDuration    = 2 * time.Second
	DefaultScaleRows        = 60_000
	DefaultCallers          = 8
	DefaultWrites           = 10_000
	DefaultGrowTime         = 3 * time.Minute
)

// DefaultScale returns the options of a whole run, but for the systems.
func DefaultScale() ScaleOptions {
	return ScaleOptions{
		Workers: []int{1, 2, 4}, Batches: []int{1, 10, 100, 500, 1000},
		RowSizes: []int{100, 1000, 10_000, 100_000}, Tables: []int{10_000, 100_000, 1_000_000},
		Batch: DefaultBatch, RowBytes: DefaultRowBytes, Callers: DefaultCallers,
		Repetitions: DefaultScaleRepetitions, Duration: DefaultScaleDuration, Settle: DefaultSettle,
		Rows: DefaultScaleRows, Writes: DefaultWrites, GrowTime: DefaultGrowTime,
		Progress: func(Progress) {},
	}
}

// Check refuses options that RunScale would refuse.
func (o ScaleOptions) Check() error { return o.complete() }

// complete fills in the defaults and refuses what cannot be measured.
func (o *ScaleOptions) complete() error {
	d := DefaultScale()
	orElse(&o.Batch, d.Batch)
	orElse(&o.RowBytes, d.RowBytes)
	orElse(&o.Callers, d.Callers)
	orElse(&o.Repetitions, d.Repetitions)
	orElse(&o.Rows, d.Rows)
	orElse(&o.Writes, d.Writes)
	orElse(&o.Duration, d.Duration)
	orElse(&o.Settle, d.Settle)
	orElse(&o.GrowTime, d.GrowTime)
	if o.Progress == nil {
		o.Progress = d.Progress
	}
	bounds := []bound{
		{"batch", o.Batch, 1, saga.MaxBatchWrites},
		{"row-bytes", o.RowBytes, minRowBytes, maxRowBytes},
		{"callers", o.Callers, 1, 1000},
		{"repetitions", o.Repetitions, 1, 100},
		{"rows", o.Rows, 1, maxRows},
		{"writes", o.Writes, 1, maxRows},
	}
	for _, line := range []struct {
		name      string
		values    *[]int
		otherwise []int
		lo, hi    int
	}{
		{"workers", &o.Workers, d.Workers, 1, 32},
		{"batches", &o.Batches, d.Batches, 1, saga.MaxBatchWrites},
		{"row-sizes", &o.RowSizes, d.RowSizes, minRowBytes, maxRowBytes},
		{"tables", &o.Tables, d.Tables, 1, 100_000_000},
	} {
		if len(*line.values) == 0 {
			*line.values = line.otherwise
		}
		for _, value := range *line.values {
			bounds = append(bounds, bound{line.name, value, line.lo, line.hi})
		}
	}
	if err := checkBounds(bounds); err != nil {
		return err
	}
	if !slices.IsSorted(o.Tables) {
		return fmt.Errorf("--tables: want sizes that grow, as the table does")
	}
	if o.GrowTime < 0 {
		return fmt.Errorf("--grow-time %s: want a time above zero, such as 3m", o.GrowTime)
	}
	for _, wanted := range o.Only {
		if !slices.ContainsFunc(scaleParts, func(p scalePart) bool { return p.name == wanted }) {
			return fmt.Errorf("--only %s: no such part: want some of %s", wanted, strings.Join(ScaleParts(), ", "))
		}
	}
	return checkTimes(o.Duration, o.Settle)
}

func orElse[T comparable](value *T, otherwise T) {
	var zero T
	if *value == zero {
		*value = otherwise
	}
}
