package sinkpub

import (
	"context"
	"sync"

	"github.com/capsaga/capsaga/saga"
)

// item is a document with where it goes.
type item struct {
	saga.Document
	entity *saga.Entity
	// current says that Redis, or the entity's present index, gets it; next names an
	// index that is being filled and gets it too.
	current bool
	next    string
	// reread says that the row is not known as it came.
	reread    bool
	committed int64 // when the change was, in seconds since 1970
	xid       uint32
	done      func(error)
}

// rowKey tells the rows of a batch apart.
type rowKey struct{ entity, key string }

// batch is what goes in one request.
type batch struct {
	items []item
	index map[rowKey]int
	done  []func(error)
	bytes int
	// alone says that it goes on with a transaction whose earlier rows are in a batch
	// before it, so that it is applied after all of those.
	alone bool
}

func newBatch() *batch { return &batch{index: map[rowKey]int{}} }

// reset empties a batch for its next use: most of what a batch costs is its growing.
func (b *batch) reset() {
	clear(b.items)
	clear(b.done)
	clear(b.index)
	*b = batch{items: b.items[:0], index: b.index, done: b.done[:0]}
}

// add puts an item in the batch, in the place of an earlier one of its row.
func (b *batch) add(i item) {
	b.done = append(b.done, i.done)
	b.bytes += len(i.Row) + len(i.Key)
	key := rowKey{i.entity.Name, i.Key}
	at, known := b.index[key]
	if !known {
		b.index[key] = len(b.items)
		b.items = append(b.items, i)
		return
	}
	// The later row is the truth wherever either of the two was to go.
	old := b.items[at]
	i.current = i.current || old.current
	if i.next == "" {
		i.next = old.next
	}
	b.items[at] = i
}

// queue gathers items into batches until somebody is free to apply them. A batch
// ends between two transactions, unless one of them is larger than a batch.
type queue struct {
	maxItems int

	mu        sync.Mutex
	changed   chan struct{} // closed and made anew when somebody may go on
	filling   *batch
	ready     *batch // nil: none
	spare     []*batch
	waiting   int // who would take one
	underWay  int
	exclusive bool // the one under way is to be alone
	// open is the version of the transaction that is being read, zero between two;
	// rows is how many of it are in the batch that is filling, and split is that of a
	// transaction whose first rows are in an earlier one.
	open, split saga.Version
	rows        int
}

func newQueue(maxItems int) *queue {
	return &queue{maxItems: maxItems, changed: make(chan struct{}), filling: newBatch()}
}

func (q *queue) wake() {
	close(q.changed)
	q.changed = make(chan struct{})
}

// wait lets ready look at the queue, with the lock, until it returns true.
func (q *queue) wait(ctx context.Context, ready func() bool) error {
	q.mu.Lock()
	defer q.mu.Unlock()
	for !ready() {
		changed := q.changed
		q.mu.Unlock()
		select {
		case <-changed:
			q.mu.Lock()
		case <-ctx.Done():
			q.mu.Lock()
			return ctx.Err()
		}
	}
	return nil
}

// empty returns a batch that was applied, or a new one.
func (q *queue) empty() *batch {
	if len(q.spare) == 0 {
		return newBatch()
	}
	b := q.spare[len(q.spare)-1]
	q.spare = q.spare[:len(q.spare)-1]
	return b
}

// recycle takes a batch that nobody needs any more.
func (q *queue) recycle(b *batch) {
	b.reset()
	q.mu.Lock()
	defer q.mu.Unlock()
	q.spare = append(q.spare, b)
}

// seal makes what has gathered ready to be taken, if nothing else is.
func (q *queue) seal() {
	if q.ready != nil || len(q.filling.items) == 0 {
		return
	}
	q.ready, q.filling = q.filling, q.empty()
	if q.rows > 0 {
		q.split, q.rows = q.open, 0
	}
	q.wake()
}

// begin says which transaction the items are of from here on.
func (q *queue) begin(version saga.Version) {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.open, q.rows = version, 0
}

// end says that the transaction is complete.
func (q *queue) end() {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.open, q.rows = 0, 0
	if q.waiting > 0 {
		q.seal()
	}
}

// add puts an item behind the others. It waits while there is no room.
func (q *queue) add(ctx context.Context, i item) error {
	return q.wait(ctx, func() bool {
		if len(q.filling.items) >= q.maxItems || q.filling.bytes >= maxBatchBytes {
			if q.seal(); len(q.filling.items) > 0 {
				return false
			}
		}
		i.Again = i.Version == q.split
		q.filling.alone = q.filling.alone || i.Again
		q.filling.add(i)
		q.rows++
		return true
	})
}

// take returns the next batch to apply. It waits until there is one, and where
// the order matters until none is under way.
func (q *queue) take(ctx context.Context) (b *batch, err error) {
	q.mu.Lock()
	q.waiting++
	q.mu.Unlock()
	err = q.wait(ctx, func() bool {
		if q.rows == 0 {
			q.seal()
		}
		if q.ready == nil || q.exclusive || q.ready.alone && q.underWay > 0 {
			return false
		}
		b, q.ready = q.ready, nil
		q.underWay++
		q.exclusive = b.alone
		q.wake()
		return true
	})
	q.mu.Lock()
	q.waiting--
	q.mu.Unlock()
	return b, err
}

// finished says that a batch is applied.
func (q *queue) finished() {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.underWay--
	q.exclusive = false
	q.wake()
}

// drain returns when all that was added is applied.
func (q *queue) drain(ctx context.Context) error {
	q.mu.Lock()
	q.rows = 0 // the rows of a transaction that is open go as well
	if len(q.filling.items) > 0 && q.open != 0 {
		q.split = q.open
	}
	q.mu.Unlock()
	return q.wait(ctx, func() bool {
		if q.ready == nil && len(q.filling.items) > 0 {
			q.seal()
		}
		return q.ready == nil && len(q.filling.items) == 0 && q.underWay == 0
	})
}
