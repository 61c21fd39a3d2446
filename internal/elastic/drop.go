package elastic

import (
	"context"
	"net/http"
	"slices"
)

// Made lists what EnsureIndex and the rebuilds made of an entity and is still there:
// its indices and their template.
func (s *Store) Made(ctx context.Context, entity string) (names []string, err error) {
	indices, template, err := s.made(ctx, entity)
	if err != nil {
		return nil, err
	}
	for _, index := range indices {
		names = append(names, "index "+index)
	}
	if template {
		names = append(names, "index template "+s.prefix.Alias(entity))
	}
	return names, nil
}

// made returns the entity's indices. One that is not named as Capsaga names them is
// somebody else's, whatever alias it has.
func (s *Store) made(ctx context.Context, entity string) (indices []string, template bool, err error) {
	all, err := s.look(ctx, entity)
	if err != nil {
		return nil, false, err
	}
	for _, g := range append(slices.Clone(all.others), values(all.current, all.next)...) {
		if g.number > 0 {
			indices = append(indices, g.index)
		}
	}
	slices.Sort(indices)
	alias := s.prefix.Alias(entity)
	template, err = s.exists(ctx, "look for index template "+alias, "/_index_template/"+alias)
	return indices, template, err
}

func values(pointers ...*generation) (all []generation) {
	for _, g := range pointers {
		if g != nil {
			all = append(all, *g)
		}
	}
	return all
}

// Drop removes what Made lists, and with the indices their aliases. It is for
// entities that no worker writes any more, and is simply repeated after a crash. It
// returns what it removed.
func (s *Store) Drop(ctx context.Context, entity string) (names []string, err error) {
	indices, template, err := s.made(ctx, entity)
	if err != nil {
		return nil, err
	}
	defer s.targets.forget(entity)
	for _, index := range indices {
		if err := s.deleteIndex(ctx, index); err != nil {
			return names, err
		}
		names = append(names, "index "+index)
	}
	if !template {
		return names, nil
	}
	alias := s.prefix.Alias(entity)
	what := "delete index template " + alias
	status, answer, err := s.send(ctx, http.MethodDelete, "/_index_template/"+alias, nil)
	switch {
	case err != nil:
		return names, classify(what, err)
	case status >= http.StatusMultipleChoices && status != http.StatusNotFound:
		return names, classifyBody(what, status, answer)
	}
	return append(names, "index template "+alias), nil
}
