package elastic

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"strconv"
	"strings"

	"github.com/capsaga/capsaga/saga"
)

// generation is one of the indices that an entity has had, has, or is to have.
// Their numbers only grow, so that a name does not mean another index later, and the
// floor of a name is the same for ever.
type generation struct {
	index  string
	number int
	// capsaga is what Capsaga keeps in the index's _meta, beside what the catalog puts
	// there.
	capsaga capsagaMeta
	meta    map[string]json.RawMessage
}

// capsagaMeta is the value of "capsaga" in an index's _meta.
type capsagaMeta struct {
	// Floor is the version below which nothing is applied to the index.
	Floor saga.Version `json:"floor"`
	// Last is the greatest number that was given to an index which is gone.
	Last int `json:"last,omitempty"`
	// Catalog tells the mappings and settings that the index was made with.
	Catalog string `json:"catalog,omitempty"`
}

// generations are the indices of an entity.
type generations struct {
	entity  string
	current *generation  // behind the alias; nil: there is none
	next    *generation  // being filled; nil: none
	others  []generation // left by one that crashed
	last    int          // the greatest number that was ever given
}

// nextAlias marks the index that is being filled. No entity's alias is called so, as
// their names have no dash.
func (s *Store) nextAlias(entity string) string { return s.prefix.Alias(entity) + "-next" }

// indexName returns the name of an entity's index by its number, of which
// saga.Prefix.FirstIndex is the first.
func (s *Store) indexName(entity string, number int) string {
	return fmt.Sprintf("%s-%06d", s.prefix.Alias(entity), number)
}

// indexNumber is the inverse of indexName; zero for any other index.
func (s *Store) indexNumber(entity, index string) int {
	text, found := strings.CutPrefix(index, s.prefix.Alias(entity)+"-")
	number, err := strconv.Atoi(text)
	if !found || err != nil || number <= 0 || s.indexName(entity, number) != index {
		return 0
	}
	return number
}

// description is an index as Elasticsearch describes it.
type description struct {
	Aliases map[string]struct {
		IsWriteIndex *bool `json:"is_write_index"`
	} `json:"aliases"`
	Mappings struct {
		Meta map[string]json.RawMessage `json:"_meta"`
	} `json:"mappings"`
}

const descriptionFields = "filter_path=*.aliases,*.mappings._meta,error,status"

// generation reads what Capsaga needs to know of an index. What is no metadata of
// Capsaga's is an index that a catalog made before floors were; it has none.
func (s *Store) generation(entity, index string, d description) generation {
	g := generation{index: index, number: s.indexNumber(entity, index), meta: d.Mappings.Meta}
	_ = json.Unmarshal(d.Mappings.Meta["capsaga"], &g.capsaga)
	return g
}

// writeIndex picks the index that an alias writes to, as Elasticsearch does.
func writeIndex(alias string, indices map[string]description) (index string, found bool) {
	for name, d := range indices {
		a, ok := d.Aliases[alias]
		switch {
		case !ok:
		case a.IsWriteIndex != nil && *a.IsWriteIndex, a.IsWriteIndex == nil && len(indices) == 1:
			return name, true
		}
	}
	return "", false
}

// look finds the indices of an entity.
func (s *Store) look(ctx context.Context, entity string) (generations, error) {
	alias := s.prefix.Alias(entity)
	all := generations{entity: entity}
	var indices map[string]description
	err := s.query(ctx, "look for the indices of "+alias, http.MethodGet, "/"+alias+"-*?expand_wildcards=all&"+descriptionFields, nil, &indices)
	if err != nil {
		return all, err
	}
	behind := make(map[string]description)
	for name, d := range indices {
		if _, ok := d.Aliases[alias]; ok {
			behind[name] = d
		}
	}
	current, _ := writeIndex(alias, behind)
	for name, d := range indices {
		g := s.generation(entity, name, d)
		_, next := d.Aliases[s.nextAlias(entity)]
		switch {
		case name == current:
			all.current = &g
		case g.number == 0 || len(d.Aliases) > 0 && !next:
			continue // not ours to touch
		case next:
			all.next = &g
		default:
			all.others = append(all.others, g)
		}
		all.last = max(all.last, g.number, g.capsaga.Last)
	}
	return all, nil
}

// needCurrent refuses an entity without an index.
func (s *Store) needCurrent(what string, all generations) error {
	if all.current != nil {
		return nil
	}
	return classifyStatus(what, http.StatusNotFound, &cause{Type: indexNotFound, Reason: "there is no alias " + s.prefix.Alias(all.entity)})
}

