package provision

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"github.com/jackc/pgx/v5"

	"github.com/capsaga/capsaga/internal/backfill"
	"github.com/capsaga/capsaga/internal/kafka"
	"github.com/capsaga/capsaga/internal/postgres"
	"github.com/capsaga/capsaga/saga"
)

// DropDeps are the systems that Drop works on. All are needed, as an entity may have
// been in any of them.
type DropDeps struct {
	PostgresURL string
	Redis       interface {
		Pinger
		Count(ctx context.Context, entity string) (int, error)
		Drop(ctx context.Context, entity string, progress func(keys int)) (int, error)
	}
	Kafka interface {
		Pinger
		DescribeTopics(ctx context.Context, names []string) (map[string]kafka.TopicState, error)
		DeleteTopic(ctx context.Context, name string) (bool, error)
	}
	Elasticsearch interface {
		Pinger
		Made(ctx context.Context, entity string) ([]string, error)
		Drop(ctx context.Context, entity string) ([]string, error)
	}
	Prefix saga.Prefix
}

// DropOptions changes what Drop does.
type DropOptions struct {
	// DryRun changes nothing and returns what would be done.
	DryRun bool
	// Keys, if set, is told how many keys of Redis are gone.
	Keys func(keys int)
	// Progress, if set, is told each change as it is done.
	Progress func(Change)
}

// Drop removes what Apply made for an entity and what the streams wrote of it. The
// catalog must not have the entity any more, nor may a worker that still has it be
// running: it would write again.
//
// What is known of the entity goes last, so that a run that ends early is made good
// by the next. The table itself is left alone.
func Drop(ctx context.Context, deps DropDeps, c *saga.Catalog, entity string, o DropOptions) ([]Change, error) {
	if _, there := c.Entities[entity]; there {
		return nil, refuse("entity %s is in the catalog: take it out of the file, apply it, start all workers anew, so that none writes the entity again, and then drop it", entity)
	}
	for _, ping := range []Pinger{deps.Redis, deps.Kafka, deps.Elasticsearch} {
		if err := ping.Ping(ctx); err != nil {
			return nil, err
		}
	}
	db, err := postgres.Open(ctx, deps.PostgresURL)
	if err != nil {
		return nil, err
	}
	defer db.Close()
	known, err := backfill.Provisions(ctx, db.Pool(), entity)
	if err != nil {
		return nil, err
	}
	if known == nil {
		return nil, refuse("nothing is known of an entity %s: it was never applied, or was dropped before", entity)
	}
	d := &dropper{deps: deps, db: db, catalog: c, entity: entity, known: known, options: o}
	err = d.run(ctx)
	return d.changes, err
}

// dropper is one run of Drop.
type dropper struct {
	deps    DropDeps
	db      *postgres.DB
	catalog *saga.Catalog
	entity  string
	known   *backfill.Known
	options DropOptions
	changes []Change
}

func (d *dropper) run(ctx context.Context) error {
	steps := []func(context.Context) error{d.retire, d.dropMemberships, d.dropKeys, d.dropIndices, d.dropTopic, d.forget}
	for _, step := range steps {
		if err := step(ctx); err != nil {
			return err
		}
		if err := ctx.Err(); err != nil {
			return fmt.Errorf("drop entity %s: stopped after %d steps, run it again to go on: %w", d.entity, len(d.changes), err)
		}
	}
	return nil
}

func (d *dropper) done(c Change) {
	d.changes = append(d.changes, c)
	if d.options.Progress != nil {
		d.options.Progress(c)
	}
}

func (d *dropper) retire(ctx context.Context) error {
	if d.options.DryRun {
		return nil
	}
	return backfill.Retire(ctx, d.db.Pool(), d.entity)
}

