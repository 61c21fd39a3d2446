package activities

import (
	"context"
	"encoding/json"
	"time"

	"github.com/capsaga/capsaga/saga"
)

// CommitRequest is what a Committer commits.
type CommitRequest struct {
	Write       saga.Write
	Catalog     *saga.Catalog
	WorkflowID  string
	RunID       string
	TraceParent string
	TraceState  string
}

// CommitResult is what became of a commit, now or by an earlier attempt.
type CommitResult struct {
	Status     saga.Status     // committed, rejected, cancelled, or failed (other content)
	Error      *saga.ErrorInfo // for rejected and failed
	WorkflowID string          // of the workflow that the ledger names
	RunID      string          // of its run that committed
	Content    string
	// Version is that of the rows as Owned has them: the commit's own, or that of the
	// last edit of a saga that had committed before.
	Version     saga.Version
	Confirmed   saga.Confirmation
	CommittedAt time.Time
	// FlushLSN is the WAL's flushed position as read right after the commit.
	FlushLSN saga.LSN
	Owned    []saga.Owned
	// Recorded is the outcome that the ledger has of a saga that had committed
	// before, nil when none was recorded. A workflow that begins anew goes on from
	// there.
	Recorded *saga.Outcome
	// InBatch says that FinishBatch of the workflow will tell the ledger of its end.
	InBatch bool
}

// Committer is the pivot. Its result is durable before it returns, and a second
// call with the same saga id returns the first one's result. An error means that
// the result is not known yet and the call is to be repeated. A write of a stream
// commits nothing: its result is what the ledger has of the saga now.
type Committer interface {
	Commit(ctx context.Context, r CommitRequest) (*CommitResult, error)
}

// BatchWrite is one write of a batch.
type BatchWrite struct {
	Write       *saga.Write
	Encoded     json.RawMessage // Write as it came
	Digest      string          // of Write
	TraceParent string
	TraceState  string
}

// BatchRequest is what a BatchCommitter commits.
type BatchRequest struct {
	Writes     []BatchWrite
	Catalog    *saga.Catalog
	WorkflowID string
	RunID      string
}

// BatchCommitter is the pivot of many sagas at once. The results are in the order of
// the writes; each is as of a Committer. A nil one is for a workflow of its own, as
// the write cannot be settled beside the others without holding them up.
type BatchCommitter interface {
	CommitBatch(ctx context.Context, r BatchRequest) ([]*CommitResult, error)
}

// UndoRequest asks to undo what a saga left in PostgreSQL.
type UndoRequest struct {
	SagaID      string
	Catalog     *saga.Catalog
	TraceParent string
	TraceState  string
}

// EditRequest asks to change rows that a saga owns.
type EditRequest struct {
	SagaID string
	// RequestID makes the edit happen once.
	RequestID   string
	Mutations   []saga.Mutation
	Catalog     *saga.Catalog
	TraceParent string
	TraceState  string
}

// ChangeResult is what became of an undo or an edit, now or by an earlier call.
type ChangeResult struct {
	// Refused says why nothing happened: the database refuses the change, or the
	// undo would overwrite what others did (saga.CodeConflict). It is not
	// remembered: a later call tries again. Nil: the change has committed.
	Refused     *saga.ErrorInfo
	Version     saga.Version
	CommittedAt time.Time
	FlushLSN    saga.LSN
	// Owned has all rows that the saga owns, as they are at Version.
	Owned []saga.Owned
}

// Changer changes what a committed saga left. Each change is one transaction that
// happens once; an error means that its result is not known yet and the call is
// to be repeated.
type Changer interface {
	Undo(ctx context.Context, r UndoRequest) (*ChangeResult, error)
	Edit(ctx context.Context, r EditRequest) (*ChangeResult, error)
}

// Gates lets a saga that parks for a system that is away make sure that someone
// watches that system and releases it. The call is cheap and may be repeated.
type Gates interface {
	OpenGate(ctx context.Context, system string) error
}

// Waiver says that a saga's rows are not wanted in a sink any more.
type Waiver struct {
	SagaID  string
	Step    saga.StepName
	Version saga.Version
	Rows    []saga.Owned
	Reason  string
}

// Ledger keeps what became of sagas.
type Ledger interface {
	// RecordOutcome stores where a saga stands. A final outcome is never replaced
	// by one that is not. Of a stream's saga it stores nothing, and returns true, when
	// a later change of the row than the outcome's was refused.
	RecordOutcome(ctx context.Context, sagaID string, o saga.Outcome) (outdated bool, err error)
	// RecordOutcomes stores the outcomes of sagas that have completed, as
	// RecordOutcome does.
	RecordOutcomes(ctx context.Context, completed []saga.Outcome) error
	// FinishBatch stores that the sagas that a batch's workflow has committed have
	// completed, with the steps of all, but for those that go on alone.
	FinishBatch(ctx context.Context, workflowID string, alone []string, steps []saga.Step) error
	// Waive remembers that a step was given up, and returns up to which version of
	// its rows. It is idempotent.
	Waive(ctx context.Context, w Waiver) (saga.Version, error)
	// Recall returns the outcome that was recorded of a saga, or one made from its
	// commit; nil when the ledger does not know it.
	Recall(ctx context.Context, sagaID string) (*saga.Outcome, error)
	// Cancel makes sure that the saga never commits: it takes the saga's place in
	// the ledger, waiting for a transaction that holds it. It reports true when
	// the saga had committed before.
	Cancel(ctx context.Context, w saga.Write, workflowID, runID string) (committed bool, err error)
}

// Row is a row as PostgreSQL has it now.
type Row struct {
	Found bool
	Row   json.RawMessage
	ETag  string
	// Version is that of the read; zero when the row is locked by a writer, and
	// then no sink may be filled with it.
	Version saga.Version
}

// Rows reads single rows with a version.
type Rows interface {
	ReadRow(ctx context.Context, e *saga.Entity, key string) (Row, error)
}

// Sink sets documents in Redis or Elasticsearch where they are newer. What it answers
// has an entry per document; its error is for all of them.
type Sink interface {
	Apply(ctx context.Context, docs []saga.Document) ([]saga.Applied, error)
}

// Positions tells how far the stream to Kafka has come.
type Positions interface {
	// Wait returns when everything before the position is acknowledged by Kafka.
	// Its error says why the stream does not move.
	Wait(ctx context.Context, lsn saga.LSN) error
}

// Observer hears of each attempt of a step, for metrics.
type Observer interface {
	// StepAttempt is told when an attempt ends; class is empty on success. local
	// is true of a quick attempt inside the workflow task.
	StepAttempt(step saga.StepName, local bool, took time.Duration, class saga.Class)
}
