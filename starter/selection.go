package main

import (
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/pflag"

	"github.com/capsaga/capsaga/saga"
)

// selection is the flags by which list, replay and the like select sagas.
type selection struct {
	statuses  []string
	blockedOn string
	entity    string
	class     string
	since     string
	stopped   bool
}

func (s *selection) register(flags *pflag.FlagSet) {
	flags.StringSliceVar(&s.statuses, "status", nil, "only sagas of these `statuses`: pending, committed, parked, compensating, completed, rejected, compensated, cancelled, failed")
	flags.StringVar(&s.blockedOn, "blocked-on", "", "only sagas that are parked for this `system`: redis, kafka, elasticsearch, postgres or a step's name")
	flags.StringVar(&s.entity, "entity", "", "only sagas that write this `entity`")
	flags.StringVar(&s.class, "error-class", "", "only sagas with an error of this `class`: unavailable, rejected or ambiguous")
	flags.StringVar(&s.since, "since", "", "only sagas that began since this `time`, as 30m, 2h, 7d or 2026-01-31T12:00:00Z")
	flags.BoolVar(&s.stopped, "stopped", false, "only sagas that have not ended and whose workflow does not run, as it was terminated or forgotten")
}

// given reports whether any of the flags was set.
func (s *selection) given() bool {
	return len(s.statuses) > 0 || s.blockedOn != "" || s.entity != "" || s.class != "" || s.since != "" || s.stopped
}

// statuses lists all there are, in a saga's order.
var statuses = append(slices.Clone(saga.OpenStatuses), saga.Completed, saga.RejectedEnd, saga.Compensated, saga.Cancelled, saga.Failed)

// filter checks the flags.
func (s *selection) filter(now time.Time) (saga.Filter, error) {
	f := saga.Filter{BlockedOn: s.blockedOn, Entity: s.entity, ErrorClass: saga.Class(s.class), Stopped: s.stopped}
	for _, text := range s.statuses {
		status := saga.Status(text)
		if !slices.Contains(statuses, status) {
			return f, usagef("--status %q: want one or more of %s", text, join(statuses))
		}
		if !slices.Contains(f.Statuses, status) {
			f.Statuses = append(f.Statuses, status)
		}
	}
	if s.entity != "" && !saga.ValidEntityName(s.entity) {
		return f, usagef("--entity %q: want an entity's name, as `capsaga catalog show` lists them", s.entity)
	}
	switch f.ErrorClass {
	case "", saga.Unavailable, saga.Rejected, saga.Ambiguous:
	default:
		return f, usagef("--error-class %q: want unavailable, rejected or ambiguous", s.class)
	}
	if s.since != "" {
		var err error
		if f.Since, err = parseSince(s.since, now); err != nil {
			return f, err
		}
	}
	return f, nil
}

// parseSince reads a time, or how long ago it was.
func parseSince(text string, now time.Time) (time.Time, error) {
	if days, ok := strings.CutSuffix(text, "d"); ok {
		if n, err := strconv.Atoi(days); err == nil && n > 0 {
			return now.AddDate(0, 0, -n), nil
		}
	}
	if ago, err := time.ParseDuration(text); err == nil && ago > 0 {
		return now.Add(-ago), nil
	}
	for _, form := range []string{time.RFC3339, time.DateTime, time.DateOnly} {
		if t, err := time.ParseInLocation(form, text, time.Local); err == nil {
			return t, nil
		}
	}
	return time.Time{}, usagef("--since %q: want how long ago, as 30m, 2h or 7d, or a time, as 2026-01-31T12:00:00Z", text)
}

// words are the flags as they would be typed.
func (s *selection) words() []string {
	var words []string
	add := func(flag, value string) {
		if value != "" {
			words = append(words, flag, value)
		}
	}
	sorted := slices.Compact(slices.Sorted(slices.Values(s.statuses)))
	add("--status", strings.Join(sorted, ","))
	add("--blocked-on", s.blockedOn)
	add("--entity", s.entity)
	add("--error-class", s.class)
	add("--since", s.since)
	if s.stopped {
		words = append(words, "--stopped")
	}
	return words
}

// commandLine is a command of ours as one would type it in a shell.
func commandLine(words ...string) string {
	quoted := []string{"capsaga"}
	for _, word := range words {
		quoted = append(quoted, shellWord(word))
	}
	return strings.Join(quoted, " ")
}

// shellWord makes a text one word of a shell.
func shellWord(text string) string {
	harmless := func(r rune) bool {
		return r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9' || strings.ContainsRune("-_./:@,+=", r)
	}
	if text != "" && strings.IndexFunc(text, func(r rune) bool { return !harmless(r) }) < 0 {
		return text
	}
	return "'" + strings.ReplaceAll(text, "'", `'\''`) + "'"
}

func join[T ~string](values []T) string {
	texts := make([]string, len(values))
	for i, v := range values {
		texts[i] = string(v)
	}
	return strings.Join(texts, ", ")
}

// sagasOf is a number of sagas for people.
func sagasOf(n int) string {
	if n == 1 {
		return "1 saga"
	}
	return thousands(n) + " sagas"
}

// thousands writes a number as people read it: 12,345.
func thousands(n int) string {
	text := strconv.Itoa(n)
	for i := len(text) - 3; i > 0; i -= 3 {
		text = text[:i] + "," + text[i:]
	}
	return text
}
