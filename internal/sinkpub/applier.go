package sinkpub

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"sync/atomic"
	"time"

	"github.com/capsaga/capsaga/internal/elastic"
	"github.com/capsaga/capsaga/saga"
)

// applier applies what gathers in a queue.
type applier struct {
	config  Config
	queue   *queue
	trouble atomic.Pointer[error]
	pause   func(try int) time.Duration // before the next attempt
}

func newApplier(config Config) *applier {
	return &applier{config: config, queue: newQueue(config.MaxDocuments), pause: backoff}
}

const (
	retryFirst = 100 * time.Millisecond
	retryLast  = 2 * time.Second
)

// backoff doubles, and is spread over its upper half.
func backoff(try int) time.Duration {
	pause := retryLast
	if try < 5 {
		pause = retryFirst << try
	}
	return pause/2 + rand.N(pause/2)
}

// persist repeats an action until it is done or ctx ends, and says meanwhile what
// keeps it. What a system refuses is repeated as well: an operator has to mend it,
// and nothing may be skipped.
func (a *applier) persist(ctx context.Context, action func(context.Context) error) error {
	var said *error
	for try := 0; ; try++ {
		err := action(ctx)
		if err == nil || ctx.Err() != nil {
			a.trouble.CompareAndSwap(said, nil) // another's trouble is not over
			return errors.Join(err, ctx.Err())
		}
		said = &err
		a.trouble.Store(said)
		select {
		case <-time.After(a.pause(try)):
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// run applies batches until ctx ends. One that is not done by then is never said
// to be, so that its position is not confirmed.
func (a *applier) run(ctx context.Context) {
	for {
		b, err := a.queue.take(ctx)
		if err != nil {
			return
		}
		if a.apply(ctx, b) != nil {
			return
		}
		a.queue.finished()
		for _, done := range b.done {
			done(nil)
		}
		a.queue.recycle(b)
	}
}

// apply brings a batch to the sink, however long that takes: to where the rows are
// now, and to an index that is being filled.
func (a *applier) apply(ctx context.Context, b *batch) error {
	if !slices.ContainsFunc(b.items, func(i item) bool { return i.next != "" }) {
		return a.applyTo(ctx, "", b.items)
	}
	targets := map[string][]item{}
	for _, i := range b.items {
		if i.current {
			targets[""] = append(targets[""], i)
		}
		if i.next != "" {
			targets[i.next] = append(targets[i.next], i)
		}
	}
	for index, items := range targets {
		if err := a.applyTo(ctx, index, items); err != nil {
			return err
		}
	}
	return nil
}

// applyTo repeats what did not pass and parks what is refused.
func (a *applier) applyTo(ctx context.Context, index string, items []item) error {
	var refused []saga.Refused
	err := a.persist(ctx, func(ctx context.Context) error {
		documents, err := a.documents(ctx, items)
		if err != nil {
			return err
		}
		applied, err := a.send(ctx, index, documents)
		if err != nil {
			return err
		}
		items, refused, err = a.sift(items, documents, applied, refused)
		return err
	})
	if err != nil || len(refused) == 0 {
		return err
	}
	return a.persist(ctx, func(ctx context.Context) error { return a.config.Adopt(ctx, refused) })
}

func (a *applier) send(ctx context.Context, index string, documents []document) ([]saga.Applied, error) {
	docs := make([]saga.Document, len(documents))
	for i := range documents {
		docs[i] = documents[i].Document
	}
	if len(docs) == 0 {
		return nil, nil
	}
	if index == "" {
		return a.config.Store.Apply(ctx, docs)
	}
	return a.config.Store.(Rebuilder).ApplyTo(ctx, index, docs)
}

// sift keeps the items that have to be tried again, and adds to those refused. An
// entity without an index is tried again: parked, each of its rows would be a saga.
func (a *applier) sift(items []item, documents []document, applied []saga.Applied, refused []saga.Refused) ([]item, []saga.Refused, error) {
	var again []item
	var why error
	for i, result := range applied {
		switch {
		case result.Err == nil:
		case saga.ClassOf(result.Err) == saga.Rejected && !errors.Is(result.Err, elastic.ErrNoIndex):
			refused = append(refused, a.refusal(items[documents[i].item], documents[i], result.Err))
		default:
			again, why = append(again, items[documents[i].item]), result.Err
		}
	}
	return again, refused, why
}

func (a *applier) refusal(i item, d document, err error) saga.Refused {
	r := saga.Refused{Sink: a.config.Sink, Entity: i.entity, Key: d.Key, Version: d.Version, Deleted: d.Deleted()}
	var known *saga.Error
	if errors.As(err, &known) {
		r.Error = saga.ErrorInfo{Code: known.Code, Message: fmt.Sprintf("%s/%s: %s", i.entity.Name, d.Key, known.Message), Class: known.Class, System: known.System}
	}
	return r
}

// document is a document to send, with the index of its item.
type document struct {
	saga.Document
	item int
}

// documents returns what is to be sent: the rows as they came, or as they are now.
// Of a row that is gone by now the deletion is still to come.
func (a *applier) documents(ctx context.Context, items []item) ([]document, error) {
	documents := make([]document, 0, len(items))
	stale := map[*saga.Entity][]int{}
	now := time.Now().Unix()
	for n := range items {
		i := &items[n]
		old := now-i.committed > int64(i.entity.TombstoneLife()/2/time.Second)
		if !i.reread && (!old || i.Deleted()) {
			documents = append(documents, document{i.Document, n})
			continue
		}
		stale[i.entity] = append(stale[i.entity], n)
	}
	for entity, indexes := range stale {
		read, err := a.reread(ctx, entity, items, indexes)
		if err != nil {
			return nil, err
		}
		documents = append(documents, read...)
	}
	return documents, nil
}

// maxReread bounds one read of rows.
const maxReread = 200

func (a *applier) reread(ctx context.Context, entity *saga.Entity, items []item, indexes []int) ([]document, error) {
	var documents []document
	for chunk := range slices.Chunk(indexes, maxReread) {
		keys, after := make([]string, len(chunk)), make([]uint32, len(chunk))
		for k, n := range chunk {
			keys[k], after[k] = items[n].Key, items[n].xid
		}
		rows, err := a.config.Database.ReadRows(ctx, entity, keys, after)
		if err != nil {
			return nil, err
		}
		if len(rows) != len(keys) {
			return nil, fmt.Errorf("read %d rows of %s: got %d", len(keys), entity.Name, len(rows))
		}
		for k, row := range rows {
			if !row.Found {
				continue
			}
			d := document{items[chunk[k]].Document, chunk[k]}
			d.Row = row.Row
			// A locked row has no version of its own yet; see the package's comment.
			if row.Version > d.Version {
				d.Version, d.Again = row.Version, false
			}
			documents = append(documents, d)
		}
	}
	return documents, nil
}
