package elastic

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"strings"

	"github.com/capsaga/capsaga/saga"
)

// templatePriority lifts the entity's template above the ones that a cluster
// may have for all indices; of two that match, only the higher one counts.
const templatePriority = 500

const gcDeletes = "index.gc_deletes"

// HasIndex reports whether an entity has an index behind its alias.
func (s *Store) HasIndex(ctx context.Context, entity string) (bool, error) {
	all, err := s.look(ctx, entity)
	return all.current != nil, err
}

// EnsureIndex creates what the entity needs and names what it created: an index
// template with the catalog's mappings and settings, the first index and the
// alias on it. Done again, or by two processes at once, it creates nothing more.
// Fields that the catalog gained are added to the index, which is named as well;
// a mapping that the index cannot take is a *NeedsRebuild, which is a rejected error
// too, and then nothing has changed. Settings reach new indices only, except the life of tombstones.
func (s *Store) EnsureIndex(ctx context.Context, entity *saga.Entity) (created []string, err error) {
	if entity.Elasticsearch == nil {
		return nil, nil
	}
	alias := s.prefix.Alias(entity.Name)
	template, err := indexTemplate(alias, entity.Elasticsearch)
	if err != nil {
		return nil, err
	}
	all, err := s.look(ctx, entity.Name)
	if err != nil {
		return nil, err
	}
	there := all.current != nil
	// On an existing index the mapping goes first: if it does not fit, the
	// template stays as it was too.
	if there {
		if created, err = s.updateIndex(ctx, all, entity.Elasticsearch); err != nil {
			return created, err
		}
	}
	name, err := s.putTemplate(ctx, alias, template)
	created = append(created, name...)
	if err != nil || there {
		return created, err
	}
	name, err = s.createIndex(ctx, alias, s.lostIndex(all))
	return append(created, name...), err
}

// lostIndex returns the entity's newest index, for an alias that was lost, or the
// first one.
func (s *Store) lostIndex(all generations) string {
	number := 1
	for _, g := range all.others {
		number = max(number, g.number)
	}
	return s.indexName(all.entity, number)
}

// indexTemplate returns the body of the entity's index template. Its patterns
// name the alias too, with automatic creation forbidden: otherwise a versioned
// delete that comes while the alias is missing creates an index in its place.
func indexTemplate(alias string, sink *saga.ElasticsearchSink) (map[string]any, error) {
	settings, err := flatSettings(alias, sink.Settings)
	if err != nil {
		return nil, err
	}
	if _, ok := settings[gcDeletes]; ok {
		return nil, rejected(saga.CodeRejected, fmt.Sprintf(
			"settings of %s: %s is how long versions of deleted rows are remembered, which is Capsaga's to set: leave it out", alias, gcDeletes))
	}
	settings[gcDeletes] = tombstoneLife()
	content := map[string]any{"settings": settings}
	if len(sink.Mappings) > 0 {
		content["mappings"] = sink.Mappings
	}
	return map[string]any{
		"index_patterns":    []string{alias, alias + "-*"},
		"priority":          templatePriority,
		"allow_auto_create": false,
		"template":          content,
	}, nil
}

func tombstoneLife() string { return fmt.Sprintf("%ds", int(saga.DefaultTombstoneTTL.Seconds())) }

// flatSettings returns index settings by their full dotted names: nested or
// dotted, with "index." or without, they mean the same to Elasticsearch.
func flatSettings(alias string, raw json.RawMessage) (map[string]any, error) {
	flat := make(map[string]any)
	if len(raw) == 0 {
		return flat, nil
	}
	decoder := json.NewDecoder(bytes.NewReader(raw))
	decoder.UseNumber()
	var nested map[string]any
	if err := decoder.Decode(&nested); err != nil {
		return nil, rejected(saga.CodeRejected, fmt.Sprintf("settings of %s: not a JSON object: %s", alias, err))
	}
	flatten(flat, "", nested)
	return flat, nil
}

func flatten(flat map[string]any, path string, nested map[string]any) {
	for name, value := range nested {
		full := path + name
		if inner, ok := value.(map[string]any); ok {
			flatten(flat, full+".", inner)
			continue
		}
		if !strings.HasPrefix(full, "index.") {
			full = "index." + full
		}
		flat[full] = value
	}
}

