package postgres

import (
	"context"
	"encoding/json"
	"errors"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/capsaga/capsaga/saga"
)

// CommitRequest is a write with what the ledger and the WAL say of its saga.
type CommitRequest struct {
	Write                   saga.Write
	Catalog                 *saga.Catalog
	WorkflowID, RunID       string
	TraceParent, TraceState string
}

// CommitResult is what the pivot came to.
type CommitResult struct {
	Status saga.Status     `json:"status"` // committed, rejected, or failed when the saga id was used for other content
	Error  *saga.ErrorInfo `json:"error,omitempty"`
	// WorkflowID is the workflow that the ledger names, which is another than the
	// request's when an earlier one committed the saga.
	WorkflowID  string            `json:"workflow_id"`
	RunID       string            `json:"run_id"` // of its run that committed
	Content     string            `json:"content"`
	Version     saga.Version      `json:"version,omitempty"`
	Confirmed   saga.Confirmation `json:"confirmed,omitempty"`
	CommittedAt time.Time         `json:"committed_at,omitzero"`
	// FlushLSN was read right after COMMIT: once the stream's confirmed position
	// has reached it, Kafka has the saga's rows.
	FlushLSN saga.LSN `json:"flush_lsn,omitempty"`
	// Owned has the rows that the saga owns, as they are at Version: those of an
	// earlier commit as the saga's last edit left them.
	Owned []saga.Owned `json:"owned,omitempty"`
	// Recorded is the outcome that the ledger has of a saga that had committed
	// before.
	Recorded *saga.Outcome `json:"recorded,omitempty"`
	// InBatch says that FinishBatch of the workflow will tell of the saga's end.
	InBatch bool `json:"in_batch,omitempty"`
}

// Commit applies a write exactly once: the ledger's row, the mutations and the
// two logical messages that frame them are one transaction. A second call for
// the same saga id returns the first one's result.
//
// An error means that the outcome is not known or that the database did not take
// the write now: call again. What the database refuses for good is a result with
// status rejected, and nothing of the write has happened. The write of a stream's
// saga commits nothing: its result is what the ledger has.
func (db *DB) Commit(ctx context.Context, request CommitRequest) (result *CommitResult, err error) {
	if request.Write.Stream != nil {
		return db.attachStream(ctx, request)
	}
	err = db.retry(ctx, func() error {
		result, err = db.commitOnce(ctx, request)
		return err
	})
	if err != nil {
		return db.settle(ctx, request, err)
	}
	return result, nil
}

// settle turns the last error into a rejection that the ledger remembers, or
// returns it for the caller to try again.
func (db *DB) settle(ctx context.Context, request CommitRequest, err error) (*CommitResult, error) {
	err = classify("commit saga "+request.Write.SagaID, err)
	var e *saga.Error
	if !errors.As(err, &e) || e.Class != saga.Rejected {
		return nil, err
	}
	if e.Code == saga.CodeInvalidValue {
		e = db.nameColumn(ctx, request.Catalog, request.Write.Mutations, e)
	}
	result := &CommitResult{
		Status: saga.RejectedEnd, WorkflowID: request.WorkflowID, Content: request.Write.Digest(),
		Error: errorInfo(e),
	}
	return db.recordRejection(ctx, request, result)
}

func errorInfo(e *saga.Error) *saga.ErrorInfo {
	return &saga.ErrorInfo{Code: e.Code, Message: e.Message, Class: e.Class, System: e.System}
}

func sqlState(err error) string {
	var pg *pgconn.PgError
	if errors.As(err, &pg) {
		return pg.Code
	}
	return ""
}

// commit is one attempt at a write.
type commit struct {
	transaction
	request CommitRequest
	digest  string
}

func (db *DB) commitOnce(ctx context.Context, request CommitRequest) (result *CommitResult, err error) {
	if err := request.Write.Validate(); err != nil {
		return nil, err
	}
	c := &commit{transaction: db.newTransaction(request.Catalog), request: request, digest: request.Write.Digest()}
	if err := c.plan(ctx, request.Write.Mutations); err != nil {
		return nil, err
	}
	err = c.onConnection(ctx, func() error {
		result, err = c.run(ctx)
		return err
	})
	return result, err
}

// run is the transaction, in four exchanges with the server: open it, apply the
// mutations, re-read the rows, close it.
func (c *commit) run(ctx context.Context) (*CommitResult, error) {
	first, err := c.open(ctx)
	if err != nil {
		return nil, err
	}
	if !first {
		return c.attach(ctx)
	}
	if err := c.lockRows(ctx); err != nil {
		return nil, err
	}
	if err := c.mutate(ctx); err != nil {
		return nil, err
	}
	if err := c.reread(ctx); err != nil {
		return nil, err
	}
	return c.close(ctx)
}

// open begins the transaction and takes the saga id in the ledger. It waits for
// another transaction that holds the same id, and returns false if that one
// committed.
func (c *commit) open(ctx context.Context) (first bool, err error) {
	w := c.request.Write
	request, err := json.Marshal(w)
	if err != nil {
		return false, err
	}
	var batch pgx.Batch
	begin := saga.BeginMessage{SagaID: w.SagaID, TraceParent: c.request.TraceParent, TraceState: c.request.TraceState}
	if err := c.queueBegin(ctx, &batch, begin); err != nil {
		return false, err
	}
	batch.Queue("INSERT INTO capsaga.saga (id, workflow_id, run_id, content, write, entities, status) VALUES ($1, $2, $3, $4, $5::text::json, $6, 'committed') ON CONFLICT DO NOTHING",
		w.SagaID, c.request.WorkflowID, c.request.RunID, c.digest, string(request), w.Entities()).
		Exec(func(tag pgconn.CommandTag) error {
			first = tag.RowsAffected() == 1
			return nil
		})
	if err := c.conn.SendBatch(ctx, &batch).Close(); err != nil {
		return false, err
	}
	return first, c.checkReplica(w.Consistency)
}

// close emits the closing message, whose LSN is the version, completes the
// ledger's row and commits.
func (c *commit) close(ctx context.Context) (*CommitResult, error) {
	end, err := c.endMessage(c.request.Write.SagaID)
	if err != nil {
		return nil, err
	}
	owned, err := json.Marshal(keep(c.owned))
	if err != nil {
		return nil, err
	}
	notes, err := json.Marshal(c.notes)
	if err != nil {
		return nil, err
	}
	var version int64
	var batch pgx.Batch
	batch.Queue(`WITH v AS MATERIALIZED (SELECT pg_logical_emit_message(true, $2, $3::text) AS lsn)
		UPDATE capsaga.saga SET result = $4::text::json, undo = $5::text::json,
		       version = ($6::bigint << 53) + (SELECT (lsn - '0/0'::pg_lsn)::bigint FROM v)
		WHERE id = $1 RETURNING version`,
		c.request.Write.SagaID, saga.MessageEnd, end, string(owned), string(notes), int64(c.epoch)).
		QueryRow(func(row pgx.Row) error { return row.Scan(&version) })
	done, err := c.finish(ctx, &batch, c.request.Write.Consistency)
	if err != nil {
		return nil, err
	}
	return &CommitResult{
		Status: saga.Committed, WorkflowID: c.request.WorkflowID, RunID: c.request.RunID, Content: c.digest, Version: saga.Version(version),
		Confirmed: done.confirmed, CommittedAt: done.at, FlushLSN: done.flushed, Owned: c.owned,
	}, nil
}
