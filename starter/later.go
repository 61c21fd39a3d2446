package main

import "github.com/spf13/cobra"

// laterCommands answer for what the design names and this build does not have,
// so that a script learns it at once and from the exit status.
func laterCommands() []*cobra.Command {
	var commands []*cobra.Command
	for _, later := range []struct{ name, short, with string }{
		{"reconcile", "Compare PostgreSQL with its sinks and repair them", "the reconciler"},
		{"cap", "Show consistency, availability and partitions of each system", "the CAP metrics"},
		{"logs", "Show the logs of workers and servers", "the CAP metrics"},
		{"serve", "Take writes and reads over HTTP", "the HTTP interface"},
	} {
		commands = append(commands, &cobra.Command{
			Use: later.name, Short: later.short, GroupID: groupLater,
			DisableFlagParsing: true, // also its flags are not there yet
			RunE: func(*cobra.Command, []string) error {
				return usagef("`capsaga %s` is not there yet: it comes with %s", later.name, later.with)
			},
		})
	}
	return commands
}
