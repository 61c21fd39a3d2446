package redis

import (
	"context"
	"encoding/json"
	"fmt"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/capsaga/capsaga/internal/stacktest"
	"github.com/capsaga/capsaga/saga"
)

// emptying is a store with rows of entity "rows" at version 10.
func emptying(t *testing.T) *Store {
	t.Helper()
	stack := stacktest.New(t)
	s, err := Open(stack.RedisURL, stack.Prefix)
	require.NoError(t, err)
	t.Cleanup(func() {
		ctx := context.Background()
		keys, err := s.client.Keys(ctx, string(stack.Prefix)+":*").Result()
		assert.NoError(t, err)
		if len(keys) > 0 {
			assert.NoError(t, s.client.Unlink(ctx, keys...).Err())
		}
		assert.NoError(t, s.Close())
	})
	fill(t, s, 10)
	return s
}

func fill(t *testing.T, s *Store, version saga.Version) {
	t.Helper()
	docs := make([]saga.Document, 300)
	for i := range docs {
		docs[i] = saga.Document{Entity: "rows", Key: fmt.Sprint(i), Version: version, Row: json.RawMessage(`{}`)}
	}
	_, err := s.Apply(t.Context(), docs, nil)
	require.NoError(t, err)
}

func held(t *testing.T, s *Store) int {
	t.Helper()
	keys, err := s.client.Keys(t.Context(), s.prefix.RedisKey("rows", "*")).Result()
	require.NoError(t, err)
	return len(keys)
}

// TestTruncateGoesOnAfterACrash crashes between the floor and the removal.
func TestTruncateGoesOnAfterACrash(t *testing.T) {
	t.Parallel()
	s := emptying(t)
	needed, err := s.raise(t.Context(), "", "rows", 20, "who crashes")
	require.NoError(t, err)
	require.True(t, needed)
	assert.Equal(t, 300, held(t, s))
	require.NoError(t, s.Truncate(t.Context(), "rows", 20))
	assert.Zero(t, held(t, s))
	left, err := s.client.Exists(t.Context(), s.emptyingKey("rows")).Result()
	require.NoError(t, err)
	assert.Zero(t, left)
}

// TestTruncateThatWasOvertaken sleeps between the floor and the removal, until
// another has done both and filled the entity at the floor's own version.
func TestTruncateThatWasOvertaken(t *testing.T) {
	t.Parallel()
	s := emptying(t)
	_, err := s.raise(t.Context(), "", "rows", 20, "who sleeps")
	require.NoError(t, err)
	require.NoError(t, s.Truncate(t.Context(), "rows", 20))
	fill(t, s, 20)
	_, err = s.remove(t.Context(), "empty rows", "rows", 20, "who sleeps")
	assert.Equal(t, saga.Unavailable, saga.ClassOf(err))
	assert.ErrorContains(t, err, "empty rows: another worker has taken it over")
	require.NoError(t, s.Truncate(t.Context(), "rows", 20))
	assert.Equal(t, 300, held(t, s))
}

// TestTruncateSparesWhatIsNotOurs leaves keys that no document is in.
func TestTruncateSparesWhatIsNotOurs(t *testing.T) {
	t.Parallel()
	s := emptying(t)
	ctx := t.Context()
	require.NoError(t, s.client.Set(ctx, s.prefix.RedisKey("rows", "text"), "text", 0).Err())
	require.NoError(t, s.client.HSet(ctx, s.prefix.RedisKey("rows", "hash"), "v", "1").Err())
	require.NoError(t, s.Truncate(ctx, "rows", 20))
	assert.Equal(t, 2, held(t, s))
	assert.Equal(t, saga.Rejected, saga.ClassOf(s.Truncate(ctx, "rows", 0)))
}
