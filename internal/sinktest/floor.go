package sinktest

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"golang.org/x/sync/errgroup"
	"pgregory.net/rapid"

	"github.com/capsaga/capsaga/saga"
)

// Store is a sink that can be emptied.
type Store interface {
	Sink
	Truncate(ctx context.Context, entity string, floor saga.Version) error
	Sweep(ctx context.Context, entity string, floor saga.Version) (removed int, err error)
}

// RunFloors runs the suite of floors. The two stores are of one sink and prefix, as
// two processes have them; entity makes an entity that no other test uses.
func RunFloors(t *testing.T, one, two Store, entity func(t *testing.T) string) {
	tests := []struct {
		name string
		run  func(t *testing.T, f floors)
	}{
		{"nothing below the floor is applied, by whomever", testLateApply},
		{"a truncate that comes again removes nothing", testTruncateAgain},
		{"a truncate by two at once", testTruncateTogether},
		{"a truncate that was cancelled is repeated", testTruncateCancelled},
		{"a truncate of many rows beside applies", testTruncateBesideApplies},
		{"a sweep removes what is older", testSweep},
		{"a sweep beside applies", testSweepBesideApplies},
		{"a sweep leaves newer rows to later applies", testAfterSweep},
		{"any history with truncates ends in the same state", testHistories},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			name := entity(t)
			test.run(t, floors{suite: &suite{sink: one}, other: &suite{sink: two}, one: one, two: two, entity: name})
		})
	}
}

// floors is a test's own entity, reached by two stores.
type floors struct {
	*suite
	other    *suite
	one, two Store
	entity   string
}

func (f floors) put(key string, version saga.Version, name string) saga.Document {
	return saga.Document{Entity: f.entity, Key: key, Version: version, Row: row(name)}
}

func (f floors) gone(key string, version saga.Version) saga.Document {
	return saga.Document{Entity: f.entity, Key: key, Version: version}
}

// rows returns as many documents of one version, with keys of their own.
func (f floors) rows(n int, version saga.Version) []saga.Document {
	docs := make([]saga.Document, n)
	for i := range docs {
		docs[i] = f.put(fmt.Sprint("row", i), version, fmt.Sprint(version, " of row ", i))
	}
	return docs
}

// requireGone checks that the sink holds no row of the keys.
func (f floors) requireGone(t testingT, docs ...saga.Document) {
	for _, doc := range docs {
		got, found, err := f.sink.Get(deadline(t), doc.Entity, doc.Key)
		require.NoError(t, err)
		require.True(t, !found || got.Deleted(), "%s is there: %+v", doc.Key, got)
	}
}

// truncate repeats while another worker takes over, as the stream does.
func truncate(ctx context.Context, store Store, entity string, floor saga.Version) error {
	for {
		err := store.Truncate(ctx, entity, floor)
		if err == nil || ctx.Err() != nil || saga.ClassOf(err) == saga.Rejected {
			return err
		}
	}
}

func testLateApply(t *testing.T, f floors) {
	old := f.rows(3, base)
	f.other.apply(t, old...) // the other process knows the entity from before
	f.apply(t, f.gone("deleted", base+1))
	require.NoError(t, f.one.Truncate(deadline(t), f.entity, base+10))
	f.requireGone(t, old...)
	for _, s := range []*suite{f.suite, f.other} {
		assert.Equal(t, []bool{false, false, false, false}, s.apply(t,
			f.put("row0", base+9, "late"), f.put("unknown", base+9, "late"), f.gone("unknown", base+9), f.put("deleted", base+9, "late")))
	}
	f.requireGone(t, append(old, f.gone("unknown", 0), f.gone("deleted", 0))...)

	assert.Equal(t, []bool{true, true}, f.other.apply(t, f.put("row0", base+10, "of the transaction itself"), f.put("row1", base+11, "later")))
	f.requireHeld(t, f.put("row0", base+10, "of the transaction itself"))
	f.requireHeld(t, f.put("row1", base+11, "later"))
	f.requireGone(t, old[2])
}

