package main

import (
	"bytes"
	"cmp"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	enumspb "go.temporal.io/api/enums/v1"
	workflowpb "go.temporal.io/api/workflow/v1"

	"github.com/capsaga/capsaga/saga"
)

// attempt is what Temporal tells of a step that it is trying right now.
type attempt struct {
	Step     saga.StepName `json:"step,omitempty"`
	Activity string        `json:"activity"`
	Attempt  int           `json:"attempt"`
	// Paused: an operator has paused the activity in Temporal.
	Paused bool `json:"paused,omitempty"`
	// StartedAt is set while the attempt is under way, NextAt while it is waited for.
	StartedAt   time.Time `json:"started_at,omitzero"`
	NextAt      time.Time `json:"next_at,omitzero"`
	FailedAt    time.Time `json:"failed_at,omitzero"`
	LastFailure string    `json:"last_failure,omitempty"`
}

// attempts reads what Temporal tells of pending activities.
func attempts(pending []*workflowpb.PendingActivityInfo) []attempt {
	var all []attempt
	for _, p := range pending {
		n := attempt{
			Activity: p.GetActivityType().GetName(), Attempt: int(p.GetAttempt()), Paused: p.GetPaused(),
			LastFailure: p.GetLastFailure().GetMessage(),
		}
		if p.GetState() == enumspb.PENDING_ACTIVITY_STATE_STARTED && p.GetLastStartedTime() != nil {
			n.StartedAt = p.GetLastStartedTime().AsTime()
		} else if t := p.GetNextAttemptScheduleTime(); t != nil {
			n.NextAt = t.AsTime()
		}
		if p.GetLastFailure() != nil && p.GetLastAttemptCompleteTime() != nil {
			n.FailedAt = p.GetLastAttemptCompleteTime().AsTime()
		}
		all = append(all, n)
	}
	return all
}

// systemOf names what an activity of Capsaga's own needs.
var systemOf = map[string]string{
	"Commit": "postgres", "Undo": "postgres",
	"UpdateRedis": "redis", "PublishKafka": "kafka", "IndexElasticsearch": "elasticsearch",
}

// assign finds the steps of the attempts: those that are at work on the system
// that an activity needs. A service's own steps run one after another.
func assign(pending []attempt, o *saga.Outcome) {
	for i := range pending {
		p := &pending[i]
		for _, step := range o.Steps {
			atWork := step.State == saga.StepRunning || step.State == saga.StepRetrying
			if system, ours := systemOf[p.Activity]; atWork && (ours && step.Name.System() == system || !ours && step.Name.IsTask()) {
				p.Step = step.Name
				break
			}
		}
	}
}

// describe says in a line what goes on.
func (p *attempt) describe(now time.Time) string {
	what := string(p.Step)
	if what == "" {
		what = p.Activity
	}
	var b strings.Builder
	fmt.Fprintf(&b, "%s: attempt %d ", what, p.Attempt)
	switch {
	case p.Paused:
		b.WriteString("is paused in Temporal: unpause the activity there")
	case !p.StartedAt.IsZero():
		fmt.Fprintf(&b, "is under way for %s", roundly(now.Sub(p.StartedAt)))
	case p.NextAt.After(now):
		fmt.Fprintf(&b, "begins in %s", roundly(p.NextAt.Sub(now)))
	default:
		b.WriteString("waits for a worker to take it")
	}
	if p.LastFailure != "" {
		b.WriteString("; the last one failed")
		if !p.FailedAt.IsZero() {
			fmt.Fprintf(&b, " %s ago", roundly(now.Sub(p.FailedAt)))
		}
		b.WriteString(": " + p.LastFailure)
	}
	return b.String()
}

// roundly is a time span that is over before it is read to the millisecond.
func roundly(d time.Duration) string { return max(d, 0).Round(time.Second).String() }

// clock is a time for people: of today without its date.
func clock(t, now time.Time) string {
	if t.IsZero() {
		return "-"
	}
	t, now = t.Local(), now.Local()
	if t.YearDay() == now.YearDay() && t.Year() == now.Year() {
		return t.Format(time.TimeOnly)
	}
	return t.Format(time.DateTime)
}

// writeConflicts shows of each row that keeps a saga from being undone the columns
// that matter: those that the saga wrote, and those that others changed since.
func (a *app) writeConflicts(conflicts []saga.Conflict) error {
	for _, c := range conflicts {
		_, _ = fmt.Fprintf(a.stdout, "\nconflict in %s: %s\n", printable(c.Entity+"/"+c.Key), printable(c.Reason)) // fails in flush, too
		t := newTable(a.stdout, "COLUMN", "THEIRS, NOW", "OURS", "BEFORE US")
		for _, row := range conflictRows(c) {
			t.row(row[:]...)
		}
		if err := t.flush(); err != nil {
			return err
		}
	}
	return nil
}

// conflictRows is the table of one conflict.
func conflictRows(c saga.Conflict) [][4]string {
	theirs, theirOrder := columnTexts(c.Theirs)
	before, beforeOrder := columnTexts(c.Before)
	ours, ourOrder := changes(c.Ours)
	var rows [][4]string
	seen := map[string]bool{}
	for _, name := range append(append(theirOrder, beforeOrder...), ourOrder...) {
		_, touched := ours[name]
		if seen[name] || !touched && orNull(theirs[name]) == orNull(before[name]) {
			continue
		}
		seen[name] = true
		rows = append(rows, [4]string{name, orNoRow(theirs, name), dash(ours[name]), orNoRow(before, name)})
	}
	return rows
}

// orNull is what a column is worth in a row that is not there.
func orNull(text string) string { return cmp.Or(text, "null") }

// orNoRow tells a row that is not there from a column that it lacks.
func orNoRow(columns map[string]string, name string) string {
	if columns == nil {
		return "(no row)"
	}
	return shorten(dash(columns[name]), 40)
}

func columnTexts(row json.RawMessage) (map[string]string, []string) {
	if len(bytes.TrimSpace(row)) == 0 || string(row) == "null" {
		return nil, nil
	}
	columns, err := orderedColumns(row)
	if err != nil {
		return nil, nil
	}
	texts, order := map[string]string{}, []string{}
	for _, c := range columns {
		texts[c.name] = string(c.value)
		order = append(order, c.name)
	}
	return texts, order
}

// changes says per column what a saga's mutations did, in their order.
func changes(ours json.RawMessage) (map[string]string, []string) {
	var mutations []saga.Mutation
	if json.Unmarshal(ours, &mutations) != nil {
		return nil, nil
	}
	texts, order := map[string]string{}, []string{}
	add := func(columns saga.Columns, sign string) {
		for _, name := range slices.Sorted(maps.Keys(columns)) {
			if _, again := texts[name]; !again {
				order = append(order, name)
			}
			value := shorten(string(columns[name]), 40)
			if !strings.HasPrefix(value, "-") {
				value = sign + value
			}
			texts[name] = strings.TrimSpace(texts[name] + " " + value)
		}
	}
	for i := range mutations {
		m := &mutations[i]
		add(m.Row, "")
		add(m.Set, "")
		add(m.Add, "+")
		if m.Op == saga.Delete {
			add(saga.Columns{"(row)": json.RawMessage("deleted")}, "")
		}
	}
	return texts, order
}
