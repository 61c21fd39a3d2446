package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/capsaga/capsaga/internal/backfill"
	"github.com/capsaga/capsaga/saga"
)

// backfillRun follows backfills until their rows are in the sinks.
type backfillRun struct {
	app     *app
	look    func(ctx context.Context, id int64) (backfill.Progress, error)
	items   []*backfillItem
	timeout time.Duration
	began   time.Time
	bars    *bars // nil without a terminal
	told    map[string]bool
}

// backfillItem is one that is followed.
type backfillItem struct {
	backfill.Progress
	id    int64
	began time.Time
	// idle is since when nobody has taken it, or held a stream that it waits for.
	idle time.Time
	// rate is of rows a second, since firstSeen with firstRows.
	firstSeen time.Time
	firstRows int64
	took      time.Duration
	over      bool
	printed   bool
}

const (
	backfillPause = 200 * time.Millisecond
	// idleAfter is how long nobody takes a backfill before that is told.
	idleAfter = 4 * time.Second
	// heldAfter is how long nobody holds a stream before that is told; a takeover
	// needs less than 5 s.
	heldAfter = 6 * time.Second
)

// follow looks until all are over.
func (r *backfillRun) follow(ctx context.Context) error {
	r.told = map[string]bool{}
	for {
		err := r.lookAtAll(ctx)
		switch {
		case ctx.Err() != nil:
			return r.left(errors.New("stopped to look"))
		case err != nil && saga.ClassOf(err) == saga.Rejected:
			return withSchemaHint(err)
		case err != nil:
			r.tell("no answer yet, still trying: " + err.Error())
		}
		if err := r.print(); err != nil {
			return err
		}
		if r.allOver() {
			return r.end()
		}
		if r.timeout > 0 && time.Since(r.began) > r.timeout {
			return r.left(fmt.Errorf("not all rows are in the sinks within %s", r.timeout))
		}
		select {
		case <-ctx.Done():
		case <-time.After(backfillPause):
		}
	}
}

func (r *backfillRun) lookAtAll(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, followTimeout)
	defer cancel()
	for _, i := range r.items {
		if i.over {
			continue
		}
		p, err := r.look(ctx, i.id)
		if err != nil {
			return err
		}
		i.update(p, time.Now())
		if reason := i.idleReason(time.Now()); reason != "" {
			r.tell(i.Entity + ": " + reason)
		}
	}
	return nil
}

// update takes over what was seen.
func (i *backfillItem) update(p backfill.Progress, now time.Time) {
	if i.firstSeen.IsZero() && p.State == backfill.Running {
		i.firstSeen, i.firstRows = now, p.Rows
	}
	busy := p.Taken || p.Queued
	if p.State == backfill.Done {
		busy = true
		for _, b := range p.Behind {
			busy = busy && b.Held
		}
	}
	if busy || i.State != p.State || i.idle.IsZero() {
		i.idle = now
	}
	i.Progress = p
	i.over = p.Visible || p.State == backfill.Failed || p.State == backfill.Cancelled
	i.took = now.Sub(i.began)
}

// idleReason says why nothing moves, when that has lasted for too long.
func (i *backfillItem) idleReason(now time.Time) string {
	idle := now.Sub(i.idle)
	switch {
	case i.State.Open() && idle > idleAfter:
		return "no worker takes it: start a capsaga-worker with the role stream and this catalog; it goes on then"
	case i.State == backfill.Done && idle > heldAfter:
		for _, b := range i.Behind {
			if !b.Held {
				return fmt.Sprintf("no worker holds the stream %s: start a capsaga-worker with the role stream; it goes on then", b.Publication)
			}
		}
	case i.State.Open() && i.Error != "":
		return i.Error
	}
	return ""
}

// tell says a thing once; the details in parentheses may change.
func (r *backfillRun) tell(text string) {
	key, _, _ := strings.Cut(text, " (")
	if r.told[key] {
		return
	}
	r.told[key] = true
	r.clear()
	r.app.note("%s", printable(text))
}

func (r *backfillRun) clear() {
	if r.bars != nil {
		r.bars.clear()
	}
}

