package elastic_test

import (
	"encoding/json"
	"fmt"
	"net/http"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"golang.org/x/sync/errgroup"

	"github.com/capsaga/capsaga/internal/elastic"
	"github.com/capsaga/capsaga/saga"
)

const numbers = `{"properties": {"title": {"type": "long"}}}`

// films makes an entity "films" and returns it with the mapping that its index
// cannot take.
func (b bench) films(t *testing.T) (renewed *saga.Entity) {
	t.Helper()
	b.entity(t, "films", titles, oneCopy)
	return newEntity("films", numbers, oneCopy)
}

// index returns the name of an entity's index by its number.
func (b bench) index(entity string, number int) string {
	return fmt.Sprintf("%s-%06d", b.prefix.Alias(entity), number)
}

func (b bench) begin(t *testing.T, e *saga.Entity) (index string) {
	t.Helper()
	index, err := b.BeginRebuild(t.Context(), e)
	require.NoError(t, err)
	next, found, err := b.Next(t.Context(), e.Name)
	require.NoError(t, err)
	assert.True(t, found)
	assert.Equal(t, index, next)
	return index
}

// changed returns what of an Apply or ApplyTo changed something.
func changed(t *testing.T, applied []saga.Applied, err error) []bool {
	t.Helper()
	require.NoError(t, err)
	result := make([]bool, len(applied))
	for i, a := range applied {
		require.NoError(t, a.Err)
		result[i] = a.Changed
	}
	return result
}

func (b bench) apply(t *testing.T, store *elastic.Store, docs ...saga.Document) []bool {
	t.Helper()
	applied, err := store.Apply(t.Context(), docs)
	return changed(t, applied, err)
}

func (b bench) applyTo(t *testing.T, index string, docs ...saga.Document) []bool {
	t.Helper()
	applied, err := b.ApplyTo(t.Context(), index, docs)
	return changed(t, applied, err)
}

// held returns a row of films by its key; nil where it is not there.
func (b bench) held(t *testing.T, key string) json.RawMessage {
	t.Helper()
	doc, _, err := b.Get(t.Context(), "films", key)
	require.NoError(t, err)
	return doc.Row
}

func TestRebuild(t *testing.T) {
	t.Parallel()
	b := open(t)
	renewed := b.films(t)
	other := b.another(t)
	b.apply(t, other, document("films", "1", version, `{"title":"7"}`))

	_, err := b.EnsureIndex(t.Context(), renewed)
	var needs *elastic.NeedsRebuild
	require.ErrorAs(t, err, &needs)
	assert.Equal(t, "films", needs.Entity)
	_, found, err := b.Next(t.Context(), "films")
	require.NoError(t, err)
	assert.False(t, found)

	index := b.begin(t, renewed)
	assert.Equal(t, b.index("films", 2), index)
	assert.Equal(t, index, b.begin(t, renewed), "once more, it is the same")
	assert.Equal(t, []bool{true}, b.applyTo(t, index, document("films", "1", version, `{"title":8}`)))
	assert.Equal(t, []bool{false}, b.applyTo(t, index, document("films", "1", version, `{"title":9}`)))
	assert.JSONEq(t, `{"title":"7"}`, string(b.held(t, "1")), "readers see the present one")
	assert.Equal(t, []bool{true}, b.apply(t, other, document("films", "2", version, `{"title":"7"}`)))

	for range 2 {
		require.NoError(t, b.FinishRebuild(t.Context(), "films", index))
		assert.Equal(t, []string{index}, b.indices(t, "films"))
		_, found, err = b.Next(t.Context(), "films")
		require.NoError(t, err)
		assert.False(t, found)
	}
	assert.JSONEq(t, `{"title":8}`, string(b.held(t, "1")))
	assert.Nil(t, b.held(t, "2"), "that went to the former one")
	assert.Equal(t, []bool{true}, b.apply(t, other, document("films", "1", version+1, `{"title":10}`)), "the other process goes on with the new one")
	assert.JSONEq(t, `{"title":10}`, string(b.held(t, "1")))
	created, err := b.EnsureIndex(t.Context(), renewed)
	require.NoError(t, err)
	assert.Empty(t, created)
}

