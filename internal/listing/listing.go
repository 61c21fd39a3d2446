package listing

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"go.temporal.io/api/workflowservice/v1"

	"github.com/capsaga/capsaga/saga"
)

// Ledger lists the sagas that PostgreSQL knows.
type Ledger interface {
	ListSagas(ctx context.Context, f ListFilter) ([]LedgerEntry, error)
}

// Temporal lists and describes workflows; a client of its SDK does.
type Temporal interface {
	ListWorkflow(ctx context.Context, request *workflowservice.ListWorkflowExecutionsRequest) (*workflowservice.ListWorkflowExecutionsResponse, error)
	DescribeWorkflowExecution(ctx context.Context, workflowID, runID string) (*workflowservice.DescribeWorkflowExecutionResponse, error)
}

// Saga is one saga of a list.
type Saga struct {
	SagaID     string          `json:"saga_id"`
	Status     saga.Status     `json:"status"`
	BlockedOn  []string        `json:"blocked_on,omitempty"` // systems
	Error      *saga.ErrorInfo `json:"error,omitempty"`
	Entities   []string        `json:"entities,omitempty"`
	Version    saga.Version    `json:"version,omitempty"`
	CreatedAt  time.Time       `json:"created_at"`
	FinishedAt time.Time       `json:"finished_at,omitzero"`
	WorkflowID string          `json:"workflow_id"`
	RunID      string          `json:"run_id,omitempty"`
	// Workflow says whether the workflow of a saga that has not ended runs.
	Workflow State `json:"workflow,omitempty"`

	fromLedger, unstarted bool
}

// Stopped reports whether the saga has not ended and nobody works on it: it
// needs a replay.
func (s *Saga) Stopped() bool {
	switch s.Workflow {
	case Terminated, TimedOut, Failed, Cancelled, Gone:
		return true
	}
	return false
}

// Page is a part of a list.
type Page struct {
	Sagas []Saga
	// Next is the cursor of the next page, empty at the end.
	Next string
	// LedgerErr and TemporalErr say why one of the two systems did not answer, and
	// what the page may lack therefore.
	LedgerErr, TemporalErr error
}

// Lister lists the sagas of one prefix.
type Lister struct {
	Ledger   Ledger
	Temporal Temporal
	Prefix   saga.Prefix
}

// answerTimeout bounds the wait for each of the two systems: one that hangs must
// not hide the other.
const answerTimeout = 5 * time.Second

// List returns a page of the sagas that a filter selects, newest first, behind a
// cursor. Its error means that neither system answered.
func (l *Lister) List(ctx context.Context, f saga.Filter, after string, limit int) (Page, error) {
	position, err := parseCursor(after)
	if err != nil {
		return Page{}, err
	}
	if f.Stopped {
		return l.stopped(ctx, f, position, limit)
	}
	page, _, err := l.page(ctx, f, position, limit)
	return page, err
}

// scanned is how many open sagas are looked at at once for those that stopped.
const scanned = 200

// stopped walks through the sagas that have not ended for those whose workflow
// does not run.
func (l *Lister) stopped(ctx context.Context, f saga.Filter, position cursor, limit int) (Page, error) {
	f.Statuses = open(f.Statuses)
	var found Page
	if len(f.Statuses) == 0 {
		return found, nil
	}
	for {
		page, more, err := l.page(ctx, f, position, scanned)
		if err != nil {
			return Page{}, err
		}
		found.LedgerErr, found.TemporalErr = page.LedgerErr, page.TemporalErr
		for i := range page.Sagas {
			s := &page.Sagas[i]
			if !s.Stopped() {
				continue
			}
			if len(found.Sagas) == limit {
				found.Next = at(&found.Sagas[limit-1]).String()
				return found, nil
			}
			found.Sagas = append(found.Sagas, *s)
		}
		if !more {
			return found, nil
		}
		if position, err = parseCursor(page.Next); err != nil {
			return Page{}, err
		}
	}
}

// open returns those of the statuses that are not final; of none, all of these.
func open(statuses []saga.Status) []saga.Status {
	if len(statuses) == 0 {
		return saga.OpenStatuses
	}
	return slices.DeleteFunc(slices.Clone(statuses), saga.Status.Final)
}

