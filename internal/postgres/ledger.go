package postgres

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/jackc/pgx/v5"

	"github.com/capsaga/capsaga/saga"
)

// attach ends the transaction of a saga whose id is in the ledger already, and
// returns what the ledger says of it.
func (c *commit) attach(ctx context.Context) (*CommitResult, error) {
	if _, err := c.conn.Exec(ctx, "ROLLBACK"); err != nil {
		return nil, err
	}
	return readLedger(ctx, c.conn, c.request.Write.SagaID, c.digest)
}

// readLedger returns the recorded result of a saga, or a failed one when the
// digest is not that of its write.
func readLedger(ctx context.Context, q Querier, sagaID, digest string) (*CommitResult, error) {
	known, err := readLedgers(ctx, q, map[string]string{sagaID: digest})
	if err != nil {
		return nil, err
	}
	if known[sagaID] == nil {
		return nil, pgx.ErrNoRows
	}
	return known[sagaID], nil
}

// readLedgers returns the recorded results of those of the sagas, each with its
// write's digest, that the ledger has. Their rows are as the sagas' last edits left
// them, or as a sink refused them after it: what an earlier edit or the commit itself
// told is not true any more.
func readLedgers(ctx context.Context, q Querier, digests map[string]string) (map[string]*CommitResult, error) {
	rows, err := q.Query(ctx, `SELECT s.id, s.workflow_id, s.run_id, s.content, s.status, greatest(e.version, s.version),
		       CASE WHEN e.version > s.version THEN e.result ELSE s.result END::text, s.outcome::text, s.stream_row IS NOT NULL,
		       EXISTS (SELECT FROM capsaga.change u WHERE u.saga_id = s.id AND u.kind = 'undo'), s.created_at, pg_current_wal_flush_lsn()::text,
		       s.finished_at IS NOT NULL AND NOT `+underWay+`,
		       (SELECT b.steps::text FROM capsaga.batch b WHERE b.workflow_id = s.workflow_id AND b.version = s.version)
		FROM capsaga.saga s LEFT JOIN LATERAL (SELECT c.version, c.result FROM capsaga.change c
		     WHERE c.saga_id = s.id AND c.kind = 'edit' ORDER BY c.version DESC LIMIT 1) e ON true
		WHERE s.id = ANY($1)`, slices.Collect(maps.Keys(digests)))
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	known := map[string]*CommitResult{}
	for rows.Next() {
		var e ledgerRow
		err := rows.Scan(&e.id, &e.WorkflowID, &e.RunID, &e.Content, &e.Status, &e.version, &e.result, &e.outcome, &e.streamed, &e.undone, &e.CommittedAt, &e.position, &e.finished, &e.steps)
		if err != nil {
			return nil, err
		}
		if known[e.id], err = e.settled(digests[e.id]); err != nil {
			return nil, err
		}
	}
	return known, rows.Err()
}

// ledgerRow is a saga as the ledger has it.
type ledgerRow struct {
	CommitResult
	entered          saga.Status // as the ledger's row has it
	finished         bool
	steps            *string // that its batch's sagas have in common
	id               string
	version          *int64
	result, outcome  *string
	streamed, undone bool
	position         string
}

