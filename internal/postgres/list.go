package postgres

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/capsaga/capsaga/saga"
)

// ListFilter selects sagas of the ledger. What is left empty selects all.
type ListFilter struct {
	Statuses   []saga.Status
	BlockedOn  string // a system that a parked step waits for
	Entity     string
	ErrorClass saga.Class
	Since      time.Time // created at this time or later
	Before     time.Time // created earlier than this
	IDs        []string
	// After goes on where a page ended.
	After *ListCursor
	// Limit is the size of a page; default DefaultListLimit.
	Limit       int
	OldestFirst bool
}

// ListCursor is where a saga stands in the order of lists.
type ListCursor struct {
	CreatedAt time.Time
	ID        string
}

// DefaultListLimit is the size of a page that does not say.
const DefaultListLimit = 100

// LedgerEntry is a saga as the ledger has it.
type LedgerEntry struct {
	SagaID, WorkflowID, RunID string
	Status                    saga.Status
	BlockedOn                 []string
	Error                     *saga.ErrorInfo
	Entities                  []string
	Version                   saga.Version // zero when it never committed
	CreatedAt, FinishedAt     time.Time    // FinishedAt is zero of an open saga
	Unstarted                 bool         // a saga that may have no workflow yet, as that of a refused row
}

// statuses that the ledger can have.
var (
	openStatuses  = []saga.Status{saga.Committed, saga.Parked, saga.Compensating}
	finalStatuses = []saga.Status{saga.Completed, saga.RejectedEnd, saga.Compensated, saga.Cancelled, saga.Failed}
)

// entitiesOfWrite is for rows of the ledger's first version.
const entitiesOfWrite = "ARRAY(SELECT DISTINCT m->>'entity' FROM json_array_elements(s.write->'mutations') m ORDER BY 1)"

// ListSagas returns a page of sagas, newest first. Each status is read in the
// order of one index and only as far as the page needs, so a page costs the same
// however many sagas there are. The entity alone has an index of its own, which
// the planner takes where it is rare.
func (db *DB) ListSagas(ctx context.Context, f ListFilter) ([]LedgerEntry, error) {
	sql, args := f.query()
	// Planned anew each time: whether a status or an entity is rare decides the plan.
	rows, err := db.pool.Query(ctx, sql, append([]any{pgx.QueryExecModeCacheDescribe}, args...)...)
	if err != nil {
		return nil, classify("list sagas", err)
	}
	entries, err := pgx.CollectRows(rows, scanEntry)
	return entries, classify("list sagas", err)
}

func scanEntry(row pgx.CollectableRow) (e LedgerEntry, err error) {
	var version *int64
	var problem *string
	var finished *time.Time
	err = row.Scan(&e.SagaID, &e.WorkflowID, &e.RunID, &e.Status, &e.BlockedOn, &problem, &e.Entities, &version, &e.CreatedAt, &finished, &e.Unstarted)
	if err != nil {
		return e, err
	}
	if version != nil {
		e.Version = saga.Version(*version)
	}
	if finished != nil {
		e.FinishedAt = *finished
	}
	err = decode(problem, &e.Error)
	return e, err
}

