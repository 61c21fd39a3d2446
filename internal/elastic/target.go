package elastic

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"sync"
	"time"

	"github.com/capsaga/capsaga/saga"
)

// target is an index to write to, by its own name: so a write that comes late fails
// when the index is gone, instead of reaching a newer one below its floor.
type target struct {
	index string
	floor saga.Version
	at    time.Time // when it was looked for
}

// targetLife is how long a target is trusted. What Capsaga does to indices is noticed
// without it; it bounds how long an alias that somebody moved by hand is ignored.
const targetLife = 10 * time.Second

// targetCache remembers the entities' targets.
type targetCache struct{ known sync.Map }

func (c *targetCache) get(entity string) (target, bool) {
	value, ok := c.known.Load(entity)
	if !ok {
		return target{}, false
	}
	t := value.(target) //nolint:forcetypeassert // nothing else is stored
	return t, time.Since(t.at) < targetLife
}

func (c *targetCache) forget(entity string) { c.known.Delete(entity) }

// targetOf returns the index behind the entity's alias. A rejected error is about
// that entity alone.
func (s *Store) targetOf(ctx context.Context, entity string) (target, error) {
	if t, ok := s.targets.get(entity); ok {
		return t, nil
	}
	alias := s.prefix.Alias(entity)
	asked := time.Now()
	indices, found, err := s.describeIndices(ctx, alias)
	if err != nil {
		return target{}, err
	}
	for _, d := range indices {
		if _, ok := d.Aliases[alias]; !ok {
			found = false // an index in the alias's place
		}
	}
	what := "write to " + alias
	if !found {
		return target{}, noIndex(what, http.StatusNotFound, &cause{Type: indexNotFound, Reason: "there is no alias " + alias})
	}
	index, ok := writeIndex(alias, indices)
	if !ok {
		reason := fmt.Sprintf("no write index is defined for alias [%s]", alias)
		return target{}, noIndex(what, http.StatusBadRequest, &cause{Type: "illegal_argument_exception", Reason: reason})
	}
	t := target{index: index, floor: s.generation(entity, index, indices[index]).capsaga.Floor, at: asked}
	s.targets.known.Store(entity, t)
	return t, nil
}

// describeIndices describes the index of this name, or those behind the alias.
func (s *Store) describeIndices(ctx context.Context, name string) (indices map[string]description, found bool, err error) {
	what := "look for " + name + " at " + s.host
	status, answer, err := s.send(ctx, http.MethodGet, "/"+name+"?"+descriptionFields, nil)
	switch {
	case err != nil:
		return nil, false, classifyRead(what, err)
	case status == http.StatusNotFound:
		return nil, false, nil
	case status >= http.StatusMultipleChoices:
		return nil, false, asRead(classifyBody(what, status, answer))
	}
	if err := json.Unmarshal(answer, &indices); err != nil {
		return nil, false, asRead(garbled(what, err))
	}
	return indices, len(indices) > 0, nil
}

// ErrNoIndex is in the errors of documents whose entity has no index to write to,
// which is no fault of theirs.
var ErrNoIndex = errors.New("the entity has no index to write to")

func noIndex(what string, status int, c *cause) *saga.Error {
	e := classifyStatus(what, status, c)
	e.Err = ErrNoIndex
	return e
}
