package e2e

import (
	"context"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/capsaga/capsaga/saga/client"
)

// In the middle of 2,000 sagas the worker and each server in turn die by SIGKILL
// and are started again. Every saga completes; nothing is lost or doubled.
func TestKillTheWorkerAndEachServer(t *testing.T) {
	killEach(t, 2000, func(w *world) callers { return w.client })
}

// The same where concurrent writes share workflows.
func TestKillAmongGroupedWrites(t *testing.T) {
	killEach(t, 6000, func(w *world) callers { return w.grouped(client.Group{}) })
}

// The same of batches that a caller makes; its short form spares the servers that take
// long to come back.
func TestKillAmongBatches(t *testing.T) {
	killEach(t, ifSoaking(6000, 3000), func(w *world) callers { return &batching{Client: w.grouped(client.Group{})} })
}

func killEach(t *testing.T, sagas int, open func(w *world) callers) {
	w := newWorld(t)
	servers := newServers(t)
	p := w.startWorker()
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Minute)
	defer cancel()
	l := newLoad(w, sagas)
	l.sagas = open(w)
	started := time.Now()
	written := make(chan struct{})
	go func() {
		defer close(written)
		l.run(ctx)
	}()
	t.Cleanup(func() { // before the servers go
		cancel()
		<-written
	})
	type fault struct {
		name string
		kill func()
	}
	faults := []fault{
		{"worker", func() {
			p.kill()
			p = w.launchWorker()
		}},
		{postgresServer, nil}, {redisServer, nil}, {kafkaServer, nil},
		{elasticsearchServer, nil}, {temporalServer, nil},
		{"worker again", func() {
			p.kill()
			p = w.launchWorker()
		}},
	}
	if strings.HasSuffix(t.Name(), "Batches") && !soaking() {
		faults = slices.DeleteFunc(faults, func(f fault) bool { return f.name == kafkaServer || f.name == elasticsearchServer })
	}
	for i, fault := range faults {
		l.reached(t, sharedKeys+int64(i+1)*(l.total-sharedKeys)/int64(len(faults)+2))
		began := time.Now()
		t.Logf("%s dies with %d sagas answered and %d being written", fault.name, l.answered.Load(), l.open.Load())
		if fault.kill != nil {
			fault.kill()
		} else {
			servers.do("kill", fault.name)
			servers.do("start", fault.name)
		}
		t.Logf("%s is back after %s", fault.name, time.Since(began).Round(time.Millisecond))
	}
	select {
	case <-written:
	case <-ctx.Done():
		require.NoError(t, ctx.Err(), "%d of %d sagas are answered", l.answered.Load(), l.total)
	}
	t.Logf("all are answered after %s; callers wrote again %d times", time.Since(started).Round(time.Second), l.retries.Load())
	l.requireAllThere(t, 5*time.Minute)
}