// query builds the SQL of a page: the ids first, from the indexes, and then what
// is shown of them.
func (f ListFilter) query() (string, []any) {
	var args []any
	arg := func(value any) string {
		args = append(args, value)
		return fmt.Sprintf("$%d", len(args))
	}
	order, past := "DESC", "<"
	if f.OldestFirst {
		order, past = "ASC", ">"
	}
	limit := f.Limit
	if limit <= 0 {
		limit = DefaultListLimit
	}
	end := fmt.Sprintf("ORDER BY created_at %[1]s, id %[1]s LIMIT %[2]d", order, limit)
	where := f.conditions(arg, past)
	var branches []string
	branch := func(condition string) {
		branches = append(branches, fmt.Sprintf("(SELECT s.id, s.created_at FROM capsaga.saga s WHERE %s %s)",
			strings.Join(append([]string{condition}, where...), " AND "), end))
	}
	statuses := f.statuses()
	if f.IDs != nil || f.ErrorClass != "" { // these few have indexes of their own
		branch(statusNow + " = ANY(" + arg(statuses) + "::text[])")
	} else {
		for _, status := range statuses {
			switch saga.Status(status) {
			case saga.Committed: // and those of the batches that are under way, which are few
				branch("s.id = ANY(ARRAY(SELECT unnest(ids) FROM capsaga.batch WHERE finished_at IS NULL)) AND s.status = 'completed' AND " + underWay)
				branch("s.status = " + arg(status))
			case saga.Completed:
				branch("s.status = " + arg(status) + " AND NOT " + underWay)
			default:
				branch("s.status = " + arg(status))
			}
		}
	}
	return fmt.Sprintf(`WITH page AS (SELECT id FROM (%s) p %s)
		SELECT s.id, s.workflow_id, CASE WHEN s.run_id NOT LIKE 'early/%%' THEN s.run_id ELSE '' END, %s, s.blocked_on,
		       coalesce(s.error, s.outcome->'error', CASE WHEN s.version IS NULL THEN s.result END)::text,
		       coalesce(s.entities, %s), s.version, s.created_at, CASE WHEN NOT %s THEN s.finished_at END,
		       s.stream_row IS NOT NULL AND s.run_id = '' OR s.run_id LIKE 'early/%%' AND s.finished_at IS NULL AND s.outcome IS NULL
		FROM page JOIN capsaga.saga s USING (id) ORDER BY s.created_at %s, s.id %s`,
		strings.Join(branches, " UNION ALL "), end, statusNow, entitiesOfWrite, underWay, order, order), args
}

func (f ListFilter) conditions(arg func(any) string, past string) []string {
	var where []string
	if f.IDs != nil {
		where = append(where, "s.id = ANY("+arg(f.IDs)+"::text[])")
	}
	if f.ErrorClass != "" {
		where = append(where, "s.error_class = "+arg(string(f.ErrorClass)))
	}
	if f.BlockedOn != "" {
		where = append(where, arg(f.BlockedOn)+" = ANY(s.blocked_on)")
	}
	if f.Entity != "" {
		name := arg(f.Entity) + "::text"
		where = append(where, fmt.Sprintf("(s.entities @> ARRAY[%[1]s] OR s.entities IS NULL AND %[1]s = ANY(%[2]s))", name, entitiesOfWrite))
	}
	if !f.Since.IsZero() {
		where = append(where, "s.created_at >= "+arg(f.Since))
	}
	if !f.Before.IsZero() {
		where = append(where, "s.created_at < "+arg(f.Before))
	}
	if f.After != nil {
		where = append(where, fmt.Sprintf("(s.created_at, s.id) %s (%s, %s)", past, arg(f.After.CreatedAt), arg(f.After.ID)))
	}
	return where
}

// statuses returns those to read. Only an open saga is blocked on anything.
func (f ListFilter) statuses() []string {
	all := slices.Clone(openStatuses)
	if f.BlockedOn == "" {
		all = append(all, finalStatuses...)
	}
	var names []string
	for _, status := range all {
		if len(f.Statuses) == 0 || slices.Contains(f.Statuses, status) {
			names = append(names, string(status))
		}
	}
	if len(names) == 0 { // of a status that the ledger never has
		names = []string{""}
	}
	return names
}

// LedgerWrite returns a saga's write as it was requested, and the workflow that
// the ledger names, so that a saga whose workflow is lost starts again.
func (db *DB) LedgerWrite(ctx context.Context, sagaID string) (w *saga.Write, workflowID string, found bool, err error) {
	var body string
	err = db.pool.QueryRow(ctx, "SELECT workflow_id, write::text FROM capsaga.saga WHERE id = $1", sagaID).Scan(&workflowID, &body)
	if errors.Is(err, pgx.ErrNoRows) {
		return nil, "", false, nil
	}
	if err != nil {
		return nil, "", false, classify("read the write of saga "+sagaID, err)
	}
	w = new(saga.Write)
	if err := json.Unmarshal([]byte(body), w); err != nil {
		return nil, "", false, refuse(saga.CodeInvalidWrite, "the ledger's write of saga %q cannot be read: %s", sagaID, err)
	}
	return w, workflowID, true, nil
}
