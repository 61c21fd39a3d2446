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
	Status      saga.Status     // committed, rejected, cancelled, or failed (other content)
	Error       *saga.ErrorInfo // for rejected and failed
	WorkflowID  string          // of the workflow that the ledger names
	Content     string
	Version     saga.Version
	Confirmed   saga.Confirmation
	CommittedAt time.Time
	// FlushLSN is the WAL's flushed position as read right after the commit.
	FlushLSN saga.LSN
	Owned    []saga.Owned
}

// Committer is the pivot. Its result is durable before it returns, and a second
// call with the same saga id returns the first one's result. An error means that
// the result is not known yet and the call is to be repeated.
type Committer interface {
	Commit(ctx context.Context, r CommitRequest) (*CommitResult, error)
}

// Ledger keeps what became of sagas.
type Ledger interface {
	// RecordOutcome stores a saga's final outcome.
	RecordOutcome(ctx context.Context, sagaID string, o saga.Outcome) error
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

// RedisSink sets documents in Redis where they are newer. lifetimes tells an
// entity's time to live and its tombstones'.
type RedisSink interface {
	Apply(ctx context.Context, docs []saga.Document, lifetimes func(entity string) (ttl, tombstone time.Duration)) ([]saga.Applied, error)
}

// ElasticSink indexes documents where they are newer.
type ElasticSink interface {
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
