package client

import (
	"context"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sync/semaphore"

	"github.com/capsaga/capsaga/saga"
)

// Group says how concurrent writes share workflows. The zero value of each field has
// a default.
type Group struct {
	// Off gives each write a workflow of its own.
	Off bool
	// MaxWrites and MaxBytes bound a batch; defaults 500 and 1,000,000.
	MaxWrites, MaxBytes int
	// Delay bounds how long a write waits while a batch is under way, for it to end or
	// for others to fill the next one; default 50 ms. A caller that is alone never
	// waits.
	Delay time.Duration
	// Flights is how many workflows are under way at once, at most; default 4.
	Flights int
	// MaxQueuedBytes bounds the memory for writes that wait; default 64 MiB. A caller
	// beyond it waits for room before its write is taken.
	MaxQueuedBytes int
}

const (
	defaultBatchWrites = 500
	defaultBatchBytes  = 1_000_000
	defaultDelay       = 50 * time.Millisecond
	defaultFlights     = 4
	defaultQueuedBytes = 64 << 20
)

// orDefaults checks the options and fills in what they leave out.
func (g Group) orDefaults() (Group, error) {
	for _, field := range []struct {
		name            string
		value           *int
		otherwise, most int
	}{
		{"MaxWrites", &g.MaxWrites, defaultBatchWrites, saga.MaxBatchWrites},
		{"MaxBytes", &g.MaxBytes, defaultBatchBytes, saga.MaxBatchBytes},
		{"Flights", &g.Flights, defaultFlights, 1 << 10},
		{"MaxQueuedBytes", &g.MaxQueuedBytes, defaultQueuedBytes, 1 << 40},
	} {
		if *field.value == 0 {
			*field.value = field.otherwise
		}
		if *field.value < 0 || *field.value > field.most {
			return g, fmt.Errorf("Options.Group.%s is %d: want at most %d", field.name, *field.value, field.most)
		}
	}
	if g.Delay == 0 {
		g.Delay = defaultDelay
	}
	if g.Delay < 0 {
		return g, fmt.Errorf("Options.Group.Delay is %s: want a time above zero", g.Delay)
	}
	if g.MaxQueuedBytes < saga.MaxWriteBytes {
		return g, fmt.Errorf("Options.Group.MaxQueuedBytes is %d: want at least %d, which one write may take", g.MaxQueuedBytes, saga.MaxWriteBytes)
	}
	return g, nil
}

// group coalesces concurrent writes into batches, as a database's group commit does:
// what comes while a batch is under way goes with the next one. A second workflow
// beside the first would have half of the writes for the same price, which on a busy
// machine makes both slower; so it leaves only when it is full, or when the first has
// taken longer than Delay. When none is under way, the next one waits a moment for the
// callers whom the last has just answered, see land. A lone caller never waits: it comes
// back alone.
//
// A write that is alone in its batch gets a workflow of its own, saga/<id>.
type group struct {
	client  *Client
	options Group
	room    *semaphore.Weighted

	mu       sync.Mutex
	queue    []*item
	flights  int
	expected int           // writes that the next batch is likely to have
	took     time.Duration // by the last one
	late     *time.Timer   // the end of the queue's wait
	overdue  bool          // the queue has waited long enough
}

// maxRendezvous is how long a batch waits, at most, for callers that are likely to be
// back: a quarter of the time that the last one took, else.
const maxRendezvous = 10 * time.Millisecond

func newGroup(c *Client, o Group) *group {
	return &group{client: c, options: o, room: semaphore.NewWeighted(int64(o.MaxQueuedBytes)), expected: 1}
}

