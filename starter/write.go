package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"go.opentelemetry.io/otel/propagation"
	enumspb "go.temporal.io/api/enums/v1"
	sdkclient "go.temporal.io/sdk/client"

	"github.com/capsaga/capsaga/internal/config"
	"github.com/capsaga/capsaga/saga"
	"github.com/capsaga/capsaga/saga/client"
)

// writeOptions are the flags of write.
type writeOptions struct {
	wait        string
	timeout     time.Duration
	concurrency int
	batch       int
}

func (a *app) writeCommand() *cobra.Command {
	var o writeOptions
	cmd := &cobra.Command{
		Use:   "write FILE|-",
		Short: "Write sagas from a file of JSON, one write a line",
		Long: `Write sagas from a file of JSON, one write a line; - reads standard input.

Each line's outcome is printed as it comes, with the line's number. A line that is
not a write, or that is refused, does not keep the others from being written. The
file may be written again: a saga that is there already answers with its outcome.
Lines are written side by side; --concurrency 1 keeps the file's order.

--batch N puts N writes into one workflow, which is much faster. Each line is still a
saga of its own, with its own outcome; one that fails goes on in a workflow of its
own. Lines of one batch that change one row keep their order.`,
		Args: usage(cobra.ExactArgs(1)),
		RunE: func(cmd *cobra.Command, args []string) error {
			if !cmd.Flags().Changed("concurrency") {
				o.concurrency = defaultConcurrency
				if o.batch > 1 {
					o.concurrency = defaultBatches
				}
			}
			if err := o.check(); err != nil {
				return err
			}
			return a.writeFile(cmd.Context(), args[0], o)
		},
	}
	cmd.Flags().StringVar(&o.wait, "wait", string(client.WaitVisible), "`what` to wait for: committed (PostgreSQL has it) or visible (all sinks have it, or the saga parked)")
	cmd.Flags().DurationVar(&o.timeout, "timeout", time.Minute, "how long to wait for each saga, which goes on without us")
	cmd.Flags().IntVar(&o.concurrency, "concurrency", 0, fmt.Sprintf("`number` of sagas, or of batches, that are waited for at once (default %d sagas, %d batches)", defaultConcurrency, defaultBatches))
	cmd.Flags().IntVar(&o.batch, "batch", 1, fmt.Sprintf("`number` of writes in one workflow, up to %d", saga.MaxBatchWrites))
	return cmd
}

const (
	maxConcurrency     = 1024
	defaultConcurrency = 32
	defaultBatches     = 4
)

func (o writeOptions) check() error {
	switch client.Level(o.wait) {
	case client.WaitCommitted, client.WaitVisible:
	default:
		return usagef("--wait %q: want committed or visible", o.wait)
	}
	if o.timeout <= 0 {
		return usagef("--timeout %s: want a time above zero, such as 60s", o.timeout)
	}
	if o.concurrency < 1 || o.concurrency > maxConcurrency {
		return usagef("--concurrency %d: want a number from 1 to %d", o.concurrency, maxConcurrency)
	}
	if o.batch < 1 || o.batch > saga.MaxBatchWrites {
		return usagef("--batch %d: want a number from 1 to %d", o.batch, saga.MaxBatchWrites)
	}
	return nil
}

func (a *app) writeFile(ctx context.Context, name string, o writeOptions) error {
	input, size, err := a.input(name)
	if err != nil {
		return err
	}
	defer func() { _ = input.Close() }()
	c, err := a.config()
	if err != nil {
		return err
	}
	temporal, err := a.temporal(ctx, c)
	if err != nil {
		return err
	}
	// Each line, or each batch of lines, is one workflow, as the flags say.
	group := client.Group{Off: true, MaxWrites: o.batch}
	sagas, err := client.New(client.Options{Temporal: temporal, Prefix: c.Prefix, Group: group})
	if err != nil {
		return err
	}
	a.warnOfNoWorker(ctx, temporal, c)
	run := &writing{
		sagas: sagas, ping: pinger(temporal),
		level: client.Level(o.wait), timeout: o.timeout, concurrency: o.concurrency, batch: o.batch,
		report: a.newWriteReport(size),
	}
	return run.do(a.traced(ctx), input)
}

// traced takes over the trace of the program that called us, by the variables
// that OpenTelemetry names for it.
func (a *app) traced(ctx context.Context) context.Context {
	carrier := propagation.MapCarrier{}
	for _, variable := range a.environ {
		switch name, value, _ := strings.Cut(variable, "="); name {
		case "TRACEPARENT", "TRACESTATE":
			carrier[strings.ToLower(name)] = value
		}
	}
	return propagation.TraceContext{}.Extract(ctx, carrier)
}

// input opens what to read; the size is -1 when it cannot be known.
func (a *app) input(name string) (io.ReadCloser, int64, error) {
	if name == "-" {
		return io.NopCloser(a.stdin), -1, nil
	}
	file, err := os.Open(name)
	if err != nil {
		var cause *os.PathError
		if errors.As(err, &cause) {
			err = cause.Err
		}
		return nil, 0, fmt.Errorf("read %s: %w: name a file of writes, one JSON object a line, or - for standard input", name, err)
	}
	info, err := file.Stat()
	if err == nil && info.IsDir() {
		err = fmt.Errorf("read %s: it is a folder: name a file of writes, one JSON object a line", name)
	}
	if err != nil {
		_ = file.Close()
		return nil, 0, err
	}
	if !info.Mode().IsRegular() {
		return file, -1, nil
	}
	return file, info.Size(), nil
}

// warnOfNoWorker says at once what every saga would run into after its timeout.
// It only warns, since the worker may be about to start.
func (a *app) warnOfNoWorker(ctx context.Context, temporal sdkclient.Client, c config.Config) {
	ctx, cancel := context.WithTimeout(ctx, dialTimeout)
	defer cancel()
	queue := c.Prefix.TaskQueue()
	described, err := temporal.DescribeTaskQueue(ctx, queue, enumspb.TASK_QUEUE_TYPE_WORKFLOW)
	if err == nil && len(described.GetPollers()) == 0 {
		a.note("no worker polls task queue %s: the sagas wait until a capsaga-worker runs with prefix %s", queue, c.Prefix)
	}
}

// pinger asks whether Temporal is there at all.
func pinger(temporal sdkclient.Client) func(context.Context) error {
	return func(ctx context.Context) error {
		_, err := temporal.CheckHealth(ctx, &sdkclient.CheckHealthRequest{})
		return err
	}
}

// writer is what the command needs of the client.
type writer interface {
	Write(ctx context.Context, w saga.Write, level client.Level) (saga.Outcome, error)
	WriteBatch(ctx context.Context, writes []saga.Write, level client.Level) []client.Result
	Status(ctx context.Context, sagaID string) (saga.Outcome, error)
}
