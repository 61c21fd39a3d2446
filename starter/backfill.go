package main

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/capsaga/capsaga/internal/backfill"
	"github.com/capsaga/capsaga/internal/catalog"
	"github.com/capsaga/capsaga/internal/config"
	"github.com/capsaga/capsaga/saga"
)

// backfillOptions are the flags of backfill.
type backfillOptions struct {
	sinks   string
	all     bool
	sweep   bool
	detach  bool
	timeout time.Duration
	list    bool
	cancel  bool
}

func (a *app) backfillCommand() *cobra.Command {
	var o backfillOptions
	cmd := &cobra.Command{
		Use:   "backfill ENTITY…",
		Short: "Bring an entity's present rows to its sinks",
		Long: `Bring an entity's present rows to its sinks, beside live changes and in order with
them. The workers do it; the command requests it and shows how far it has come,
until the sinks have every row. Ctrl-C stops to look and leaves it running.

One that is under way is followed. A backfill that was stopped goes on where it
stood. Entities that ` + "`capsaga catalog apply`" + ` meets for the first time are backfilled
without being asked for.`,
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := o.check(args); err != nil {
				return err
			}
			return a.backfill(cmd.Context(), args, o)
		},
	}
	cmd.Flags().StringVar(&o.sinks, "sinks", "", "`sinks` to bring the rows to: redis, kafka, elasticsearch (default: all of the entity's)")
	cmd.Flags().BoolVar(&o.all, "all", false, "all entities of the catalog")
	cmd.Flags().BoolVar(&o.sweep, "sweep", false, "also remove what the sinks have and the table has not; in Kafka the topic begins anew, with an event of op t")
	cmd.Flags().BoolVar(&o.detach, "detach", false, "request it and do not wait")
	cmd.Flags().DurationVar(&o.timeout, "timeout", 0, "how long to wait for the sinks to have the rows; 0: for as long as it takes")
	cmd.Flags().BoolVar(&o.list, "list", false, "show the backfills that are open, and the last ones that have ended")
	cmd.Flags().BoolVar(&o.cancel, "cancel", false, "end the entity's backfill; what is in the sinks stays there")
	return cmd
}

func (o *backfillOptions) check(args []string) error {
	switch {
	case o.list && (o.all || o.sweep || o.cancel || o.detach || len(args) > 0):
		return usagef("--list stands alone")
	case o.list:
	case o.cancel && (o.all || o.sweep || o.detach || o.sinks != ""):
		return usagef("--cancel takes entities and nothing else")
	case o.all && len(args) > 0:
		return usagef("--all and %s: want one of them", strings.Join(args, " "))
	case !o.all && len(args) == 0:
		return usagef("backfill: name an entity, or say --all")
	case o.timeout < 0:
		return usagef("--timeout %s: want a time above zero, such as 10m", o.timeout)
	}
	_, err := parseSinks(o.sinks)
	return err
}

func parseSinks(text string) ([]saga.Sink, error) {
	if text == "" {
		return nil, nil
	}
	var sinks []saga.Sink
	for name := range strings.SplitSeq(text, ",") {
		sink := saga.Sink(strings.TrimSpace(name))
		if !slices.Contains(saga.Sinks, sink) {
			return nil, usagef("--sinks %q: want redis, kafka or elasticsearch", sink)
		}
		if !slices.Contains(sinks, sink) {
			sinks = append(sinks, sink)
		}
	}
	return sinks, nil
}

func (a *app) backfill(ctx context.Context, args []string, o backfillOptions) error {
	c, err := a.config()
	if err != nil {
		return err
	}
	switch {
	case o.list:
		return a.listBackfills(ctx, c)
	case o.cancel:
		return a.cancelBackfills(ctx, c, args)
	}
	entities, sinks, err := o.selection(c, args)
	if err != nil {
		return err
	}
	requests := make([]backfill.Request, len(entities))
	for i, e := range entities {
		requests[i] = backfill.Request{Entity: e, Sinks: ofEntity(sinks, e, o.all), Sweep: o.sweep}
	}
	return a.runBackfills(ctx, c, requests, o)
}

// ofEntity narrows sinks to an entity's when no entity was named.
func ofEntity(sinks []saga.Sink, e *saga.Entity, narrow bool) []saga.Sink {
	if !narrow {
		return sinks
	}
	return slices.DeleteFunc(slices.Clone(sinks), func(sink saga.Sink) bool { return !e.HasSink(sink) })
}

