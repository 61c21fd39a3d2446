package main

import (
	"context"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"go.temporal.io/api/workflowservice/v1"

	"github.com/capsaga/capsaga/internal/config"
	"github.com/capsaga/capsaga/internal/listing"
	"github.com/capsaga/capsaga/saga"
)

const maxListed = 1000

func (a *app) listCommand() *cobra.Command {
	var s selection
	var limit int
	var after string
	cmd := &cobra.Command{
		Use:   "list",
		Short: "List sagas by status, blocked system, entity or age, newest first",
		Long: `List sagas by status, blocked system, entity or age, newest first.

The list is merged from the ledger in PostgreSQL, which also knows the sagas whose
workflow was terminated or forgotten, and from Temporal, which also knows those
that have not committed. With one of the two away, it has what the other knows.

  capsaga list --status parked --blocked-on elasticsearch
  capsaga list --stopped
  capsaga list --since 2h -o json`,
		Args: usage(cobra.NoArgs),
		RunE: func(cmd *cobra.Command, _ []string) error {
			if limit < 1 || limit > maxListed {
				return usagef("--limit %d: want a number from 1 to %d; the end of the list says how to get the next page", limit, maxListed)
			}
			f, err := s.filter(time.Now())
			if err != nil {
				return err
			}
			return a.list(cmd.Context(), f, &s, after, limit)
		},
	}
	s.register(cmd.Flags())
	cmd.Flags().IntVar(&limit, "limit", 50, "`number` of sagas of one page")
	cmd.Flags().StringVar(&after, "after", "", "go on behind this `place`, which the page before names")
	return cmd
}

func (a *app) list(ctx context.Context, f saga.Filter, s *selection, after string, limit int) error {
	c, err := a.config()
	if err != nil {
		return err
	}
	page, err := a.lister(ctx, c).List(ctx, f, after, limit)
	if hasCode(err, saga.CodeInvalidValue) {
		return usagef("--after %q: want the place that the page before named", after)
	}
	if err != nil {
		return withSchemaHint(err)
	}
	a.noteMissing(page)
	if err := a.writeList(page.Sagas, time.Now()); err != nil {
		return err
	}
	if page.Next != "" {
		words := append([]string{"list"}, s.words()...)
		a.note("next page: %s", commandLine(append(words, "--limit", strconv.Itoa(limit), "--after", page.Next)...))
	}
	return nil
}

// noteMissing says which of the two systems the list lacks.
func (a *app) noteMissing(page listing.Page) {
	for _, err := range []error{page.LedgerErr, page.TemporalErr} {
		if err != nil {
			a.note("%s", printable(withSchemaHint(err).Error()))
		}
	}
}

// lister lists from both systems. One that is away is found to be so when it is
// asked, as the other may do.
func (a *app) lister(ctx context.Context, c config.Config) *listing.Lister {
	l := &listing.Lister{Prefix: c.Prefix}
	if db, err := a.postgres(ctx, c); err == nil {
		l.Ledger = db
	} else {
		l.Ledger = noLedger{err}
	}
	if temporal, err := a.temporal(ctx, c); err == nil {
		l.Temporal = temporal
	} else {
		l.Temporal = noTemporal{err}
	}
	return l
}

// noLedger and noTemporal stand for systems that cannot be reached.
type (
	noLedger   struct{ err error }
	noTemporal struct{ err error }
)

func (n noLedger) ListSagas(context.Context, listing.ListFilter) ([]listing.LedgerEntry, error) {
	return nil, n.err
}

func (n noTemporal) ListWorkflow(context.Context, *workflowservice.ListWorkflowExecutionsRequest) (*workflowservice.ListWorkflowExecutionsResponse, error) {
	return nil, n.err
}

func (n noTemporal) DescribeWorkflowExecution(context.Context, string, string) (*workflowservice.DescribeWorkflowExecutionResponse, error) {
	return nil, n.err
}

func (a *app) writeList(sagas []listing.Saga, now time.Time) error {
	if a.output == asJSON {
		if sagas == nil {
			sagas = []listing.Saga{}
		}
		return writeJSON(a.stdout, sagas)
	}
	if len(sagas) == 0 {
		a.note("no saga matches")
		return nil
	}
	t := newTable(a.stdout, "SAGA", "STATUS", "BLOCKED ON", "ENTITIES", "AGE", "WORKFLOW", "ERROR")
	for i := range sagas {
		s := &sagas[i]
		t.row(s.SagaID, string(s.Status), dash(strings.Join(s.BlockedOn, ",")), dash(shorten(strings.Join(s.Entities, ","), 30)),
			age(now.Sub(s.CreatedAt)), dash(string(s.Workflow)), dash(shorten(errorText(s.Error), 60)))
	}
	return t.flush()
}

// errorText is an error in one line; Temporal's visibility knows its class alone.
func errorText(e *saga.ErrorInfo) string {
	switch {
	case e == nil:
		return ""
	case e.Message == "":
		return string(e.Class)
	}
	return fmt.Sprintf("%s: %s", e.Code, e.Message)
}

// age is a time span as short as people say it.
func age(d time.Duration) string {
	switch {
	case d < time.Second:
		return "0s"
	case d < 2*time.Minute:
		return fmt.Sprintf("%ds", int(d.Seconds()))
	case d < 2*time.Hour:
		return fmt.Sprintf("%dm", int(d.Minutes()))
	case d < 48*time.Hour:
		return fmt.Sprintf("%dh", int(d.Hours()))
	}
	return fmt.Sprintf("%dd", int(d.Hours()/24))
}
