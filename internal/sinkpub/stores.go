package sinkpub

import (
	"context"

	"github.com/capsaga/capsaga/internal/redis"
	"github.com/capsaga/capsaga/saga"
)

// Redis is a store whose rows and tombstones live as long as the catalog says.
func Redis(store *redis.Store, catalog *saga.Catalog) Store { return &redisStore{store, catalog} }

type redisStore struct {
	*redis.Store
	catalog *saga.Catalog
}

// Apply sets each document where it is newer.
func (s *redisStore) Apply(ctx context.Context, docs []saga.Document) ([]saga.Applied, error) {
	return s.Store.Apply(ctx, docs, s.catalog.RedisLives)
}
