package e2e

import (
	"context"
	"fmt"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.temporal.io/api/workflowservice/v1"

	"github.com/capsaga/capsaga/internal/stacktest"
	"github.com/capsaga/capsaga/saga"
	"github.com/capsaga/capsaga/saga/client"
)

// soaking reports whether the long form of the tests is wanted: make soak.
func soaking() bool { return os.Getenv("CAPSAGA_SOAK") != "" }

// outage is how long a sink is paused, and what is written meanwhile.
type outage struct {
	writes  int
	pause   time.Duration
	recover time.Duration // within which all of it is everywhere
}

func newOutage() outage {
	if soaking() {
		return outage{writes: 5000, pause: 2 * time.Minute, recover: 2 * time.Minute}
	}
	return outage{writes: 500, pause: 20 * time.Second, recover: 40 * time.Second}
}

// A sink that hangs holds nobody up but itself: callers of "committed" do not
// notice, the worker's memory stays flat, and when it is back all is brought to
// it without a hand.
func TestPausedSinks(t *testing.T) {
	for _, sink := range []string{redisServer, kafkaServer, elasticsearchServer} {
		t.Run(sink, func(t *testing.T) { pauseSink(t, sink, newOutage()) })
	}
}

func pauseSink(t *testing.T, sink string, o outage) {
	w := newWorld(t)
	servers := newServers(t)
	p := w.startWorker("CAPSAGA_LOG=info,json") // its own default: to log each attempt would be measured too
	calm := w.writeMany("calm", o.writes/5)
	before := p.residentMB()

	servers.do("pause", sink)
	paused := time.Now()
	during := w.writeMany("during", o.writes)
	time.Sleep(time.Until(paused.Add(o.pause))) // the outage has its length whatever was written
	memory := p.residentMB()
	servers.do("resume", sink)
	back := time.Now()
	stacktest.Eventually(t, o.recover, func() error { return w.open(0) })
	t.Logf("%s paused for %s: p50/p99/max to committed %s, before %s; all complete %s after the return; worker %d MB, before %d MB",
		sink, o.pause, during, calm, time.Since(back).Round(100*time.Millisecond), memory, before)

	require.Less(t, during.p99, calm.p99+time.Second, "callers of committed noticed")
	require.Less(t, memory-before, 100, "MB that the worker grew by")
	require.Zero(t, value[int](w, "SELECT count(*) FROM capsaga.saga WHERE status <> 'completed'"))
	sagas := map[string]int{}
	for _, name := range []string{"calm", "during"} {
		for i := range o.writes {
			if name == "during" || i < o.writes/5 {
				sagas[w.id("%s-%d", name, i)] = 1
			}
		}
	}
	w.requireConverged(sagas)
}

// latencies are the percentiles of a run.
type latencies struct{ p50, p99, max time.Duration }

func (l latencies) String() string {
	round := func(d time.Duration) time.Duration { return d.Round(time.Millisecond) }
	return fmt.Sprintf("%s/%s/%s", round(l.p50), round(l.p99), round(l.max))
}

// writeMany writes so many products from 64 callers, each until it is committed.
func (w *world) writeMany(name string, count int) latencies {
	w.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Minute)
	defer cancel()
	took := make([]time.Duration, count)
	failed := make([]error, count)
	next := make(chan int)
	var callers sync.WaitGroup
	for range 64 {
		callers.Go(func() {
			for i := range next {
				id, began := w.id("%s-%d", name, i), time.Now()
				o, err := w.client.Write(ctx, saga.Write{SagaID: id, Mutations: []saga.Mutation{
					upsert("products", "id", i, "title", id, "stock", i),
				}}, client.WaitCommitted)
				took[i] = time.Since(began)
				if err == nil && o.Version == 0 {
					err = fmt.Errorf("saga %s: %+v", id, o)
				}
				failed[i] = err
			}
		})
	}
	for i := range count {
		next <- i
	}
	close(next)
	callers.Wait()
	for _, err := range failed {
		require.NoError(w.t, err)
	}
	slices.Sort(took)
	return latencies{p50: took[count/2], p99: took[count*99/100], max: took[count-1]}
}

// open returns nil when just so many of the world's sagas still run.
func (w *world) open(want int64) error {
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	found, err := w.temporal.CountWorkflow(ctx, &workflowservice.CountWorkflowExecutionsRequest{
		Query: fmt.Sprintf("ExecutionStatus = 'Running' AND WorkflowType = '%s' AND TaskQueue = '%s'", saga.WorkflowSaga, w.stack.Prefix.TaskQueue()),
	})
	if err == nil && found.GetCount() != want {
		err = fmt.Errorf("%d sagas are open", found.GetCount())
	}
	return err
}

// residentMB is the worker's memory.
func (p *worker) residentMB() int {
	p.t.Helper()
	return int(stacktest.StatusMB(p.t, p.pid(), stacktest.Resident))
}

// peakMB is the most memory that the worker had so far.
func (p *worker) peakMB() int {
	p.t.Helper()
	return int(stacktest.StatusMB(p.t, p.pid(), stacktest.Peak))
}

// cpuSeconds is the time that the worker has computed so far.
func (p *worker) cpuSeconds() float64 {
	p.t.Helper()
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", p.pid()))
	require.NoError(p.t, err)
	_, after, _ := strings.Cut(string(stat), ") ") // the program's name may hold spaces
	fields := strings.Fields(after)
	ticks := 0
	for _, field := range fields[11:13] { // utime and stime
		n, err := strconv.Atoi(field)
		require.NoError(p.t, err)
		ticks += n
	}
	return float64(ticks) / 100 // Linux tells them in hundredths of a second
}