func testTruncateAgain(t *testing.T, f floors) {
	f.apply(t, f.rows(3, base)...)
	require.NoError(t, f.one.Truncate(deadline(t), f.entity, base+10))
	same := f.rows(2, base+10)
	f.apply(t, same...)
	for _, store := range []Store{f.one, f.two} {
		require.NoError(t, store.Truncate(deadline(t), f.entity, base+10), "a holder that slept comes after its successor")
		require.NoError(t, store.Truncate(deadline(t), f.entity, base+5))
	}
	for _, doc := range same {
		f.requireHeld(t, doc)
	}
	assert.Equal(t, []bool{false}, f.apply(t, f.put("row5", base+6, "the floor must not sink")))
	require.NoError(t, f.two.Truncate(deadline(t), f.entity, base+20))
	f.requireGone(t, same...)
	assert.Equal(t, []bool{false}, f.apply(t, f.put("row5", base+19, "late")))
}

func testTruncateTogether(t *testing.T, f floors) {
	docs := f.rows(300, base)
	f.apply(t, docs...)
	ctx := deadline(t)
	var group errgroup.Group
	for i, store := range []Store{f.one, f.two, f.one, f.two} {
		group.Go(func() error { return truncate(ctx, store, f.entity, base+10+saga.Version(i/2)) })
	}
	require.NoError(t, group.Wait())
	f.requireGone(t, docs...)
	assert.Equal(t, []bool{false, true}, f.other.apply(t, f.put("row1", base+10, "late"), f.put("row2", base+11, "new")))
}

func testTruncateCancelled(t *testing.T, f floors) {
	docs := f.rows(10, base)
	f.apply(t, docs...)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	require.Error(t, f.one.Truncate(ctx, f.entity, base+10))
	_, err := f.one.Sweep(ctx, f.entity, base+10)
	require.Error(t, err)
	require.NoError(t, f.two.Truncate(deadline(t), f.entity, base+10))
	f.requireGone(t, docs...)
}

// testTruncateBesideApplies has rows from before and after a truncate on their way,
// in any order and from two processes. What is newer than the truncate comes twice:
// a stream goes on from the truncate, and a saga may have been ahead of it.
func testTruncateBesideApplies(t *testing.T, f floors) {
	const rows = 200
	f.apply(t, f.rows(rows, base)...)
	floor := base + 50
	ctx := deadline(t)
	var group errgroup.Group
	for i := range 4 {
		group.Go(func() error {
			store := []Store{f.one, f.two}[i%2]
			for version := base + 40; version < base+60; version += 2 {
				if err := applyAll(ctx, store, f.rows(rows, version)); err != nil {
					return err
				}
			}
			return nil
		})
	}
	group.Go(func() error { return truncate(ctx, f.one, f.entity, floor) })
	require.NoError(t, group.Wait())
	last := f.rows(rows/2, base+58)
	require.NoError(t, applyAll(ctx, f.two, last))
	for _, i := range []int{0, 1, 50, rows/2 - 1} {
		f.requireHeld(t, last[i])
	}
	for i := range rows {
		got, found, err := f.sink.Get(ctx, f.entity, fmt.Sprint("row", i))
		require.NoError(t, err)
		require.True(t, !found || got.Version >= floor, "%+v came back", got)
	}
	assert.Equal(t, []bool{false}, f.other.apply(t, f.put("unknown", floor-1, "late")))
}

func applyAll(ctx context.Context, store Sink, docs []saga.Document) error {
	applied, err := store.Apply(ctx, docs)
	for _, a := range applied {
		err = errors.Join(err, a.Err)
	}
	return err
}

func testSweep(t *testing.T, f floors) {
	docs := f.rows(7, base)
	docs[5].Version, docs[6].Version = base+10, base+11
	f.apply(t, append(docs, f.gone("deleted", base))...)
	removed, err := f.one.Sweep(deadline(t), f.entity, base+10)
	require.NoError(t, err)
	assert.Equal(t, 5, removed)
	f.requireGone(t, docs[:5]...)
	f.requireHeld(t, docs[5])
	f.requireHeld(t, docs[6])
	assert.Equal(t, []bool{false, false}, f.other.apply(t, f.put("row0", base+9, "late"), f.put("row5", base+9, "late")))
	f.requireGone(t, docs[0])
	removed, err = f.two.Sweep(deadline(t), f.entity, base+10)
	require.NoError(t, err)
	assert.Zero(t, removed)
}

