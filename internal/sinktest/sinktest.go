package sinktest

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"golang.org/x/sync/errgroup"
	"pgregory.net/rapid"

	"github.com/capsaga/capsaga/saga"
)

// Sink is what the suite tests.
type Sink interface {
	Apply(ctx context.Context, docs []saga.Document) ([]saga.Applied, error)
	// Get may show a deleted row as a tombstone or as not found.
	Get(ctx context.Context, entity, key string) (saga.Document, bool, error)
}

// Entity and OtherEntity are the entities that the suite writes. A sink that
// interprets what it stores must not do so for them: the suite writes numbers
// that no floating-point type holds.
const (
	Entity      = "things"
	OtherEntity = "things_more"
)

// base is above 2^53, where doubles merge neighbours.
const base = saga.Version(1<<53) * 3

// Run runs the suite. All keys are of the suite's own, so that it may run next to
// others in one prefix.
func Run(t *testing.T, sink Sink) {
	s := &suite{sink: sink}
	tests := []struct {
		name string
		run  func(t *testing.T, s *suite)
	}{
		{"a newer version wins", testNewerWins},
		{"an older or equal version changes nothing", testOlderAndEqual},
		{"a later part of a transaction wins at the same version", testAgain},
		{"a tombstone beats an older row", testTombstoneBeatsOlderRow},
		{"a newer row beats a tombstone", testRowBeatsTombstone},
		{"a tombstone of an unknown row is remembered", testTombstoneFirst},
		{"any order of a history ends in the same state", testPermutations},
		{"a thousand documents in one apply", testThousand},
		{"one key several times in one apply", testRepeatedKey},
		{"nothing to apply", testEmpty},
		{"no two keys become one", testKeys},
		{"neighbouring versions above 2^53 differ", testNeighbours},
		{"the first and the last version", testExtremes},
		{"a document without a version is refused alone", testNoVersion},
		{"rows come back to the byte", testRows},
		{"concurrent applies end at the newest", testConcurrent},
		{"an absent row is not found", testAbsent},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			test.run(t, s)
		})
	}
}

type suite struct {
	sink Sink
	keys atomic.Int64
}

// newKey returns a key that no other test uses.
func (s *suite) newKey() string {
	return saga.EncodeKey([]string{"key", fmt.Sprint(s.keys.Add(1))})
}

func row(name string) json.RawMessage {
	text, err := json.Marshal(map[string]string{"name": name})
	if err != nil {
		panic(err)
	}
	return text
}

func put(key string, version saga.Version, name string) saga.Document {
	return saga.Document{Entity: Entity, Key: key, Version: version, Row: row(name)}
}

func tombstone(key string, version saga.Version) saga.Document {
	return saga.Document{Entity: Entity, Key: key, Version: version}
}

// apply applies the documents at once and returns which of them changed
// something.
func (s *suite) apply(t testingT, docs ...saga.Document) []bool {
	applied, err := s.sink.Apply(deadline(t), docs)
	require.NoError(t, err)
	require.Len(t, applied, len(docs))
	changed := make([]bool, len(docs))
	for i, a := range applied {
		require.NoError(t, a.Err, "document %d", i)
		changed[i] = a.Changed
	}
	return changed
}

// requireHeld checks that the sink holds this document: its version and its row
// to the byte, or no row where it is a tombstone.
func (s *suite) requireHeld(t testingT, want saga.Document) {
	got, found, err := s.sink.Get(deadline(t), want.Entity, want.Key)
	require.NoError(t, err)
	if want.Deleted() {
		require.True(t, !found || got.Deleted() && got.Version == want.Version, "want no row, got %+v", got)
		return
	}
	require.True(t, found, "%s is not there", want.Key)
	assert.Equal(t, want.Entity, got.Entity)
	assert.Equal(t, want.Key, got.Key)
	assert.Equal(t, want.Version, got.Version)
	assert.Equal(t, compact(t, want.Row), compact(t, got.Row))
}

func compact(t require.TestingT, row json.RawMessage) string {
	var b bytes.Buffer
	require.NoError(t, json.Compact(&b, row))
	return b.String()
}

// testingT is what a test and a property's draw have in common.
type testingT interface {
	require.TestingT
	Context() context.Context
	Cleanup(cleanup func())
}

// deadline returns a context that ends with the test or after a minute.
func deadline(t testingT) context.Context {
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	t.Cleanup(cancel)
	return ctx
}

func testNewerWins(t *testing.T, s *suite) {
	key := s.newKey()
	assert.Equal(t, []bool{true}, s.apply(t, put(key, base, "first")))
	assert.Equal(t, []bool{true}, s.apply(t, put(key, base+10, "second")))
	s.requireHeld(t, put(key, base+10, "second"))
}

