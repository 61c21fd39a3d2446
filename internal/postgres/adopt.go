package postgres

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/capsaga/capsaga/saga"
)

// adoptBatch is how many refused rows one transaction takes.
const adoptBatch = 500

// skippedByCatalog is the reason of the waivers that the catalog asks for.
const skippedByCatalog = "policy on_reject: skip"

// AdoptRefused makes sagas of rows that a sink refused for good when its stream
// brought them, so that the stream may go on. When it returns, the ledger has each
// of them as a parked saga; nothing else has to be up. A row whose saga is still
// open becomes part of that one, with its newer version and its error: a hot row
// does not make a thousand sagas. Where the catalog says that what the sink refuses
// is skipped, the ledger gets a waiver and a finished saga instead, which are one
// for all refusals of a row.
//
// It may be called again with the same rows, and with older ones, as a stream does
// after a crash: what the ledger knows already is left as it is.
func (db *DB) AdoptRefused(ctx context.Context, refused []saga.Refused) error {
	latest := map[string]*adoption{}
	for i := range refused {
		a := newAdoption(&refused[i])
		if before := latest[a.row]; before == nil || before.Version <= a.Version {
			latest[a.row] = a
		}
	}
	// All adopters lock in this order.
	rows := slices.Sorted(maps.Keys(latest))
	for names := range slices.Chunk(rows, adoptBatch) {
		batch := make([]*adoption, len(names))
		for i, name := range names {
			batch[i] = latest[name]
		}
		err := db.retry(ctx, func() error {
			return pgx.BeginFunc(ctx, db.pool, func(tx pgx.Tx) error { return adopt(ctx, tx, batch) })
		})
		if err != nil {
			return classify(fmt.Sprintf("make parked sagas of %d rows that %s refused", len(batch), batch[0].Sink), err)
		}
	}
	return nil
}

// adoption is a refused row on its way to become a saga, or a part of one.
type adoption struct {
	*saga.Refused
	write saga.Write
	row   string // saga.StreamChange.Row
	skips bool   // as the catalog says
}

func newAdoption(r *saga.Refused) *adoption {
	a := &adoption{Refused: r, write: r.Write()}
	a.row = a.write.Stream.Row()
	if a.skips = r.Entity.PolicyFor(r.Sink).OnReject == saga.OnRejectSkip; a.skips {
		a.write.SagaID = a.write.Stream.SkippedSagaID()
	}
	return a
}

// openSaga is the saga of a row that has not ended.
type openSaga struct {
	id    string
	write saga.Write
}

// adopt is the transaction. The rows' open sagas are locked first, so that none of
// them ends meanwhile.
func adopt(ctx context.Context, tx pgx.Tx, rows []*adoption) error {
	// The stream confirms its position after this, so the commit must be on disk.
	if _, err := tx.Exec(ctx, "SELECT set_config('synchronous_commit', 'local', true) WHERE current_setting('synchronous_commit') = 'off'"); err != nil {
		return err
	}
	open, err := lockOpen(ctx, tx, rows)
	if err != nil {
		return err
	}
	var batch pgx.Batch
	var added []*adoption
	for _, a := range rows {
		known, isOpen := open[a.row]
		switch {
		case isOpen:
			err = a.queueMerge(&batch, known)
		case a.skips:
			err = a.queueWaiver(&batch)
		default:
			added = append(added, a)
			err = a.queueInsert(&batch)
		}
		if err != nil {
			return err
		}
	}
	if err := tx.SendBatch(ctx, &batch).Close(); err != nil {
		return err
	}
	return checkAdded(ctx, tx, added)
}

func lockOpen(ctx context.Context, tx pgx.Tx, rows []*adoption) (map[string]openSaga, error) {
	names := make([]string, len(rows))
	for i, a := range rows {
		names[i] = a.row
	}
	found, err := tx.Query(ctx, `SELECT stream_row, id, write::text FROM capsaga.saga
		WHERE stream_row = ANY($1) AND finished_at IS NULL ORDER BY stream_row FOR NO KEY UPDATE`, names)
	if err != nil {
		return nil, err
	}
	open := map[string]openSaga{}
	var row, id, body string
	_, err = pgx.ForEachRow(found, []any{&row, &id, &body}, func() error {
		known := openSaga{id: id}
		err := json.Unmarshal([]byte(body), &known.write)
		open[row] = known
		return err
	})
	return open, err
}

// queueInsert enters a new saga, unless an earlier call did and the saga has ended
// since.
func (a *adoption) queueInsert(batch *pgx.Batch) error {
	write, err := json.Marshal(a.write)
	if err != nil {
		return err
	}
	e, err := a.entry(a.write, saga.Parked)
	if err != nil {
		return err
	}
	batch.Queue(`INSERT INTO capsaga.saga (id, workflow_id, run_id, content, write, entities, status, undo, version, result, outcome, blocked_on, error, error_class, stream_row)
		SELECT $1, $2, '', $3, $4::text::json, $5, 'parked', '[]', $6, $7::text::json, $8::text::json, $9, $10::text::json, $11, $12
		WHERE NOT EXISTS (SELECT FROM capsaga.saga WHERE stream_row = $12 AND version >= $6)
		ON CONFLICT DO NOTHING`,
		a.write.SagaID, saga.WorkflowID(a.write.SagaID), a.write.Digest(), string(write), a.write.Entities(),
		int64(a.Version), e.result, e.outcome, e.blocked, e.problem, e.class, a.row)
	return nil
}

