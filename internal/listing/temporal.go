package listing

import (
	"context"
	"errors"
	"fmt"
	"net/url"
	"slices"
	"strings"
	"sync"
	"time"

	commonpb "go.temporal.io/api/common/v1"
	enumspb "go.temporal.io/api/enums/v1"
	"go.temporal.io/api/serviceerror"
	workflowpb "go.temporal.io/api/workflow/v1"
	"go.temporal.io/api/workflowservice/v1"
	"go.temporal.io/sdk/converter"

	"github.com/capsaga/capsaga/saga"
)

// State says whether a saga's workflow runs.
type State string

// The states of a workflow.
const (
	Running    State = "running"
	Paused     State = "paused" // in Temporal, by an operator
	Terminated State = "terminated"
	TimedOut   State = "timed out"
	Failed     State = "failed"
	Cancelled  State = "cancelled"
	Completed  State = "completed"   // with an outcome that the ledger lacks
	Gone       State = "gone"        // Temporal does not know it
	NotStarted State = "not started" // of a refused row's saga: a worker is about to
	Unknown    State = "unknown"     // Temporal does not answer
)

var states = map[enumspb.WorkflowExecutionStatus]State{
	enumspb.WORKFLOW_EXECUTION_STATUS_RUNNING:          Running,
	enumspb.WORKFLOW_EXECUTION_STATUS_CONTINUED_AS_NEW: Running,
	enumspb.WORKFLOW_EXECUTION_STATUS_PAUSED:           Paused,
	enumspb.WORKFLOW_EXECUTION_STATUS_TERMINATED:       Terminated,
	enumspb.WORKFLOW_EXECUTION_STATUS_TIMED_OUT:        TimedOut,
	enumspb.WORKFLOW_EXECUTION_STATUS_FAILED:           Failed,
	enumspb.WORKFLOW_EXECUTION_STATUS_CANCELED:         Cancelled,
	enumspb.WORKFLOW_EXECUTION_STATUS_COMPLETED:        Completed,
}

// StateOf names the state of a workflow.
func StateOf(status enumspb.WorkflowExecutionStatus) State {
	if state, ok := states[status]; ok {
		return state
	}
	return Unknown
}

// window is a part of time, newest first.
type window struct {
	behind cursor
	from   time.Time // zero: since ever
}

const (
	// precision is PostgreSQL's, so that one cursor fits both systems.
	precision      = time.Microsecond
	visibilityPage = 100
	// maxLooked bounds how many workflows are looked at for one page, most of
	// which the ledger may know.
	maxLooked = 2_000
)

// fromTemporal asks for the sagas that the ledger does not know; without the
// ledger, for all.
func (l *Lister) fromTemporal(ctx context.Context, f saga.Filter, w window, limit int, ledger bool) ([]Saga, error) {
	ctx, cancel := context.WithTimeout(ctx, answerTimeout)
	defer cancel()
	statuses := f.Statuses
	if ledger {
		statuses = outsideTheLedger(statuses)
		if len(statuses) == 0 {
			return nil, l.reachable(ctx)
		}
	}
	query := l.query(f, statuses, w)
	// Those that run come newest first, and enough of them is enough. The others
	// come by their end, so that all of them have to be sorted.
	var found []Saga
	for _, part := range []struct {
		query string
		limit int
	}{{query + " AND ExecutionStatus = 'Running'", limit}, {query + " AND ExecutionStatus != 'Running'", maxLooked}} {
		sagas, err := l.ask(ctx, part.query, w, part.limit, ledger)
		if err != nil {
			return nil, err
		}
		found = append(found, sagas...)
	}
	slices.SortFunc(found, newestFirst)
	// The runs of one saga have one workflow id; the newest is the saga's.
	seen := map[string]bool{}
	found = slices.DeleteFunc(found, func(s Saga) bool {
		again := seen[s.SagaID]
		seen[s.SagaID] = true
		return again
	})
	return found[:min(len(found), limit)], nil
}

