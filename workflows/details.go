package workflows

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"go.temporal.io/sdk/temporal"
	"go.temporal.io/sdk/workflow"

	"github.com/capsaga/capsaga/internal/attribute"
	"github.com/capsaga/capsaga/saga"
)

// settle derives the saga's status from its phase and its steps. When what blocks
// it changes, operators have to find the saga by it, so the search attributes and
// the ledger follow.
func (s *story) settle(ctx workflow.Context) {
	s.outcome.Status, s.outcome.Error = s.phase, s.reason
	parked := s.parkedSteps()
	if len(parked) > 0 {
		s.outcome.Status, s.outcome.Error = saga.Parked, parked[0].state.Error
	}
	s.describe(ctx)
	undoing := s.phase == saga.Compensating && s.published != s.outcome.Status
	if undoing || s.class != s.errorClass() || !slices.Equal(s.blocked, s.blockedOn()) {
		if err := s.publish(ctx); err != nil {
			workflow.GetLogger(ctx).Error("search attributes not set", "error", err)
		}
		s.note(ctx)
	}
}

// blockedOn names the systems that the parked steps wait for.
func (s *story) blockedOn() []string {
	var systems []string
	for _, t := range s.parkedSteps() {
		if system := t.state.WaitsFor(); !slices.Contains(systems, system) {
			systems = append(systems, system)
		}
	}
	return systems
}

// errorClass is that of the parked steps. One that waits for a system goes before
// one that was refused: by this class the system's gate finds the saga.
func (s *story) errorClass() (class saga.Class) {
	for _, t := range s.parkedSteps() {
		if class == "" || class == saga.Rejected {
			class = t.state.Error.Class
		}
	}
	return class
}

// publish sets the search attributes. Each call is an event in the history and a
// write of Temporal's visibility, so a saga without trouble does it once.
func (s *story) publish(ctx workflow.Context) error {
	updates := []temporal.SearchAttributeUpdate{attribute.Status.ValueSet(string(s.outcome.Status))}
	if keys := attribute.KeysOf(s.pivot.Owned); keys != nil {
		updates = append(updates, attribute.Keys.ValueSet(keys))
	}
	blocked := s.blockedOn()
	switch {
	case len(blocked) > 0:
		updates = append(updates, attribute.BlockedOn.ValueSet(blocked))
	case len(s.blocked) > 0:
		updates = append(updates, attribute.BlockedOn.ValueUnset())
	}
	class := s.errorClass()
	switch {
	case class != "":
		updates = append(updates, attribute.ErrorClass.ValueSet(string(class)))
	case s.outcome.Error != nil:
		updates = append(updates, attribute.ErrorClass.ValueSet(string(s.outcome.Error.Class)))
	case s.class != "":
		updates = append(updates, attribute.ErrorClass.ValueUnset())
	}
	s.blocked, s.class, s.published = blocked, class, s.outcome.Status
	return workflow.UpsertTypedSearchAttributes(ctx, updates...)
}

// describe renews the details that the Temporal UI shows.
func (s *story) describe(ctx workflow.Context) {
	o := s.snapshot()
	workflow.SetCurrentDetails(ctx, details(s.write.Summary(), &o))
}

// details tells in Markdown where a saga stands: what it writes, each step, and
// what to do when it is blocked.
func details(summary string, o *saga.Outcome) string {
	var b strings.Builder
	fmt.Fprintf(&b, "**%s%s**\n\n%s", plain(summary), destinations(o), o.Status)
	if o.Version != 0 {
		fmt.Fprintf(&b, " at version %s", o.Version)
	}
	if o.Confirmed != "" {
		fmt.Fprintf(&b, ", confirmed: %s", o.Confirmed)
	}
	b.WriteString("\n\n| step | state | attempts | duration |\n|---|---|---|---|\n")
	for _, step := range o.Steps {
		took := time.Duration(step.Duration).Round(100 * time.Microsecond)
		fmt.Fprintf(&b, "| %s | %s | %d | %s |\n", step.Name, step.State, step.Attempts, took)
	}
	for _, step := range o.Steps {
		if step.Error != nil {
			fmt.Fprintf(&b, "\n**%s** is %s, %s: %s\n", step.Name, step.State, step.Error.Class, plain(step.Error.Message))
		}
	}
	if commands := saga.Commands(o); len(commands) > 0 {
		b.WriteString("\nWhat helps:\n\n")
		for _, c := range commands {
			fmt.Fprintf(&b, "- %s: `%s`\n", plain(c.Effect), plain(c.Line))
		}
	}
	return b.String()
}

// destinations names the sinks, once the commit has told them.
func destinations(o *saga.Outcome) string {
	if o.Stream != nil { // which the summary names
		return ""
	}
	var sinks []string
	for _, step := range o.Steps {
		if slices.Contains(saga.Sinks, saga.Sink(step.Name)) {
			sinks = append(sinks, string(step.Name))
		}
	}
	if sinks == nil {
		return ""
	}
	return " → " + strings.Join(sinks, ", ")
}

// markup is what text from outside could bend the page with.
var markup = strings.NewReplacer(
	"\r", " ", "\n", " ", "`", "'", "|", "\\|", "<", "&lt;", ">", "&gt;", "[", "\\[", "]", "\\]",
)

// plain keeps text from outside from being read as Markdown or HTML.
func plain(text string) string { return markup.Replace(text) }