// settled is the entry as the result of a commit of a write with that digest.
func (e *ledgerRow) settled(digest string) (*CommitResult, error) {
	r := &e.CommitResult
	if r.Content != digest {
		reused := refuse(saga.CodeSagaIDReused, "saga id %q was used before with other content: give this write an id of its own", e.id)
		return &CommitResult{
			Status: saga.Failed, WorkflowID: r.WorkflowID, Content: r.Content,
			Error: errorInfo(reused),
		}, nil
	}
	if e.version == nil {
		if r.Status == saga.Cancelled {
			return r, nil
		}
		r.Status, r.Error = saga.RejectedEnd, new(saga.ErrorInfo)
		return r, decode(e.result, r.Error)
	}
	// Whatever became of the saga since, its pivot stands.
	e.entered = r.Status
	r.Status, r.Version = saga.Committed, saga.Version(*e.version)
	if !e.streamed { // else plain SQL's own session knew who confirmed it
		r.Confirmed = saga.ConfirmedLocally
	}
	var err error
	if r.FlushLSN, err = saga.ParseLSN(e.position); err != nil {
		return nil, err
	}
	if err := decode(e.result, &r.Owned); err != nil {
		return nil, err
	}
	if err := e.record(); err != nil {
		return nil, err
	}
	if e.undone && r.Recorded != nil && !r.Recorded.Undoing() {
		r.Recorded.Status = saga.Compensating // the record is of before the undo
	}
	return r, nil
}

// record tells the outcome that was recorded: the saga's own, or that of all sagas
// of its batch.
func (e *ledgerRow) record() error {
	r := &e.CommitResult
	if e.outcome != nil {
		return decode(e.outcome, &r.Recorded)
	}
	r.InBatch = !e.finished && e.entered == saga.Completed
	if !e.finished || e.entered != saga.Completed {
		return nil
	}
	o := r.Outcome(e.id)
	o.Status = saga.Completed
	r.Recorded = &o
	return decode(e.steps, &o.Steps)
}

func decode(text *string, into any) error {
	if text == nil {
		return nil
	}
	if err := json.Unmarshal([]byte(*text), into); err != nil {
		return fmt.Errorf("read the ledger: %w", err)
	}
	return nil
}

// recordRejection remembers that a write was refused, so that its id answers the
// same for ever. If the id is taken by now, that record counts.
func (db *DB) recordRejection(ctx context.Context, request CommitRequest, r *CommitResult) (*CommitResult, error) {
	w := request.Write
	if len(w.SagaID) > saga.MaxSagaIDBytes || w.SagaID == "" {
		return r, nil // no ledger row can hold it
	}
	problem, err := json.Marshal(r.Error)
	if err != nil {
		return nil, err
	}
	first, err := db.closeSaga(ctx, w, request.WorkflowID, request.RunID, saga.RejectedEnd, problem)
	if state := sqlState(err); state == "22P05" || state == "22021" {
		return r, nil // the request holds a character that PostgreSQL cannot store, which is why it was refused
	}
	if err != nil || first {
		return r, classify("record the rejection of saga "+w.SagaID, err)
	}
	known, err := readLedger(ctx, db.pool, w.SagaID, r.Content)
	return known, classify("read the ledger for saga "+w.SagaID, err)
}

// Cancel makes sure that a saga never commits: it takes the saga's place in the
// ledger, waiting for a transaction that holds it. It reports true when the saga
// had committed before.
func (db *DB) Cancel(ctx context.Context, w saga.Write, workflowID, runID string) (committed bool, err error) {
	if w.Stream != nil {
		known, err := db.attachStream(ctx, CommitRequest{Write: w})
		return err == nil && known.Status == saga.Committed, err
	}
	first, err := db.closeSaga(ctx, w, workflowID, runID, saga.Cancelled, nil)
	if err != nil || first {
		return false, classify("cancel saga "+w.SagaID, err)
	}
	known, err := readLedger(ctx, db.pool, w.SagaID, w.Digest())
	if err != nil {
		return false, classify("read the ledger for saga "+w.SagaID, err)
	}
	return known.Status == saga.Committed, nil
}