// reachable finds out whether Temporal answers, when there is nothing else to ask
// it.
func (l *Lister) reachable(ctx context.Context) error {
	_, err := l.Temporal.ListWorkflow(ctx, &workflowservice.ListWorkflowExecutionsRequest{PageSize: 1, Query: "TaskQueue = " + quoted(l.Prefix.TaskQueue())})
	return err
}

// outsideTheLedger returns those of the statuses that a saga can have which is
// not in the ledger. What completed or was compensated is in it.
func outsideTheLedger(statuses []saga.Status) []saga.Status {
	possible := append([]saga.Status{saga.RejectedEnd, saga.Cancelled, saga.Failed}, saga.OpenStatuses...)
	if len(statuses) == 0 {
		return possible
	}
	return slices.DeleteFunc(slices.Clone(statuses), func(s saga.Status) bool { return !slices.Contains(possible, s) })
}

// query is the filter in the language of Temporal's visibility.
func (l *Lister) query(f saga.Filter, statuses []saga.Status, w window) string {
	clauses := []string{"TaskQueue = " + quoted(l.Prefix.TaskQueue()), "WorkflowType = " + quoted(saga.WorkflowSaga)}
	add := func(name, value string) {
		if value != "" {
			clauses = append(clauses, name+" = "+quoted(value))
		}
	}
	when := func(operator string, t time.Time) {
		if !t.IsZero() {
			clauses = append(clauses, "StartTime "+operator+" "+quoted(t.UTC().Format(time.RFC3339Nano)))
		}
	}
	if len(statuses) > 0 {
		var values []string
		for _, status := range statuses {
			values = append(values, quoted(string(status)))
		}
		clause := fmt.Sprintf("%s IN (%s)", saga.AttributeStatus, strings.Join(values, ", "))
		// One that another SDK has just started has no attributes yet.
		if slices.Contains(statuses, saga.Pending) {
			clause = fmt.Sprintf("(%s OR %s IS NULL)", clause, saga.AttributeStatus)
		}
		clauses = append(clauses, clause)
	}
	add(saga.AttributeBlockedOn, f.BlockedOn)
	add(saga.AttributeEntities, f.Entity)
	add(saga.AttributeErrorClass, string(f.ErrorClass))
	when(">=", f.Since)
	when("<", f.Before)
	if !w.behind.time.IsZero() {
		when("<", w.behind.time.Add(precision))
	}
	when(">=", w.from)
	return strings.Join(clauses, " AND ")
}

