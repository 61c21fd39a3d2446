package elastic

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"

	"github.com/capsaga/capsaga/saga"
)

// A sweep's walk: how many documents it looks at in one step, and how long
// Elasticsearch keeps its place meanwhile.
const (
	sweepPage = 2000
	sweepKeep = "1m"
)

// Sweep deletes the rows of the entity below a version, all of which are known to be
// no rows any more, and says how many there were. Each is deleted at that version, so
// that what is newer by then stays, and a late apply of something older does nothing.
func (s *Store) Sweep(ctx context.Context, entity string, floor saga.Version) (removed int, err error) {
	what := fmt.Sprintf("sweep %s below version %s", s.prefix.Alias(entity), floor)
	if floor <= 0 {
		return 0, rejected(saga.CodeRejected, what+": it is no version")
	}
	all, err := s.look(ctx, entity)
	if err != nil {
		return 0, err
	}
	if err := s.needCurrent(what, all); err != nil {
		return 0, err
	}
	for _, g := range []*generation{all.current, all.next} {
		if g == nil {
			continue
		}
		n, err := s.sweepIndex(ctx, what, entity, g.index, floor)
		if removed += n; err != nil {
			return removed, err
		}
	}
	return removed, nil
}

// page is a step of a walk.
type page struct {
	Scroll string `json:"_scroll_id"`
	Hits   struct {
		Hits []struct {
			ID      string      `json:"_id"`
			Version json.Number `json:"_version"`
		} `json:"hits"`
	} `json:"hits"`
}

func (s *Store) sweepIndex(ctx context.Context, what, entity, index string, floor saga.Version) (removed int, err error) {
	// A search sees what is refreshed; later applies are above the floor.
	if err := s.call(ctx, what, http.MethodPost, "/"+index+"/_refresh", nil); err != nil {
		return 0, err
	}
	type object = map[string]any
	var p page
	first := object{"size": sweepPage, "version": true, "_source": false, "sort": []string{"_doc"}, "query": object{"match_all": object{}}}
	err = s.query(ctx, what, http.MethodPost, "/"+index+"/_search?scroll="+sweepKeep, first, &p)
	defer func() {
		if p.Scroll != "" { // it would end by itself
			_ = s.call(context.WithoutCancel(ctx), what, http.MethodDelete, "/_search/scroll", object{"scroll_id": p.Scroll})
		}
	}()
	for err == nil && len(p.Hits.Hits) > 0 {
		var n int
		n, err = s.sweepPage(ctx, entity, index, floor, p)
		if removed += n; err != nil {
			return removed, err
		}
		next := object{"scroll": sweepKeep, "scroll_id": p.Scroll}
		p.Hits.Hits = nil
		err = s.query(ctx, what, http.MethodPost, "/_search/scroll", next, &p)
	}
	return removed, err
}

// sweepPage deletes what is old of a page.
func (s *Store) sweepPage(ctx context.Context, entity, index string, floor saga.Version, p page) (removed int, err error) {
	var old []saga.Document
	for _, hit := range p.Hits.Hits {
		version, err := saga.ParseVersion(hit.Version.String())
		if err != nil {
			return 0, asRead(garbled("read "+index, err))
		}
		if version < floor {
			old = append(old, saga.Document{Entity: entity, Key: hit.ID, Version: floor})
		}
	}
	applied, err := s.ApplyTo(ctx, index, old)
	if err != nil {
		return 0, err
	}
	for _, a := range applied {
		if a.Err != nil {
			return removed, a.Err
		}
		if a.Changed {
			removed++
		}
	}
	return removed, nil
}
