package elastic

import (
	"context"
	"encoding/json"
	"net/http"
	"net/url"
)

// markIndex is an index that is no entity's, as no entity's name begins with "_".
func (s *Store) markIndex() string { return s.prefix.Alias("_marks") }

type mark struct {
	Value string `json:"value"`
}

// Mark returns a value that Capsaga keeps for itself outside PostgreSQL, such as
// the epoch's high-water mark.
func (s *Store) Mark(ctx context.Context, name string) (value string, found bool, err error) {
	path := "/" + s.markIndex() + "/_doc/" + url.PathEscape(name)
	what := "get mark " + name + " from " + s.markIndex()
	status, answer, err := s.send(ctx, http.MethodGet, path, nil)
	switch {
	case err != nil:
		return "", false, classifyRead(what, err)
	case status == http.StatusNotFound:
		return "", false, nil
	case status >= http.StatusMultipleChoices:
		return "", false, classifyBody(what, status, answer)
	}
	var reply struct {
		Source mark `json:"_source"`
	}
	if err := json.Unmarshal(answer, &reply); err != nil {
		return "", false, asRead(garbled(what, err))
	}
	return reply.Source.Value, true, nil
}

// SetMark sets a value that Mark returns. The index is made by the first one.
func (s *Store) SetMark(ctx context.Context, name, value string) error {
	path := "/" + s.markIndex() + "/_doc/" + url.PathEscape(name)
	return s.call(ctx, "set mark "+name+" in "+s.markIndex(), http.MethodPut, path, mark{value})
}
