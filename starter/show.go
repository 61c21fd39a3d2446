package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"net/url"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"
	sdkclient "go.temporal.io/sdk/client"

	"github.com/capsaga/capsaga/internal/config"
	"github.com/capsaga/capsaga/internal/listing"
	"github.com/capsaga/capsaga/internal/postgres"
	"github.com/capsaga/capsaga/saga"
	"github.com/capsaga/capsaga/saga/client"
)

// shown is a saga with the way to its workflow.
type shown struct {
	saga.Outcome
	WorkflowID string `json:"workflow_id,omitempty"`
	RunID      string `json:"run_id,omitempty"`
	URL        string `json:"url,omitempty"` // of the workflow in the Temporal UI
	// Workflow says whether the workflow runs; empty when Temporal does not answer.
	Workflow  listing.State   `json:"workflow,omitempty"`
	Pending   []attempt       `json:"pending,omitempty"`
	Conflicts []saga.Conflict `json:"conflicts,omitempty"`
	Next      []next          `json:"next,omitempty"`
}

// next is a command that helps.
type next struct {
	Effect  string `json:"effect"`
	Command string `json:"command"`
}

func (a *app) showCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "show SAGA_ID",
		Short: "Show what became of a saga, each of its steps, and what to do next",
		Args:  usage(cobra.ExactArgs(1)),
		RunE: func(cmd *cobra.Command, args []string) error {
			c, err := a.config()
			if err != nil {
				return err
			}
			s, err := a.lookUp(cmd.Context(), c, args[0])
			if err != nil {
				return err
			}
			a.addConflicts(cmd.Context(), c, &s)
			s.Next = nextCommands(&s)
			return a.writeShown(s, c, time.Now())
		},
	}
}

// lookUp asks Temporal, which knows a saga that runs, and else the ledger, which
// remembers what Temporal has forgotten.
func (a *app) lookUp(ctx context.Context, c config.Config, sagaID string) (shown, error) {
	var s shown
	temporal, temporalErr := a.temporal(ctx, c)
	if temporalErr == nil {
		if s, temporalErr = ask(ctx, temporal, c, sagaID); temporalErr == nil {
			return s, nil
		}
	}
	known, found, err := a.remember(ctx, c, sagaID)
	switch {
	case err == nil && found:
		if !isUnknown(temporalErr) && !isLost(temporalErr) {
			a.note("from the ledger, as the workflow does not answer: %s", temporalErr)
		}
		if s.WorkflowID != "" {
			known.Workflow = s.Workflow
			known.WorkflowID, known.RunID, known.URL, known.Pending = s.WorkflowID, s.RunID, s.URL, s.Pending
		}
		if isUnknown(temporalErr) && known.WorkflowID != saga.WorkflowID(sagaID) {
			describeBatch(ctx, temporal, c, &known)
		}
		if isUnknown(temporalErr) && !known.Status.Final() {
			known.Workflow = cmp.Or(known.Workflow, listing.Gone)
		}
		return known, nil
	case err == nil && isUnknown(temporalErr):
		return shown{}, fmt.Errorf("no saga %q: neither Temporal at %s nor the ledger in PostgreSQL knows it; check the id and %s", sagaID, c.Temporal.HostPort, config.TemporalNamespace)
	case isLost(temporalErr): // before its commit, or the ledger is away
		if err != nil {
			a.note("the ledger cannot be asked: %s", err)
		}
		s.Outcome = saga.Outcome{SagaID: sagaID, Status: saga.Pending}
		return s, nil
	case err == nil:
		return shown{}, fmt.Errorf("saga %q is not in the ledger, so it has not committed, and its workflow does not answer: %w", sagaID, temporalErr)
	case isUnknown(temporalErr):
		return shown{}, fmt.Errorf("temporal knows no saga %q, and the ledger cannot be asked: %w", sagaID, err)
	}
	return shown{}, errors.Join(temporalErr, err)
}

func isUnknown(err error) bool { return hasCode(err, saga.CodeUnknownSaga) }

// isLost reports whether a workflow ended without an outcome.
func isLost(err error) bool { return hasCode(err, saga.CodeWorkflowLost) }

