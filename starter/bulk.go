package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/schollz/progressbar/v3"

	"github.com/capsaga/capsaga/internal/config"
	"github.com/capsaga/capsaga/internal/listing"
	"github.com/capsaga/capsaga/saga"
	"github.com/capsaga/capsaga/saga/client"
)

// bulkRun is a request that is followed.
type bulkRun interface {
	Progress(ctx context.Context, since int) (saga.BulkProgress, error)
}

// operateMany has a workflow deal with the sagas, and follows it.
func (a *app) operateMany(ctx context.Context, c config.Config, o *operation, r saga.BulkRequest) error {
	sagas, err := a.sagas(ctx, c)
	if err != nil {
		return err
	}
	run, err := sagas.FindBulk(ctx, r)
	if err != nil {
		return err
	}
	if run != nil {
		a.note("follows workflow %s, which the same command started before", run.WorkflowID)
	} else {
		if r.Expected, err = a.count(ctx, c, &r); err != nil {
			return err
		}
		if r.Expected == 0 {
			a.note("no saga matches: nothing to do")
			return nil
		}
		if err := a.confirm(o, &r, r.Expected); err != nil {
			return err
		}
		if run, err = sagas.Bulk(ctx, r); err != nil {
			return err
		}
	}
	return a.newFollower(run, o.action).follow(ctx)
}

// count counts what a request selects.
func (a *app) count(ctx context.Context, c config.Config, r *saga.BulkRequest) (n int, err error) {
	if len(r.IDs) > 0 {
		return len(r.IDs), nil
	}
	err = a.each(ctx, c, r.Filter, func(*listing.Saga) { n++ })
	return n, err
}

// follower prints what a request does, as it does it.
type follower struct {
	run    bulkRun
	name   string
	action saga.Action
	out    io.Writer
	notes  io.Writer
	output format
	bar    *progressbar.ProgressBar // nil without a terminal
	began  time.Time
	items  int
	did    map[saga.Did]int
	silent bool // the request's worker does not answer, which was told
}

func (a *app) newFollower(run *client.BulkRun, action saga.Action) *follower {
	f := &follower{
		run: run, name: run.WorkflowID, action: action, out: a.stdout, notes: a.stderr, output: a.output,
		began: time.Now(), did: map[saga.Did]int{},
	}
	if a.terminal {
		f.bar = progressbar.NewOptions64(-1,
			progressbar.OptionSetWriter(a.stderr), progressbar.OptionSetDescription(string(action)),
			progressbar.OptionShowCount(), progressbar.OptionSetWidth(30), progressbar.OptionShowIts(), progressbar.OptionSetItsString("sagas"),
			progressbar.OptionThrottle(100*time.Millisecond), progressbar.OptionClearOnFinish())
	}
	return f
}

const (
	followPause   = 300 * time.Millisecond
	followTimeout = 5 * time.Second
)

// follow prints until the request has ended.
func (f *follower) follow(ctx context.Context) error {
	for {
		p, err := f.look(ctx)
		if ctx.Err() != nil {
			return f.left()
		}
		switch {
		case err == nil:
		case saga.ClassOf(err) == saga.Unavailable:
			f.tellSilence(err)
		default:
			return err
		}
		if err == nil {
			if err := f.print(p); err != nil {
				return err
			}
			// What a full answer had no place for comes with the next.
			if (p.Finished || p.Cancelled) && f.items+p.Unnamed >= p.Done {
				return f.end(p)
			}
			if len(p.Items) > 0 {
				continue
			}
		}
		select {
		case <-ctx.Done():
			return f.left()
		case <-time.After(followPause):
		}
	}
}

func (f *follower) look(ctx context.Context) (saga.BulkProgress, error) {
	ctx, cancel := context.WithTimeout(ctx, followTimeout)
	defer cancel()
	return f.run.Progress(ctx, f.items)
}

