package bench

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"github.com/capsaga/capsaga/saga"
	"github.com/capsaga/capsaga/saga/client"
	"github.com/capsaga/capsaga/worker"
)

// embedded is a worker in this process, with its client.
type embedded struct {
	worker *worker.Worker
	prefix saga.Prefix
	log    *lastLines
	stop   context.CancelFunc
	ended  chan error
}

// drainTimeout is enough: when a worker is stopped, all sagas are at their end.
const drainTimeout = 5 * time.Second

func startEmbedded(ctx context.Context, i *instance) (*embedded, error) {
	e := &embedded{prefix: i.config.Prefix, log: &lastLines{}, ended: make(chan error, 1)}
	var err error
	e.worker, err = worker.Open(ctx, worker.Config{
		Systems: i.config, Catalog: i.catalog, HTTPAddress: "off", DrainTimeout: drainTimeout,
		Logger: slog.New(slog.NewTextHandler(e.log, &slog.HandlerOptions{Level: slog.LevelWarn})),
	})
	if err != nil {
		return nil, err
	}
	running, stop := context.WithCancel(context.WithoutCancel(ctx))
	e.stop = stop
	go func() { e.ended <- e.worker.Run(running) }()
	return e, nil
}

func (e *embedded) close() error {
	e.stop()
	return <-e.ended
}

// write writes one row by a saga. In one process the moment of the commit is known
// without another question.
func (e *embedded) write(c *client.Client) writer {
	return func(ctx context.Context, w work) (s sample, err error) {
		r := w.rows[0]
		began := time.Now()
		watch := e.watch(sagaOf(e.prefix, r.ID))
		o, err := c.Write(ctx, r.write(e.prefix), client.WaitVisible)
		if err := reached(o, err, saga.Completed); err != nil {
			watch.cancel()
			return s, e.log.explain(err)
		}
		s.visible = time.Since(began)
		s.committed = watch.committed(began, s.visible)
		return s, nil
	}
}

// writeBatch parses lines and writes them as one batch.
func (e *embedded) writeBatch(c *client.Client) writer {
	return func(ctx context.Context, w work) (s sample, err error) {
		began := time.Now()
		writes := make([]saga.Write, len(w.lines))
		for i, line := range w.lines {
			parsed, err := saga.ParseWrite(line)
			if err != nil {
				return s, err
			}
			writes[i] = *parsed
		}
		// The writes of a batch are committed together.
		watch := e.watch(writes[0].SagaID)
		for _, r := range c.WriteBatch(ctx, writes, client.WaitVisible) {
			if err := reached(r.Outcome, r.Err, saga.Completed); err != nil {
				watch.cancel()
				return s, e.log.explain(err)
			}
		}
		s.visible = time.Since(began)
		s.committed = watch.committed(began, s.visible)
		return s, nil
	}
}

// reached returns an error unless a saga has come to a status.
func reached(o saga.Outcome, err error, wanted ...saga.Status) error {
	if err != nil {
		return err
	}
	for _, status := range wanted {
		if o.Status == status {
			return nil
		}
	}
	if o.Error != nil {
		return fmt.Errorf("saga %s is %s: %s", o.SagaID, o.Status, o.Error.Message)
	}
	return fmt.Errorf("saga %s is %s", o.SagaID, o.Status)
}

// watch waits for a saga's commit.
type watch struct {
	at     chan time.Time
	cancel func()
}

func (e *embedded) watch(sagaID string) *watch {
	outcomes, cancel := e.worker.Notifier().Subscribe(sagaID)
	over := make(chan struct{})
	w := &watch{at: make(chan time.Time, 1)}
	w.cancel = sync.OnceFunc(func() { cancel(); close(over) })
	go func() {
		for {
			select {
			case o := <-outcomes:
				if o.Status != saga.Pending {
					w.at <- time.Now()
					return
				}
			case <-over:
				return
			}
		}
	}()
	return w
}

// committed returns how long the commit took; at most what visible took, which is
// what is known where the notification was overtaken.
func (w *watch) committed(began time.Time, visible time.Duration) time.Duration {
	defer w.cancel()
	select {
	case at := <-w.at:
		return min(at.Sub(began), visible)
	default:
		return visible
	}
}

// ready waits until a saga goes all the way: the worker polls, and its streams have
// worked off what was written meanwhile.
func (i *instance) ready(ctx context.Context, c *client.Client, id int64, rowBytes int, explain func(error) error) error {
	ctx, cancel := context.WithTimeout(ctx, readyTimeout)
	defer cancel()
	w := newRow(id, rowBytes).write(i.config.Prefix)
	for {
		o, err := c.Write(ctx, w, client.WaitVisible)
		err = reached(o, err, saga.Completed)
		if err == nil {
			return nil
		}
		if !pause(ctx, 100*time.Millisecond) {
			return explain(fmt.Errorf("the worker is not ready after %s: %w", readyTimeout, err))
		}
	}
}

const readyTimeout = time.Minute

// lastLines keeps the end of a log, to explain a failure by it.
type lastLines struct {
	mu   sync.Mutex
	text []byte
}

const keptBytes = 2000

// Write keeps the end of all that was written.
func (l *lastLines) Write(b []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.text = append(l.text, b...)
	if over := len(l.text) - keptBytes; over > 0 {
		l.text = append([]byte(nil), l.text[over:]...)
	}
	return len(b), nil
}

// explain adds what was logged to an error that is not an interrupt.
func (l *lastLines) explain(err error) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if len(l.text) == 0 || errors.Is(err, context.Canceled) {
		return err
	}
	return fmt.Errorf("%w; the worker's last words:\n%s", err, l.text)
}
