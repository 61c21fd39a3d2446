package provision

import (
	"context"
	"fmt"
	"strings"

	"github.com/capsaga/capsaga/internal/backfill"
	"github.com/capsaga/capsaga/saga"
)

// applyBackfills notes what was provisioned and requests backfills for what is new.
// All before it is there by now, so that no change is missed between the rows that
// a backfill reads and those that the streams bring.
func (a *applier) applyBackfills(ctx context.Context) error {
	if err := backfill.Retain(ctx, a.conn, a.catalog.Names()); err != nil {
		return err
	}
	for _, name := range a.catalog.Names() {
		requested, err := backfill.Provisioned(ctx, a.conn, a.catalog.Entities[name], a.made[name])
		if err != nil {
			return err
		}
		change := Change{System: "postgres", Kind: "backfill", Name: name, Action: Unchanged}
		if requested != nil {
			change.Action = Created
			change.Detail = fmt.Sprintf("%s: rows go to %s", requested.Reason, sinkNames(requested.Sinks))
		}
		a.done(change)
		if ctx.Err() != nil {
			return nil // run says how far it came
		}
	}
	return nil
}

// beginsEmpty comes before a topic or an index is made.
func (a *applier) beginsEmpty(ctx context.Context, entity string, sink saga.Sink) error {
	had, err := backfill.BeginsEmpty(ctx, a.conn, entity, sink)
	if had {
		made := a.made[entity]
		made.Emptied = append(made.Emptied, sink)
		a.made[entity] = made
	}
	return err
}

// beginRebuild makes an index for a mapping that the present one cannot take. The
// backfill fills it, and then it takes the present one's place.
func (a *applier) beginRebuild(ctx context.Context, e *saga.Entity, why error) error {
	index, err := a.deps.Elasticsearch.BeginRebuild(ctx, e)
	if err != nil {
		return fmt.Errorf("entity %s: %w", e.Name, err)
	}
	made := a.made[e.Name]
	made.Index = index
	a.made[e.Name] = made
	a.done(Change{
		System: string(saga.Elasticsearch), Kind: "index", Name: a.deps.Prefix.Alias(e.Name), Action: Changed,
		Detail: fmt.Sprintf("index %s is filled and takes the present one's place: %s", index, why),
	})
	return nil
}

func sinkNames(sinks []saga.Sink) string {
	names := make([]string, len(sinks))
	for i, sink := range sinks {
		names[i] = string(sink)
	}
	return strings.Join(names, ", ")
}