func TestRebuildNeedsAnIndex(t *testing.T) {
	t.Parallel()
	b := open(t)
	_, err := b.BeginRebuild(t.Context(), newEntity("films", titles, oneCopy))
	assert.Equal(t, saga.Rejected, saga.ClassOf(err))
	assert.ErrorContains(t, err, "capsaga catalog apply")
	err = b.Truncate(t.Context(), "films", version)
	assert.Equal(t, saga.Rejected, saga.ClassOf(err))
	assert.ErrorContains(t, err, "capsaga catalog apply")
	require.NoError(t, b.AbortRebuild(t.Context(), "films"))
	require.NoError(t, b.FinishRebuild(t.Context(), "films", b.index("films", 2)))
	b.films(t)
	_, err = b.BeginRebuild(t.Context(), newEntity("films", `{"properties": {"title": {"type": "txt"}}}`, oneCopy))
	assert.Equal(t, saga.Rejected, saga.ClassOf(err))
	assert.ErrorContains(t, err, "txt")
	assert.Len(t, b.indices(t, "films"), 1)
}

// TestRebuildThatIsGivenUp holds that no name is used twice: what was meant for the
// index that was given up must not reach the one after it, nor finish it.
func TestRebuildThatIsGivenUp(t *testing.T) {
	t.Parallel()
	b := open(t)
	renewed := b.films(t)
	first := b.begin(t, renewed)
	for range 2 {
		require.NoError(t, b.AbortRebuild(t.Context(), "films"))
		assert.Equal(t, []string{b.index("films", 1)}, b.indices(t, "films"))
	}
	assert.Equal(t, []bool{false, false}, b.applyTo(t, first, document("films", "1", version, `{"title":8}`), document("films", "2", version, "")))
	assert.Len(t, b.indices(t, "films"), 1, "nothing creates an index by the way")

	second := b.begin(t, renewed)
	assert.Equal(t, b.index("films", 3), second)
	require.NoError(t, b.FinishRebuild(t.Context(), "films", first))
	assert.Equal(t, []string{b.index("films", 1), second}, b.indices(t, "films"))

	third := b.begin(t, newEntity("films", `{"properties": {"title": {"type": "date"}}}`, oneCopy))
	assert.Equal(t, b.index("films", 4), third, "the catalog has changed again")
	assert.Equal(t, []string{b.index("films", 1), third}, b.indices(t, "films"))
	require.NoError(t, b.Truncate(t.Context(), "films", version))
	assert.Equal(t, []string{b.index("films", 5)}, b.indices(t, "films"))
}

func TestTruncateDuringARebuild(t *testing.T) {
	t.Parallel()
	b := open(t)
	renewed := b.films(t)
	index := b.begin(t, renewed)
	b.applyTo(t, index, document("films", "1", version, `{"title":8}`))
	require.NoError(t, b.Truncate(t.Context(), "films", version+10))
	assert.Equal(t, []string{b.index("films", 3)}, b.indices(t, "films"))
	_, found, err := b.Next(t.Context(), "films")
	require.NoError(t, err)
	assert.False(t, found)
	assert.Equal(t, []bool{false}, b.applyTo(t, index, document("films", "1", version+11, `{"title":8}`)))
	require.NoError(t, b.FinishRebuild(t.Context(), "films", index))
	assert.Nil(t, b.held(t, "1"))
	created, err := b.EnsureIndex(t.Context(), renewed)
	require.NoError(t, err, "the new index has the new mapping")
	assert.Empty(t, created)
}

// TestFloorStays takes a floor through a rebuild, and through catalogs with metadata
// of their own.
func TestFloorStays(t *testing.T) {
	t.Parallel()
	b := open(t)
	b.films(t)
	require.NoError(t, b.Truncate(t.Context(), "films", version+10))
	late, timely := document("films", "1", version+9, `{"title":7}`), document("films", "1", version+10, `{"title":7}`)

	withMeta := newEntity("films", `{"_meta": {"owner": "shop"}, "properties": {"title": {"type": "text"}}}`, oneCopy)
	_, err := b.EnsureIndex(t.Context(), withMeta)
	require.NoError(t, err)
	assert.Equal(t, []bool{false}, b.apply(t, b.another(t), late))

	renewed := newEntity("films", `{"_meta": {"owner": "shop"}, "properties": {"title": {"type": "long"}}}`, oneCopy)
	index := b.begin(t, renewed)
	assert.Equal(t, []bool{false, true}, b.applyTo(t, index, late, timely))
	require.NoError(t, b.FinishRebuild(t.Context(), "films", index))
	assert.Equal(t, []bool{false}, b.apply(t, b.another(t), late))
	require.NoError(t, b.Truncate(t.Context(), "films", version+10), "done long ago")
	assert.JSONEq(t, `{"title":7}`, string(b.held(t, "1")))
	_, answer := b.do(t, http.MethodGet, "/"+b.prefix.Alias("films")+"?filter_path=*.mappings._meta.owner", "")
	assert.Contains(t, answer, "shop")
}

