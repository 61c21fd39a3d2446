package stream

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"github.com/jackc/pglogrepl"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgproto3"
	"golang.org/x/sync/semaphore"

	"github.com/capsaga/capsaga/internal/postgres"
	"github.com/capsaga/capsaga/saga"
)

// hold is one hold of the slot. Three goroutines share the work, so that none of
// them waits for another's peer: receive alone reads the connection, dispatch
// alone calls the handler, and keep alone writes the connection and decides when
// to leave.
type hold struct {
	slot    string
	sink    saga.Sink
	conn    *pgconn.PgConn
	handler Session
	tracker *tracker
	lease   Lease
	stats   *Stats
	observe func(*Transaction)
	log     *slog.Logger
	// holds asks PostgreSQL, over another connection, whether the slot is still
	// this walsender's.
	holds func(ctx context.Context) (bool, error)

	// health is told four times a second.
	health func(*hold)
	// notes keeps what the next holder has to know.
	notes *notes

	events chan event
	room   *semaphore.Weighted // bytes received and not yet dispatched
	heard  clock               // when the walsender was last heard of
	known  clock               // as of when the database last said that we hold the slot
	turned clock               // when keep last came around
	full   atomic.Bool         // receive waits for room and so hears nothing
	// replyNow says that the walsender asked for a word.
	replyNow atomic.Bool
	notHeld  atomic.Bool
	queued   atomic.Int64 // events that receive has passed on and dispatch has not done with

	relations map[uint32]*Relation
	// backfilled holds the shape of the tables whose rows came in a backfill last.
	backfilled map[uint32]*Relation
	tx         *Transaction
}

// event is a message of the stream, or a keepalive's position.
type event struct {
	message  any // see parse
	position saga.LSN
	bytes    int64
}

const (
	// receiveBytes bounds what is received and not yet handed over.
	receiveBytes  = 4 << 20
	receiveEvents = 4096
	// messageOverhead is what a message takes beside its bytes, which it takes twice:
	// as they came and parsed.
	messageOverhead = 400
	// drainLimit is how long a holder that is told to stop waits for what it
	// has handed over already.
	drainLimit = 2 * time.Second
)

// clock is a moment that several goroutines read and write.
type clock struct{ at atomic.Int64 }

var processStart = time.Now()

func (c *clock) now()               { c.advance(time.Now()) }
func (c *clock) age() time.Duration { return c.before(time.Now()) }

// before returns how long before t the clock stands.
func (c *clock) before(t time.Time) time.Duration {
	return t.Sub(processStart) - time.Duration(c.at.Load())
}

// advance sets the clock unless it is ahead already.
func (c *clock) advance(t time.Time) {
	to := int64(t.Sub(processStart))
	for at := c.at.Load(); at < to; at = c.at.Load() {
		if c.at.CompareAndSwap(at, to) {
			return
		}
	}
}

// run publishes until the slot is lost, the handler fails or ctx ends. What is
// buffered is dropped before it returns.
func (h *hold) run(ctx context.Context) error {
	inner, stop := context.WithCancelCause(context.WithoutCancel(ctx))
	defer stop(nil)
	dispatching, stopDispatch := context.WithCancel(inner)
	defer stopDispatch()
	h.heard.now()
	h.known.now()
	h.turned.now()

	var group sync.WaitGroup
	group.Go(func() { stop(h.receive(inner)) })
	group.Go(func() {
		if err := h.dispatchAll(dispatching); err != nil {
			stop(err)
		}
	})
	err := h.keep(inner, ctx.Done(), stopDispatch)
	stop(err)
	stopDispatch()
	h.handler.Close() // before anyone else may hold the slot
	group.Wait()
	if err == nil {
		finishReplication(h.conn)
	}
	h.notes.leave()
	return err
}

