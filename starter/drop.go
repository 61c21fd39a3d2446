package main

import (
	"context"
	"time"

	"github.com/schollz/progressbar/v3"
	"github.com/spf13/cobra"

	"github.com/capsaga/capsaga/internal/catalog"
	"github.com/capsaga/capsaga/internal/kafka"
	"github.com/capsaga/capsaga/internal/provision"
)

func (a *app) dropCommand() *cobra.Command {
	var dryRun bool
	cmd := &cobra.Command{
		Use: "drop ENTITY", Short: "Remove what apply made for an entity that the catalog has no more, and its rows in the sinks",
		Long: `Remove what apply made for an entity that the catalog has no more, and its rows in
the sinks: its table's place in the publications, its keys in Redis, its indices
and, unless kafka_tables still names the table, its topic. The table stays.

Take the entity out of the catalog's file first, apply it, and start all workers
anew: one that still knows the entity would write it again.`,
		Args: usage(cobra.ExactArgs(1)),
		RunE: func(cmd *cobra.Command, args []string) error { return a.drop(cmd.Context(), args[0], dryRun) },
	}
	cmd.Flags().BoolVar(&dryRun, "dry-run", false, "change nothing, and show what would be removed")
	return cmd
}

func (a *app) drop(ctx context.Context, entity string, dryRun bool) error {
	c, err := a.config()
	if err != nil {
		return err
	}
	file, err := catalog.Load(c.CatalogPath)
	if err != nil {
		return err
	}
	deps := provision.DropDeps{PostgresURL: c.PostgresURL, Prefix: c.Prefix}
	topics, err := kafka.Open(c.Kafka)
	if err != nil {
		return err
	}
	a.onClose(topics.Close)
	deps.Kafka = topics
	if deps.Redis, err = a.redis(c); err != nil {
		return err
	}
	if deps.Elasticsearch, err = a.elastic(c); err != nil {
		return err
	}
	options := provision.DropOptions{DryRun: dryRun}
	bar := a.keysBar()
	if bar != nil {
		options.Keys = func(keys int) { _ = bar.Set(keys) } // what cannot be drawn is no failure
	}
	changes, err := provision.Drop(ctx, deps, file.Catalog, entity, options)
	if bar != nil {
		_ = bar.Clear()
	}
	if dryRun && err == nil {
		a.note("nothing was changed: this is what would be done")
	}
	if writeErr := a.writeChanges(changes); err == nil {
		err = writeErr
	}
	return withSchemaHint(err)
}

// keysBar counts keys on a terminal; nil without one.
func (a *app) keysBar() *progressbar.ProgressBar {
	if !a.terminal {
		return nil
	}
	return progressbar.NewOptions64(-1, progressbar.OptionSetWriter(a.stderr), progressbar.OptionSetDescription("removing keys"),
		progressbar.OptionShowCount(), progressbar.OptionShowIts(), progressbar.OptionSetItsString("keys"),
		progressbar.OptionThrottle(100*time.Millisecond), progressbar.OptionClearOnFinish())
}
