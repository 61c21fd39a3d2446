package attack

import (
	"context"
	"io"
	"log/slog"
	"sync"

	"github.com/capsaga/capsaga/internal/stream"
	"github.com/capsaga/capsaga/saga"
)

// readerSeen is what stream.Reader shows of one saga.
type readerSeen struct {
	end     saga.LSN
	version saga.Version // of the transaction's changes
}

// readSagas reads a slot with stream.Reader until it has come to a position, and
// returns what Observe was told of each saga.
func (a *arena) readSagas(ctx context.Context, until saga.LSN) (map[string]readerSeen, error) {
	seen := map[string]readerSeen{}
	var mu sync.Mutex
	slot := a.slot("reader")
	positions := stream.NewPositions(a.db.Pool(), slot)
	reader, err := stream.NewReader(stream.Config{
		URL: a.stack.PostgresURL, Slot: slot, Publications: []string{publication}, Holder: "attack",
		Registry: a.db, Database: a.db.Pool(), Handler: idle{}, Positions: positions,
		Logger: slog.New(slog.NewTextHandler(io.Discard, nil)),
		Observe: func(tx *stream.Transaction) {
			if tx.End == nil {
				return
			}
			mu.Lock()
			defer mu.Unlock()
			seen[tx.End.SagaID] = readerSeen{end: tx.EndLSN, version: tx.Version}
		},
	})
	if err != nil {
		return nil, err
	}
	running, stop := context.WithCancel(ctx)
	done := make(chan struct{})
	go func() {
		defer close(done)
		_ = reader.Run(running) // returns nil only
	}()
	err = positions.Wait(ctx, until)
	stop()
	<-done
	return seen, err
}

// idle is a handler that publishes nothing.
type idle struct{}

func (idle) Start(context.Context, stream.Lease) (stream.Session, error)            { return idle{}, nil }
func (idle) Begin(context.Context, *stream.Transaction) error                       { return nil }
func (idle) Change(context.Context, *stream.Transaction, *stream.Change) error      { return nil }
func (idle) Commit(context.Context, *stream.Transaction) error                      { return nil }
func (idle) Trouble() error                                                         { return nil }
func (idle) Close()                                                                 {}
func (idle) Mark(context.Context, *stream.Transaction, *saga.BackfillMessage) error { return nil }
func (idle) Truncate(context.Context, *stream.Transaction, []*stream.Relation, int) error {
	return nil
}