// queueMerge makes the refusal part of the row's open saga, unless that knows of it
// or has changed the row later.
func (a *adoption) queueMerge(batch *pgx.Batch, known openSaga) error {
	e, err := a.entry(known.write, saga.Parked)
	if err != nil {
		return err
	}
	batch.Queue(`UPDATE capsaga.saga SET status = 'parked', version = $2, result = $3::text::json, outcome = $4::text::json,
		       blocked_on = $5, error = $6::text::json, error_class = $7
		WHERE id = $1 AND version < $2 AND NOT EXISTS (SELECT FROM capsaga.change WHERE saga_id = $1 AND version > $2)`,
		known.id, int64(a.Version), e.result, e.outcome, e.blocked, e.problem, e.class)
	return nil
}

// queueWaiver enters a finished saga with a waiver, or renews it.
func (a *adoption) queueWaiver(batch *pgx.Batch) error {
	write, err := json.Marshal(a.write)
	if err != nil {
		return err
	}
	e, err := a.entry(a.write, saga.Completed)
	if err != nil {
		return err
	}
	batch.Queue(`INSERT INTO capsaga.saga AS s (id, workflow_id, run_id, content, write, entities, status, undo, version, result, outcome, stream_row, finished_at)
		VALUES ($1, $2, '', $3, $4::text::json, $5, 'completed', '[]', $6, $7::text::json, $8::text::json, $9, clock_timestamp())
		ON CONFLICT (id) DO UPDATE SET content = excluded.content, write = excluded.write, version = excluded.version,
		    result = excluded.result, outcome = excluded.outcome, finished_at = excluded.finished_at
		WHERE s.version < excluded.version`,
		a.write.SagaID, saga.WorkflowID(a.write.SagaID), a.write.Digest(), string(write), a.write.Entities(),
		int64(a.Version), e.result, e.outcome, a.row)
	rows, err := json.Marshal([]saga.Owned{a.Owned()})
	if err != nil {
		return err
	}
	batch.Queue(`INSERT INTO capsaga.waiver AS old (saga_id, step, version, rows, reason) VALUES ($1, $2, $3, $4::text::json, $5)
		ON CONFLICT (saga_id, step) DO UPDATE SET version = excluded.version, rows = excluded.rows, reason = excluded.reason
		WHERE old.version < excluded.version`,
		a.write.SagaID, string(a.Sink), int64(a.Version), string(rows), skippedByCatalog)
	return nil
}

// ledgerEntry is what the ledger keeps of an outcome.
type ledgerEntry struct {
	result, outcome string
	blocked         []string
	class, problem  *string
}

// entry returns where the saga of a write stands when the sink has refused the row:
// the sinks but this one have their own streams, so there is nothing to bring them.
func (a *adoption) entry(w saga.Write, status saga.Status) (e ledgerEntry, err error) {
	problem := a.Error
	o := saga.Outcome{SagaID: w.SagaID, Status: status, Content: w.Digest(), Stream: w.Stream}
	owned := []saga.Owned{a.Owned()}
	o.Own(a.Version, owned)
	refused := saga.Step{Name: saga.StepName(a.Sink), State: saga.StepParked, Attempts: 1, Error: &problem}
	if status.Final() {
		refused.State = saga.StepSkipped
	} else {
		o.Error = &problem
	}
	o.Steps = []saga.Step{{Name: saga.StepCommit, State: saga.StepDone}}
	for _, sink := range saga.Sinks {
		switch {
		case sink == a.Sink:
			o.Steps = append(o.Steps, refused)
		case slices.Contains(a.Entity.Sinks(), sink):
			o.Steps = append(o.Steps, saga.Step{Name: saga.StepName(sink), State: saga.StepDone})
		}
	}
	o = storable(o)
	if e.blocked, e.class, e.problem, err = labels(&o); err != nil {
		return e, err
	}
	outcome, err := json.Marshal(o)
	if err != nil {
		return e, err
	}
	result, err := json.Marshal(keep(owned))
	e.outcome, e.result = string(outcome), string(result)
	return e, err
}

// checkAdded wants each of the rows to have a saga that knows of the refusal. One
// may lack it when another adopter's was in the way and has ended by now.
func checkAdded(ctx context.Context, tx pgx.Tx, added []*adoption) error {
	if len(added) == 0 {
		return nil
	}
	names, versions := make([]string, len(added)), make([]int64, len(added))
	for i, a := range added {
		names[i], versions[i] = a.row, int64(a.Version)
	}
	var missing []string
	err := tx.QueryRow(ctx, `SELECT coalesce(array_agg(r.name), '{}') FROM unnest($1::text[], $2::bigint[]) r(name, version)
		WHERE NOT EXISTS (SELECT FROM capsaga.saga s WHERE s.stream_row = r.name AND s.version >= r.version)`, names, versions).Scan(&missing)
	if err != nil || len(missing) == 0 {
		return err
	}
	return fmt.Errorf("%w, or another write has the id of its saga: %d rows have none yet, such as %s", errRaced, len(missing), missing[0])
}

