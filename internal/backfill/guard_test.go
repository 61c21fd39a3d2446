package backfill_test

import (
	"context"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/capsaga/capsaga/internal/backfill"
	"github.com/capsaga/capsaga/internal/stream"
	"github.com/capsaga/capsaga/saga"
)

// A worker that does not know an entity leaves the stream before it passes over
// rows of it.
func TestGuard(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.exec("CREATE TABLE products (id int PRIMARY KEY); CREATE TABLE users (id int PRIMARY KEY)")
	products, users := entity("products", "id"), entity("users", "id")
	provision := func(e *saga.Entity) {
		_, err := backfill.Provisioned(t.Context(), w.db.Pool(), e, backfill.Made{})
		require.NoError(t, err)
	}
	provision(products)
	catalog := &saga.Catalog{Entities: map[string]*saga.Entity{"products": products}}
	s := &sink{}
	guarded := backfill.Guard(s, w.db.Pool(), catalog, saga.Redis)
	session, err := guarded.Start(t.Context(), stream.Lease{})
	require.NoError(t, err)
	begin := func(entity string) error {
		return session.Mark(context.Background(), nil, &saga.BackfillMessage{Kind: saga.BackfillBegin, Entity: entity})
	}
	require.NoError(t, begin("products"))
	require.NoError(t, begin("users"), "an entity that is no more")
	provision(users)
	err = begin("users")
	require.ErrorContains(t, err, "the catalog of this worker is out of date: entity users, as it was applied, goes from table public.users with the key [id] to redis")
	require.Equal(t, saga.Rejected, saga.ClassOf(err))
	require.NoError(t, begin("products"))
	_, err = guarded.Start(t.Context(), stream.Lease{})
	require.ErrorContains(t, err, "entity users")
	require.Len(t, s.marks, 3)

	catalog.Entities["users"] = users
	_, err = guarded.Start(t.Context(), stream.Lease{})
	require.NoError(t, err)
	require.NoError(t, backfill.Retain(t.Context(), w.db.Pool(), []string{"products"}))
	delete(catalog.Entities, "users")
	_, err = guarded.Start(t.Context(), stream.Lease{})
	require.NoError(t, err, "it was taken out of the catalog that was applied")
}
