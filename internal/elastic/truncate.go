package elastic

import (
	"context"
	"fmt"

	"github.com/capsaga/capsaga/saga"
)

// maxLooks bounds how often a change of indices starts again because another process
// changed them meanwhile.
const maxLooks = 10

// Truncate puts a new, empty index with this floor in the place of the present one,
// which is removed with all that it holds. From then on no process applies anything
// below the floor, however late: it lives in the new index's _meta, and who still
// writes to the former index by its name is told that it is gone. At the floor itself
// documents are applied, as a transaction may truncate and fill again.
//
// What was above the floor already goes as well. So whoever else applies, as sagas do
// ahead of the stream, is to be applied again by it up to where the WAL is after this
// call. An index that BeginRebuild made goes too: the new one has its mapping.
//
// Where the present index has this floor or a higher one, nothing happens; so after a
// crash it is simply repeated, and a process that comes late does no harm.
func (s *Store) Truncate(ctx context.Context, entity string, floor saga.Version) error {
	what := fmt.Sprintf("empty %s up to version %s", s.prefix.Alias(entity), floor)
	if floor <= 0 {
		return rejected(saga.CodeRejected, what+": it is no version")
	}
	for range maxLooks {
		all, err := s.look(ctx, entity)
		if err != nil {
			return err
		}
		if err := s.needCurrent(what, all); err != nil {
			return err
		}
		if all.current.capsaga.Floor >= floor {
			return s.dropOutdated(ctx, all)
		}
		if err := s.truncateOnce(ctx, all, floor); err != nil {
			return err
		}
	}
	return restless(what)
}

// truncateOnce takes the next step: it makes the index, or switches to it.
func (s *Store) truncateOnce(ctx context.Context, all generations, floor saga.Version) error {
	var target *generation
	var gone []*generation
	for i := range all.others {
		g := &all.others[i]
		if g.capsaga.Floor == floor && g.number == all.last {
			target = g // its maker crashed, or is about to switch as well
		} else {
			gone = append(gone, g)
		}
	}
	if target == nil {
		return s.createGeneration(ctx, all, capsagaMeta{Floor: floor})
	}
	gone = append(gone, all.current)
	if all.next != nil {
		gone = append(gone, all.next)
	}
	_, err := s.replace(ctx, all.entity, target, gone...)
	s.targets.forget(all.entity)
	return err
}

// dropOutdated removes an index that is being filled with rows from below the floor
// of the present one: it was begun while a truncate was under way.
func (s *Store) dropOutdated(ctx context.Context, all generations) error {
	if all.next == nil || all.next.capsaga.Floor >= all.current.capsaga.Floor {
		return nil
	}
	return s.dropNext(ctx, all)
}

// dropNext removes the index that is being filled; its number is not given again. It
// is not removed where it has just taken the place of the present one: who takes its
// alias away decides what becomes of it.
func (s *Store) dropNext(ctx context.Context, all generations) error {
	if err := s.setLast(ctx, all.current, all.last); err != nil {
		return err
	}
	claim := []aliasAction{{"remove": {"index": all.next.index, "alias": s.nextAlias(all.entity), "must_exist": true}}}
	done, err := s.aliasActions(ctx, "give up "+all.next.index, claim)
	if err != nil || !done {
		return err
	}
	return s.deleteIndex(ctx, all.next.index)
}

func restless(what string) *saga.Error {
	return &saga.Error{
		Class: saga.Unavailable, System: system, Code: saga.CodeUnavailable,
		Message: what + ": other processes change its indices all the time: try again",
	}
}
