// Command capsaga is the command line of Capsaga: it writes sagas, reads rows
// from where they are, lists sagas, shows what became of one and moves those on
// that failed, and sets up what a catalog names. Its exit status is 0 when all was done, 1 when it failed, 2 when the
// command line is wrong and 3 when some items of many failed.
package main

import (
	"context"
	"os"
	"os/signal"
	"syscall"

	"golang.org/x/term"

	"github.com/capsaga/capsaga/internal/redis"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	context.AfterFunc(ctx, stop) // a second Ctrl-C ends the program at once
	redis.Silence()
	a := &app{
		environ: os.Environ(),
		stdin:   os.Stdin, stdout: os.Stdout, stderr: os.Stderr,
		terminal:    term.IsTerminal(int(os.Stderr.Fd())),
		interactive: term.IsTerminal(int(os.Stderr.Fd())) && term.IsTerminal(int(os.Stdin.Fd())),
	}
	status := a.run(ctx, os.Args[1:])
	stop()
	os.Exit(status)
}