func quoted(text string) string {
	return "'" + strings.NewReplacer(`\`, `\\`, `'`, `\'`).Replace(text) + "'"
}

// ask lists workflows until there are enough that the ledger does not know.
func (l *Lister) ask(ctx context.Context, query string, w window, limit int, ledger bool) ([]Saga, error) {
	var found []Saga
	var token []byte
	for looked := 0; looked < maxLooked && len(found) < limit; {
		answer, err := l.Temporal.ListWorkflow(ctx, &workflowservice.ListWorkflowExecutionsRequest{
			PageSize: visibilityPage, NextPageToken: token, Query: query,
		})
		if err != nil {
			return nil, explain(err)
		}
		looked += len(answer.GetExecutions())
		var sagas []Saga
		for _, execution := range answer.GetExecutions() {
			if s := fromExecution(execution); w.behind.before(&s) {
				sagas = append(sagas, s)
			}
		}
		if ledger {
			if sagas, err = l.unknown(ctx, sagas); err != nil {
				return nil, err
			}
		}
		found = append(found, sagas...)
		if token = answer.GetNextPageToken(); len(token) == 0 {
			break
		}
	}
	return found, nil
}

func explain(err error) error {
	var malformed *serviceerror.InvalidArgument
	if errors.As(err, &malformed) && strings.Contains(err.Error(), "search attribute") {
		return &saga.Error{
			Class: saga.Rejected, System: "temporal", Code: saga.CodeRejected, Err: err,
			Message: fmt.Sprintf("the namespace lacks Capsaga's search attributes: run `capsaga catalog apply` (%s)", err),
		}
	}
	return &saga.Error{
		Class: saga.Unavailable, System: "temporal", Code: saga.CodeUnavailable, Err: err,
		Message: fmt.Sprintf("does not list workflows: %s", err),
	}
}

// fromExecution reads what Temporal's visibility tells of a saga.
func fromExecution(e *workflowpb.WorkflowExecutionInfo) Saga {
	s := Saga{
		SagaID: sagaID(e.GetExecution().GetWorkflowId()), Status: saga.Pending,
		CreatedAt: e.GetStartTime().AsTime().Truncate(precision), WorkflowID: e.GetExecution().GetWorkflowId(), RunID: e.GetExecution().GetRunId(),
	}
	if e.GetCloseTime() != nil {
		s.FinishedAt = e.GetCloseTime().AsTime()
	}
	attributes := e.GetSearchAttributes()
	read(attributes, saga.AttributeStatus, &s.Status)
	read(attributes, saga.AttributeBlockedOn, &s.BlockedOn)
	read(attributes, saga.AttributeEntities, &s.Entities)
	var class saga.Class
	read(attributes, saga.AttributeErrorClass, &class)
	if class != "" {
		s.Error = &saga.ErrorInfo{Class: class}
	}
	if !s.Status.Final() {
		s.FinishedAt = time.Time{} // the workflow ended, the saga did not
	}
	return s
}

// read takes an attribute over; one that is missing or of another form is left
// out.
func read(attributes *commonpb.SearchAttributes, name string, into any) {
	if payload, ok := attributes.GetIndexedFields()[name]; ok {
		_ = converter.GetDefaultDataConverter().FromPayload(payload, into)
	}
}

// sagaID reads the id back from that of the workflow.
func sagaID(workflowID string) string {
	escaped := strings.TrimPrefix(workflowID, saga.WorkflowID(""))
	id, err := url.PathUnescape(escaped)
	if err != nil {
		return escaped // started by hand, without the escapes
	}
	return id
}

// describers is how many workflows are described at once.
const describers = 8

// states finds out what became of the workflows of sagas that have not ended, and
// drops runs that are not their saga's latest.
func (l *Lister) states(ctx context.Context, sagas []Saga, answers bool) []Saga {
	next := make(chan *Saga)
	var group sync.WaitGroup
	for range describers {
		group.Go(func() {
			for s := range next {
				l.describe(ctx, s)
			}
		})
	}
	for i := range sagas {
		switch s := &sagas[i]; {
		case s.Status.Final():
		case !answers:
			s.Workflow = Unknown
		default:
			next <- s
		}
	}
	close(next)
	group.Wait()
	return slices.DeleteFunc(sagas, func(s Saga) bool { return s.Workflow == superseded })
}

// superseded is the state of a run after which the saga was started again: that
// run is listed for itself.
const superseded State = "superseded"

// describe asks for the workflow of a saga: its own, or the one that committed
// it together with others.
func (l *Lister) describe(ctx context.Context, s *Saga) {
	ctx, cancel := context.WithTimeout(ctx, answerTimeout)
	defer cancel()
	own := saga.WorkflowID(s.SagaID)
	if !s.fromLedger {
		own = s.WorkflowID
	}
	d, err := l.Temporal.DescribeWorkflowExecution(ctx, own, "")
	var missing *serviceerror.NotFound
	if errors.As(err, &missing) && s.WorkflowID != own {
		d, err = l.Temporal.DescribeWorkflowExecution(ctx, s.WorkflowID, "")
	}
	switch {
	case errors.As(err, &missing) && s.unstarted:
		s.Workflow = NotStarted
		return
	case errors.As(err, &missing):
		s.Workflow = Gone
		return
	case err != nil:
		s.Workflow = Unknown
		return
	}
	info := d.GetWorkflowExecutionInfo()
	if !s.fromLedger && info.GetExecution().GetRunId() != s.RunID {
		s.Workflow = superseded
		return
	}
	s.WorkflowID, s.RunID = info.GetExecution().GetWorkflowId(), info.GetExecution().GetRunId()
	s.Workflow = StateOf(info.GetStatus())
}