// selection returns the entities that are meant.
func (o *backfillOptions) selection(c config.Config, args []string) (entities []*saga.Entity, sinks []saga.Sink, err error) {
	if sinks, err = parseSinks(o.sinks); err != nil {
		return nil, nil, err
	}
	file, err := catalog.Load(c.CatalogPath)
	if err != nil {
		return nil, nil, err
	}
	if o.all {
		args = file.Catalog.Names()
	}
	for _, name := range args {
		e, err := file.Catalog.Entity(name)
		if err != nil {
			return nil, nil, err
		}
		if o.all && len(sinks) > 0 && len(ofEntity(sinks, e, true)) == 0 {
			continue
		}
		for _, sink := range sinks {
			if !o.all && !e.HasSink(sink) {
				return nil, nil, usagef("--sinks %s: entity %s does not go there, but to %s", sink, name, sinkList(e.Sinks()))
			}
		}
		if !slices.Contains(entities, e) {
			entities = append(entities, e)
		}
	}
	return entities, sinks, nil
}

func sinkList(sinks []saga.Sink) string {
	names := make([]string, len(sinks))
	for i, sink := range sinks {
		names[i] = string(sink)
	}
	return strings.Join(names, ",")
}

// runBackfills requests backfills and follows them.
func (a *app) runBackfills(ctx context.Context, c config.Config, requests []backfill.Request, o backfillOptions) error {
	db, err := a.postgres(ctx, c)
	if err != nil {
		return err
	}
	var started []backfill.Backfill
	for _, r := range requests {
		b, err := backfill.Submit(ctx, db.Pool(), r)
		if err != nil {
			return withSchemaHint(err)
		}
		if b.Reason != backfill.Asked || b.State == backfill.Running {
			a.note("%s: follows backfill %d, which is under way (%s)", b.Entity, b.ID, b.Reason)
		}
		started = append(started, b)
	}
	if o.detach {
		return a.writeBackfills(started)
	}
	follower := backfill.NewFollower(db.Pool(), c.Prefix)
	run := &backfillRun{app: a, look: follower.Look, timeout: o.timeout, began: time.Now()}
	for _, b := range started {
		run.items = append(run.items, &backfillItem{id: b.ID, began: time.Now(), Progress: backfill.Progress{Backfill: b}})
	}
	if a.terminal {
		run.bars = &bars{out: a.stderr}
	}
	return run.follow(ctx)
}

// recent is how many backfills that have ended are shown.
const recent = 20

func (a *app) listBackfills(ctx context.Context, c config.Config) error {
	db, err := a.postgres(ctx, c)
	if err != nil {
		return err
	}
	found, err := backfill.List(ctx, db.Pool(), recent)
	if err != nil {
		return withSchemaHint(err)
	}
	return a.writeBackfills(found)
}

func (a *app) cancelBackfills(ctx context.Context, c config.Config, names []string) error {
	db, err := a.postgres(ctx, c)
	if err != nil {
		return err
	}
	var cancelled []backfill.Backfill
	for _, name := range names {
		found, err := backfill.Cancel(ctx, db.Pool(), name)
		if err != nil {
			return withSchemaHint(err)
		}
		if len(found) == 0 {
			a.note("%s has no open backfill: nothing to do", name)
		}
		for _, b := range found {
			if b.Floor != 0 || b.Index != "" {
				a.note("%s: what backfill %d was to do is still to be done, by the next one: `capsaga backfill %s`", name, b.ID, name)
			}
		}
		cancelled = append(cancelled, found...)
	}
	return a.writeBackfills(cancelled)
}

func (a *app) writeBackfills(found []backfill.Backfill) error {
	if a.output == asJSON {
		if found == nil {
			found = []backfill.Backfill{}
		}
		return writeJSON(a.stdout, found)
	}
	if len(found) == 0 {
		a.note("no backfill")
		return nil
	}
	t := newTable(a.stdout, "ID", "ENTITY", "SINKS", "STATE", "ROWS", "OF ABOUT", "REQUESTED", "TOOK", "REASON", "NOTE")
	for _, b := range found {
		took := "-"
		if b.StartedAt != nil && b.FinishedAt != nil {
			took = brief(b.FinishedAt.Sub(*b.StartedAt))
		}
		t.row(fmt.Sprint(b.ID), b.Entity, sinkList(b.Sinks), string(b.State), thousands(int(b.Rows)), thousands(int(b.Estimated)),
			b.RequestedAt.Local().Format(time.DateTime), took, string(b.Reason), shorten(dash(b.Error), maxNote))
	}
	return t.flush()
}
