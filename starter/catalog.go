package main

import (
	"bytes"
	"context"
	"fmt"

	"github.com/spf13/cobra"
	sdkclient "go.temporal.io/sdk/client"

	"github.com/capsaga/capsaga/internal/catalog"
	"github.com/capsaga/capsaga/internal/config"
	"github.com/capsaga/capsaga/internal/kafka"
	"github.com/capsaga/capsaga/internal/provision"
)

func (a *app) catalogCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use: "catalog", Short: "Check, apply or show the catalog of entities and their sinks; drop an entity",
		Args: usage(cobra.NoArgs),
		RunE: func(*cobra.Command, []string) error {
			return usagef("catalog: want validate, apply, show or drop")
		},
	}
	cmd.AddCommand(a.validateCommand(), a.applyCommand(), a.dropCommand(), &cobra.Command{
		Use: "show", Short: "Show the catalog with every default written out", Args: usage(cobra.NoArgs),
		RunE: func(*cobra.Command, []string) error { return a.showCatalog() },
	})
	return cmd
}

const keylessUsage = "publish tables without a replica identity, on which PostgreSQL then refuses UPDATE and DELETE"

func (a *app) validateCommand() *cobra.Command {
	return a.checkedCommand("validate", "Check the catalog against the database; changes nothing", a.validate)
}

// checkedCommand is a command on the catalog's file that may be told to accept
// tables without a replica identity.
func (a *app) checkedCommand(use, short string, run func(context.Context, config.Config, *catalog.File, bool) error) *cobra.Command {
	var keyless bool
	cmd := &cobra.Command{
		Use: use, Short: short, Args: usage(cobra.NoArgs),
		RunE: func(cmd *cobra.Command, _ []string) error {
			c, err := a.config()
			if err != nil {
				return err
			}
			file, err := catalog.Load(c.CatalogPath)
			if err != nil {
				return err
			}
			return run(cmd.Context(), c, file, keyless)
		},
	}
	cmd.Flags().BoolVar(&keyless, "allow-keyless", false, keylessUsage)
	return cmd
}

func (a *app) validate(ctx context.Context, c config.Config, file *catalog.File, keyless bool) error {
	db, err := a.postgres(ctx, c)
	if err != nil {
		return err
	}
	problems, err := catalog.Validate(ctx, db.Pool(), file, catalog.Options{Prefix: c.Prefix, AllowKeyless: keyless})
	if err != nil {
		return err
	}
	return a.writeProblems(c.CatalogPath, file, problems)
}

func (a *app) writeProblems(path string, file *catalog.File, problems catalog.Problems) error {
	failed := len(problems.Errors())
	switch {
	case a.output == asJSON:
		if problems == nil {
			problems = catalog.Problems{}
		}
		if err := writeJSON(a.stdout, problems); err != nil {
			return err
		}
	case len(problems) == 0:
		_, err := fmt.Fprintf(a.stdout, "%s is good: %d entities\n", path, len(file.Catalog.Entities))
		return err
	default:
		for _, p := range problems {
			if _, err := fmt.Fprintln(a.stdout, printable(p.String())); err != nil {
				return err
			}
		}
	}
	if failed > 0 {
		return fmt.Errorf("%s: %d errors and %d warnings: nothing is applied until the errors are gone", path, failed, len(problems)-failed)
	}
	return nil
}

func (a *app) applyCommand() *cobra.Command {
	return a.checkedCommand("apply", "Create what the catalog names and is missing; twice is the same as once", a.apply)
}

func (a *app) apply(ctx context.Context, c config.Config, file *catalog.File, keyless bool) error {
	deps, err := a.provisionDeps(c, file)
	if err != nil {
		return err
	}
	changes, err := provision.Apply(ctx, deps, file.Catalog, provision.Options{AllowKeyless: keyless, File: file})
	if writeErr := a.writeChanges(changes); err == nil {
		err = writeErr
	}
	return err
}

// provisionDeps connects to nothing yet: Apply asks all systems first and names
// all that are away at once.
func (a *app) provisionDeps(c config.Config, file *catalog.File) (provision.Deps, error) {
	deps := provision.Deps{
		PostgresURL: c.PostgresURL, Prefix: c.Prefix,
		TemporalAddress: c.Temporal.HostPort, Namespace: c.Temporal.Namespace,
	}
	temporal, err := sdkclient.NewLazyClient(quietly(c.Temporal))
	if err != nil {
		return deps, fmt.Errorf("temporal: %w", err)
	}
	a.onClose(temporal.Close)
	deps.Temporal = temporal
	topics, err := kafka.Open(c.Kafka)
	if err != nil {
		return deps, err
	}
	a.onClose(topics.Close)
	deps.Kafka = topics
	for _, e := range file.Catalog.Entities {
		if e.Redis != nil && deps.Redis == nil {
			if deps.Redis, err = a.redis(c); err != nil {
				return deps, err
			}
		}
		if e.Elasticsearch != nil && deps.Elasticsearch == nil {
			if deps.Elasticsearch, err = a.elastic(c); err != nil {
				return deps, err
			}
		}
	}
	return deps, nil
}

func (a *app) writeChanges(changes []provision.Change) error {
	if a.output == asJSON {
		if changes == nil {
			changes = []provision.Change{}
		}
		return writeJSON(a.stdout, changes)
	}
	if len(changes) == 0 {
		return nil
	}
	t := newTable(a.stdout, "SYSTEM", "KIND", "NAME", "ACTION", "DETAIL")
	for _, change := range changes {
		t.row(change.System, change.Kind, change.Name, string(change.Action), change.Detail)
	}
	return t.flush()
}

func (a *app) showCatalog() error {
	c, err := a.config()
	if err != nil {
		return err
	}
	file, err := catalog.Load(c.CatalogPath)
	if err != nil {
		return err
	}
	marshal := catalog.MarshalYAML
	if a.output == asJSON {
		marshal = catalog.MarshalJSON
	}
	text, err := marshal(file.Catalog)
	if err != nil {
		return err
	}
	_, err = fmt.Fprintf(a.stdout, "%s\n", bytes.TrimRight(text, "\n"))
	return err
}