// tellSilence says once that nobody works on the request at the moment.
func (f *follower) tellSilence(err error) {
	if f.silent {
		return
	}
	f.silent = true
	f.clear()
	_, _ = fmt.Fprintf(f.notes, "no answer yet, still trying: the request goes on when a worker is there (%s)\n", printable(err.Error()))
}

func (f *follower) clear() {
	if f.bar != nil {
		_ = f.bar.Clear() // what cannot be drawn is no failure
	}
}

// left tells a person who stops to look that the work goes on.
func (f *follower) left() error {
	f.clear()
	return fmt.Errorf("stopped to look: the request goes on; the same command again follows it, `temporal workflow cancel --workflow-id %s` stops it", f.name)
}

// itemForm aligns rows that are printed before the next is known.
const itemForm = "%-32s  %-12s  %-12s  %s\n"

// maxNote keeps a row on few lines; show and -o json tell all.
const maxNote = 100

func (f *follower) print(p saga.BulkProgress) error {
	f.silent = false
	if len(p.Items) > 0 {
		f.clear()
	}
	for _, item := range p.Items {
		f.items++
		if item.Error == nil {
			f.did[item.Did]++
		}
		if err := f.printItem(item); err != nil {
			return fmt.Errorf("print the results: %w", err)
		}
	}
	if f.bar != nil {
		f.bar.ChangeMax(max(p.Total, 1))
		_ = f.bar.Set(p.Done)
	}
	return nil
}

func (f *follower) printItem(item saga.BulkItem) error {
	if f.output == asJSON {
		encoder := json.NewEncoder(f.out)
		encoder.SetEscapeHTML(false)
		return encoder.Encode(item)
	}
	if f.items == 1 {
		if _, err := fmt.Fprintf(f.out, itemForm, "SAGA", "DID", "STATUS", "NOTE"); err != nil {
			return err
		}
	}
	note := item.Note
	if item.Error != nil {
		note = errorText(item.Error)
	}
	did := string(item.Did)
	switch {
	case item.Error != nil && did == "":
		did = "failed"
	case item.Did == saga.DidCompensate && item.Error != nil:
		did = "undo begun"
	}
	row := fmt.Sprintf(itemForm, printable(item.SagaID), did, dash(string(item.Status)), shorten(printable(note), maxNote))
	_, err := io.WriteString(f.out, strings.TrimRight(row, " \n")+"\n")
	return err
}

// end prints the summary and returns the error whose exit status fits.
func (f *follower) end(p saga.BulkProgress) error {
	f.clear()
	_, _ = fmt.Fprintln(f.notes, f.summary(p))
	if p.Note != "" {
		_, _ = fmt.Fprintln(f.notes, printable(p.Note))
	}
	var err error
	if p.Failed > 0 {
		err = fmt.Errorf("%s of %s did not get where %s brings them: each is named above", thousands(p.Failed), sagasOf(p.Done), f.action)
	}
	if p.Cancelled {
		err = errors.Join(err, fmt.Errorf("the request was cancelled, with %s of %s done: the same command again does the rest", thousands(p.Done), thousands(p.Total)))
	}
	if err != nil {
		return &exitError{status: statusSome, err: err}
	}
	return nil
}

func (f *follower) summary(p saga.BulkProgress) string {
	var parts []string
	for _, did := range slices.Sorted(maps.Keys(f.did)) {
		text := string(did)
		if did == saga.DidNothing {
			text = "with nothing to do"
		}
		parts = append(parts, fmt.Sprintf("%s %s", thousands(f.did[did]), text))
	}
	if p.Failed > 0 || len(parts) == 0 {
		parts = append(parts, thousands(p.Failed)+" failed")
	}
	text := fmt.Sprintf("%s in %s: %s", sagasOf(p.Done), brief(time.Since(f.began)), strings.Join(parts, ", "))
	if p.Unnamed > 0 {
		text += fmt.Sprintf("; %s are not named, as there are too many", thousands(p.Unnamed))
	}
	return text
}
