package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"

	"github.com/jackc/pgx/v5/pgconn"
	"github.com/spf13/cobra"

	"github.com/capsaga/capsaga/internal/catalog"
	"github.com/capsaga/capsaga/internal/config"
	"github.com/capsaga/capsaga/internal/postgres"
	"github.com/capsaga/capsaga/saga"
)

const sourcePostgres = "postgres"

// rowAnswer is a row as one system has it.
type rowAnswer struct {
	Entity  string          `json:"entity"`
	Key     string          `json:"key"` // KEYENC
	Found   bool            `json:"found"`
	Row     json.RawMessage `json:"row"`
	Version saga.Version    `json:"version,omitempty"`
	ETag    string          `json:"etag,omitempty"` // PostgreSQL's alone
	Source  string          `json:"source"`
}

func (a *app) getCommand() *cobra.Command {
	var from, consistency string
	cmd := &cobra.Command{
		Use:   "get ENTITY KEY",
		Short: "Read a row from PostgreSQL, Redis or Elasticsearch",
		Long: `Read a row from PostgreSQL, Redis or Elasticsearch, with its version.

KEY is the bare text of a single key column, or a JSON object of all of them:
  capsaga get products 42 --from redis
  capsaga get stock '{"shop":"B1","sku":7}'
A row that is not there ends with exit status 1.`,
		Args: usage(cobra.ExactArgs(2)),
		RunE: func(cmd *cobra.Command, args []string) error {
			if cmd.Flags().Changed("consistency") {
				return usagef("--consistency is not there yet: it comes with the reads; --from names one system")
			}
			switch from {
			case sourcePostgres, string(saga.Redis), string(saga.Elasticsearch):
			default:
				return usagef("--from %q: want postgres, redis or elasticsearch", from)
			}
			answer, err := a.get(cmd.Context(), args[0], args[1], from)
			if err != nil {
				return err
			}
			return a.writeRow(answer)
		},
	}
	cmd.Flags().StringVar(&from, "from", sourcePostgres, "`system` to read from: postgres, redis or elasticsearch")
	cmd.Flags().StringVar(&consistency, "consistency", "", "how fresh: strong, eventual or a `token` (not there yet)")
	return cmd
}

func (a *app) get(ctx context.Context, entity, text, from string) (rowAnswer, error) {
	c, err := a.config()
	if err != nil {
		return rowAnswer{}, err
	}
	file, err := catalog.Load(c.CatalogPath)
	if err != nil {
		return rowAnswer{}, err
	}
	e, err := file.Catalog.Entity(entity)
	if err != nil {
		return rowAnswer{}, err
	}
	texts, err := parseKey(e, text)
	if err != nil {
		return rowAnswer{}, err
	}
	db, err := a.postgres(ctx, c)
	if err != nil {
		return rowAnswer{}, err
	}
	key, err := normaliseKey(ctx, db, e, texts)
	if err != nil {
		if from == sourcePostgres || isBadValue(err) {
			return rowAnswer{}, err
		}
		a.note("PostgreSQL does not answer, so the key is looked up as it was typed (%s)", err)
		key = saga.EncodeKey(texts)
	}
	answer := rowAnswer{Entity: entity, Key: key, Source: from}
	err = a.read(ctx, c, db, e, &answer)
	return answer, err
}

// isBadValue tells a key that PostgreSQL refuses from one that it was not asked
// about.
func isBadValue(err error) bool {
	var refused *pgconn.PgError
	return errors.As(err, &refused) && strings.HasPrefix(refused.Code, "22")
}

// read fills the answer from its source.
func (a *app) read(ctx context.Context, c config.Config, db *postgres.DB, e *saga.Entity, answer *rowAnswer) error {
	switch saga.Sink(answer.Source) {
	case saga.Redis:
		if e.Redis == nil {
			return notASink(e, saga.Redis)
		}
		store, err := a.redis(c)
		if err != nil {
			return err
		}
		doc, found, err := store.Get(ctx, e.Name, answer.Key)
		answer.fill(doc, found)
		return err
	case saga.Elasticsearch:
		if e.Elasticsearch == nil {
			return notASink(e, saga.Elasticsearch)
		}
		store, err := a.elastic(c)
		if err != nil {
			return err
		}
		doc, found, err := store.Get(ctx, e.Name, answer.Key)
		answer.fill(doc, found)
		return err
	default:
		row, err := db.ReadRow(ctx, e, answer.Key)
		answer.Found, answer.Row, answer.Version, answer.ETag = row.Found, row.Row, row.Version, row.ETag
		return err
	}
}

// fill takes over a sink's document; a tombstone is a version without a row.
func (r *rowAnswer) fill(doc saga.Document, found bool) {
	r.Found, r.Row, r.Version = found && !doc.Deleted(), doc.Row, doc.Version
}

func notASink(e *saga.Entity, sink saga.Sink) error {
	return usagef("entity %s does not go to %s: the catalog gives it %s", e.Name, sink, sinkNames(e))
}

// writeRow prints the answer and makes an absent row an error.
func (a *app) writeRow(answer rowAnswer) error {
	var err error
	switch {
	case a.output == asJSON:
		err = writeJSON(a.stdout, answer)
	case answer.Found:
		err = a.printRow(answer)
	}
	if err != nil || answer.Found {
		return err
	}
	deleted := ""
	if answer.Version != 0 {
		deleted = fmt.Sprintf(": it was deleted at version %s", answer.Version)
	}
	return fmt.Errorf("%s has no %s/%s%s", answer.Source, answer.Entity, answer.Key, deleted)
}

func (a *app) printRow(answer rowAnswer) error {
	version := dash("")
	if answer.Version != 0 {
		version = answer.Version.String()
	}
	_, err := fmt.Fprintf(a.stdout, "%s/%s from %s, version %s", answer.Entity, answer.Key, answer.Source, version)
	if err == nil && answer.ETag != "" {
		_, err = fmt.Fprintf(a.stdout, ", etag %s", answer.ETag)
	}
	if err != nil {
		return err
	}
	if _, err := fmt.Fprintln(a.stdout); err != nil {
		return err
	}
	columns, err := orderedColumns(answer.Row)
	if err != nil {
		return fmt.Errorf("%s/%s in %s is not a JSON object: %w", answer.Entity, answer.Key, answer.Source, err)
	}
	t := newTable(a.stdout, "COLUMN", "VALUE")
	for _, column := range columns {
		t.row(column.name, column.text())
	}
	return t.flush()
}