// dropMemberships takes the table out of the publications that no other entity
// needs it in.
func (d *dropper) dropMemberships(ctx context.Context) error {
	wanted := (&applier{deps: Deps{Prefix: d.deps.Prefix}, catalog: d.catalog}).publications()
	for _, want := range wanted {
		change := Change{System: "postgres", Kind: "publication", Name: want.name, Action: Unchanged}
		is, err := readPublication(ctx, d.db.Pool(), want.name)
		if err != nil {
			return postgres.Classify("read publication "+want.name, err)
		}
		if slices.Contains(is.tables, d.known.Table) && !slices.Contains(want.tables, d.known.Table) {
			change.Action, change.Detail = Dropped, "table "+d.known.Table.String()
			sql := fmt.Sprintf("ALTER PUBLICATION %s DROP TABLE ONLY %s", pgx.Identifier{want.name}.Sanitize(), pgx.Identifier{d.known.Table.Schema, d.known.Table.Name}.Sanitize())
			if err := d.exec(ctx, sql); err != nil {
				return postgres.Classify("take table "+d.known.Table.String()+" out of publication "+want.name, err)
			}
		}
		d.done(change)
	}
	return nil
}

func (d *dropper) exec(ctx context.Context, sql string) error {
	if d.options.DryRun {
		return nil
	}
	_, err := d.db.Pool().Exec(ctx, sql)
	return err
}

func (d *dropper) dropKeys(ctx context.Context) (err error) {
	var keys int
	if d.options.DryRun {
		keys, err = d.deps.Redis.Count(ctx, d.entity)
	} else {
		keys, err = d.deps.Redis.Drop(ctx, d.entity, d.options.Keys)
	}
	if err != nil {
		return err
	}
	change := Change{System: string(saga.Redis), Kind: "keys", Name: d.deps.Prefix.RedisKey(d.entity, "*"), Action: Unchanged}
	if keys > 0 {
		change.Action, change.Detail = Dropped, fmt.Sprintf("%d keys", keys)
	}
	d.done(change)
	return nil
}

func (d *dropper) dropIndices(ctx context.Context) (err error) {
	var names []string
	if d.options.DryRun {
		names, err = d.deps.Elasticsearch.Made(ctx, d.entity)
	} else {
		names, err = d.deps.Elasticsearch.Drop(ctx, d.entity)
	}
	if err != nil {
		return err
	}
	change := Change{System: string(saga.Elasticsearch), Kind: "index", Name: d.deps.Prefix.Alias(d.entity), Action: Unchanged}
	if len(names) > 0 {
		change.Action, change.Detail = Dropped, strings.Join(names, ", ")
	}
	d.done(change)
	return nil
}

// dropTopic deletes the table's topic unless kafkapub still publishes the table.
func (d *dropper) dropTopic(ctx context.Context) error {
	if !slices.Contains(d.known.Sinks, saga.Kafka) {
		return nil
	}
	name, err := d.deps.Prefix.Topic(d.known.Table)
	if err != nil {
		return &saga.Error{Class: saga.Rejected, System: string(saga.Kafka), Code: saga.CodeRejected, Message: err.Error()}
	}
	change := Change{System: string(saga.Kafka), Kind: "topic", Name: name, Action: Unchanged}
	deleted := false
	switch {
	case d.catalog.KafkaTables == nil:
		change.Detail = "it stays, as kafka_tables: all publishes every table"
	case slices.Contains(d.catalog.KafkaTables, d.known.Table):
		change.Detail = "it stays, as kafka_tables names " + d.known.Table.String()
	case d.options.DryRun:
		topics, err := d.deps.Kafka.DescribeTopics(ctx, []string{name})
		if err != nil {
			return err
		}
		_, deleted = topics[name]
	default:
		if deleted, err = d.deps.Kafka.DeleteTopic(ctx, name); err != nil {
			return err
		}
	}
	if deleted {
		change.Action = Dropped
	}
	d.done(change)
	return nil
}

// forget is the last step: until then a second run knows what there was.
func (d *dropper) forget(ctx context.Context) error {
	if !d.options.DryRun {
		if err := backfill.Forget(ctx, d.db.Pool(), d.entity); err != nil {
			return err
		}
	}
	d.done(Change{System: "postgres", Kind: "entity", Name: d.entity, Action: Dropped, Detail: fmt.Sprintf("from table %s to %s", d.known.Table, sinkNames(d.known.Sinks))})
	return nil
}
