package stream

import (
	"context"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sync/semaphore"

	"github.com/capsaga/capsaga/saga"
)

// tracker finds the position up to which everything is acknowledged. Its queue
// has an entry per transaction, in commit order, and one per keepalive position;
// only the completed head of the queue is confirmed.
type tracker struct {
	limit int64
	room  *semaphore.Weighted
	wake  chan struct{} // a confirmation or a failure is there to be acted on
	// onConfirm is told of each confirmation at once, without the lock.
	onConfirm func(saga.LSN)
	// records counts acknowledgements, for Stats.
	records *atomic.Int64

	mu        sync.Mutex
	queue     []*pending
	confirmed saga.LSN
	failed    error
	inFlight  int       // records
	since     time.Time // when the queue's head last got on
	compactAt int       // length of the queue
}

// pending is one entry of the queue. It is complete when it is closed and no
// record of it is outstanding.
type pending struct {
	end         saga.LSN
	committed   time.Time // zero for a keepalive position
	open        bool
	outstanding int
}

func (p *pending) complete() bool { return !p.open && p.outstanding == 0 }

func newTracker(limit int64, onConfirm func(saga.LSN)) *tracker {
	return &tracker{limit: limit, room: semaphore.NewWeighted(limit), wake: make(chan struct{}, 1), onConfirm: onConfirm, records: new(atomic.Int64)}
}

// RecordOverhead is what a record is counted as beside its bytes: what it takes in
// memory, about.
const RecordOverhead = 400

func (t *tracker) begin(committed time.Time) *pending {
	p := &pending{open: true, committed: committed}
	t.mu.Lock()
	defer t.mu.Unlock()
	if len(t.queue) == 0 {
		t.since = time.Now()
	}
	if len(t.queue) >= max(t.compactAt, minCompact) {
		t.compact()
		t.compactAt = 2 * len(t.queue)
	}
	t.queue = append(t.queue, p)
	return p
}

// minCompact is a length of the queue that is not worth making it shorter.
const minCompact = 1024

// compact makes one entry of completed ones that follow each other: behind one that
// waits for its sink any number may complete.
func (t *tracker) compact() {
	kept := t.queue[:0]
	for _, p := range t.queue {
		if n := len(kept); n > 0 && p.complete() && kept[n-1].complete() {
			kept[n-1].end = max(kept[n-1].end, p.end)
			continue
		}
		kept = append(kept, p)
	}
	clear(t.queue[len(kept):])
	t.queue = kept
}

// reserve counts a record of p as outstanding.
func (t *tracker) reserve(ctx context.Context, p *pending, bytes int) (Receipt, error) {
	weight := min(int64(bytes)+RecordOverhead, t.limit)
	if err := t.room.Acquire(ctx, weight); err != nil {
		return Receipt{}, err
	}
	t.mu.Lock()
	p.outstanding++
	t.inFlight++
	t.mu.Unlock()
	return Receipt{tracker: t, pending: p, weight: weight}, nil
}

// Receipt stands for one record that is not acknowledged yet.
type Receipt struct {
	tracker *tracker
	pending *pending
	weight  int64
}

// Fail says that the record failed for good. It stays outstanding, so that its
// transaction and all after it are never confirmed.
func (r Receipt) Fail(err error) {
	t := r.tracker
	t.room.Release(r.weight)
	t.mu.Lock()
	t.inFlight--
	if t.failed == nil {
		t.failed = err
	}
	t.mu.Unlock()
	t.signal()
}

func (r Receipt) done(err error) {
	if err != nil {
		r.Fail(err)
		return
	}
	Acknowledge(r)
}

// Acknowledge counts records of one stream as done.
func Acknowledge(receipts ...Receipt) {
	if len(receipts) == 0 {
		return
	}
	t := receipts[0].tracker
	var weight int64
	for _, r := range receipts {
		weight += r.weight
	}
	t.room.Release(weight)
	t.records.Add(int64(len(receipts)))
	t.mu.Lock()
	t.inFlight -= len(receipts)
	ofHead := false
	for _, r := range receipts {
		r.pending.outstanding--
		ofHead = ofHead || r.pending == t.queue[0]
	}
	if ofHead {
		t.since = time.Now()
	}
	t.advance()
}

// commit closes a transaction that ends at a position.
func (t *tracker) commit(p *pending, end saga.LSN) {
	t.mu.Lock()
	p.open, p.end = false, end
	t.advance()
}

// keepalive takes a position up to which the server has sent all there is. When
// nothing before it is pending it is confirmed at once.
func (t *tracker) keepalive(at saga.LSN) {
	t.mu.Lock()
	if n := len(t.queue); n > 0 {
		last := t.queue[n-1]
		switch {
		case last.open: // its commit lies above the position
			t.mu.Unlock()
			return
		case last.outstanding == 0:
			last.end = max(last.end, at)
			t.mu.Unlock()
			return
		}
	}
	t.queue = append(t.queue, &pending{end: at})
	t.advance()
}

// advance confirms the completed head of the queue. It is called with the lock
// and releases it.
func (t *tracker) advance() {
	before := t.confirmed
	done := 0
	for _, p := range t.queue {
		if !p.complete() {
			break
		}
		t.confirmed = max(t.confirmed, p.end)
		done++
	}
	if done > 0 {
		clear(t.queue[:done])
		t.queue = t.queue[done:]
		t.since = time.Now()
	}
	confirmed := t.confirmed
	t.mu.Unlock()
	if confirmed > before {
		if t.onConfirm != nil {
			t.onConfirm(confirmed)
		}
		t.signal()
	}
}

func (t *tracker) signal() {
	select {
	case t.wake <- struct{}{}:
	default:
	}
}

// state returns the confirmed position and the first failure.
func (t *tracker) state() (saga.LSN, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.confirmed, t.failed
}

// oldest returns when the oldest transaction that is not confirmed was committed,
// zero when there is none.
func (t *tracker) oldest() time.Time {
	t.mu.Lock()
	defer t.mu.Unlock()
	if len(t.queue) == 0 {
		return time.Time{}
	}
	return t.queue[0].committed // advance leaves no keepalive at the head
}

// waiting returns how many records are outstanding, and for how long nothing of the
// oldest transaction was acknowledged.
func (t *tracker) waiting() (records int, stalled time.Duration) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if len(t.queue) > 0 {
		stalled = time.Since(t.since)
	}
	return t.inFlight, stalled
}
