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
		requested, err := backfill.Provisioned(ctx, a.conn, a.catalog.Entities[name], "")
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

func sinkNames(sinks []saga.Sink) string {
	names := make([]string, len(sinks))
	for i, sink := range sinks {
		names[i] = string(sink)
	}
	return strings.Join(names, ", ")
}
