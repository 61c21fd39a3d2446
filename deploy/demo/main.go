// Command demo runs Capsaga's main job on the local stack with real data: it
// brings the stack up, applies the catalog, starts a worker, writes 3,200 films
// and some users as sagas, and follows one write through all four systems. It
// leaves the stack and the worker running; `make down` stops them.
//
// It uses the programs in bin/ as an operator would, and prints each command.
package main

import (
	"context"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"syscall"
)

// folder holds the worker's log and process id.
const folder = ".capsaga/demo"

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	d := &demo{out: os.Stdout}
	err := d.run(ctx)
	stop()
	if err != nil {
		fmt.Fprintln(os.Stderr, "demo:", err)
		os.Exit(1)
	}
}

// demo is one run.
type demo struct {
	out *os.File
	env []string // of the programs that it starts
}

func (d *demo) run(ctx context.Context) error {
	if len(os.Args) > 1 && os.Args[1] == "down" {
		return stopWorker(ctx)
	}
	for _, step := range []struct {
		title string
		run   func(context.Context) error
	}{
		{"The local stack", d.stack},
		{"Tables and catalog", d.catalog},
		{"A worker", d.worker},
		{"3,200 films and 50 users, each write a saga", d.films},
		{"One write, followed through the four systems", d.follow},
		{"A plain UPDATE, without a saga", d.plainSQL},
		{"A full-text search", d.search},
	} {
		fmt.Fprintf(d.out, "\n== %s\n", step.title)
		if err := step.run(ctx); err != nil {
			return fmt.Errorf("%s: %w", step.title, err)
		}
	}
	d.addresses()
	return nil
}

func (d *demo) addresses() {
	ui := d.get("CAPSAGA_TEMPORAL_UI_URL")
	fmt.Fprintf(d.out, `
== Everything stays up
  sagas in the Temporal UI   %s/namespaces/%s/workflows
  the worker's metrics       http://127.0.0.1:15190/metrics
  the worker's log           %s
  elasticsearch              %s

Go on with the tour in README.md; for the variables of this stack:
  eval "$(bin/capsaga-local env)"; export CAPSAGA_CATALOG=deploy/demo/capsaga.yaml
make down stops it; the data stays for the next time.
`, ui, d.get("TEMPORAL_NAMESPACE"), filepath.Join(folder, "worker.log"), d.get("CAPSAGA_ELASTICSEARCH_URL"))
}
