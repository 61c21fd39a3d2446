package bench

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/capsaga/capsaga/internal/config"
)

// Options say what is measured and for how long. The zero value of each field but
// Systems has a default.
type Options struct {
	// Systems says where the servers are. Its database is only used to make another
	// one; its prefix and namespace are not used at all.
	Systems config.Config
	// Program is started with Arguments and Environ for a worker in a process of its
	// own; default this program.
	Program   string
	Arguments []string
	Environ   []string // of the form of os.Environ

	Repetitions int           // default 5
	Duration    time.Duration // of one measurement; default 3s
	Rows        int           // that end a measurement before its time; default 30,000
	RowBytes    int           // of one row, about; default 100
	Batch       int           // rows of a batch; default 500
	Only        []string      // letters or names of contestants; default all

	// Progress, if set, is told what begins.
	Progress func(Progress)
}

// Progress is how far a run is.
type Progress struct {
	Doing       string
	Repetition  int // 0: nothing counts yet
	Repetitions int
	Done, Total int // turns
}

// The defaults, by which a whole run takes less than eight minutes.
const (
	DefaultRepetitions = 5
	DefaultDuration    = 3 * time.Second
	DefaultRows        = 30_000
	DefaultRowBytes    = 100
	DefaultBatch       = 500
)

// The bounds of the options.
const (
	minRowBytes = 60 // what a row has besides its payload
	maxRowBytes = 200_000
	maxRows     = 1_000_000
	maxBatch    = 1000
)

// complete fills in the defaults and refuses what cannot be measured.
func (o *Options) complete() error {
	set := func(value *int, otherwise int) {
		if *value == 0 {
			*value = otherwise
		}
	}
	set(&o.Repetitions, DefaultRepetitions)
	set(&o.Rows, DefaultRows)
	set(&o.RowBytes, DefaultRowBytes)
	set(&o.Batch, DefaultBatch)
	if o.Duration == 0 {
		o.Duration = DefaultDuration
	}
	if o.Progress == nil {
		o.Progress = func(Progress) {}
	}
	for _, bound := range []struct {
		name       string
		is, lo, hi int
	}{
		{"repetitions", o.Repetitions, 1, 100},
		{"rows", o.Rows, 1, maxRows},
		{"row-bytes", o.RowBytes, minRowBytes, maxRowBytes},
		{"batch", o.Batch, 1, maxBatch},
	} {
		if bound.is < bound.lo || bound.is > bound.hi {
			return fmt.Errorf("--%s %d: want a number from %d to %d", bound.name, bound.is, bound.lo, bound.hi)
		}
	}
	if o.Duration < 0 {
		return fmt.Errorf("--duration %s: want a time above zero, such as 3s", o.Duration)
	}
	for _, wanted := range o.Only {
		if !slices.ContainsFunc(contestants, func(c contestant) bool { return c.is(wanted) }) {
			return fmt.Errorf("--only %s: no such contestant: want letters or names of %s", wanted, strings.Join(names(), ", "))
		}
	}
	return nil
}

// Check refuses options that Run would refuse.
func (o Options) Check() error { return o.complete() }

// wants reports whether a contestant is to be measured.
func (o *Options) wants(c contestant) bool {
	return len(o.Only) == 0 || slices.ContainsFunc(o.Only, c.is)
}
