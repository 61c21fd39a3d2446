package main

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"os"
	"time"

	"github.com/spf13/cobra"

	"github.com/capsaga/capsaga/internal/bench"
)

// benchFlags are the flags of bench.
type benchFlags struct {
	bench.Options
	svg, json string // files
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
	flags.StringVar(&f.svg, "svg", "", "draw the result into this `file`")
	flags.StringVar(&f.json, "json", "", "write the result as JSON into this `file`, too")
	cmd.AddCommand(a.benchWorkerCommand())
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
	// What cannot be written is found out before the minutes of measuring.
	for _, name := range []string{f.svg, f.json} {
		if err := writable(name); err != nil {
			return err
		}
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
	if err := writeFile(f.svg, result.WriteSVG); err != nil {
		return err
	}
	if err := writeFile(f.json, func(out io.Writer) error { return writeJSON(out, result) }); err != nil {
		return err
	}
	if a.output == asJSON {
		return writeJSON(a.stdout, result)
	}
	return result.WriteTable(a.stdout)
}

// writable returns an error if a file, unless it has no name, cannot be written.
func writable(name string) error {
	if name == "" {
		return nil
	}
	file, err := os.OpenFile(name, os.O_CREATE|os.O_WRONLY, 0o644) //nolint:gosec // a result is for all
	if err != nil {
		return err
	}
	return file.Close()
}

func writeFile(name string, write func(io.Writer) error) error {
	if name == "" {
		return nil
	}
	var content bytes.Buffer
	if err := write(&content); err != nil {
		return err
	}
	return os.WriteFile(name, content.Bytes(), 0o644)
}

// benchProgress shows on a terminal what is measured and how long it will take, and
// elsewhere a line for each repetition.
type benchProgress struct {
	out      io.Writer
	terminal bool
	bars     *bars
	began    time.Time // of the first turn
	last     int       // the repetition that was told
}

func (b *benchProgress) tell(p bench.Progress) {
	if !b.terminal {
		if p.Repetition > b.last {
			b.last = p.Repetition
			_, _ = fmt.Fprintf(b.out, "repetition %d of %d\n", p.Repetition, p.Repetitions)
		}
		return
	}
	if b.bars == nil {
		b.bars = &bars{out: b.out}
	}
	if b.began.IsZero() && p.Done > 0 {
		b.began = time.Now()
	}
	left := ""
	if p.Done > 1 {
		perSecond := float64(p.Done-1) / time.Since(b.began).Seconds()
		left = timeLeft(int64(p.Total-p.Done), perSecond)
	}
	round := "warms up"
	if p.Repetition > 0 {
		round = fmt.Sprintf("repetition %d of %d", min(p.Repetition, p.Repetitions), p.Repetitions)
	}
	b.bars.draw([]string{fmt.Sprintf("%s %s  %s: %s  %s", bar(int64(p.Done), int64(p.Total)), percent(int64(p.Done), int64(p.Total)), round, p.Doing, left)})
}

func (b *benchProgress) clear() {
	if b.bars != nil {
		b.bars.clear()
	}
}
