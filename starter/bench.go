package main

import (
	"context"

	"github.com/spf13/cobra"

	"github.com/capsaga/capsaga/internal/bench"
)

// benchFlags are the flags of bench.
type benchFlags struct {
	bench.Options
	benchFiles
}

// benchWorker is the subcommand by which the bench runs this program as a worker.
const benchWorker = "worker"

func (a *app) benchCommand() *cobra.Command {
	var f benchFlags
	cmd := &cobra.Command{
		Use:   "bench",
		Short: "Measure sagas beside the naive dual write, a bulk load and a bare workflow",
		Long: `Measure sagas beside what they replace and what they are made of, on the systems
that are running. The contestants take turns, several times; medians are shown,
and figures count only when every row was read back from all systems.

` + bench.Contestants() + `
Before each turn the bench waits until the machine is at rest; how long a run takes
depends on that: about ten minutes, and more where something else is at work.

All is done in a database and a prefix of its own, which are removed in the end;
nothing of yours is touched. The PostgreSQL user needs the right to create
databases. In Temporal all runs share the namespace capsaga-bench, which is made
where it is missing and stays; its workflows go by themselves after a day.`,
		Args: usage(cobra.NoArgs),
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := f.Check(); err != nil {
				return usagef("%w", err)
			}
			return a.bench(cmd.Context(), f)
		},
	}
	flags := cmd.Flags()
	flags.IntVar(&f.Repetitions, "repetitions", bench.DefaultRepetitions, "`number` of turns of each contestant that count")
	flags.DurationVar(&f.Duration, "duration", bench.DefaultDuration, "how long one turn takes")
	flags.StringSliceVar(&f.Only, "only", nil, "letters or names of `contestants`, comma-separated; default all")
	flags.DurationVar(&f.Settle, "settle", bench.DefaultSettle, "how long to wait for the machine to be at rest before a turn, at most")
	flags.IntVar(&f.Rows, "rows", bench.DefaultRows, "`number` of rows that end a turn before its time")
	flags.IntVar(&f.RowBytes, "row-bytes", bench.DefaultRowBytes, "`size` of a row, about; a turn has fewer of large ones")
	flags.IntVar(&f.Batch, "batch", bench.DefaultBatch, "`number` of rows of a batch, as far as one workflow takes their bytes")
	f.files(cmd)
	cmd.AddCommand(a.benchWorkerCommand(), a.benchScaleCommand())
	return cmd
}

// benchWorkerCommand is what the bench itself runs, with an environment of its own.
func (a *app) benchWorkerCommand() *cobra.Command {
	return &cobra.Command{
		Use: benchWorker, Short: "Run a worker until the input ends", Hidden: true, Args: usage(cobra.NoArgs),
		RunE: func(cmd *cobra.Command, _ []string) error {
			c, err := a.config()
			if err != nil {
				return err
			}
			return bench.RunWorker(cmd.Context(), c, a.stdin)
		},
	}
}

func (a *app) bench(ctx context.Context, f benchFlags) error {
	c, err := a.config()
	if err != nil {
		return err
	}
	if err := f.writable(); err != nil {
		return err
	}
	o := f.Options
	o.Systems, o.Arguments, o.Environ = c, []string{"bench", benchWorker}, a.environ
	progress := &benchProgress{out: a.stderr, terminal: a.terminal}
	o.Progress = progress.tell
	result, err := bench.Run(ctx, o)
	progress.clear()
	if err != nil {
		return err
	}
	return a.tellBench(f.benchFiles, result)
}