func hasCode(err error, code string) bool {
	var e *saga.Error
	return errors.As(err, &e) && e.Code == code
}

// askTimeout bounds the wait for a workflow's answer: a query needs a worker.
const askTimeout = 5 * time.Second

// ask returns what Temporal knows of a saga. With an error, it is what it knows of
// the workflow.
func ask(ctx context.Context, temporal sdkclient.Client, c config.Config, sagaID string) (shown, error) {
	ctx, cancel := context.WithTimeout(ctx, askTimeout)
	defer cancel()
	sagas, err := client.New(client.Options{Temporal: temporal, Prefix: c.Prefix})
	if err != nil {
		return shown{}, err
	}
	var s shown
	// Without it, Status says why.
	if described, err := temporal.DescribeWorkflowExecution(ctx, saga.WorkflowID(sagaID), ""); err == nil {
		info := described.GetWorkflowExecutionInfo()
		s.WorkflowID, s.RunID = saga.WorkflowID(sagaID), info.GetExecution().GetRunId()
		s.URL = workflowURL(c, s.WorkflowID, s.RunID)
		s.Workflow = listing.StateOf(info.GetStatus())
		if s.Workflow == listing.Running || s.Workflow == listing.Paused {
			s.Pending = attempts(described.GetPendingActivities())
		}
	}
	s.Outcome, err = sagas.Status(ctx, sagaID)
	if err == nil {
		assign(s.Pending, &s.Outcome)
	}
	return s, err
}

// describeBatch adds how the workflow of the batch is in which the saga was written.
func describeBatch(ctx context.Context, temporal sdkclient.Client, c config.Config, s *shown) {
	ctx, cancel := context.WithTimeout(ctx, askTimeout)
	defer cancel()
	described, err := temporal.DescribeWorkflowExecution(ctx, s.WorkflowID, "")
	if err != nil {
		return // past its retention
	}
	info := described.GetWorkflowExecutionInfo()
	s.RunID, s.Workflow = info.GetExecution().GetRunId(), listing.StateOf(info.GetStatus())
	s.URL = workflowURL(c, s.WorkflowID, s.RunID)
}

// remember returns what the ledger knows of a saga.
func (a *app) remember(ctx context.Context, c config.Config, sagaID string) (s shown, found bool, err error) {
	db, err := a.postgres(ctx, c)
	if err != nil {
		return shown{}, false, err
	}
	ctx, cancel := context.WithTimeout(ctx, askTimeout)
	defer cancel()
	workflowID, o, found, err := db.LedgerOutcome(ctx, sagaID)
	if err != nil || !found {
		return shown{}, false, withSchemaHint(err)
	}
	s = shown{Outcome: *o, WorkflowID: workflowID, URL: workflowURL(c, workflowID, "")}
	if o.Stream != nil {
		s.Workflow, err = adopted(ctx, db, sagaID)
	}
	return s, true, withSchemaHint(err)
}

// adopted tells whether the saga of a refused row has had no workflow yet.
func adopted(ctx context.Context, db *postgres.DB, sagaID string) (listing.State, error) {
	entries, err := db.ListSagas(ctx, postgres.ListFilter{IDs: []string{sagaID}})
	if err == nil && len(entries) == 1 && entries[0].Unstarted {
		return listing.NotStarted, nil
	}
	return "", err
}

// addConflicts adds what keeps a saga from being undone.
func (a *app) addConflicts(ctx context.Context, c config.Config, s *shown) {
	if undo := s.Step(saga.StepUndo); undo == nil || undo.Error == nil || undo.Error.Code != saga.CodeConflict {
		return
	}
	db, err := a.postgres(ctx, c)
	if err == nil {
		ctx, cancel := context.WithTimeout(ctx, askTimeout)
		defer cancel()
		s.Conflicts, err = db.Conflicts(ctx, s.SagaID)
	}
	if err != nil {
		a.note("the ledger cannot be asked what conflicts: %s", withSchemaHint(err))
	}
}

