package activitytest

import (
	"context"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	sdkclient "go.temporal.io/sdk/client"
	"go.temporal.io/sdk/worker"

	"github.com/capsaga/capsaga/internal/notify"
	"github.com/capsaga/capsaga/internal/provision"
	"github.com/capsaga/capsaga/internal/stacktest"
	"github.com/capsaga/capsaga/saga"
	"github.com/capsaga/capsaga/workflows"
)

// Scene is a worker of a prefix of its own on the real Temporal, over systems in
// memory.
type Scene struct {
	Systems  *Systems
	Temporal sdkclient.Client // the worker's own
	Remote   sdkclient.Client // another connection
	Prefix   saga.Prefix
	Hub      *notify.Hub
}

// NewScene starts a worker that stops with the test.
func NewScene(t testing.TB) *Scene {
	t.Helper()
	stack := stacktest.New(t)
	s := &Scene{
		Systems: NewSystems(), Prefix: stack.Prefix, Hub: notify.NewHub(),
		Temporal: dial(t, stack.TemporalAddress), Remote: dial(t, stack.TemporalAddress),
	}
	require.NoError(t, addOnce(s.Temporal))
	s.StartWorker(t)
	return s
}

// StartWorker starts one more worker; the returned function stops it, as does
// the test's end.
func (s *Scene) StartWorker(t testing.TB) (stop func()) {
	t.Helper()
	w := worker.New(s.Temporal, s.Prefix.TaskQueue(), worker.Options{
		// The largest write needs 0.1 s of computing in the workflow, which a busy
		// machine with the race detector makes seconds: no deadlock.
		DeadlockDetectionTimeout: 20 * time.Second,
		// As the product's: a fixed number can all wait on the sticky queue.
		WorkflowTaskPollerBehavior: worker.NewPollerBehaviorAutoscaling(worker.PollerBehaviorAutoscalingOptions{}),
		ActivityTaskPollerBehavior: worker.NewPollerBehaviorAutoscaling(worker.PollerBehaviorAutoscalingOptions{}),
	})
	workflows.Register(w)
	w.RegisterActivity(s.Systems.Activities(s.Hub))
	require.NoError(t, w.Start())
	stop = sync.OnceFunc(w.Stop)
	t.Cleanup(stop)
	return stop
}

// ID returns a saga id that no other test uses.
func (s *Scene) ID(name string) string { return string(s.Prefix) + "-" + name }

// Within returns a context that ends with the test, or before.
func Within(t testing.TB, d time.Duration) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), d)
	t.Cleanup(cancel)
	return ctx
}

func dial(t testing.TB, address string) sdkclient.Client {
	t.Helper()
	c, err := sdkclient.Dial(sdkclient.Options{HostPort: address, Identity: "capsaga-test", Logger: Quiet{}})
	require.NoError(t, err)
	t.Cleanup(c.Close)
	return c
}

// Quiet drops the SDK's log: the failures in it are what the tests are about.
type Quiet struct{}

// Debug drops a line.
func (Quiet) Debug(string, ...any) {}

// Info drops a line.
func (Quiet) Info(string, ...any) {}

// Warn drops a line.
func (Quiet) Warn(string, ...any) {}

// Error drops a line.
func (Quiet) Error(string, ...any) {}

var added sync.Once

func addOnce(c sdkclient.Client) (err error) {
	added.Do(func() { err = AddAttributes(c) })
	return err
}

// AddAttributes makes the namespace know the sagas' search attributes, as
// `capsaga catalog apply` does.
func AddAttributes(c sdkclient.Client) error {
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	return provision.AddAttributes(ctx, c, "default")
}