func testOlderAndEqual(t *testing.T, s *suite) {
	key := s.newKey()
	s.apply(t, put(key, base+10, "held"))
	assert.Equal(t, []bool{false}, s.apply(t, put(key, base+9, "older")))
	assert.Equal(t, []bool{false}, s.apply(t, put(key, base+10, "equal")))
	assert.Equal(t, []bool{false}, s.apply(t, tombstone(key, base+9)))
	assert.Equal(t, []bool{false}, s.apply(t, tombstone(key, base+10)))
	s.requireHeld(t, put(key, base+10, "held"))
}

// testAgain is a transaction that is applied in parts, each of which comes again.
func testAgain(t *testing.T, s *suite) {
	again := func(doc saga.Document) saga.Document {
		doc.Again = true
		return doc
	}
	key, other := s.newKey(), s.newKey()
	assert.Equal(t, []bool{true}, s.apply(t, put(key, base+10, "first part")))
	assert.Equal(t, []bool{true, true}, s.apply(t, again(put(key, base+10, "second part")), again(put(other, base+10, "new"))))
	s.requireHeld(t, put(key, base+10, "second part"))
	s.requireHeld(t, put(other, base+10, "new"))
	assert.Equal(t, []bool{true}, s.apply(t, again(tombstone(key, base+10))))
	s.requireHeld(t, tombstone(key, base+10))
	assert.Equal(t, []bool{true}, s.apply(t, again(put(key, base+10, "third part"))))
	s.requireHeld(t, put(key, base+10, "third part"))

	assert.Equal(t, []bool{false}, s.apply(t, put(key, base+10, "first part")), "the first part, repeated, is no news")
	assert.Equal(t, []bool{false, false}, s.apply(t, again(put(key, base+9, "older")), again(tombstone(key, base+9))))
	s.requireHeld(t, put(key, base+10, "third part"))
	assert.Equal(t, []bool{true, true, false}, s.apply(t,
		put(key, base+11, "a newer one"), again(put(key, base+11, "its later part")), put(key, base+11, "its first part")))
	s.requireHeld(t, put(key, base+11, "its later part"))
}

func testTombstoneBeatsOlderRow(t *testing.T, s *suite) {
	key := s.newKey()
	s.apply(t, put(key, base+10, "held"))
	assert.Equal(t, []bool{true}, s.apply(t, tombstone(key, base+20)))
	s.requireHeld(t, tombstone(key, base+20))
	assert.Equal(t, []bool{false}, s.apply(t, put(key, base+19, "older")))
	assert.Equal(t, []bool{false}, s.apply(t, put(key, base+20, "equal")))
	assert.Equal(t, []bool{false}, s.apply(t, tombstone(key, base+20)))
	s.requireHeld(t, tombstone(key, base+20))
}

func testRowBeatsTombstone(t *testing.T, s *suite) {
	key := s.newKey()
	s.apply(t, put(key, base, "first"), tombstone(key, base+1))
	assert.Equal(t, []bool{true}, s.apply(t, put(key, base+2, "again")))
	s.requireHeld(t, put(key, base+2, "again"))
	assert.Equal(t, []bool{false}, s.apply(t, tombstone(key, base+1)))
	s.requireHeld(t, put(key, base+2, "again"))
}

func testTombstoneFirst(t *testing.T, s *suite) {
	key := s.newKey()
	assert.Equal(t, []bool{true}, s.apply(t, tombstone(key, base+5)))
	assert.Equal(t, []bool{false}, s.apply(t, put(key, base+4, "late")))
	s.requireHeld(t, tombstone(key, base+5))
}

// testPermutations draws a history, some of it delivered twice, and an order of
// arrival cut into batches. What changed something must be exactly what was
// newer than all before it, and the newest must be held at the end.
func testPermutations(t *testing.T, s *suite) {
	rapid.Check(t, func(t *rapid.T) {
		key := s.newKey()
		versions := rapid.SliceOfNDistinct(rapid.Int64Range(0, 30), 1, 8, rapid.ID[int64]).Draw(t, "versions")
		var arrivals []saga.Document
		for i, v := range versions {
			doc := put(key, base+saga.Version(v), fmt.Sprint("version ", v))
			if rapid.Bool().Draw(t, "deleted") {
				doc = tombstone(key, base+saga.Version(v))
			}
			arrivals = append(arrivals, doc)
			if i%3 == 0 {
				arrivals = append(arrivals, doc)
			}
		}
		arrivals = rapid.Permutation(arrivals).Draw(t, "arrivals")
		var newest saga.Document
		for len(arrivals) > 0 {
			n := rapid.IntRange(1, len(arrivals)).Draw(t, "batch")
			for i, changed := range s.apply(t, arrivals[:n]...) {
				require.Equal(t, arrivals[i].Version > newest.Version, changed, "%+v after %+v", arrivals[i], newest)
				if changed {
					newest = arrivals[i]
				}
			}
			arrivals = arrivals[n:]
		}
		s.requireHeld(t, newest)
	})
}