// closeSaga enters a saga that changed nothing; false means that the ledger has
// the id already.
func (db *DB) closeSaga(ctx context.Context, w saga.Write, workflowID, runID string, status saga.Status, result []byte) (first bool, err error) {
	body, err := json.Marshal(w)
	if err != nil {
		return false, err
	}
	var problem, class *string
	if result != nil {
		text, rejected := string(result), string(saga.Rejected)
		problem, class = &text, &rejected
	}
	tag, err := db.pool.Exec(ctx, `INSERT INTO capsaga.saga (id, workflow_id, run_id, content, write, entities, status, result, error, error_class, finished_at)
		VALUES ($1, $2, $3, $4, $5::text::json, $6, $7, $8::text::json, $8::text::json, $9, clock_timestamp()) ON CONFLICT DO NOTHING`,
		w.SagaID, workflowID, runID, w.Digest(), string(body), w.Entities(), string(status), problem, class)
	return tag.RowsAffected() == 1, err
}

// RecordOutcome keeps where the saga stands, for lists and for when Temporal no
// longer has the workflow. It is idempotent; a final outcome is never replaced by
// one that is not, a compensated saga stays so, and of one that is being undone
// nothing is kept that comes late from before.
//
// Of a saga of a stream nothing is kept either when the ledger knows of a later
// change of its row that was refused. Then outdated is true, and the saga has not
// ended: it is for the caller to go on with what Commit tells.
func (db *DB) RecordOutcome(ctx context.Context, sagaID string, o saga.Outcome) (outdated bool, err error) {
	o = storable(o)
	body, err := json.Marshal(o)
	if err != nil {
		return false, err
	}
	blocked, class, problem, err := labels(&o)
	if err != nil {
		return false, err
	}
	tag, err := db.pool.Exec(ctx, `UPDATE capsaga.saga s SET status = $2, outcome = $3::text::json,
		finished_at = CASE WHEN $4 THEN clock_timestamp() END, blocked_on = $6, error = $7::text::json, error_class = $8
		WHERE id = $1 AND content = $5 AND (stream_row IS NULL OR version <= $10) AND (finished_at IS NULL OR $4 OR `+underWay+`) AND (status <> 'compensated' OR $2 = 'compensated')
		  AND ($4 OR $9 OR status <> 'compensating' AND NOT EXISTS (
		      SELECT FROM json_array_elements(outcome->'steps') step WHERE step->>'name' ~ '^undo(-|$)'))`,
		sagaID, string(o.Status), string(body), o.Status.Final(), o.Content, blocked, problem, class, o.Undoing(), int64(o.Version))
	if err == nil && o.Stream != nil && tag.RowsAffected() == 0 {
		err = db.pool.QueryRow(ctx, `SELECT EXISTS (SELECT FROM capsaga.saga
			WHERE id = $1 AND content = $2 AND version > $3 AND finished_at IS NULL)`, sagaID, o.Content, int64(o.Version)).Scan(&outdated)
	}
	return outdated, classify("record the outcome of saga "+sagaID, err)
}

// RecordOutcomes keeps the outcomes of many sagas that have completed, as
// RecordOutcome does, in one statement.
func (db *DB) RecordOutcomes(ctx context.Context, completed []saga.Outcome) error {
	var ids, contents, outcomes []string
	// The order in which all take the ledger's rows.
	completed = slices.SortedFunc(slices.Values(completed), func(a, b saga.Outcome) int { return strings.Compare(a.SagaID, b.SagaID) })
	for _, o := range completed {
		body, err := json.Marshal(o)
		if err != nil {
			return err
		}
		ids, contents, outcomes = append(ids, o.SagaID), append(contents, o.Content), append(outcomes, string(body))
	}
	_, err := db.pool.Exec(ctx, `UPDATE capsaga.saga s SET status = $1, outcome = r.outcome::json,
		finished_at = clock_timestamp(), blocked_on = '{}', error = NULL, error_class = NULL
		FROM unnest($2::text[], $3::text[], $4::text[]) r(id, content, outcome)
		WHERE s.id = r.id AND s.content = r.content AND s.stream_row IS NULL AND s.status <> 'compensated'`,
		string(saga.Completed), ids, contents, outcomes)
	return classify(fmt.Sprintf("record the outcomes of %d sagas", len(ids)), err)
}

