package main

import (
	"context"
	"errors"
	"fmt"
	"net/url"
	"strconv"
	"time"

	"github.com/spf13/cobra"
	"go.temporal.io/api/serviceerror"
	sdkclient "go.temporal.io/sdk/client"

	"github.com/capsaga/capsaga/internal/config"
	"github.com/capsaga/capsaga/saga"
	"github.com/capsaga/capsaga/saga/client"
)

// shown is a saga with the way to its workflow.
type shown struct {
	saga.Outcome
	WorkflowID string `json:"workflow_id,omitempty"`
	RunID      string `json:"run_id,omitempty"`
	URL        string `json:"url,omitempty"` // of the workflow in the Temporal UI
}

func (a *app) showCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "show SAGA_ID",
		Short: "Show what became of a saga, each of its steps, and where to see it",
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
			return a.writeShown(s, c)
		},
	}
}

// lookUp asks Temporal, which knows a saga that runs, and else the ledger, which
// remembers what Temporal has forgotten.
func (a *app) lookUp(ctx context.Context, c config.Config, sagaID string) (shown, error) {
	temporal, temporalErr := a.temporal(ctx, c)
	if temporalErr == nil {
		var s shown
		if s, temporalErr = ask(ctx, temporal, c, sagaID); temporalErr == nil {
			return s, nil
		}
	}
	s, found, err := a.remember(ctx, c, sagaID)
	if err != nil {
		if isUnknown(temporalErr) {
			return shown{}, fmt.Errorf("temporal knows no saga %q, and the ledger cannot be asked: %w", sagaID, err)
		}
		return shown{}, errors.Join(temporalErr, err)
	}
	switch {
	case found && !isUnknown(temporalErr):
		a.note("from the ledger, as the workflow does not answer: %s", temporalErr)
	case !found && isUnknown(temporalErr):
		return shown{}, fmt.Errorf("no saga %q: neither Temporal at %s nor the ledger in PostgreSQL knows it; check the id and %s", sagaID, c.Temporal.HostPort, config.TemporalNamespace)
	case !found:
		return shown{}, fmt.Errorf("saga %q is not in the ledger, so it has not committed, and its workflow does not answer: %w", sagaID, temporalErr)
	}
	return s, nil
}

func isUnknown(err error) bool {
	var e *saga.Error
	var missing *serviceerror.NotFound
	return errors.As(err, &e) && e.Code == saga.CodeUnknownSaga || errors.As(err, &missing)
}

// askTimeout bounds the wait for a workflow's answer: a query needs a worker.
const askTimeout = 5 * time.Second

// ask returns what Temporal knows of a saga.
func ask(ctx context.Context, temporal sdkclient.Client, c config.Config, sagaID string) (shown, error) {
	ctx, cancel := context.WithTimeout(ctx, askTimeout)
	defer cancel()
	sagas, err := client.New(client.Options{Temporal: temporal, Prefix: c.Prefix})
	if err != nil {
		return shown{}, err
	}
	o, err := sagas.Status(ctx, sagaID)
	if err != nil {
		return shown{}, err
	}
	s := shown{Outcome: o, WorkflowID: saga.WorkflowID(sagaID)}
	described, err := temporal.DescribeWorkflowExecution(ctx, s.WorkflowID, "")
	if err != nil {
		return shown{}, err
	}
	s.RunID = described.GetWorkflowExecutionInfo().GetExecution().GetRunId()
	s.URL = workflowURL(c, s.WorkflowID, s.RunID)
	return s, nil
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
	return shown{Outcome: *o, WorkflowID: workflowID, URL: workflowURL(c, workflowID, "")}, true, nil
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

func (a *app) writeShown(s shown, c config.Config) error {
	if a.output == asJSON {
		return writeJSON(a.stdout, s)
	}
	t := newTable(a.stdout)
	t.row("saga", s.SagaID)
	t.row("status", string(s.Status))
	if s.Version != 0 {
		t.row("version", s.Version.String())
		t.row("confirmed", dash(string(s.Confirmed)))
	}
	for _, tag := range s.ETags {
		t.row("row", tag.Entity+"/"+tag.Key+rowState(tag))
	}
	t.row("workflow", s.WorkflowID)
	link := s.URL
	if link == "" {
		link = "set " + config.TemporalUIURL + " for a link"
	}
	t.row("Temporal UI", link)
	if s.Error != nil {
		t.row("error", problem(saga.Outcome{Error: s.Error}))
	}
	if err := t.flush(); err != nil {
		return err
	}
	if err := a.writeSteps(s.Steps); err != nil {
		return err
	}
	if next := nextStep(s.Outcome, c.Prefix); next != "" {
		_, err := fmt.Fprintf(a.stdout, "\n%s\n", printable(next))
		return err
	}
	return nil
}

func rowState(tag saga.ETag) string {
	if tag.ETag == "" {
		return ", deleted"
	}
	return ", etag " + tag.ETag
}

func (a *app) writeSteps(steps []saga.Step) error {
	if len(steps) == 0 {
		return nil
	}
	_, _ = fmt.Fprintln(a.stdout) // what fails here fails in flush, too
	t := newTable(a.stdout, "STEP", "STATE", "ATTEMPTS", "DURATION", "LAST ERROR")
	for _, step := range steps {
		failure := ""
		if step.Error != nil {
			failure = step.Error.Message
		}
		t.row(string(step.Name), string(step.State), strconv.Itoa(step.Attempts), brief(time.Duration(step.Duration)), dash(failure))
	}
	return t.flush()
}

// nextStep says what the reader can do about a saga that has not completed.
func nextStep(o saga.Outcome, prefix saga.Prefix) string {
	switch o.Status {
	case saga.Pending:
		return fmt.Sprintf("It has not committed yet. If that lasts: is a capsaga-worker with prefix %s running, and does PostgreSQL answer?", prefix)
	case saga.Committed:
		return "PostgreSQL has it. A step that cannot reach its system is tried again by itself."
	case saga.Parked:
		return "PostgreSQL has it; the parked step waits for an operator. When the cause is gone, send the workflow the update \"retry\", in the Temporal UI or with Temporal's CLI."
	case saga.RejectedEnd:
		return "Nothing was written. Correct the write and give it a new saga id: this one answers the same for ever."
	case saga.Failed:
		return "The error says why. `capsaga write` with a mended write and a new saga id is the way on."
	default:
		return ""
	}
}
