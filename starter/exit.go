package main

import (
	"errors"
	"fmt"
	"io"
	"strings"

	"github.com/spf13/cobra"
)

// The exit statuses.
const (
	statusDone   = 0
	statusFailed = 1
	statusUsage  = 2
	statusSome   = 3
)

// exitError is an error with the exit status that it means. Any other error
// means statusFailed.
type exitError struct {
	status int
	err    error
}

func (e *exitError) Error() string { return e.err.Error() }

func (e *exitError) Unwrap() error { return e.err }

func usagef(format string, args ...any) error {
	return &exitError{status: statusUsage, err: fmt.Errorf(format, args...)}
}

// usage marks the errors of an argument check as the user's.
func usage(check cobra.PositionalArgs) cobra.PositionalArgs {
	return func(cmd *cobra.Command, args []string) error {
		if err := check(cmd, args); err != nil {
			return usagef("%w; see `%s --help`", err, cmd.CommandPath())
		}
		return nil
	}
}

// report prints an error and returns the exit status that it means.
func report(stderr io.Writer, err error) int {
	if err == nil {
		return statusDone
	}
	for line := range strings.Lines(err.Error()) {
		// What Capsaga itself refuses names it already.
		line = strings.TrimPrefix(strings.TrimRight(line, "\n"), "capsaga: ")
		_, _ = fmt.Fprintf(stderr, "capsaga: %s\n", printable(line))
	}
	var exit *exitError
	if errors.As(err, &exit) {
		return exit.status
	}
	return statusFailed
}
