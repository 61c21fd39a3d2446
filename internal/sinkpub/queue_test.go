package sinkpub

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/capsaga/capsaga/internal/elastic"
	"github.com/capsaga/capsaga/saga"
)

// flaky is a store that keeps the rules, and whose requests fail as it is told,
// before or after they had their effect.
type flaky struct {
	mu   sync.Mutex
	docs map[string]saga.Document
	next func() int
}

func (f *flaky) Apply(_ context.Context, docs []saga.Document) ([]saga.Applied, error) {
	f.mu.Lock()
	outcome := f.next()
	f.mu.Unlock()
	if outcome > 4 { // overtaken by whoever else is under way
		time.Sleep(200 * time.Microsecond)
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if outcome == 1 {
		return nil, errors.New("not sent")
	}
	applied := make([]saga.Applied, len(docs))
	for i, doc := range docs {
		held, known := f.docs[doc.Key]
		if !known || held.Version < doc.Version || held.Version == doc.Version && doc.Again {
			f.docs[doc.Key], applied[i].Changed = doc, true
		}
	}
	if outcome == 2 {
		return nil, errors.New("not answered")
	}
	return applied, nil
}

func (*flaky) Truncate(context.Context, string, saga.Version) error     { return nil }
func (*flaky) Sweep(context.Context, string, saga.Version) (int, error) { return 0, nil }

// However transactions fall into requests, and however those fail, the sink ends
// with the last change of each row, and everything is said to be done.
func TestQueueProperty(t *testing.T) {
	t.Parallel()
	entity := &saga.Entity{Name: "t", Redis: &saga.RedisSink{}}
	rapid.Check(t, func(t *rapid.T) {
		sizes := rapid.SliceOfN(rapid.IntRange(0, 12), 1, 12).Draw(t, "sizes of the transactions")
		keys := rapid.SliceOfN(rapid.IntRange(0, 4), 150, 150).Draw(t, "keys")
		failures := rapid.SliceOfN(rapid.IntRange(0, 6), 200, 200).Draw(t, "failures")
		drainAfter := rapid.IntRange(0, 100).Draw(t, "drain after")
		at := 0
		store := &flaky{docs: map[string]saga.Document{}, next: func() int {
			at++
			return failures[at%len(failures)]
		}}
		a := newApplier(Config{Store: store, MaxDocuments: rapid.IntRange(1, 5).Draw(t, "documents a request")})
		a.pause = func(int) time.Duration { return 0 }
		ctx, cancel := context.WithCancel(context.Background())
		defer cancel()
		var running sync.WaitGroup
		for range loads[saga.Elasticsearch].requests {
			running.Go(func() { a.run(ctx) })
		}
		want := map[string]string{}
		var pending sync.WaitGroup
		n := 0
		for tx, size := range sizes {
			version := saga.Version(tx + 1)
			a.queue.begin(version)
			for range size {
				n++
				key := fmt.Sprint(keys[n%len(keys)])
				doc := saga.Document{Entity: "t", Key: key, Version: version, Row: fmt.Append(nil, n)}
				want[key] = string(doc.Row)
				pending.Add(1)
				require.NoError(t, a.queue.add(ctx, item{Document: doc, entity: entity, current: true, committed: 1 << 40, done: func(error) { pending.Done() }}))
				if n == drainAfter {
					require.NoError(t, a.queue.drain(ctx))
				}
			}
			a.queue.end()
		}
		require.NoError(t, a.queue.drain(ctx))
		pending.Wait()
		got := map[string]string{}
		for key, doc := range store.docs {
			got[key] = string(doc.Row)
		}
		require.Equal(t, want, got)
		cancel()
		running.Wait()
	})
}

// noIndex is a store whose entity has no index for some time.
type noIndex struct {
	flaky
	left int
}

func (n *noIndex) Apply(ctx context.Context, docs []saga.Document) ([]saga.Applied, error) {
	if n.left--; n.left < 0 {
		return n.flaky.Apply(ctx, docs)
	}
	applied := make([]saga.Applied, len(docs))
	for i := range applied {
		applied[i].Err = &saga.Error{Class: saga.Rejected, System: "elasticsearch", Message: "run capsaga catalog apply", Err: elastic.ErrNoIndex}
	}
	return applied, nil
}

// The rows of an entity without an index wait for it, and meanwhile it is said why;
// none becomes a saga.
func TestAnEntityWithoutAnIndexWaits(t *testing.T) {
	t.Parallel()
	store := &noIndex{left: 3, flaky: flaky{docs: map[string]saga.Document{}, next: func() int { return 0 }}}
	a := newApplier(Config{Store: store, MaxDocuments: 10, Adopt: func(context.Context, []saga.Refused) error {
		t.Error("a row was parked")
		return nil
	}})
	var said []string
	a.pause = func(int) time.Duration {
		said = append(said, (*a.trouble.Load()).Error())
		return 0
	}
	b := newBatch()
	b.add(item{Document: saga.Document{Key: "1", Version: 1, Row: []byte("{}")}, entity: &saga.Entity{Name: "t"}, current: true, committed: 1 << 40})
	require.NoError(t, a.apply(t.Context(), b))
	require.Len(t, said, 3)
	require.Contains(t, said[0], "catalog apply")
	require.Len(t, store.docs, 1)
	require.Nil(t, a.trouble.Load())
}