// workflowURL links to a workflow in the Temporal UI: to its history, or to all
// runs of its id when the run is not known.
func workflowURL(c config.Config, workflowID, runID string) string {
	if c.TemporalUIURL == "" {
		return ""
	}
	link := c.TemporalUIURL + "/namespaces/" + url.PathEscape(c.Temporal.Namespace) + "/workflows/" + url.PathEscape(workflowID)
	if runID != "" {
		link += "/" + url.PathEscape(runID) + "/history"
	}
	return link
}

func (a *app) writeShown(s shown, c config.Config, now time.Time) error {
	if a.output == asJSON {
		return writeJSON(a.stdout, s)
	}
	t := newTable(a.stdout)
	t.row("saga", s.SagaID)
	t.row("status", string(s.Status))
	if s.Stream != nil {
		t.row("change", s.Stream.Summary())
	}
	if s.Version != 0 {
		t.row("version", s.Version.String())
		if s.Stream == nil {
			t.row("confirmed", dash(string(s.Confirmed)))
		}
	}
	for _, tag := range s.ETags {
		t.row("row", tag.Entity+"/"+tag.Key+rowState(tag))
	}
	t.row("workflow", s.WorkflowID+workflowState(&s))
	link := s.URL
	if link == "" {
		link = "set " + config.TemporalUIURL + " for a link"
	}
	t.row("Temporal UI", link)
	if s.Error != nil && !isStepError(&s.Outcome) {
		t.row("error", problem(saga.Outcome{Error: s.Error}))
	}
	if err := t.flush(); err != nil {
		return err
	}
	if err := a.writeSteps(s.Steps, now); err != nil {
		return err
	}
	for _, p := range s.Pending {
		_, _ = fmt.Fprintf(a.stdout, "\n%s\n", printable(p.describe(now))) // what fails here fails below, too
	}
	if err := a.writeConflicts(s.Conflicts); err != nil {
		return err
	}
	return a.writeNext(&s, c.Prefix)
}

// workflowState adds what is out of the order.
func workflowState(s *shown) string {
	if s.Workflow == "" || s.Workflow == listing.Completed || s.Workflow == listing.Running {
		return ""
	}
	return ", " + string(s.Workflow)
}

func rowState(tag saga.ETag) string {
	switch tag.ETag {
	case "":
		return ", deleted"
	case saga.ETagUnknown:
		return ""
	}
	return ", etag " + tag.ETag
}

func (a *app) writeSteps(steps []saga.Step, now time.Time) error {
	if len(steps) == 0 {
		return nil
	}
	_, _ = fmt.Fprintln(a.stdout) // what fails here fails in flush, too
	t := newTable(a.stdout, "STEP", "STATE", "BEGAN", "ATTEMPTS", "DURATION", "LAST ERROR")
	var failures strings.Builder
	for _, step := range steps {
		class := ""
		if step.Error != nil {
			class = string(cmp.Or(step.Error.Class, saga.Class(step.Error.Code)))
			// Too long for a column.
			fmt.Fprintf(&failures, "\n%s, %s: %s\n", step.Name, step.Error.Code, printable(step.Error.Message))
		}
		t.row(string(step.Name), string(step.State), clock(step.StartedAt, now), strconv.Itoa(step.Attempts),
			brief(time.Duration(step.Duration)), dash(class))
	}
	if err := t.flush(); err != nil {
		return err
	}
	_, err := io.WriteString(a.stdout, failures.String())
	return err
}

// isStepError reports whether a saga's error is told with one of its steps.
func isStepError(o *saga.Outcome) bool {
	for _, step := range o.Steps {
		if step.Error != nil && *step.Error == *o.Error {
			return true
		}
	}
	return false
}

// writeNext says what the reader can do about a saga that has not completed.
func (a *app) writeNext(s *shown, prefix saga.Prefix) error {
	var b strings.Builder
	if text := explanation(s, prefix); text != "" {
		fmt.Fprintf(&b, "\n%s\n", printable(text))
	}
	if len(s.Next) > 0 {
		b.WriteString("\n")
		t := newTable(&b)
		for _, n := range s.Next {
			t.row(n.Command, "# "+n.Effect)
		}
		_ = t.flush() // a builder takes all
	}
	_, err := io.WriteString(a.stdout, b.String())
	return err
}

