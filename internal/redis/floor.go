package redis

import (
	"context"
	"crypto/rand"
	_ "embed"
	"fmt"

	goredis "github.com/redis/go-redis/v9"

	"github.com/capsaga/capsaga/saga"
)

var (
	//go:embed raise.lua
	raiseSource string
	//go:embed remove.lua
	removeSource string

	raiseScript  = goredis.NewScript(raiseSource)
	removeScript = goredis.NewScript(removeSource)
	// finishScript says that an entity is emptied, unless somebody else does it by now.
	finishScript = goredis.NewScript("if redis.call('GET', KEYS[1]) == ARGV[1] then return redis.call('DEL', KEYS[1]) end return 0")
)

// scanPage is how many keys Redis looks at in one step: a fraction of a
// millisecond each for the look and for the removal.
const scanPage = 500

// Truncate raises the entity's floor and removes all rows and tombstones up to
// it. From then on no process applies anything below the floor, however late. At
// the floor itself documents are applied, as a transaction may truncate and fill
// again: so once it is complete, doing it again removes nothing, and one that was
// overtaken stops with an error that says so. After a crash it is simply repeated.
func (s *Store) Truncate(ctx context.Context, entity string, floor saga.Version) error {
	who := rand.Text()
	what := fmt.Sprintf("empty %s up to version %s", s.prefix.RedisKey(entity, "*"), floor)
	needed, err := s.raise(ctx, what, entity, floor, who)
	if err != nil || !needed {
		return err
	}
	if _, err := s.remove(ctx, what, entity, floor, who); err != nil {
		return err
	}
	if err := finishScript.Run(ctx, s.client, []string{s.emptyingKey(entity)}, who).Err(); err != nil {
		return classify(what, err)
	}
	return nil
}

// Sweep removes the rows of the entity below a version, all of which are known to
// be no rows any more, and says how many there were. The version becomes the
// entity's floor: whatever comes later from below it is as outdated as they are.
func (s *Store) Sweep(ctx context.Context, entity string, floor saga.Version) (removed int, err error) {
	what := fmt.Sprintf("sweep %s below version %s", s.prefix.RedisKey(entity, "*"), floor)
	if _, err := s.raise(ctx, what, entity, floor, ""); err != nil {
		return 0, err
	}
	return s.remove(ctx, what, entity, floor-1, "")
}

// emptyingKey returns the key that says who empties an entity.
func (s *Store) emptyingKey(entity string) string { return s.markKey("emptying:" + entity) }

func (s *Store) raise(ctx context.Context, what, entity string, floor saga.Version, who string) (needed bool, err error) {
	if floor <= 0 {
		return false, rejected(what + ": it is no version")
	}
	keys := []string{s.floorKey(entity), s.emptyingKey(entity)}
	answer, err := raiseScript.Run(ctx, s.client, keys, floor.Padded(), who).Int()
	if err != nil {
		return false, classify(what, err)
	}
	return answer == 1, nil
}

// remove goes through the keys of the entity once. What is applied meanwhile is
// above the floor, so that nothing is missed.
func (s *Store) remove(ctx context.Context, what, entity string, last saga.Version, who string) (rows int, err error) {
	pattern := s.prefix.RedisKey(entity, "*")
	for cursor := uint64(0); ; {
		keys, next, err := s.client.Scan(ctx, cursor, pattern, scanPage).Result()
		if err != nil {
			return rows, classify(what, err)
		}
		if len(keys) > 0 {
			keys = append([]string{s.emptyingKey(entity)}, keys...)
			n, err := removeScript.Run(ctx, s.client, keys, last.Padded(), who).Int()
			if err != nil {
				return rows, classify(what, err)
			}
			if n < 0 {
				return rows, overtaken(what)
			}
			rows += n
		}
		if cursor = next; cursor == 0 {
			return rows, nil
		}
	}
}

func overtaken(what string) *saga.Error {
	return &saga.Error{
		Class: saga.Unavailable, System: system, Code: saga.CodeUnavailable,
		Message: what + ": another worker has taken it over: try again, which waits for nothing where that one is done",
	}
}
