package main

import (
	"context"
	"fmt"
	"strings"

	"github.com/spf13/cobra"

	"github.com/capsaga/capsaga/internal/bench"
)

// scaleFlags are the flags of bench scale.
type scaleFlags struct {
	bench.ScaleOptions
	benchFiles
}

func (a *app) benchScaleCommand() *cobra.Command {
	f := scaleFlags{ScaleOptions: bench.DefaultScale()}
	cmd := &cobra.Command{
		Use:   "scale",
		Short: "Measure batch sagas along workers, batches, row sizes and a table that grows",
		Long: `Measure how batch sagas scale, on the systems that are running:

  workers  with more and more workers, each in a process of its own
  batch    with more and more rows of a batch
  bytes    with larger and larger rows
  growth   at several sizes of the table, which batch sagas let grow; at each size
           as many of its rows, spread over all of it, are written anew

For each: writes and megabytes per second, the time of a batch, the CPU time of a
write, how many workflows it takes, and what they leave in Temporal's history.
Figures are medians and count only when every row was read back from all systems.

It works where bench does; each part has a database and a prefix of its own. A whole
run takes up to ten minutes, and more where the machine does not come to rest.`,
		Args: usage(cobra.NoArgs),
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := f.Check(); err != nil {
				return usagef("%w", err)
			}
			return a.benchScale(cmd.Context(), f)
		},
	}
	flags, d := cmd.Flags(), f.ScaleOptions
	flags.StringSliceVar(&f.Only, "only", nil, fmt.Sprintf("`parts`, comma-separated: %s; default all", strings.Join(bench.ScaleParts(), ", ")))
	flags.IntSliceVar(&f.Workers, "workers", d.Workers, "`numbers` of workers")
	flags.IntSliceVar(&f.Batches, "batches", d.Batches, "`numbers` of rows of a batch, as far as one workflow takes their bytes")
	flags.IntSliceVar(&f.RowSizes, "row-sizes", d.RowSizes, "`sizes` of a row, about")
	flags.IntSliceVar(&f.Tables, "tables", d.Tables, "`numbers` of rows of the table that grows")
	flags.IntVar(&f.Batch, "batch", d.Batch, "`number` of rows of a batch in the other parts")
	flags.IntVar(&f.RowBytes, "row-bytes", d.RowBytes, "`size` of a row in the other parts")
	flags.IntVar(&f.Callers, "callers", d.Callers, "`number` of batches under way at once")
	flags.IntVar(&f.Repetitions, "repetitions", d.Repetitions, "`number` of turns that count, of each size")
	flags.DurationVar(&f.Duration, "duration", d.Duration, "how long one turn takes")
	flags.DurationVar(&f.Settle, "settle", d.Settle, "how long to wait for the machine to be at rest before a turn, at most")
	flags.IntVar(&f.Rows, "rows", d.Rows, "`number` of rows that end a turn before its time; a turn has fewer of large ones")
	flags.IntVar(&f.Writes, "writes", d.Writes, "`number` of writes of a turn on the table that grows")
	flags.DurationVar(&f.GrowTime, "grow-time", d.GrowTime, "how long the table may take to grow to its next size; then it is measured as large as it is")
	f.files(cmd)
	return cmd
}

func (a *app) benchScale(ctx context.Context, f scaleFlags) error {
	c, err := a.config()
	if err != nil {
		return err
	}
	if err := f.writable(); err != nil {
		return err
	}
	o := f.ScaleOptions
	o.Systems, o.Arguments, o.Environ = c, []string{"bench", benchWorker}, a.environ
	progress := &benchProgress{out: a.stderr, terminal: a.terminal}
	o.Progress = progress.tell
	result, err := bench.RunScale(ctx, o)
	progress.clear()
	if err != nil {
		return err
	}
	return a.tellBench(f.benchFiles, result)
}