// labels are what lists select an outcome's saga by: the systems that it waits for,
// and its error with the error's class.
func labels(o *saga.Outcome) (systems []string, class, problem *string, err error) {
	systems, e := blockedOn(o)
	if e == nil {
		return systems, nil, nil, nil
	}
	body, err := json.Marshal(e)
	if err != nil {
		return nil, nil, nil, err
	}
	text, name := string(body), string(e.Class)
	return systems, &name, &text, nil
}

// storable returns the outcome without NUL, which a service's error may have and
// PostgreSQL cannot read out of JSON: lists would stumble over it.
func storable(o saga.Outcome) saga.Outcome {
	mend := func(e *saga.ErrorInfo) *saga.ErrorInfo {
		if e == nil {
			return nil
		}
		mended := *e
		for _, text := range []*string{&mended.Code, &mended.Message, &mended.System} {
			*text = strings.ReplaceAll(*text, "\x00", "\ufffd")
		}
		return &mended
	}
	o.Error, o.Steps = mend(o.Error), slices.Clone(o.Steps)
	for i := range o.Steps {
		o.Steps[i].Error = mend(o.Steps[i].Error)
	}
	return o
}

// blockedOn returns the systems that the parked steps wait for, and the saga's
// error or, of a saga that has none itself, that of its first parked step.
func blockedOn(o *saga.Outcome) (systems []string, problem *saga.ErrorInfo) {
	systems, problem = []string{}, o.Error
	if o.Status.Final() {
		return systems, problem
	}
	for _, step := range o.Steps {
		if step.State != saga.StepParked {
			continue
		}
		if system := step.WaitsFor(); !slices.Contains(systems, system) {
			systems = append(systems, system)
		}
		if problem == nil {
			problem = step.Error
		}
	}
	return systems, problem
}

// LedgerOutcome returns what the ledger knows of a saga: the workflow that
// committed it and the last recorded outcome, or one made from its commit.
func (db *DB) LedgerOutcome(ctx context.Context, sagaID string) (workflowID string, o *saga.Outcome, found bool, err error) {
	var body *string
	var content string
	err = db.pool.QueryRow(ctx, "SELECT workflow_id, content, outcome::text FROM capsaga.saga WHERE id = $1", sagaID).
		Scan(&workflowID, &content, &body)
	if errors.Is(err, pgx.ErrNoRows) {
		return "", nil, false, nil
	}
	if err != nil {
		return "", nil, false, classify("read the ledger for saga "+sagaID, err)
	}
	o = &saga.Outcome{}
	if body != nil {
		return workflowID, o, true, decode(body, o)
	}
	r, err := readLedger(ctx, db.pool, sagaID, content)
	if err != nil {
		return "", nil, false, classify("read the ledger for saga "+sagaID, err)
	}
	if r.Recorded != nil {
		return workflowID, r.Recorded, true, nil
	}
	*o = r.Outcome(sagaID)
	return workflowID, o, true, nil
}

// Recall returns the outcome that was recorded of a saga, or one made from its
// commit; nil when the ledger does not know it.
func (db *DB) Recall(ctx context.Context, sagaID string) (*saga.Outcome, error) {
	_, o, _, err := db.LedgerOutcome(ctx, sagaID)
	return o, err
}

// Outcome is the outcome of a saga that has got as far as its pivot.
func (r *CommitResult) Outcome(sagaID string) saga.Outcome {
	o := saga.Outcome{
		SagaID: sagaID, Status: r.Status, Version: r.Version, Confirmed: r.Confirmed,
		Error: r.Error, Content: r.Content,
	}
	if r.Version == 0 {
		return o
	}
	o.Token = saga.NewToken(r.Version, r.Owned).String()
	for _, owned := range r.Owned {
		o.ETags = append(o.ETags, saga.ETag{Entity: owned.Entity, Key: owned.Key, ETag: owned.ETag})
	}
	return o
}
