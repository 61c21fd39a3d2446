package main

import (
	"encoding/json"
	"fmt"
	"io"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/schollz/progressbar/v3"

	"github.com/capsaga/capsaga/saga"
)

// writeReport prints the answers as they come, in the order in which they come,
// and a summary at the end.
type writeReport struct {
	mu     sync.Mutex
	out    io.Writer
	notes  io.Writer
	output format
	bar    *progressbar.ProgressBar // nil without a terminal
	began  time.Time
	counts counts
	failed error // the first failure to print
}

func (a *app) newWriteReport(size int64) *writeReport {
	r := &writeReport{
		out: a.stdout, notes: a.stderr, output: a.output, began: time.Now(),
		counts: counts{byStatus: map[saga.Status]int{}},
	}
	if a.terminal {
		r.bar = progressbar.NewOptions64(size,
			progressbar.OptionSetWriter(a.stderr), progressbar.OptionSetDescription("writing"),
			progressbar.OptionShowBytes(true), progressbar.OptionSetWidth(30),
			progressbar.OptionThrottle(100*time.Millisecond), progressbar.OptionClearOnFinish())
	}
	return r
}

// progress tells how much of the input has been read.
func (r *writeReport) progress(bytes int64) {
	if r.bar == nil {
		return
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	_ = r.bar.Set64(bytes) // what cannot be drawn is no failure
}

// rowForm aligns rows that are printed before the next is known.
const rowForm = "%6s  %-24s  %-10s  %-20s  %s\n"

func (r *writeReport) add(o lineOutcome, reached bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.counts.lines++
	r.counts.byStatus[o.Status]++
	if reached {
		r.counts.reached++
	}
	if r.bar != nil {
		_ = r.bar.Clear() // a row would be printed behind the bar
	}
	if err := r.print(o); err != nil && r.failed == nil {
		r.failed = fmt.Errorf("print the outcomes: %w", err)
	}
}

func (r *writeReport) print(o lineOutcome) error {
	if r.output == asJSON {
		encoder := json.NewEncoder(r.out)
		encoder.SetEscapeHTML(false)
		return encoder.Encode(o)
	}
	if r.counts.lines == 1 {
		if _, err := fmt.Fprintf(r.out, rowForm, "LINE", "SAGA", "STATUS", "VERSION", "ERROR"); err != nil {
			return err
		}
	}
	version := ""
	if o.Version != 0 {
		version = o.Version.String()
	}
	row := fmt.Sprintf(rowForm, fmt.Sprint(o.Line), dash(printable(o.SagaID)), o.Status, dash(version), printable(problem(o.Outcome)))
	_, err := io.WriteString(r.out, strings.TrimRight(row, " \n")+"\n")
	return err
}

// problem says in one line what keeps a saga, or kept it, from completing.
func problem(o saga.Outcome) string {
	if o.Error != nil {
		return fmt.Sprintf("%s: %s", o.Error.Code, o.Error.Message)
	}
	for _, step := range o.Steps {
		if step.Error != nil && step.State != saga.StepDone {
			return fmt.Sprintf("%s %s: %s", step.Name, step.State, step.Error.Message)
		}
	}
	return ""
}

// end prints the summary and returns the error of the run that ended with cause.
func (r *writeReport) end(cause error) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.bar != nil {
		_ = r.bar.Clear()
	}
	if cause == nil {
		cause = r.failed
	}
	_, _ = fmt.Fprintln(r.notes, r.counts.summary(time.Since(r.began)))
	return r.counts.end(cause)
}

func (c counts) summary(took time.Duration) string {
	if c.lines == 0 {
		return "0 writes: the input holds none"
	}
	var parts []string
	for status, n := range c.byStatus {
		parts = append(parts, fmt.Sprintf("%d %s", n, status))
	}
	slices.Sort(parts)
	return fmt.Sprintf("%s in %s, %.0f/s: %s", writesOf(c.lines), brief(took), float64(c.lines)/took.Seconds(), strings.Join(parts, ", "))
}

// writesOf is a number of writes for people.
func writesOf(n int) string {
	if n == 1 {
		return "1 write"
	}
	return fmt.Sprintf("%d writes", n)
}