func testAfterSweep(t *testing.T, f floors) {
	f.apply(t, f.rows(3, base)...)
	_, err := f.one.Sweep(deadline(t), f.entity, base+10)
	require.NoError(t, err)
	assert.Equal(t, []bool{true}, f.other.apply(t, f.put("row0", base+11, "again")))
	f.requireHeld(t, f.put("row0", base+11, "again"))
	_, err = f.one.Sweep(deadline(t), f.entity, base+11)
	require.NoError(t, err)
	f.requireHeld(t, f.put("row0", base+11, "again"))
}

func testSweepBesideApplies(t *testing.T, f floors) {
	const rows = 3000
	docs := f.rows(rows, base)
	require.NoError(t, applyAll(deadline(t), f.one, docs))
	floor := base + 10
	newer := f.rows(rows, floor+1)
	ctx := deadline(t)
	var group errgroup.Group
	group.Go(func() error {
		for from := 0; from < rows; from += 100 {
			if err := applyAll(ctx, f.two, newer[from:from+50]); err != nil {
				return err
			}
		}
		return nil
	})
	group.Go(func() error {
		_, err := f.one.Sweep(ctx, f.entity, floor)
		return err
	})
	require.NoError(t, group.Wait())
	for i := 0; i < rows; i += 25 {
		if i%100 < 50 {
			f.requireHeld(t, newer[i])
		} else {
			f.requireGone(t, docs[i])
		}
	}
}

// testHistories draws changes and truncates, and how they arrive: out of order, in
// batches, some twice, by either process. In the end all changes come once more, in
// order, as from a stream that goes on; what is held is then what a table would hold.
func testHistories(t *testing.T, f floors) {
	first := base
	rapid.Check(t, func(t *rapid.T) {
		ctx := deadline(t)
		first += 100 // a floor never sinks
		length := rapid.IntRange(1, 12).Draw(t, "length")
		var history, arrivals []saga.Document
		table, touched := map[string]saga.Document{}, map[string]bool{}
		for i := range length {
			version := first + saga.Version(i)
			if rapid.IntRange(0, 7).Draw(t, "what") == 0 {
				history = append(history, saga.Document{Version: version}) // a truncate
				clear(table)
				continue
			}
			key := rapid.SampledFrom([]string{"a", "b", "c"}).Draw(t, "key")
			doc := f.put(key, version, fmt.Sprint("version ", version))
			if rapid.IntRange(0, 2).Draw(t, "deleted") == 0 {
				doc = f.gone(key, version)
			}
			history = append(history, doc)
			table[key], touched[key] = doc, true
		}
		arrivals = rapid.Permutation(append(history[:len(history):len(history)], history[:len(history)/2]...)).Draw(t, "arrivals")
		for len(arrivals) > 0 {
			n := rapid.IntRange(1, len(arrivals)).Draw(t, "batch")
			require.NoError(t, f.deliver(ctx, arrivals[:n], rapid.Bool().Draw(t, "process")))
			arrivals = arrivals[n:]
		}
		require.NoError(t, f.deliver(ctx, history, rand.N(2) == 0))
		for key := range touched {
			if doc, ok := table[key]; ok && !doc.Deleted() {
				f.requireHeld(t, doc)
			} else {
				f.requireGone(t, f.gone(key, 0))
			}
		}
	})
}

// deliver applies documents and truncates in their order.
func (f floors) deliver(ctx context.Context, arrivals []saga.Document, second bool) error {
	store := f.one
	if second {
		store = f.two
	}
	for _, doc := range arrivals {
		if doc.Key == "" {
			if err := store.Truncate(ctx, f.entity, doc.Version); err != nil {
				return err
			}
		} else if err := applyAll(ctx, store, []saga.Document{doc}); err != nil {
			return err
		}
	}
	return nil
}