// write joins a batch and waits for the write's own answer. A caller whose context
// ends leaves at once: a write that had not left yet is taken back and never
// happens; one that has goes on, as a single saga would.
func (g *group) write(ctx context.Context, it *item) Result {
	size := int64(len(it.encoded))
	if err := g.room.Acquire(ctx, size); err != nil {
		return Result{Err: g.client.notStarted(it.sagaID, err)}
	}
	defer g.room.Release(size)
	g.enter(it)
	select {
	case r := <-it.done:
		return r
	case <-ctx.Done():
	}
	if g.takeBack(it) {
		return Result{Err: g.client.notStarted(it.sagaID, ctx.Err())}
	}
	it.left()
	select {
	case r := <-it.done: // it had come
		return r
	default:
		return Result{Err: g.client.unfinished(it.sagaID, ctx.Err())}
	}
}

func (g *group) enter(it *item) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.queue = append(g.queue, it)
	g.launch()
}

// takeBack removes an item that has not left yet.
func (g *group) takeBack(it *item) bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	for i, queued := range g.queue {
		if queued == it {
			g.queue = append(g.queue[:i], g.queue[i+1:]...)
			return true
		}
	}
	return false
}

// launch sends a batch off if it is time to.
func (g *group) launch() {
	for len(g.queue) > 0 && g.flights < g.options.Flights {
		wanted, delay := min(g.expected, g.options.MaxWrites), min(g.took/4, maxRendezvous)
		if g.flights > 0 {
			wanted, delay = g.options.MaxWrites, g.options.Delay
		}
		if len(g.queue) < wanted && !g.overdue {
			if g.late == nil {
				var late *time.Timer
				late = time.AfterFunc(delay, func() { g.expire(&late) })
				g.late = late
			}
			return
		}
		g.disarm()
		batch := chunks(g.queue, g.options.MaxWrites, g.options.MaxBytes)[0]
		g.queue = append([]*item(nil), g.queue[len(batch):]...)
		g.flights++
		ctx, cancel := context.WithCancel(context.Background())
		callers := int64(len(batch))
		for _, it := range batch {
			it.left = sync.OnceFunc(func() {
				if atomic.AddInt64(&callers, -1) == 0 {
					cancel()
				}
			})
		}
		go g.fly(ctx, cancel, batch)
	}
}

// expire ends the queue's wait, unless its timer was disarmed meanwhile.
func (g *group) expire(late **time.Timer) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.late != *late {
		return
	}
	g.late, g.overdue = nil, len(g.queue) > 0 // its last write may have been taken back
	g.launch()
}

func (g *group) disarm() {
	if g.late != nil {
		g.late.Stop()
	}
	g.late, g.overdue = nil, false
}

// slotTime is for how long a flight counts as one at most. Without a worker flights
// do not end, and later writes are to leave all the same, as each is durable once
// its workflow is started.
const slotTime = time.Second

// fly brings a batch to its end. Its callers may leave, and it goes on for the
// others; when all have left, nobody is waited for any more.
func (g *group) fly(ctx context.Context, cancel context.CancelFunc, batch []*item) {
	defer cancel()
	began := time.Now()
	// Who waits for the commit has been answered, and is back, before the flight lands.
	returning := 0
	for _, it := range batch {
		if it.level != WaitCommitted {
			returning++
		}
	}
	leave := sync.OnceFunc(func() { g.land(returning, time.Since(began)) })
	late := time.AfterFunc(slotTime, leave)
	if len(batch) == 1 {
		o, err := g.client.writeAlone(batch[0].ctx, batch[0].own())
		batch[0].tell(Result{Outcome: o, Err: err})
		batch[0].begun.Wait() // a commit is answered before that, and must not outrun it
	} else {
		g.client.fly(ctx, batch)
	}
	late.Stop()
	leave()
}

// land makes room for the next flight. The callers who are answered now are likely to
// be back at once, and to go with those who are waiting: else there would be two crowds,
// each of which waits for the flights of the other.
func (g *group) land(returning int, took time.Duration) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.expected, g.took = returning+len(g.queue), took
	if g.flights--; g.flights == 0 && !g.overdue {
		g.disarm() // from now on the wait is a shorter one
	}
	g.launch()
}