func testThousand(t *testing.T, s *suite) {
	docs := make([]saga.Document, 1000)
	for i := range docs {
		docs[i] = put(s.newKey(), base+saga.Version(i), fmt.Sprint("row ", i))
	}
	for i, changed := range s.apply(t, docs...) {
		require.True(t, changed, "document %d", i)
	}
	for _, i := range []int{0, 1, 499, 998, 999} {
		s.requireHeld(t, docs[i])
	}
	for i, changed := range s.apply(t, docs...) {
		require.False(t, changed, "document %d, again", i)
	}
}

func testRepeatedKey(t *testing.T, s *suite) {
	key := s.newKey()
	changed := s.apply(t, put(key, base+2, "second"), put(key, base+1, "first"), tombstone(key, base+3), put(key, base+4, "fourth"))
	assert.Equal(t, []bool{true, false, true, true}, changed)
	s.requireHeld(t, put(key, base+4, "fourth"))
}

func testEmpty(t *testing.T, s *suite) {
	assert.Empty(t, s.apply(t))
}

func testNeighbours(t *testing.T, s *suite) {
	key := s.newKey()
	for v := base; v < base+5; v++ {
		assert.Equal(t, []bool{true}, s.apply(t, put(key, v, v.String())), "version %s", v)
		assert.Equal(t, []bool{false}, s.apply(t, put(key, v-1, "older")), "version %s", v-1)
		s.requireHeld(t, put(key, v, v.String()))
	}
}

func testExtremes(t *testing.T, s *suite) {
	last, err := saga.NewVersion(saga.MaxEpoch, saga.MaxLSN)
	require.NoError(t, err)
	key := s.newKey()
	for _, v := range []saga.Version{1, 9, 10, 1 << 53, last} {
		assert.Equal(t, []bool{true}, s.apply(t, put(key, v, v.String())), "version %s", v)
		s.requireHeld(t, put(key, v, v.String()))
	}
}

func testNoVersion(t *testing.T, s *suite) {
	keys := []string{s.newKey(), s.newKey(), s.newKey()}
	docs := []saga.Document{put(keys[0], base, "good"), put(keys[1], 0, "bad"), put(keys[2], base, "good")}
	applied, err := s.sink.Apply(deadline(t), docs)
	require.NoError(t, err)
	assert.Equal(t, saga.Applied{Changed: true}, applied[0])
	assert.Equal(t, saga.Rejected, saga.ClassOf(applied[1].Err))
	assert.ErrorContains(t, applied[1].Err, "no version")
	assert.Equal(t, saga.Applied{Changed: true}, applied[2])
}

func testConcurrent(t *testing.T, s *suite) {
	const workers, versions = 16, 100
	key := s.newKey()
	history := make([]saga.Document, versions)
	for i := range history {
		history[i] = put(key, base+saga.Version(i), fmt.Sprint("version ", i))
		if i%7 == 3 {
			history[i] = tombstone(key, base+saga.Version(i))
		}
	}
	var group errgroup.Group
	var changes atomic.Int64
	for range workers {
		group.Go(func() error {
			own := append([]saga.Document(nil), history...)
			rand.Shuffle(len(own), func(i, j int) { own[i], own[j] = own[j], own[i] })
			for len(own) > 0 {
				n := min(1+rand.IntN(9), len(own))
				applied, err := s.sink.Apply(deadline(t), own[:n])
				if err != nil {
					return err
				}
				for _, a := range applied {
					if a.Err != nil {
						return a.Err
					}
					if a.Changed {
						changes.Add(1)
					}
				}
				own = own[n:]
			}
			return nil
		})
	}
	require.NoError(t, group.Wait())
	assert.LessOrEqual(t, changes.Load(), int64(versions), "some version was set twice")
	s.requireHeld(t, history[versions-1])
}

func testAbsent(t *testing.T, s *suite) {
	_, found, err := s.sink.Get(deadline(t), Entity, s.newKey())
	require.NoError(t, err)
	assert.False(t, found)
}
