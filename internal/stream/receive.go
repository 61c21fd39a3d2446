package stream

import (
	"context"
	"fmt"
	"time"

	"github.com/jackc/pglogrepl"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgproto3"

	"github.com/capsaga/capsaga/saga"
)

// receive reads the connection until it fails or ctx ends.
func (h *hold) receive(ctx context.Context) error {
	// A deadline in the past wakes the read. Passing ctx to each read instead
	// would start and stop a watcher per message.
	stop := context.AfterFunc(ctx, func() { _ = h.conn.Conn().SetReadDeadline(time.Unix(1, 0)) })
	defer stop()
	for {
		message, err := h.conn.ReceiveMessage(context.Background())
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		if err != nil {
			return fmt.Errorf("%w: %w", errLost, classify("read from slot "+h.slot, err))
		}
		now := time.Now()
		if h.heard.before(now) > silenceLimit {
			if err := h.verify(ctx); err != nil {
				return err
			}
			now = time.Now()
		}
		h.heard.advance(now)
		switch m := message.(type) {
		case *pgproto3.CopyData:
			if err := h.receiveData(ctx, m.Data); err != nil {
				return err
			}
		case *pgproto3.ErrorResponse:
			return classify("read from slot "+h.slot, pgconn.ErrorResponseToPgError(m))
		case *pgproto3.CopyDone:
			return fmt.Errorf("%w: the server ended the stream", errLost)
		}
	}
}

// verify asks the database before words are believed that came after a long
// silence: they may have been on their way for as long, and another may hold the
// slot by now.
func (h *hold) verify(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, silenceLimit)
	defer cancel()
	holds, err := h.holds(ctx)
	if err != nil {
		return fmt.Errorf("%w: %w", errLost, err)
	}
	if !holds {
		return fmt.Errorf("%w: the server gave the slot up", errLost)
	}
	return nil
}

func (h *hold) receiveData(ctx context.Context, data []byte) error {
	if len(data) == 0 {
		return fmt.Errorf("read from slot %s: an empty message", h.slot)
	}
	switch data[0] {
	case pglogrepl.PrimaryKeepaliveMessageByteID:
		m, err := pglogrepl.ParsePrimaryKeepaliveMessage(data[1:])
		if err != nil {
			return fmt.Errorf("read from slot %s: %w", h.slot, err)
		}
		h.received(saga.LSN(m.ServerWALEnd))
		if m.ReplyRequested {
			h.replyNow.Store(true)
			h.tracker.signal()
		}
		return h.pass(ctx, event{position: saga.LSN(m.ServerWALEnd), bytes: 1})
	case pglogrepl.XLogDataByteID:
		m, err := pglogrepl.ParseXLogData(data[1:])
		if err != nil {
			return fmt.Errorf("read from slot %s: %w", h.slot, err)
		}
		message, err := parse(m.WALData)
		if err != nil {
			return fmt.Errorf("read from slot %s at %s: %w", h.slot, saga.LSN(m.WALStart), err)
		}
		h.received(saga.LSN(m.WALStart))
		return h.pass(ctx, event{message: message, position: saga.LSN(m.WALStart), bytes: min(2*int64(len(data))+messageOverhead, receiveBytes)})
	}
	return nil
}

func (h *hold) received(lsn saga.LSN) {
	if uint64(lsn) > h.stats.Received.Load() {
		h.stats.Received.Store(uint64(lsn))
	}
}

// pass hands an event on, and waits while there is no room for it.
func (h *hold) pass(ctx context.Context, e event) error {
	h.queued.Add(1)
	if h.room.TryAcquire(e.bytes) {
		select {
		case h.events <- e:
			return nil
		default:
			h.room.Release(e.bytes)
		}
	}
	h.full.Store(true)
	defer h.full.Store(false)
	if err := h.room.Acquire(ctx, e.bytes); err != nil {
		return context.Cause(ctx)
	}
	select {
	case h.events <- e:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}