// TestTruncateGoesOnAfterACrash crashes between its two steps.
func TestTruncateGoesOnAfterACrash(t *testing.T) {
	t.Parallel()
	b := open(t)
	b.films(t)
	b.apply(t, b.Store, document("films", "1", version, `{"title":"7"}`))
	left := func(number int, floor saga.Version) {
		b.must(t, http.MethodPut, "/"+b.index("films", number), fmt.Sprintf(`{"mappings":{"_meta":{"capsaga":{"floor":"%d"}}}}`, floor))
	}
	left(2, version+5)
	left(3, version+10)
	require.NoError(t, b.Truncate(t.Context(), "films", version+10))
	assert.Equal(t, []string{b.index("films", 3)}, b.indices(t, "films"), "the index that was made is used, and the other one is cleared away")

	left(4, version+20)
	left(5, version+15)
	require.NoError(t, b.Truncate(t.Context(), "films", version+20))
	assert.Equal(t, []string{b.index("films", 6)}, b.indices(t, "films"))
	assert.Nil(t, b.held(t, "1"))
	assert.Equal(t, []bool{false, true}, b.apply(t, b.another(t),
		document("films", "1", version+19, `{"title":"7"}`), document("films", "1", version+20, `{"title":"7"}`)))
}

// TestRebuildBegunDuringATruncate leaves an index that would bring older rows back.
func TestRebuildBegunDuringATruncate(t *testing.T) {
	t.Parallel()
	b := open(t)
	renewed := b.films(t)
	require.NoError(t, b.Truncate(t.Context(), "films", version+10))
	stale := b.index("films", 3)
	leave := func(index string) {
		b.must(t, http.MethodPut, "/"+index, fmt.Sprintf(`{"aliases":{%q:{}},"mappings":{"_meta":{"capsaga":{"floor":"%d"}}}}`,
			b.prefix.Alias("films")+"-next", version))
	}
	leave(stale)
	require.NoError(t, b.FinishRebuild(t.Context(), "films", stale))
	assert.Equal(t, []string{b.index("films", 2)}, b.indices(t, "films"))
	leave(b.index("films", 4))
	require.NoError(t, b.Truncate(t.Context(), "films", version+10))
	assert.Equal(t, []string{b.index("films", 2)}, b.indices(t, "films"))
	leave(b.index("films", 5))
	assert.Equal(t, b.index("films", 6), b.begin(t, renewed))
}

// TestManyChangeTheIndices has everything at once, from processes that know nothing
// of each other: there is always one index behind the alias, and the floor holds.
func TestManyChangeTheIndices(t *testing.T) {
	t.Parallel()
	b := open(t)
	renewed := b.films(t)
	other := b.another(t)
	ctx := t.Context()
	var floor saga.Version
	for round := range 5 {
		floor = version + saga.Version(10*round)
		var group errgroup.Group
		for _, store := range []*elastic.Store{b.Store, other} {
			group.Go(func() error { return store.Truncate(ctx, "films", floor) })
			group.Go(func() error {
				index, err := store.BeginRebuild(ctx, renewed)
				if err != nil {
					return err
				}
				if _, err := store.ApplyTo(ctx, index, []saga.Document{document("films", "1", floor-1, `{"title":1}`)}); err != nil {
					return err
				}
				return store.FinishRebuild(ctx, "films", index)
			})
			group.Go(func() error { return store.AbortRebuild(ctx, "films") })
			group.Go(func() error {
				for i := range 10 {
					applied, err := store.Apply(ctx, []saga.Document{document("films", "1", floor-saga.Version(i), `{"title":1}`)})
					if err != nil {
						return err
					}
					if applied[0].Err != nil {
						return applied[0].Err
					}
				}
				return nil
			})
		}
		require.NoError(t, group.Wait())
		require.NoError(t, b.Truncate(ctx, "films", floor))
		_, answer := b.do(t, http.MethodGet, "/_alias/"+b.prefix.Alias("films"), "")
		var behind map[string]any
		require.NoError(t, json.Unmarshal([]byte(answer), &behind))
		assert.Len(t, behind, 1)
		doc, found, err := b.Get(ctx, "films", "1")
		require.NoError(t, err)
		assert.True(t, !found || doc.Version == floor, "%+v came back", doc)
	}
	b.apply(t, other, document("films", "1", floor+1, `{"title":2}`))
	assert.JSONEq(t, `{"title":2}`, string(b.held(t, "1")))
}