// page merges what the two systems have behind the position.
func (l *Lister) page(ctx context.Context, f saga.Filter, position cursor, limit int) (page Page, more bool, err error) {
	known, ledgerErr := l.fromLedger(ctx, f, position, limit+1)
	window := window{behind: position}
	if len(known) > limit {
		window.from = known[limit].CreatedAt // what is older does not come on this page
	}
	others, temporalErr := l.fromTemporal(ctx, f, window, limit+1, ledgerErr == nil)
	if ledgerErr != nil && temporalErr != nil {
		return Page{}, false, errors.Join(ledgerErr, temporalErr)
	}
	if ledgerErr != nil {
		page.LedgerErr = fmt.Errorf("the ledger is missing, and with it sagas that Temporal has forgotten: %w", ledgerErr)
	}
	if temporalErr != nil {
		page.TemporalErr = fmt.Errorf("Temporal is missing, and with it sagas that have not committed, and what runs: %w", temporalErr) //nolint:staticcheck // a name
	}
	page.Sagas = slices.Concat(known, others)
	slices.SortFunc(page.Sagas, newestFirst)
	if more = len(page.Sagas) > limit; more {
		page.Sagas = page.Sagas[:limit]
		page.Next = at(&page.Sagas[limit-1]).String()
	}
	page.Sagas = l.states(ctx, page.Sagas, temporalErr == nil)
	return page, more, nil
}

func newestFirst(a, b Saga) int {
	return cmp.Or(b.CreatedAt.Compare(a.CreatedAt), strings.Compare(b.SagaID, a.SagaID))
}

// fromLedger asks PostgreSQL.
func (l *Lister) fromLedger(ctx context.Context, f saga.Filter, position cursor, limit int) ([]Saga, error) {
	ctx, cancel := context.WithTimeout(ctx, answerTimeout)
	defer cancel()
	filter := ListFilter{
		Statuses: f.Statuses, BlockedOn: f.BlockedOn, Entity: f.Entity, ErrorClass: f.ErrorClass,
		Since: f.Since, Before: f.Before, Limit: limit,
	}
	if !position.time.IsZero() {
		filter.After = &ListCursor{CreatedAt: position.time, ID: position.id}
	}
	entries, err := l.Ledger.ListSagas(ctx, filter)
	if err != nil {
		return nil, err
	}
	sagas := make([]Saga, len(entries))
	for i, e := range entries {
		sagas[i] = Saga{
			SagaID: e.SagaID, Status: e.Status, BlockedOn: e.BlockedOn, Error: e.Error, Entities: e.Entities,
			Version: e.Version, CreatedAt: e.CreatedAt, FinishedAt: e.FinishedAt,
			WorkflowID: e.WorkflowID, RunID: e.RunID, fromLedger: true, unstarted: e.Unstarted,
		}
	}
	return sagas, nil
}

// unknown drops those that the ledger knows: it is believed, whether it selected
// them or not.
func (l *Lister) unknown(ctx context.Context, sagas []Saga) ([]Saga, error) {
	if len(sagas) == 0 {
		return nil, nil
	}
	ids := make([]string, len(sagas))
	for i := range sagas {
		ids[i] = sagas[i].SagaID
	}
	entries, err := l.Ledger.ListSagas(ctx, ListFilter{IDs: ids, Limit: len(ids)})
	if err != nil {
		return nil, err
	}
	known := map[string]bool{}
	for _, e := range entries {
		known[e.SagaID] = true
	}
	return slices.DeleteFunc(sagas, func(s Saga) bool { return known[s.SagaID] }), nil
}

// cursor is a place in a list.
type cursor struct {
	time time.Time
	id   string
}

func at(s *Saga) cursor { return cursor{s.CreatedAt, s.SagaID} }

// before reports whether a saga comes after the place.
func (c cursor) before(s *Saga) bool {
	return c.time.IsZero() || newestFirst(Saga{CreatedAt: c.time, SagaID: c.id}, *s) < 0
}

// String is the form in which people hand it back.
func (c cursor) String() string { return c.time.UTC().Format(time.RFC3339Nano) + "/" + c.id }

func parseCursor(text string) (c cursor, err error) {
	if text == "" {
		return c, nil
	}
	stamp, id, ok := strings.Cut(text, "/")
	if c.time, err = time.Parse(time.RFC3339Nano, stamp); err != nil || !ok {
		return cursor{}, &saga.Error{
			Class: saga.Rejected, System: "capsaga", Code: saga.CodeInvalidValue,
			Message: fmt.Sprintf("cursor %q: want the text that the page before ended with", text),
		}
	}
	c.id = id
	return c, nil
}