func (s *Store) putTemplate(ctx context.Context, alias string, template map[string]any) (created []string, err error) {
	path := "/_index_template/" + alias
	there, err := s.exists(ctx, "look for index template "+alias, path)
	if err != nil {
		return nil, err
	}
	if err := s.call(ctx, "create index template "+alias, http.MethodPut, path, template); err != nil {
		return nil, err
	}
	if there {
		return nil, nil
	}
	return []string{"index template " + alias}, nil
}

// createIndex creates the first index with its alias, both at once. Where the
// index is there without the alias, or another process was faster, it sets the
// alias alone, which does no harm twice.
func (s *Store) createIndex(ctx context.Context, alias, index string) (created []string, err error) {
	type object = map[string]any
	body := object{"aliases": object{alias: object{"is_write_index": true}}}
	err = s.call(ctx, "create index "+index, http.MethodPut, "/"+index, body)
	if err == nil {
		return []string{"index " + index, "alias " + alias}, nil
	}
	if there, lookErr := s.exists(ctx, "look for index "+index, "/"+index); lookErr != nil || !there {
		return nil, err
	}
	there, err := s.exists(ctx, "look for alias "+alias, "/_alias/"+alias)
	if err != nil || there {
		return nil, err
	}
	add := object{"actions": []object{{"add": object{"index": index, "alias": alias, "is_write_index": true}}}}
	if err := s.call(ctx, "create alias "+alias, http.MethodPost, "/_aliases", add); err != nil {
		return nil, err
	}
	return []string{"alias " + alias}, nil
}

// updateIndex adds the catalog's new fields to the index behind the alias and
// sees to the life of its tombstones.
func (s *Store) updateIndex(ctx context.Context, all generations, sink *saga.ElasticsearchSink) (changed []string, err error) {
	alias, index := s.prefix.Alias(all.entity), all.current.index
	life := map[string]any{gcDeletes: tombstoneLife()}
	if err := s.call(ctx, "set "+gcDeletes+" of "+alias, http.MethodPut, "/"+index+"/_settings", life); err != nil {
		return nil, err
	}
	if len(sink.Mappings) == 0 {
		return nil, nil
	}
	mappings, err := keepMeta(alias, sink.Mappings, all.current)
	if err != nil {
		return nil, err
	}
	before, err := s.mapping(ctx, index)
	if err != nil {
		return nil, err
	}
	what := "update the mapping of " + alias
	status, answer, err := s.sendJSON(ctx, http.MethodPut, "/"+index+"/_mapping", mappings)
	switch {
	case err != nil:
		return nil, classify(what, err)
	case status == http.StatusBadRequest:
		e := classifyBody(what, status, answer)
		return nil, &NeedsRebuild{Entity: all.entity, Cause: rejected(e.Code, e.Message+
			"; an index takes new fields only, so another type needs another field, or a new index for the entity")}
	case status >= http.StatusMultipleChoices:
		return nil, classifyBody(what, status, answer)
	}
	after, err := s.mapping(ctx, index)
	if err != nil || bytes.Equal(before, after) {
		return nil, err
	}
	return []string{"fields in the mapping of " + alias}, nil
}

// keepMeta returns the catalog's mappings with Capsaga's own metadata of the index:
// where the catalog has a _meta, it would take the place of all that is there.
func keepMeta(alias string, raw json.RawMessage, g *generation) (json.RawMessage, error) {
	var mappings map[string]json.RawMessage
	if err := json.Unmarshal(raw, &mappings); err != nil {
		return nil, rejected(saga.CodeRejected, fmt.Sprintf("mappings of %s: not a JSON object: %s", alias, err))
	}
	if mappings["_meta"] == nil {
		return raw, nil
	}
	meta, err := withMeta(mappings["_meta"], g.capsaga)
	if err != nil {
		return nil, err
	}
	mappings["_meta"] = meta
	return json.Marshal(mappings)
}

// mapping returns the mappings behind the alias in a form that can be compared.
func (s *Store) mapping(ctx context.Context, alias string) ([]byte, error) {
	var mappings map[string]any
	if err := s.query(ctx, "read the mapping of "+alias, http.MethodGet, "/"+alias+"/_mapping", nil, &mappings); err != nil {
		return nil, err
	}
	return json.Marshal(mappings) // sorts the names
}