func (r *backfillRun) allOver() bool {
	for _, i := range r.items {
		if !i.over {
			return false
		}
	}
	return true
}

// print prints what has ended, and draws the rest.
func (r *backfillRun) print() error {
	for _, i := range r.items {
		if !i.over || i.printed {
			continue
		}
		i.printed = true
		r.clear()
		if err := r.printItem(i); err != nil {
			return fmt.Errorf("print the results: %w", err)
		}
	}
	if r.bars == nil {
		return nil
	}
	var lines []string
	for _, i := range r.items {
		if !i.over {
			lines = append(lines, i.line(time.Now()))
		}
	}
	r.bars.draw(lines)
	return nil
}

// line is an item's line while it goes on.
func (i *backfillItem) line(now time.Time) string {
	name := fmt.Sprintf("%-16s", shorten(i.Entity, 16))
	switch i.State {
	case backfill.Requested:
		return name + "  " + bar(0, 1) + "  waits"
	case backfill.Done:
		var behind []string
		for _, b := range i.Behind {
			behind = append(behind, fmt.Sprintf("%s %s", b.Publication, byteCount(b.Bytes)))
		}
		return fmt.Sprintf("%s  %s  %s rows; to be read: %s", name, bar(1, 1), thousands(int(i.Rows)), strings.Join(behind, ", "))
	}
	rate := i.rate(now)
	parts := []string{fmt.Sprintf("%s of about %s rows", thousands(int(i.Rows)), thousands(int(max(i.Estimated, i.Rows))))}
	if rate > 0 {
		parts = append(parts, thousands(int(rate))+"/s")
	}
	if left := timeLeft(i.Estimated-i.Rows, rate); left != "" {
		parts = append(parts, left)
	}
	return fmt.Sprintf("%s  %s %s  %s", name, bar(i.Rows, i.Estimated), percent(i.Rows, i.Estimated), strings.Join(parts, ", "))
}

func (i *backfillItem) rate(now time.Time) float64 {
	seconds := now.Sub(i.firstSeen).Seconds()
	if i.firstSeen.IsZero() || seconds <= 0 {
		return 0
	}
	return float64(i.Rows-i.firstRows) / seconds
}

// backfillResult is an item's line for programs.
type backfillResult struct {
	backfill.Progress
	Seconds float64 `json:"seconds"`
}

func (r *backfillRun) printItem(i *backfillItem) error {
	if r.app.output == asJSON {
		encoder := json.NewEncoder(r.app.stdout)
		encoder.SetEscapeHTML(false)
		return encoder.Encode(backfillResult{i.Progress, i.took.Seconds()})
	}
	text := fmt.Sprintf("%s: %s rows, %s, are in %s after %s", i.Entity, thousands(int(i.Rows)), byteCount(i.Bytes), sinkList(i.Sinks), brief(i.took))
	if !i.Visible {
		text = fmt.Sprintf("%s: %s: %s", i.Entity, i.State, i.Error)
	}
	_, err := fmt.Fprintln(r.app.stdout, printable(text))
	return err
}

// left tells a person who stops to look that the work goes on.
func (r *backfillRun) left(why error) error {
	r.clear()
	var open []string
	for _, i := range r.items {
		if !i.over {
			open = append(open, i.Entity)
		}
	}
	names := strings.Join(open, " ")
	err := fmt.Errorf("%w: the workers go on with %s; `capsaga backfill %s` follows it again, with --cancel it ends", why, names, names)
	if len(open) < len(r.items) {
		return &exitError{status: statusSome, err: err}
	}
	return err
}

// end returns the error whose exit status fits.
func (r *backfillRun) end() error {
	failed := 0
	for _, i := range r.items {
		if !i.Visible {
			failed++
		}
	}
	switch {
	case failed == 0:
		return nil
	case failed == len(r.items):
		return fmt.Errorf("%d of %d backfills did not end: each is named above", failed, len(r.items))
	}
	return &exitError{status: statusSome, err: fmt.Errorf("%d of %d backfills did not end: each is named above", failed, len(r.items))}
}
