package elastic

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"net/http"

	"github.com/capsaga/capsaga/saga"
)

// NeedsRebuild is EnsureIndex's error for a mapping that the entity's index cannot
// take. BeginRebuild makes an index that can, to be filled beside the present one.
type NeedsRebuild struct {
	Entity string
	Cause  *saga.Error // a rejected one, as Elasticsearch words it
}

// Error says what does not fit.
func (e *NeedsRebuild) Error() string { return e.Cause.Error() }

// Unwrap gives the classified error.
func (e *NeedsRebuild) Unwrap() error { return e.Cause }

// BeginRebuild creates the index that is to take the place of the entity's present
// one, with the catalog's mappings and settings. Readers do not see it; Next finds it
// and ApplyTo fills it, until FinishRebuild or AbortRebuild. Done again it returns the
// same index, and a new one where the catalog has changed since.
func (s *Store) BeginRebuild(ctx context.Context, entity *saga.Entity) (index string, err error) {
	alias := s.prefix.Alias(entity.Name)
	what := "begin a new index for " + alias
	if entity.Elasticsearch == nil {
		return "", rejected(saga.CodeRejected, what+": the catalog gives the entity no Elasticsearch sink")
	}
	template, err := indexTemplate(alias, entity.Elasticsearch)
	if err != nil {
		return "", err
	}
	catalog := catalogOf(entity.Elasticsearch)
	for range maxLooks {
		all, err := s.look(ctx, entity.Name)
		if err != nil {
			return "", err
		}
		if err := s.needCurrent(what, all); err != nil {
			return "", err
		}
		fits := all.next != nil && all.next.capsaga.Catalog == catalog && all.next.capsaga.Floor >= all.current.capsaga.Floor
		switch {
		case fits:
			return all.next.index, nil
		case all.next != nil:
			err = s.dropNext(ctx, all)
		default:
			// The template goes first: a truncate from here on makes an index like this one.
			if _, err = s.putTemplate(ctx, alias, template); err == nil {
				meta := capsagaMeta{Floor: all.current.capsaga.Floor, Catalog: catalog}
				err = s.createGeneration(ctx, all, meta, s.nextAlias(entity.Name))
			}
		}
		if err != nil {
			return "", err
		}
	}
	return "", restless(what)
}

// catalogOf returns a digest of what an index is made with.
func catalogOf(sink *saga.ElasticsearchSink) string {
	digest := sha256.New()
	digest.Write(sink.Mappings)
	digest.Write([]byte{0})
	digest.Write(sink.Settings)
	return hex.EncodeToString(digest.Sum(nil)[:8])
}

// Next returns the index that is being filled, if there is one.
func (s *Store) Next(ctx context.Context, entity string) (index string, found bool, err error) {
	all, err := s.look(ctx, entity)
	if err != nil || all.next == nil {
		return "", false, err
	}
	return all.next.index, true, nil
}

// FinishRebuild puts the index in the place of the present one, which is removed. Who
// still writes to that one by its name is told that it is gone, and goes on with this.
// What others than the filler of the index, as sagas do, wrote to the former one is
// to be applied again up to where the WAL is after this call.
//
// It does nothing where the index is in its place already, or gone.
func (s *Store) FinishRebuild(ctx context.Context, entity, index string) error {
	alias := s.prefix.Alias(entity)
	what := "put " + index + " behind " + alias
	for range maxLooks {
		all, err := s.look(ctx, entity)
		if err != nil {
			return err
		}
		if all.next == nil || all.next.index != index {
			return nil
		}
		if err := s.needCurrent(what, all); err != nil {
			return err
		}
		if all.next.capsaga.Floor < all.current.capsaga.Floor {
			return s.dropNext(ctx, all)
		}
		// So that nobody searches an index whose last rows do not show yet.
		if err := s.call(ctx, "refresh "+index, http.MethodPost, "/"+index+"/_refresh", nil); err != nil {
			return err
		}
		actions := []aliasAction{
			{"add": {"index": index, "alias": alias, "is_write_index": true}},
			{"remove": {"index": index, "alias": s.nextAlias(entity), "must_exist": true}},
			{"remove_index": {"index": all.current.index}},
		}
		for _, g := range all.others {
			if g.number < all.next.number {
				actions = append(actions, aliasAction{"remove_index": {"index": g.index}})
			}
		}
		done, err := s.aliasActions(ctx, what, actions)
		s.targets.forget(entity)
		if err != nil || done {
			return err
		}
	}
	return restless(what)
}

// AbortRebuild removes the index that is being filled, if there is one. Its name is
// not used again.
func (s *Store) AbortRebuild(ctx context.Context, entity string) error {
	all, err := s.look(ctx, entity)
	if err != nil || all.next == nil {
		return err
	}
	if err := s.needCurrent("give up "+all.next.index, all); err != nil {
		return err
	}
	return s.dropNext(ctx, all)
}