// keep answers the walsender, confirms, and watches the hold. On the signal to
// quit it lets what is in flight be acknowledged, which saves the next holder
// from repeating it.
func (h *hold) keep(ctx context.Context, quit <-chan struct{}, stopDispatch func()) error {
	tick := time.NewTicker(askEvery / 2)
	defer tick.Stop()
	var sent postgres.SlotMark
	var asked clock
	var drained <-chan time.Time
	for {
		ask := false
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-quit:
			quit = nil
			stopDispatch()
			drained = time.After(drainLimit)
		case <-drained:
			return nil
		case <-h.tracker.wake:
		case <-tick.C:
			if err := h.check(ctx); err != nil {
				return err
			}
			h.health(h)
			h.notes.tick(ctx)
			ask = asked.age() >= askEvery-askEvery/8
		}
		records, _ := h.tracker.waiting()
		confirmed, err := h.tracker.state()
		if err != nil {
			return err
		}
		if ask {
			asked.now()
		}
		mark, wanted := h.notes.mark(confirmed), h.replyNow.Swap(false)
		if wanted || ask || mark > sent {
			if err := h.reply(confirmed, mark, ask, wanted); err != nil {
				return err
			}
			sent = mark
		}
		h.stats.Confirmed.Store(uint64(confirmed))
		if drained != nil && records == 0 {
			return nil
		}
	}
}

// reply tells the walsender what is confirmed. A server that shuts down asks, and
// waits until it hears of exactly the position that it has sent: so it gets a
// second answer, which leaves the slot as it is.
func (h *hold) reply(confirmed saga.LSN, mark postgres.SlotMark, ask, wanted bool) error {
	err := h.send(standbyStatus(confirmed, mark, ask))
	if err == nil && wanted && mark.Holder() {
		err = h.send(standbyStatus(confirmed, 0, false))
	}
	return classify("confirm a position of slot "+h.slot, err)
}

func (h *hold) send(status []byte) error {
	message, err := (&pgproto3.CopyData{Data: status}).Encode(nil)
	if err != nil {
		return err
	}
	return h.conn.Frontend().SendUnbufferedEncodedCopyData(message)
}

// standbyStatus is the message "Standby status update" of PostgreSQL's manual.
// Without a mark it confirms nothing.
func standbyStatus(confirmed saga.LSN, mark postgres.SlotMark, ask bool) []byte {
	status := []byte{pglogrepl.StandbyStatusUpdateByteID}
	for _, position := range []uint64{uint64(confirmed), uint64(mark), uint64(confirmed)} { // written, flushed, applied
		status = binary.BigEndian.AppendUint64(status, position)
	}
	sincePostgres := time.Since(time.Date(2000, 1, 1, 0, 0, 0, 0, time.UTC)).Microseconds()
	status = binary.BigEndian.AppendUint64(status, uint64(sincePostgres)) //nolint:gosec // positive
	if ask {
		return append(status, 1)
	}
	return append(status, 0)
}

// check leaves when the walsender is silent, or when this process itself was
// suspended for so long that it may have lost the slot without noticing.
func (h *hold) check(ctx context.Context) error {
	suspended := h.turned.age()
	h.turned.now()
	if suspended > silenceLimit {
		return fmt.Errorf("%w: this process stood still for %s", errLost, suspended.Round(time.Millisecond))
	}
	silence := h.heard.age()
	if silence > askEvery {
		go h.askDatabase(ctx)
	}
	if h.notHeld.Load() {
		return fmt.Errorf("%w: the server gave the slot up", errLost)
	}
	if silence > silenceLimit && (!h.mayWait() || h.known.age() >= silenceLimit) {
		return fmt.Errorf("%w: the walsender was silent for %s", errLost, silence.Round(time.Millisecond))
	}
	return nil
}

// mayWait says that the database's word is enough where the walsender gives
// none: when its words wait behind data that there is no room for, and when
// there is nothing left that could be published. The latter is no rarity: while
// a walsender passes over a long transaction of tables that are not published,
// it says nothing for half of its timeout, which is our limit, and leaving would
// only begin the same again. What it says after that is looked at by receive.
func (h *hold) mayWait() bool {
	records, _ := h.tracker.waiting()
	return h.full.Load() || records == 0 && h.queued.Load() == 0
}

// askDatabase asks whether the slot is still held; the answer is as of the
// moment of the question.
func (h *hold) askDatabase(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, askEvery)
	defer cancel()
	asked := time.Now()
	switch holds, err := h.holds(ctx); {
	case err != nil: // no word
	case holds:
		h.known.advance(asked)
	default:
		h.notHeld.Store(true)
	}
}

// dispatchAll hands the events to the handler, one after the other.
func (h *hold) dispatchAll(ctx context.Context) error {
	h.relations, h.backfilled = map[uint32]*Relation{}, map[uint32]*Relation{}
	for {
		select {
		case <-ctx.Done():
			return nil
		case e := <-h.events:
			if h.turned.age() > silenceLimit {
				return fmt.Errorf("%w: this process stood still", errLost)
			}
			err := h.dispatch(ctx, e)
			h.room.Release(e.bytes)
			h.queued.Add(-1)
			if err != nil {
				if ctx.Err() != nil && errors.Is(err, context.Canceled) {
					return nil
				}
				return h.located(err)
			}
		}
	}
}