// nextCommands are the commands that help with a saga.
func nextCommands(s *shown) []next {
	listed := listing.Saga{Workflow: s.Workflow}
	if !s.Status.Final() && listed.Stopped() {
		return []next{{"start it again where it stood", commandLine("replay", s.SagaID)}}
	}
	if s.Workflow == listing.NotStarted && !s.Status.Final() {
		return []next{{"start it now, without waiting for the worker", commandLine("replay", s.SagaID)}}
	}
	var commands []next
	for _, command := range saga.Commands(&s.Outcome) {
		if !strings.HasPrefix(command.Line, "capsaga show ") {
			commands = append(commands, next{command.Effect, command.Line})
		}
	}
	return commands
}

// explanation says what a saga waits for, or why it waits for nothing.
func explanation(s *shown, prefix saga.Prefix) string {
	listed, stands := listing.Saga{Workflow: s.Workflow}, "What it had committed stands."
	if s.Version == 0 {
		stands = "It had not committed, as far as is known."
	}
	switch {
	case s.Status.Final():
	case s.Workflow == listing.NotStarted:
		return "Its workflow has not been started yet: a worker does that, some 50 a second, as soon as Temporal answers. The ledger has the saga until then."
	case s.Workflow == listing.Gone:
		return "Temporal does not know its workflow any more, so nothing works on it. " + stands
	case listed.Stopped():
		return fmt.Sprintf("Its workflow was stopped from outside (%s), so nothing works on it. %s The steps are as the ledger last saw them.", s.Workflow, stands)
	case s.Workflow == listing.Paused:
		return "Its workflow is paused in Temporal: unpause it there."
	}
	switch s.Status {
	case saga.Pending:
		if step := before(&s.Outcome); step != "" {
			return fmt.Sprintf("It has not committed yet: %s comes first. If that lasts: does a worker of its service run, on the task queue that the write names?", step)
		}
		return fmt.Sprintf("It has not committed yet. If that lasts: is a capsaga-worker with prefix %s running, and does PostgreSQL answer?", prefix)
	case saga.Committed:
		return "PostgreSQL has it. A step that cannot reach its system is tried again by itself."
	case saga.Compensating:
		return "It is being undone. A step that cannot reach its system is tried again by itself."
	case saga.Parked:
		return parkedText(&s.Outcome)
	case saga.RejectedEnd:
		return "Nothing was written. Correct the write and give it a new saga id: this one answers the same for ever."
	case saga.Failed:
		return "The error says why. `capsaga write` with a mended write and a new saga id is the way on."
	}
	return ""
}

// before returns the service's step that a saga is at before its commit.
func before(o *saga.Outcome) saga.StepName {
	for _, step := range o.Steps {
		if step.Name.IsTask() && (step.State == saga.StepRunning || step.State == saga.StepRetrying) {
			return step.Name
		}
	}
	return ""
}

// parkedText says what a parked saga waits for, by the kind of its errors.
func parkedText(o *saga.Outcome) string {
	committed := "PostgreSQL has it"
	if undo := o.Step(saga.StepUndo); undo != nil && undo.State == saga.StepDone {
		committed = "It is undone in PostgreSQL"
	} else if o.Version == 0 {
		committed = "PostgreSQL does not have it"
	}
	var waits []string
	for _, step := range o.Steps {
		if step.State != saga.StepParked || step.Error == nil {
			continue
		}
		switch {
		case step.Error.Code == saga.CodeConflict:
			waits = append(waits, fmt.Sprintf("%s would overwrite what others did since: decide with them whose change stays", step.Name))
		case step.Error.Class == saga.Rejected:
			waits = append(waits, fmt.Sprintf("%s is refused for good until the cause is mended, and waits for you", step.Name))
		case step.Name.IsTask():
			waits = append(waits, fmt.Sprintf("%s had no success, and waits for you: no gate watches a service", step.Name))
		default:
			waits = append(waits, fmt.Sprintf("%s waits for %s, and goes on by itself when that is back", step.Name, step.WaitsFor()))
		}
	}
	return committed + "; " + strings.Join(waits, "; ") + "."
}
