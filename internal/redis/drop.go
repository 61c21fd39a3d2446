package redis

import (
	"context"

	"github.com/capsaga/capsaga/saga"
)

// Count returns how many keys an entity has, its tombstones among them.
func (s *Store) Count(ctx context.Context, entity string) (keys int, err error) {
	err = s.eachPage(ctx, entity, func(page []string) error {
		keys += len(page)
		return nil
	})
	return keys, err
}

// Drop removes all that Redis has of an entity: rows, tombstones and the floor. It is
// for entities that no worker writes any more, and is simply repeated after a crash.
// It tells how many keys it has removed so far.
func (s *Store) Drop(ctx context.Context, entity string, progress func(keys int)) (keys int, err error) {
	what := "drop " + s.prefix.RedisKey(entity, "*")
	err = s.eachPage(ctx, entity, func(page []string) error {
		// Each key by itself, as a cluster may keep them apart; Redis frees the memory
		// behind our back.
		pipe := s.client.Pipeline()
		for _, key := range page {
			pipe.Unlink(ctx, key)
		}
		if _, err := pipe.Exec(ctx); err != nil {
			return classify(what, err)
		}
		keys += len(page)
		if progress != nil {
			progress(keys)
		}
		return nil
	})
	if err != nil {
		return keys, err
	}
	for _, key := range []string{s.floorKey(entity), s.emptyingKey(entity)} {
		if err := s.client.Unlink(ctx, key).Err(); err != nil {
			return keys, classify(what, err)
		}
	}
	return keys, nil
}

// eachPage goes through the keys of an entity once. A key may come twice.
func (s *Store) eachPage(ctx context.Context, entity string, do func(page []string) error) error {
	// Neither part of the pattern has a character that means anything in it.
	pattern := s.prefix.RedisKey(entity, "*")
	if !saga.ValidEntityName(entity) {
		return rejected("there is no entity " + entity + ": a name has small letters, digits and _")
	}
	for cursor := uint64(0); ; {
		page, next, err := s.client.Scan(ctx, cursor, pattern, scanPage).Result()
		if err != nil {
			return classifyRead("look for "+pattern, err)
		}
		if len(page) > 0 {
			if err := do(page); err != nil {
				return err
			}
		}
		if cursor = next; cursor == 0 {
			return nil
		}
	}
}