// located adds the transaction to an error of the handler's, so that an operator
// can find it.
func (h *hold) located(err error) error {
	if h.tx == nil {
		return err
	}
	return &transactionError{lsn: h.tx.CommitLSN, err: err}
}

type transactionError struct {
	lsn saga.LSN
	err error
}

func (e *transactionError) Error() string {
	return fmt.Sprintf("%s (in the transaction committed at %s)", e.err, e.lsn)
}

func (e *transactionError) Unwrap() error { return e.err }

func (h *hold) dispatch(ctx context.Context, e event) error {
	switch m := e.message.(type) {
	case nil:
		h.tracker.keepalive(e.position)
		return nil
	case *row:
		return h.change(ctx, m.relation, &m.change)
	case *pglogrepl.BeginMessage:
		return h.begin(ctx, m)
	case *pglogrepl.CommitMessage:
		return h.commit(ctx, m)
	case *pglogrepl.RelationMessage:
		h.relations[m.RelationID] = newRelation(m)
		return nil
	case *pglogrepl.TruncateMessage:
		return h.truncate(ctx, m)
	case *pglogrepl.LogicalDecodingMessage:
		return h.message(ctx, m)
	}
	return nil // origins and type names
}

func (h *hold) begin(ctx context.Context, m *pglogrepl.BeginMessage) error {
	lsn := saga.LSN(m.FinalLSN)
	epoch := h.lease.Epochs.At(lsn)
	version, err := saga.NewVersion(epoch, lsn)
	if err != nil {
		return err
	}
	h.tx = &Transaction{
		CommitLSN: lsn, CommitTime: m.CommitTime, XID: m.Xid, Epoch: epoch, Version: version,
		tracker: h.tracker, pending: h.tracker.begin(m.CommitTime),
	}
	return h.handler.Begin(ctx, h.tx)
}

func (h *hold) commit(ctx context.Context, m *pglogrepl.CommitMessage) error {
	if h.tx == nil {
		return fmt.Errorf("decode pgoutput: a commit at %s without its begin", saga.LSN(m.CommitLSN))
	}
	if err := h.handler.Commit(ctx, h.tx); err != nil {
		return err
	}
	if h.observe != nil {
		h.observe(h.tx)
	}
	h.tracker.commit(h.tx.pending, saga.LSN(m.TransactionEndLSN))
	h.stats.Transactions.Add(1)
	h.tx = nil
	return nil
}

func (h *hold) change(ctx context.Context, relation uint32, change *Change) error {
	if h.tx == nil {
		return fmt.Errorf("decode pgoutput: a change outside of a transaction")
	}
	change.Relation = h.relations[relation]
	if change.Relation == nil {
		return fmt.Errorf("decode pgoutput: a change of relation %d, which was not described", relation)
	}
	change.Index = h.tx.changes
	h.tx.changes++
	h.stats.Changes.Add(1)
	if change.Relation.Table.Schema == saga.Schema {
		return nil
	}
	h.notes.worked.Store(true)
	return h.handler.Change(ctx, h.tx, change)
}

// message takes what a saga or a backfill says of its transaction. What cannot be
// read is of someone else who took the prefix, and stopping for it could never be
// mended.
func (h *hold) message(ctx context.Context, m *pglogrepl.LogicalDecodingMessage) error {
	if !m.Transactional || h.tx == nil {
		return nil
	}
	if m.Prefix == saga.MessageBackfill {
		return h.backfill(ctx, m)
	}
	if err := h.tx.takeMessage(m); err != nil {
		h.log.Warn("ignored a logical message", "error", err)
	}
	return nil
}

func (h *hold) truncate(ctx context.Context, m *pglogrepl.TruncateMessage) error {
	if h.tx == nil {
		return fmt.Errorf("decode pgoutput: a truncate outside of a transaction")
	}
	index := h.tx.changes
	h.tx.changes++
	var tables []*Relation
	for _, id := range m.RelationIDs {
		if r := h.relations[id]; r != nil && r.Table.Schema != saga.Schema {
			tables = append(tables, r)
		}
	}
	if len(tables) == 0 {
		return nil
	}
	return h.handler.Truncate(ctx, h.tx, tables, index)
}