// attachStream is the commit of a saga that commits nothing: it reads what the
// ledger has. One that the ledger does not know is refused, and leaves no trace.
func (db *DB) attachStream(ctx context.Context, request CommitRequest) (*CommitResult, error) {
	w := request.Write
	rejected := func(e *saga.Error) *CommitResult {
		return &CommitResult{Status: saga.RejectedEnd, WorkflowID: request.WorkflowID, Content: w.Digest(), Error: errorInfo(e)}
	}
	r, err := readLedger(ctx, db.pool, w.SagaID, w.Digest())
	if noRows(err) {
		return rejected(refuse(saga.CodeUnknownSaga, "saga %q is not in the ledger: only the stream of %s enters such a saga, when it is refused a row; or it has ended, and its row was pruned", w.SagaID, w.Stream.Sink)), nil
	}
	if err != nil {
		return nil, classify("read the ledger for saga "+w.SagaID, err)
	}
	return r, nil
}

// earlyGrace is how old a saga is at least that has committed before its workflow was
// seen: most are over by then.
const earlyGrace = 5 * time.Second

// startSaga starts the workflow of a saga and returns its run. The token is that of a
// commit that was made beside the start of the workflow; empty of a stream's saga.
type startSaga = func(ctx context.Context, w saga.Write, token string) (runID string, err error)

// unstarted is a saga that may have no workflow.
type unstarted struct {
	write saga.Write
	token string
}

// StartAdopted starts the workflows of sagas that the ledger has and that may have
// none yet: those that streams have entered, and those whose client has committed and
// was killed before it could start them. It takes at most limit of each, oldest first,
// and returns how many have one now; those of skip it leaves out. start is called again
// for one whose start was not remembered. Of several workers one does this at a time.
//
// An error of start that can pass ends the round; one that refuses the saga does
// not keep the others waiting.
func (db *DB) StartAdopted(ctx context.Context, limit int, skip []string, start startSaga) (started int, err error) {
	conn, err := db.pool.Acquire(ctx)
	if err != nil {
		return 0, classify("start adopted sagas", err)
	}
	defer conn.Release()
	var alone bool
	if err := conn.QueryRow(ctx, "SELECT pg_try_advisory_lock(hashtext('capsaga.adopt'))").Scan(&alone); err != nil || !alone {
		return 0, classify("start adopted sagas", err)
	}
	defer unlockAdopted(ctx, conn.Conn())
	rows, err := conn.Query(ctx, `(SELECT write::text, run_id FROM capsaga.saga
		WHERE stream_row IS NOT NULL AND run_id = '' AND finished_at IS NULL AND id <> ALL($3) ORDER BY created_at LIMIT $1)
		UNION ALL
		(SELECT write::text, run_id FROM capsaga.saga
		WHERE run_id LIKE 'early/%' AND finished_at IS NULL AND outcome IS NULL AND created_at < clock_timestamp() - make_interval(secs => $2) AND id <> ALL($3)
		ORDER BY created_at LIMIT $1)`, limit, earlyGrace.Seconds(), append([]string{}, skip...))
	if err != nil {
		return 0, classify("list adopted sagas", err)
	}
	sagas, err := pgx.CollectRows(rows, func(row pgx.CollectableRow) (u unstarted, err error) {
		var body []byte
		if err = row.Scan(&body, &u.token); err == nil {
			err = json.Unmarshal(body, &u.write)
		}
		return u, err
	})
	if err != nil {
		return 0, classify("list adopted sagas", err)
	}
	return startEach(ctx, conn, sagas, start)
}

// unlockAdopted lets the next worker start sagas; a connection that cannot do that
// is closed, which does it too.
func unlockAdopted(ctx context.Context, conn *pgx.Conn) {
	if _, err := conn.Exec(context.WithoutCancel(ctx), "SELECT pg_advisory_unlock(hashtext('capsaga.adopt'))"); err != nil {
		_ = conn.Close(context.WithoutCancel(ctx))
	}
}

func startEach(ctx context.Context, q execer, sagas []unstarted, start startSaga) (started int, refused error) {
	for _, u := range sagas {
		runID, err := start(ctx, u.write, u.token)
		if err != nil && saga.ClassOf(err) != saga.Rejected {
			return started, err
		}
		if err != nil {
			refused = err
			continue
		}
		if _, err := q.Exec(ctx, "UPDATE capsaga.saga SET run_id = $2 WHERE id = $1 AND run_id = $3", u.write.SagaID, runID, u.token); err != nil {
			return started, classify("note the workflow of saga "+u.write.SagaID, err)
		}
		started++
	}
	return started, refused
}

// execer is what a connection and a pool have in common.
type execer interface {
	Exec(ctx context.Context, sql string, args ...any) (pgconn.CommandTag, error)
}
