package bench

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/capsaga/capsaga/internal/config"
	"github.com/capsaga/capsaga/saga"
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
	Settle      time.Duration // the longest wait for rest before it; default 20s
	Rows        int           // that end a measurement before its time; default 30,000; fewer where they are large
	RowBytes    int           // of one row, about; default 100
	Batch       int           // rows of a batch; default 1000; fewer where they are large
	Only        []string      // letters or names of contestants; default all

	// Progress, if set, is told what begins.
	Progress func(Progress)
}

// Progress is how far a run is.
type Progress struct {
	Doing       string
	Part        string // of a scaling run
	Repetition  int    // 0: nothing counts yet
	Repetitions int
	Done, Total int // turns
}

// The defaults, by which a whole run measures for less than four minutes. Most of its
// time the bench waits for the machine to settle.
const (
	DefaultRepetitions = 5
	DefaultDuration    = 3 * time.Second
	DefaultSettle      = 20 * time.Second
	DefaultRows        = 30_000
	DefaultRowBytes    = 100
	DefaultBatch       = 1000
)

// The bounds of the options.
const (
	minRowBytes = 60 // what a row has besides its payload
	maxRowBytes = 200_000
	maxRows     = 1_000_000
	// maxTurnBytes bounds the rows of one turn, which are in memory at once.
	maxTurnBytes = 256 << 20
)

// bound says which numbers an option takes.
type bound struct {
	name       string
	is, lo, hi int
}

func checkBounds(all []bound) error {
	for _, b := range all {
		if b.is < b.lo || b.is > b.hi {
			return fmt.Errorf("--%s %d: want a number from %d to %d", b.name, b.is, b.lo, b.hi)
		}
	}
	return nil
}

func checkTimes(duration, settle time.Duration) error {
	if duration < 0 {
		return fmt.Errorf("--duration %s: want a time above zero, such as 3s", duration)
	}
	if settle < 0 {
		return fmt.Errorf("--settle %s: want a time above zero, such as 20s", settle)
	}
	return nil
}

// batchRows is how many rows a call with a batch writes: no more bytes than one
// workflow takes. Should the rows' JSON be longer than thought, the client splits
// the batch.
func batchRows(batch, rowBytes int) int {
	return min(batch, max(1, saga.MaxBatchBytes/(rowBytes+writeBytes)))
}

// turnRows is how many rows one turn has at most.
func turnRows(rows, rowBytes int) int {
	return min(rows, max(1, maxTurnBytes/(rowBytes+writeBytes)))
}

// writeBytes is what the JSON of a saga has besides its row, about.
const writeBytes = 120

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
	if o.Settle == 0 {
		o.Settle = DefaultSettle
	}
	if o.Progress == nil {
		o.Progress = func(Progress) {}
	}
	if err := checkBounds([]bound{
		{"repetitions", o.Repetitions, 1, 100},
		{"rows", o.Rows, 1, maxRows},
		{"row-bytes", o.RowBytes, minRowBytes, maxRowBytes},
		{"batch", o.Batch, 1, saga.MaxBatchWrites},
	}); err != nil {
		return err
	}
	if err := checkTimes(o.Duration, o.Settle); err != nil {
		return err
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
