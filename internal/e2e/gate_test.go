package e2e

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/url"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/capsaga/capsaga/internal/stacktest"
	"github.com/capsaga/capsaga/saga"
	"github.com/capsaga/capsaga/saga/client"
)

// Sagas that have parked for two systems leave by themselves when both are back,
// each through its gate: Redis does not listen, and nobody holds the stream.
func TestParkedSagasLeaveByThemselves(t *testing.T) {
	w := newWorld(t)
	w.markEpoch()
	there, err := url.Parse(w.stack.RedisURL)
	require.NoError(t, err)
	closed := freeAddress(t)
	w.startWorker("CAPSAGA_ROLES=sagas", "CAPSAGA_REDIS_URL=redis://"+closed+there.Path)
	sagas := map[string]int{}
	for i := range 40 {
		write := saga.Write{SagaID: w.id("gate-%d", i), Policy: saga.Policy{ParkAfter: saga.Duration(time.Second)}}
		write.Mutations = []saga.Mutation{{Entity: "products", Op: saga.Insert, Row: saga.Columns{"id": []byte(fmt.Sprint(i)), "title": []byte(`"Lamp"`)}}}
		w.write(client.WaitCommitted, saga.Committed, write)
		sagas[write.SagaID] = 1
	}
	parked := func(system string) int {
		return value[int](w, "SELECT count(*) FROM capsaga.saga WHERE status = 'parked' AND $1 = ANY(blocked_on)", system)
	}
	for _, system := range []string{"redis", "kafka"} {
		stacktest.Eventually(t, time.Minute, func() error {
			if n := parked(system); n != len(sagas) {
				return fmt.Errorf("%d of %d are parked for %s", n, len(sagas), system)
			}
			return nil
		})
		described, err := w.temporal.DescribeWorkflowExecution(t.Context(), w.stack.Prefix.GateID(system), "")
		require.NoError(t, err)
		require.NotEmpty(t, described.GetPendingActivities(), "the gate of %s probes", system)
	}
	forward(t, closed, there.Host)
	w.startWorker("CAPSAGA_ROLES=stream")
	stacktest.Eventually(t, 2*time.Minute, func() error {
		if n := value[int](w, "SELECT count(*) FROM capsaga.saga WHERE status = 'completed'"); n != len(sagas) {
			return fmt.Errorf("%d of %d are completed", n, len(sagas))
		}
		return nil
	})
	w.requireConverged(sagas)
}

func freeAddress(t *testing.T) string {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	defer listener.Close()
	return listener.Addr().String()
}

// forward passes what comes to an address on to another, until the test ends.
func forward(t *testing.T, from, to string) {
	t.Helper()
	listener, err := net.Listen("tcp", from)
	require.NoError(t, err)
	ctx, cancel := context.WithCancel(context.Background())
	t.Cleanup(func() { cancel(); _ = listener.Close() })
	go func() {
		for {
			near, err := listener.Accept()
			if err != nil {
				return
			}
			far, err := (&net.Dialer{}).DialContext(ctx, "tcp", to)
			if err != nil {
				_ = near.Close()
				continue
			}
			context.AfterFunc(ctx, func() { _ = errors.Join(near.Close(), far.Close()) })
			go func() { _, _ = io.Copy(near, far); _ = near.Close() }()
			go func() { _, _ = io.Copy(far, near); _ = far.Close() }()
		}
	}()
}
