package elastic

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"

	"github.com/capsaga/capsaga/saga"
)

// Get returns the document of a row as it was last written, refreshed or not. A
// deleted row is not found: Elasticsearch does not show its tombstones.
func (s *Store) Get(ctx context.Context, entity, key string) (doc saga.Document, found bool, err error) {
	alias := s.prefix.Alias(entity)
	what := fmt.Sprintf("get %s from %s", key, alias)
	// _mget and not _doc/<id>: it takes the id as a JSON string, so that an id
	// such as ".." never becomes a part of a path.
	var reply struct {
		Docs []struct {
			Found   bool            `json:"found"`
			Version int64           `json:"_version"`
			Source  json.RawMessage `json:"_source"`
			Error   *cause          `json:"error"`
		} `json:"docs"`
	}
	ids := struct {
		IDs []string `json:"ids"`
	}{[]string{key}}
	if err := s.query(ctx, what, http.MethodPost, "/"+alias+"/_mget", ids, &reply); err != nil {
		return saga.Document{}, false, err
	}
	if len(reply.Docs) != 1 {
		return saga.Document{}, false, asRead(garbled(what, fmt.Errorf("%d documents", len(reply.Docs))))
	}
	got := reply.Docs[0]
	if got.Error != nil {
		return saga.Document{}, false, classifyStatus(what, statusOf(got.Error), got.Error)
	}
	if !got.Found {
		return saga.Document{}, false, nil
	}
	return saga.Document{Entity: entity, Key: key, Version: saga.Version(got.Version), Row: got.Source}, true, nil
}

// statusOf gives the error of one document of an _mget, which comes without a
// status, the one that its type would have.
func statusOf(c *cause) int {
	if c.Type == indexNotFound {
		return http.StatusNotFound
	}
	return http.StatusServiceUnavailable
}

// Hit is a document that a search found.
type Hit struct {
	Key     string // KEYENC
	Score   float64
	Version saga.Version
	Row     json.RawMessage
	// Highlights holds, by field, the pieces of text that matched, with <em>
	// around the matches. The text itself is not escaped.
	Highlights map[string][]string
}

// Found is the answer to a search.
type Found struct {
	Total int64 // of all matches, of which Hits are the best
	Hits  []Hit
}

const (
	defaultHits = 10
	maxHits     = 10_000 // index.max_result_window's default
)

// Search returns the size best documents for a query as people type it, over all
// fields, forgiving typing errors; zero gives the default of 10. What was
// written within the index's refresh interval may not show yet.
func (s *Store) Search(ctx context.Context, entity, query string, size int) (Found, error) {
	if size <= 0 {
		size = defaultHits
	}
	alias := s.prefix.Alias(entity)
	var reply struct {
		Hits struct {
			Total struct {
				Value int64 `json:"value"`
			} `json:"total"`
			Hits []struct {
				ID        string              `json:"_id"`
				Score     float64             `json:"_score"`
				Version   int64               `json:"_version"`
				Source    json.RawMessage     `json:"_source"`
				Highlight map[string][]string `json:"highlight"`
			} `json:"hits"`
		} `json:"hits"`
	}
	err := s.query(ctx, "search "+alias, http.MethodPost, "/"+alias+"/_search", searchBody(query, min(size, maxHits)), &reply)
	if err != nil {
		return Found{}, err
	}
	found := Found{Total: reply.Hits.Total.Value, Hits: make([]Hit, len(reply.Hits.Hits))}
	for i, h := range reply.Hits.Hits {
		found.Hits[i] = Hit{Key: h.ID, Score: h.Score, Version: saga.Version(h.Version), Row: h.Source, Highlights: h.Highlight}
	}
	return found, nil
}

// searchBody matches any of the words, misspelt or not, and ranks documents that
// hold the words as they were typed before the others. It is lenient, as a word
// is no number and no date and yet all fields are searched. Numbers and dates
// match by the second clause alone: they know no fuzziness.
func searchBody(query string, size int) any {
	type object = map[string]any
	match := func(extra object) object {
		clause := object{"query": query, "fields": []string{"*"}, "lenient": true}
		for name, value := range extra {
			clause[name] = value
		}
		return object{"multi_match": clause}
	}
	return object{
		"size":             size,
		"version":          true,
		"track_total_hits": true,
		"query": object{"bool": object{
			"should":               []object{match(object{"fuzziness": "AUTO"}), match(object{"boost": 2})},
			"minimum_should_match": 1,
		}},
		"highlight": object{"fields": object{"*": object{}}},
	}
}
