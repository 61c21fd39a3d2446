package main

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/capsaga/capsaga/internal/catalog"
	"github.com/capsaga/capsaga/internal/elastic"
	"github.com/capsaga/capsaga/saga"
)

// hit is a found row as programs get it.
type hit struct {
	Key        string              `json:"key"` // KEYENC
	Score      float64             `json:"score"`
	Version    saga.Version        `json:"version"`
	Row        json.RawMessage     `json:"row"`
	Highlights map[string][]string `json:"highlights,omitempty"`
}

type searchAnswer struct {
	Entity string `json:"entity"`
	Total  int64  `json:"total"`
	Hits   []hit  `json:"hits"`
	Source string `json:"source"`
}

const maxHits = 10_000

func (a *app) searchCommand() *cobra.Command {
	var size int
	cmd := &cobra.Command{
		Use:   "search ENTITY QUERY",
		Short: "Search an entity's rows in Elasticsearch",
		Long: `Search an entity's rows in Elasticsearch by words, as people type them; misspelt
words are forgiven. What was written in the last second may not show yet.`,
		Args: usage(cobra.MinimumNArgs(2)),
		RunE: func(cmd *cobra.Command, args []string) error {
			if size < 1 || size > maxHits {
				return usagef("--size %d: want a number from 1 to %d", size, maxHits)
			}
			found, err := a.search(cmd.Context(), args[0], strings.Join(args[1:], " "), size)
			if err != nil {
				return err
			}
			return a.writeFound(args[0], found)
		},
	}
	cmd.Flags().IntVar(&size, "size", 10, "`number` of best hits to show")
	return cmd
}

func (a *app) search(ctx context.Context, entity, query string, size int) (elastic.Found, error) {
	c, err := a.config()
	if err != nil {
		return elastic.Found{}, err
	}
	file, err := catalog.Load(c.CatalogPath)
	if err != nil {
		return elastic.Found{}, err
	}
	e, err := file.Catalog.Entity(entity)
	if err != nil {
		return elastic.Found{}, err
	}
	if e.Elasticsearch == nil {
		return elastic.Found{}, notASink(e, saga.Elasticsearch)
	}
	store, err := a.elastic(c)
	if err != nil {
		return elastic.Found{}, err
	}
	return store.Search(ctx, entity, query, size)
}

func (a *app) writeFound(entity string, found elastic.Found) error {
	if a.output == asJSON {
		answer := searchAnswer{Entity: entity, Total: found.Total, Hits: []hit{}, Source: string(saga.Elasticsearch)}
		for _, h := range found.Hits {
			answer.Hits = append(answer.Hits, hit(h))
		}
		return writeJSON(a.stdout, answer)
	}
	if len(found.Hits) == 0 {
		a.note("nothing found in %s", entity)
		return nil
	}
	t := newTable(a.stdout, "KEY", "SCORE", "TEXT", "MATCH")
	for _, h := range found.Hits {
		t.row(h.Key, fmt.Sprintf("%.2f", h.Score), shorten(title(h.Row), 60), shorten(match(h.Highlights), 60))
	}
	if err := t.flush(); err != nil {
		return err
	}
	a.note("%d of %d", len(found.Hits), found.Total)
	return nil
}

// title is what a row is best known by: its first two texts.
func title(row json.RawMessage) string {
	columns, err := orderedColumns(row)
	if err != nil {
		return ""
	}
	var texts []string
	for _, c := range columns {
		if c.isText() && len(texts) < 2 {
			texts = append(texts, c.text())
		}
	}
	return strings.Join(texts, " · ")
}

// match names the fields that matched, each with its first piece of text.
func match(highlights map[string][]string) string {
	var parts []string
	for field, pieces := range highlights {
		if len(pieces) > 0 && !strings.HasSuffix(field, ".keyword") {
			piece := strings.NewReplacer("<em>", "*", "</em>", "*").Replace(pieces[0])
			parts = append(parts, field+": "+piece)
		}
	}
	slices.Sort(parts)
	return strings.Join(parts, "; ")
}
