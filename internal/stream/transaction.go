package stream

import (
	"context"
	"time"

	"github.com/capsaga/capsaga/internal/postgres"
	"github.com/capsaga/capsaga/saga"
)

// Lease is the right to publish, as long as the slot is held.
type Lease struct {
	Slot string
	// Generation counts the holders of the slot. It is stamped on each record,
	// so that a consumer can tell a late one of a former holder.
	Generation int64
	Epochs     postgres.Epochs
}

// Transaction is a committed transaction while it is handed over.
type Transaction struct {
	CommitLSN  saga.LSN
	CommitTime time.Time
	XID        uint32
	Epoch      saga.Epoch
	// Version is that of the transaction's changes: epoch and commit LSN.
	Version saga.Version
	// Saga is what opened the transaction, nil outside of a saga.
	Saga *saga.BeginMessage
	// End is what closed it, with its own position: with the epoch this is the
	// version that the saga reports. Set before Commit is called.
	End    *saga.EndMessage
	EndLSN saga.LSN

	changes int
	pending *pending
	tracker *tracker
}

// Reserve counts a record as not yet acknowledged, until the receipt is
// acknowledged or fails. It blocks while too many bytes are in flight.
func (tx *Transaction) Reserve(ctx context.Context, bytes int) (Receipt, error) {
	return tx.tracker.reserve(ctx, tx.pending, bytes)
}

// Track is Reserve for a record that is acknowledged alone: it returns what to
// call, once, when the record is done, or with why it failed for good.
func (tx *Transaction) Track(ctx context.Context, bytes int) (done func(error), err error) {
	receipt, err := tx.Reserve(ctx, bytes)
	if err != nil {
		return nil, err
	}
	return receipt.done, nil
}

// Changes returns how many changes the transaction has had so far.
func (tx *Transaction) Changes() int { return tx.changes }

// Op is what a change did to a row.
type Op byte

// The operations.
const (
	Insert Op = 'I'
	Update Op = 'U'
	Delete Op = 'D'
	Read   Op = 'R' // the row as a backfill found it; Old is nil
)

// Change is one row's change.
type Change struct {
	// Index counts the changes of the transaction from 0, those that are not
	// published too, so that it is the same whenever the transaction is read.
	Index    int
	Op       Op
	Relation *Relation
	// Old is the row before: all of it where the replica identity is full, else
	// its key columns, and for an update only when they changed. May be nil.
	Old Tuple
	// OldFull says that Old has all columns.
	OldFull bool
	New     Tuple // nil for a delete
}

// FillUnchanged takes large values that an update left as they were from the old
// row, where the server sent it.
func (c *Change) FillUnchanged() {
	for i := range c.New {
		if c.New[i].Kind != Unchanged || i >= len(c.Old) {
			continue
		}
		// Without the whole old row, only key columns have a value in it.
		if old := c.Old[i]; old.Kind == Text || c.OldFull && old.Kind == Null {
			c.New[i] = old
		}
	}
}

// Tuple is a row's values, in the order of the relation's columns.
type Tuple []Value

// Kind says what a tuple holds for a column.
type Kind byte

// The kinds of values.
const (
	Null      Kind = 'n'
	Unchanged Kind = 'u' // a large value that the change left as it was: not sent
	Text      Kind = 't'
)

// Value is a column's value in PostgreSQL's text form.
type Value struct {
	Kind Kind
	Text []byte
}

// Relation is a table as it was when a change was made. A schema change makes a
// new one, so that its pointer identifies the shape.
type Relation struct {
	ID      uint32
	Table   saga.Table
	Columns []Column
	// Identity is the replica identity: d(efault), n(othing), f(ull), i(ndex).
	Identity byte
}

// Column is a column of a relation.
type Column struct {
	Name         string
	TypeOID      uint32
	TypeModifier int32
	// Identity says that the column is part of the replica identity.
	Identity bool
}

// Handler publishes what a stream reads.
type Handler interface {
	// Start begins a session for a holder.
	Start(ctx context.Context, lease Lease) (Session, error)
}

// Session takes the transactions of one holder, in commit order and from one
// goroutine. An error ends the session: nothing at or after that transaction is
// confirmed. One of class Rejected is raised as an alarm.
type Session interface {
	Begin(ctx context.Context, tx *Transaction) error
	Change(ctx context.Context, tx *Transaction, change *Change) error
	// Truncate is told of tables that were emptied; its index is that of a
	// change.
	Truncate(ctx context.Context, tx *Transaction, tables []*Relation, index int) error
	// Mark is told of a backfill's begin and end; its chunks come as changes of Op
	// Read.
	Mark(ctx context.Context, tx *Transaction, mark *saga.BackfillMessage) error
	Commit(ctx context.Context, tx *Transaction) error
	// Trouble returns what keeps records from being acknowledged, or nil.
	Trouble() error
	// Close drops what is buffered. Nothing is published after it returns.
	Close()
}
