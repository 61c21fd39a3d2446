package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"syscall"

	"github.com/spf13/cobra"
)

// usageError is a wrong command line: exit status 2.
type usageError struct{ error }

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	err := rootCommand().ExecuteContext(ctx)
	stop()
	if err == nil {
		return
	}
	fmt.Fprintf(os.Stderr, "capsaga-local: %v\n", err)
	var usage usageError
	if errors.As(err, &usage) {
		os.Exit(2)
	}
	os.Exit(1)
}

// instanceFlags are the flags of every command.
type instanceFlags struct {
	dir      string
	portBase int
}

func (f *instanceFlags) open() (*stack, error) { return openStack(f.dir, f.portBase) }

func rootCommand() *cobra.Command {
	flags := &instanceFlags{}
	root := &cobra.Command{
		Use:           "capsaga-local",
		Short:         "Run PostgreSQL, Redis, Kafka, Elasticsearch and Temporal on this machine, without containers",
		SilenceUsage:  true,
		SilenceErrors: true,
		Args:          usage(cobra.NoArgs),
		RunE:          func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	root.PersistentFlags().StringVar(&flags.dir, "dir", "", "the instance's `folder` (default .capsaga/local of the checkout)")
	root.PersistentFlags().IntVar(&flags.portBase, "port-base", 0, "`number` that all ports are counted from (default the instance's last, else 15000)")
	root.SetFlagErrorFunc(func(_ *cobra.Command, err error) error { return usageError{err} })
	root.AddCommand(
		upCommand(flags), downCommand(flags), statusCommand(flags), envCommand(flags), logsCommand(flags),
		startCommand(flags),
		serverCommand(flags, "stop", "Stop servers in good order", (*stack).stop),
		serverCommand(flags, "kill", "Kill servers with SIGKILL, as a crash would", (*stack).kill),
		serverCommand(flags, "pause", "Freeze servers with SIGSTOP: they keep their connections and do not answer", (*stack).pause),
		serverCommand(flags, "resume", "Let paused servers run on", (*stack).resume),
		sqlCommand(flags), promoteCommand(flags),
	)
	return root
}

func upCommand(flags *instanceFlags) *cobra.Command {
	return &cobra.Command{
		Use: "up", Short: "Start what does not run and wait until it answers", Args: usage(cobra.NoArgs),
		RunE: func(cmd *cobra.Command, _ []string) error {
			s, err := flags.open()
			if err != nil {
				return err
			}
			if err := s.up(cmd.Context(), s.servers); err != nil {
				return err
			}
			s.report.line("the stack is up in %s; Temporal UI: %s", s.dir, s.temporalUI())
			return nil
		},
	}
}

func downCommand(flags *instanceFlags) *cobra.Command {
	var wipe bool
	cmd := &cobra.Command{
		Use: "down", Short: "Stop all servers", Args: usage(cobra.NoArgs),
		RunE: func(cmd *cobra.Command, _ []string) error {
			s, err := flags.open()
			if err != nil {
				return err
			}
			return s.down(cmd.Context(), wipe)
		},
	}
	cmd.Flags().BoolVar(&wipe, "wipe", false, "delete the servers' data, too")
	return cmd
}

func startCommand(flags *instanceFlags) *cobra.Command {
	return &cobra.Command{
		Use: "start SERVER...", Short: "Start servers on the data they have", Args: usage(cobra.MinimumNArgs(1)), ValidArgs: serverNames,
		RunE: func(cmd *cobra.Command, names []string) error {
			s, err := flags.open()
			if err != nil {
				return err
			}
			servers, err := s.named(names)
			if err != nil {
				return err
			}
			return s.up(cmd.Context(), servers)
		},
	}
}

// serverCommand is a command that does one thing to each server named.
func serverCommand(flags *instanceFlags, verb, short string, do func(*stack, context.Context, *server) error) *cobra.Command {
	return &cobra.Command{
		Use: verb + " SERVER...", Short: short, Args: usage(cobra.MinimumNArgs(1)), ValidArgs: serverNames,
		RunE: func(cmd *cobra.Command, names []string) error {
			s, err := flags.open()
			if err != nil {
				return err
			}
			servers, err := s.named(names)
			if err != nil {
				return err
			}
			unlock, err := s.lock(cmd.Context())
			if err != nil {
				return err
			}
			defer unlock()
			var errs []error
			for _, srv := range servers {
				errs = append(errs, do(s, cmd.Context(), srv))
			}
			return errors.Join(errs...)
		},
	}
}

func promoteCommand(flags *instanceFlags) *cobra.Command {
	return &cobra.Command{
		Use: "promote", Short: "Make the replica the primary", Args: usage(cobra.NoArgs),
		RunE: func(cmd *cobra.Command, _ []string) error {
			s, err := flags.open()
			if err != nil {
				return err
			}
			return s.promote(cmd.Context())
		},
	}
}

// usage marks the errors of an argument check as the user's.
func usage(check cobra.PositionalArgs) cobra.PositionalArgs {
	return func(cmd *cobra.Command, args []string) error {
		if err := check(cmd, args); err != nil {
			return usageError{fmt.Errorf("%w; see capsaga-local %s --help", err, cmd.Name())}
		}
		return nil
	}
}
