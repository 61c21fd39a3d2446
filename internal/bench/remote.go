package bench

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/exec"
	"time"

	"github.com/capsaga/capsaga/internal/config"
	"github.com/capsaga/capsaga/saga"
	"github.com/capsaga/capsaga/saga/client"
	"github.com/capsaga/capsaga/worker"
)

// RunWorker is a worker in a process of its own, until its input ends: then the bench
// wants it to stop, or is gone. It heeds no interrupt, which is for the bench, who
// stops its worker when nothing is under way any more.
func RunWorker(ctx context.Context, c config.Config, input io.Reader) error {
	ctx, stop := context.WithCancel(context.WithoutCancel(ctx))
	defer stop()
	w, err := worker.Open(ctx, worker.Config{
		Systems: c, HTTPAddress: "off", DrainTimeout: drainTimeout,
		Logger: slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: slog.LevelWarn})),
	})
	if err != nil {
		return err
	}
	go func() {
		_, _ = io.Copy(io.Discard, input)
		stop()
	}()
	return w.Run(ctx)
}

// remote is a worker in a process of its own, and a client in this one.
type remote struct {
	command *exec.Cmd
	input   io.Closer
	client  *client.Client
	prefix  saga.Prefix
	log     *lastLines
	ended   chan struct{}
}

func startRemote(i *instance, o *Options) (*remote, error) {
	r := &remote{prefix: i.config.Prefix, log: &lastLines{}, ended: make(chan struct{})}
	var err error
	if r.client, err = client.New(client.Options{Temporal: i.temporal, Prefix: r.prefix}); err != nil {
		return nil, err
	}
	program := o.Program
	if program == "" {
		if program, err = os.Executable(); err != nil {
			return nil, err
		}
	}
	// Not by the context: the worker is told to stop, and killed only if it does not.
	r.command = exec.Command(program, o.Arguments...) //nolint:noctx // see above
	r.command.Env = append(append([]string{}, o.Environ...), i.environ()...)
	r.command.Stderr = r.log
	if r.input, err = r.command.StdinPipe(); err != nil {
		return nil, err
	}
	if err := r.command.Start(); err != nil {
		return nil, fmt.Errorf("start a worker: %w", err)
	}
	go func() {
		_ = r.command.Wait()
		close(r.ended)
	}()
	return r, nil
}

// environ is what tells another process of the instance. What is empty stands
// against a value that the user's environment has.
func (i *instance) environ() []string {
	c := i.config
	return []string{
		config.PostgresURL + "=" + c.PostgresURL,
		config.Prefix + "=" + string(c.Prefix),
		config.Catalog + "=" + c.CatalogPath,
		config.TemporalNamespace + "=" + c.Temporal.Namespace,
		config.DeploymentName + "=", config.BuildID + "=",
	}
}

func (r *remote) pid() int { return r.command.Process.Pid }

func (r *remote) close() error {
	select {
	case <-r.ended:
		return r.log.explain(fmt.Errorf("the worker has ended by itself: %s", r.command.ProcessState))
	default:
	}
	_ = r.input.Close()
	select {
	case <-r.ended:
	case <-time.After(2 * drainTimeout):
		_ = r.command.Process.Kill()
		<-r.ended
	}
	return nil
}

// write writes one row by a saga that a worker elsewhere runs. A caller waits for
// one thing: every second one for the commit, the others for all sinks; the next
// begins when all sinks have it in any case.
func (r *remote) write() writer {
	return func(ctx context.Context, w work) (s sample, err error) {
		row := w.rows[0]
		write := row.write(r.prefix)
		began := time.Now()
		if row.ID%2 == 1 {
			o, err := r.client.Write(ctx, write, client.WaitVisible)
			s.visible = time.Since(began)
			return s, r.explain(reached(o, err, saga.Completed))
		}
		o, err := r.client.Write(ctx, write, client.WaitCommitted)
		s.committed = time.Since(began)
		if err := reached(o, err, saga.Committed, saga.Completed); err != nil {
			return s, r.explain(err)
		}
		o, err = r.client.Wait(ctx, write.SagaID, client.WaitVisible)
		return s, r.explain(reached(o, err, saga.Completed))
	}
}

func (r *remote) explain(err error) error {
	if err == nil {
		return nil
	}
	return r.log.explain(err)
}