// createGeneration creates the index after all others, from the entity's template,
// with metadata and aliases at once. It does nothing where another process was
// faster; who looks again sees that.
func (s *Store) createGeneration(ctx context.Context, all generations, meta capsagaMeta, aliases ...string) error {
	mappings, err := s.templateMappings(ctx, all.entity)
	if err != nil {
		return err
	}
	type object = map[string]any
	if mappings["_meta"], err = withMeta(mappings["_meta"], meta); err != nil {
		return err
	}
	body := object{"mappings": mappings}
	if len(aliases) > 0 {
		named := object{}
		for _, alias := range aliases {
			named[alias] = object{}
		}
		body["aliases"] = named
	}
	index := s.indexName(all.entity, all.last+1)
	what := "create index " + index
	status, answer, err := s.sendJSON(ctx, http.MethodPut, "/"+index, body)
	switch {
	case err != nil:
		return classify(what, err)
	case status >= http.StatusMultipleChoices:
		if failure := causeOf(answer); failure != nil && failure.Type == "resource_already_exists_exception" {
			return nil
		}
		return classifyBody(what, status, answer)
	}
	return nil
}

// withMeta adds Capsaga's metadata to a mapping's own.
func withMeta(raw json.RawMessage, meta capsagaMeta) (json.RawMessage, error) {
	own := make(map[string]any)
	if len(raw) > 0 {
		var fields map[string]json.RawMessage
		if err := json.Unmarshal(raw, &fields); err != nil {
			return nil, rejected(saga.CodeRejected, "_meta of the mappings: not a JSON object: "+err.Error())
		}
		for name, value := range fields {
			own[name] = value
		}
	}
	own["capsaga"] = meta
	return json.Marshal(own)
}

// templateMappings returns the mappings of an entity's index template.
func (s *Store) templateMappings(ctx context.Context, entity string) (map[string]json.RawMessage, error) {
	alias := s.prefix.Alias(entity)
	what := "read index template " + alias
	var reply struct {
		Templates []struct {
			Template struct {
				Template struct {
					Mappings map[string]json.RawMessage `json:"mappings"`
				} `json:"template"`
			} `json:"index_template"`
		} `json:"index_templates"`
	}
	if err := s.query(ctx, what, http.MethodGet, "/_index_template/"+alias, nil, &reply); err != nil {
		return nil, err
	}
	mappings := make(map[string]json.RawMessage)
	for _, t := range reply.Templates {
		for name, value := range t.Template.Template.Mappings {
			mappings[name] = value
		}
	}
	return mappings, nil
}

// setLast remembers the greatest number in an index that stays, before one with a
// greater number goes.
func (s *Store) setLast(ctx context.Context, g *generation, last int) error {
	if g.capsaga.Last >= last || g.number >= last {
		return nil
	}
	g.capsaga.Last = last
	own, err := json.Marshal(g.meta)
	if err != nil {
		return err
	}
	meta, err := withMeta(own, g.capsaga)
	if err != nil {
		return err
	}
	return s.call(ctx, "remember the last number in "+g.index, http.MethodPut, "/"+g.index+"/_mapping", map[string]json.RawMessage{"_meta": meta})
}

// aliasAction is one action of an _aliases request, all of which happen at once or
// not at all.
type aliasAction map[string]map[string]any

// replace puts an index behind the alias and removes others with what they hold, all
// at once. It answers false where one of them is gone: another process was faster.
func (s *Store) replace(ctx context.Context, entity string, by *generation, gone ...*generation) (done bool, err error) {
	alias := s.prefix.Alias(entity)
	actions := []aliasAction{{"add": {"index": by.index, "alias": alias, "is_write_index": true}}}
	for _, g := range gone {
		actions = append(actions, aliasAction{"remove_index": {"index": g.index}})
	}
	return s.aliasActions(ctx, "put "+by.index+" behind "+alias, actions)
}

func (s *Store) aliasActions(ctx context.Context, what string, actions []aliasAction) (done bool, err error) {
	status, answer, err := s.sendJSON(ctx, http.MethodPost, "/_aliases", map[string]any{"actions": actions})
	switch {
	case err != nil:
		return false, classify(what, err)
	case status == http.StatusNotFound:
		return false, nil
	case status >= http.StatusMultipleChoices:
		return false, classifyBody(what, status, answer)
	}
	return true, nil
}

// deleteIndex deletes an index that nobody reads. It may be gone.
func (s *Store) deleteIndex(ctx context.Context, index string) error {
	what := "delete index " + index
	status, answer, err := s.send(ctx, http.MethodDelete, "/"+index, nil)
	switch {
	case err != nil:
		return classify(what, err)
	case status >= http.StatusMultipleChoices && status != http.StatusNotFound:
		return classifyBody(what, status, answer)
	}
	return nil
}
