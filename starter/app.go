package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"time"

	"github.com/jackc/pgx/v5/pgconn"
	"github.com/spf13/cobra"
	"go.temporal.io/api/serviceerror"
	"go.temporal.io/api/workflowservice/v1"
	sdkclient "go.temporal.io/sdk/client"
	sdklog "go.temporal.io/sdk/log"

	"github.com/capsaga/capsaga/internal/config"
	"github.com/capsaga/capsaga/internal/elastic"
	"github.com/capsaga/capsaga/internal/postgres"
	"github.com/capsaga/capsaga/internal/redis"
)

// app is what the commands work with. It opens a system only when a command asks
// for it, so that a command needs no more than what it uses to be up.
type app struct {
	environ        []string
	stdin          io.Reader
	stdout, stderr io.Writer
	// terminal is whether stderr is one, where progress can be drawn.
	terminal bool
	// interactive is whether somebody is there to answer a question.
	interactive bool
	output      format
	closers     []func()
}

// run executes a command line and returns the exit status.
func (a *app) run(ctx context.Context, args []string) int {
	defer func() {
		for _, closer := range a.closers {
			closer()
		}
	}()
	root := a.root()
	root.SetArgs(args)
	root.SetIn(a.stdin)
	root.SetOut(a.stdout)
	root.SetErr(a.stderr)
	return report(a.stderr, root.ExecuteContext(ctx))
}

func (a *app) root() *cobra.Command {
	output := string(asTable)
	root := &cobra.Command{
		Use:   "capsaga",
		Short: "Write to PostgreSQL, Redis, Kafka and Elasticsearch as one saga",
		Long: `Write to PostgreSQL, Redis, Kafka and Elasticsearch as one saga.

Where the systems are is read from the environment: ` + config.PostgresURL + `,
` + config.RedisURL + `, ` + config.KafkaBrokers + `, ` + config.ElasticsearchURL + `,
` + config.TemporalAddress + `, ` + config.TemporalNamespace + `, ` + config.Catalog + ` and ` + config.Prefix + `.
Unset, they mean the local stack. Exit status: 0 done, 1 failed, 2 wrong command
line, 3 some items failed.`,
		Args:              usage(cobra.NoArgs),
		SilenceUsage:      true,
		SilenceErrors:     true,
		CompletionOptions: cobra.CompletionOptions{HiddenDefaultCmd: true},
		RunE:              func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
		PersistentPreRunE: func(*cobra.Command, []string) (err error) {
			a.output, err = parseFormat(output)
			return err
		},
	}
	root.PersistentFlags().StringVarP(&output, "output", "o", output, "`form` of the answer: table for people, json for programs")
	root.SetFlagErrorFunc(func(cmd *cobra.Command, err error) error {
		return usagef("%w; see `%s --help`", err, cmd.CommandPath())
	})
	root.AddGroup(&cobra.Group{ID: groupNow, Title: "Commands:"}, &cobra.Group{ID: groupLater, Title: "Not there yet:"})
	root.SetHelpCommandGroupID(groupNow)
	for _, cmd := range []*cobra.Command{
		a.writeCommand(), a.getCommand(), a.searchCommand(),
		a.listCommand(), a.showCommand(), a.replayCommand(), a.skipCommand(), a.compensateCommand(), a.editCommand(), a.historyCommand(),
		a.catalogCommand(), a.backfillCommand(), a.streamsCommand(), a.benchCommand(), a.versionCommand(),
	} {
		cmd.GroupID = groupNow
		root.AddCommand(cmd)
	}
	root.AddCommand(laterCommands()...)
	return root
}

const (
	groupNow   = "now"
	groupLater = "later"
)

func (a *app) config() (config.Config, error) { return config.FromEnv(a.environ) }

// onClose remembers what to close when the command has ended.
func (a *app) onClose(closer func()) { a.closers = append(a.closers, closer) }

// note tells the person at the terminal something that is no part of the answer.
func (a *app) note(format string, args ...any) {
	_, _ = fmt.Fprintf(a.stderr, format+"\n", args...)
}

func (a *app) postgres(ctx context.Context, c config.Config) (*postgres.DB, error) {
	db, err := postgres.Open(ctx, c.PostgresURL)
	if err != nil {
		return nil, err
	}
	a.onClose(db.Close)
	return db, nil
}

func (a *app) redis(c config.Config) (*redis.Store, error) {
	store, err := redis.Open(c.RedisURL, c.Prefix)
	if err != nil {
		return nil, err
	}
	a.onClose(func() { _ = store.Close() })
	return store, nil
}

func (a *app) elastic(c config.Config) (*elastic.Store, error) {
	store, err := elastic.Open(c.Elasticsearch, c.Prefix)
	if err != nil {
		return nil, err
	}
	a.onClose(func() { _ = store.Close() })
	return store, nil
}

// undefinedTable is PostgreSQL's SQLSTATE of a table that is not there.
const undefinedTable = "42P01"

// withSchemaHint says what to do when Capsaga's own tables are not there.
func withSchemaHint(err error) error {
	var refused *pgconn.PgError
	if errors.As(err, &refused) && refused.Code == undefinedTable {
		return fmt.Errorf("%w: this database has no tables of Capsaga's: run `capsaga catalog apply`, or check %s", err, config.PostgresURL)
	}
	return err
}

// dialTimeout bounds how long a command waits for Temporal to answer at all.
const dialTimeout = 5 * time.Second

// quietly keeps the SDK's log out of the answers: its failures come as errors.
func quietly(options sdkclient.Options) sdkclient.Options {
	options.Logger = sdklog.NewStructuredLogger(slog.New(slog.DiscardHandler))
	return options
}

// temporal connects and makes sure that the namespace is there: without one,
// every saga of a file would fail with an error of its own.
func (a *app) temporal(ctx context.Context, c config.Config) (sdkclient.Client, error) {
	options := quietly(c.Temporal)
	ctx, cancel := context.WithTimeout(ctx, dialTimeout)
	defer cancel()
	client, err := sdkclient.DialContext(ctx, options)
	if err != nil {
		return nil, fmt.Errorf("temporal at %s does not answer: check that it runs and that %s is right (%w)", options.HostPort, config.TemporalAddress, err)
	}
	a.onClose(client.Close)
	_, err = client.WorkflowService().DescribeNamespace(ctx, &workflowservice.DescribeNamespaceRequest{Namespace: options.Namespace})
	if _, missing := err.(*serviceerror.NamespaceNotFound); missing { //nolint:errorlint // the SDK returns it bare
		return nil, fmt.Errorf("temporal at %s has no namespace %s: create it, or check %s", options.HostPort, options.Namespace, config.TemporalNamespace)
	}
	return client, nil
}
