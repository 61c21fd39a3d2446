package client

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"fmt"
	"sync/atomic"
	"time"

	"go.opentelemetry.io/otel/propagation"
	enumspb "go.temporal.io/api/enums/v1"
	sdkclient "go.temporal.io/sdk/client"
	"go.temporal.io/sdk/temporal"

	"github.com/capsaga/capsaga/internal/attribute"
	"github.com/capsaga/capsaga/saga"
)

// Level is what a caller waits for.
type Level string

// The levels.
const (
	// WaitCommitted: PostgreSQL has committed the write, or refused it.
	WaitCommitted Level = saga.UpdateCommitted
	// WaitVisible: all sinks have the write as well; or the saga has parked, which
	// its outcome's status says.
	WaitVisible Level = saga.UpdateVisible
)

// reached reports whether an outcome ends the wait.
func (l Level) reached(o *saga.Outcome) bool {
	if o.Status.Final() || o.Status == saga.Parked {
		return true
	}
	return l == WaitCommitted && o.Status != saga.Pending
}

// Notifier tells of the outcomes of sagas that run in this process.
type Notifier interface {
	Subscribe(sagaID string) (outcomes <-chan saga.Outcome, cancel func())
	// SubscribeAll tells of several sagas through one channel.
	SubscribeAll(sagaIDs []string) (outcomes <-chan saga.Outcome, cancel func())
}

// Committer commits writes in this process.
type Committer interface {
	// Commit commits a write whose workflow is being started, in the name of a token
	// that the workflow's memo has. The Notifier is told as well.
	Commit(ctx context.Context, w saga.Write, token string, trace saga.Trace) saga.EarlyCommit
}

// Options are what a Client works with.
type Options struct {
	// Temporal is the connection, which stays the caller's to close. Its data
	// converter must be JSON, the SDK's default.
	Temporal sdkclient.Client
	// Prefix is that of the workers that run the sagas; default saga.DefaultPrefix.
	Prefix saga.Prefix
	// Notifier is that of the worker in the same process, which must use the same
	// Temporal connection; nil when the workers are elsewhere.
	Notifier Notifier
	// Committer is that of the same worker, optional beside Notifier: it commits a write
	// that is alone while Temporal starts its workflow.
	Committer Committer
	// Ledger knows the sagas that Temporal has forgotten, for Replay; without it,
	// those cannot be started again.
	Ledger Ledger
	// Group says how concurrent writes share workflows.
	Group Group
}

// notificationGrace is how long an embedded client waits for a notification
// before it asks Temporal: another worker may run the saga.
const notificationGrace = 200 * time.Millisecond

const (
	// notReadyPause is the time between questions to a workflow whose tasks fail.
	notReadyPause = 500 * time.Millisecond
	// askAgain is how long a question waits for its answer. Temporal forgets a
	// question that it had handed to a worker which then stopped, and its asker
	// would wait for ever.
	askAgain = 5 * time.Second
)

// Client writes sagas and waits for them. It is safe for concurrent use.
type Client struct {
	temporal  sdkclient.Client
	prefix    saga.Prefix
	notifier  Notifier
	committer Committer
	ledger    Ledger
	options   Group
	firstNews atomic.Int64 // nanoseconds until the last batch in this process was heard of
	// Writes that wait for the synchronous replica would hold up those that do not.
	groups map[saga.Consistency]*group
}

// New returns a client.
func New(o Options) (*Client, error) {
	if o.Temporal == nil {
		return nil, fmt.Errorf("new client: Options.Temporal is missing")
	}
	prefix, err := saga.ParsePrefix(string(o.Prefix))
	if err != nil {
		return nil, fmt.Errorf("new client: Options.Prefix: %w", err)
	}
	c := &Client{temporal: o.Temporal, prefix: prefix, notifier: o.Notifier, committer: o.Committer, ledger: o.Ledger}
	if c.options, err = o.Group.orDefaults(); err != nil {
		return nil, fmt.Errorf("new client: %w", err)
	}
	c.groups = map[saga.Consistency]*group{saga.AP: newGroup(c, c.options), saga.CP: newGroup(c, c.options)}
	return c, nil
}

// Write starts a saga and waits until it has come to the level. The outcome says
// how it went: a rejected write is an answer and not an error, and so is a parked
// one. An error is a *saga.Error; unless its class is rejected, the saga may have
// started, and the same call may be made again.
//
// The trace of ctx, where OpenTelemetry keeps one, goes with the saga into the
// headers of its Kafka records.
//
// Concurrent writes share workflows, see Group; each keeps its own id, outcome and
// policy, and what becomes of one says nothing of the others. One that is alone, in the
// worker's process, is committed while its workflow is being started, see Committer.
func (c *Client) Write(ctx context.Context, w saga.Write, level Level) (saga.Outcome, error) {
	it, err := newItem(ctx, &w, level)
	if err != nil {
		return saga.Outcome{}, err
	}
	if c.options.Off || !it.groups() {
		return c.writeAlone(ctx, it)
	}
	consistency := saga.AP
	if w.Consistency == saga.CP {
		consistency = saga.CP
	}
	r := c.groups[consistency].write(ctx, it)
	return r.Outcome, r.Err
}

// writeAlone writes a saga as a workflow of its own.
func (c *Client) writeAlone(ctx context.Context, it *item) (saga.Outcome, error) {
	if c.notifier != nil {
		return c.writeHere(ctx, it)
	}
	id := it.sagaID
	options := wait(id, it.level, it.digest)
	return c.ask(ctx, id, it.digest, func(ctx context.Context) (sdkclient.WorkflowUpdateHandle, error) {
		return c.temporal.UpdateWithStartWorkflow(ctx, sdkclient.UpdateWithStartWorkflowOptions{
			StartWorkflowOperation: c.temporal.NewWithStartWorkflowOperation(c.start(ctx, it.write), saga.WorkflowSaga, it.encoded),
			UpdateOptions:          options,
		})
	})
}

// Start starts a saga and does not wait for it.
func (c *Client) Start(ctx context.Context, w saga.Write) error {
	encoded, digest, err := check(&w)
	if err != nil {
		return err
	}
	options := c.start(ctx, &w)
	// Only a refused start tells that the id is in use, maybe for other content.
	options.WorkflowIDConflictPolicy = enumspb.WORKFLOW_ID_CONFLICT_POLICY_FAIL
	_, err = c.temporal.ExecuteWorkflow(ctx, options, saga.WorkflowSaga, encoded)
	if alreadyStarted(err) {
		o, err := c.Status(ctx, w.SagaID)
		if err == nil {
			_, err = settled(o, digest)
		}
		return err
	}
	if err != nil {
		return c.failed(ctx, w.SagaID, err)
	}
	return nil
}

// Wait waits until a saga that was started before has come to the level. One that
// was written in a batch has no workflow that its id could name: of it Wait learns
// from Options.Ledger, and not at all without it.
func (c *Client) Wait(ctx context.Context, sagaID string, level Level) (saga.Outcome, error) {
	o, err := c.wait(ctx, sagaID, "", level)
	for codeOf(err) == saga.CodeUnknownSaga && c.ledger != nil {
		known, ledgerErr := c.ledger.Recall(ctx, sagaID)
		if ledgerErr != nil || known == nil {
			return o, err
		}
		if level.reached(known) {
			return *known, nil
		}
		select {
		case <-ctx.Done():
			return *known, c.unfinished(sagaID, ctx.Err())
		case <-time.After(ledgerPause):
		}
		if o, err = c.wait(ctx, sagaID, "", level); err == nil { // it was split off
			return o, nil
		}
	}
	return o, err
}

// ledgerPause is the time between looks into the ledger.
const ledgerPause = 200 * time.Millisecond

func (c *Client) wait(ctx context.Context, sagaID, digest string, level Level) (saga.Outcome, error) {
	options := wait(sagaID, level, digest)
	return c.ask(ctx, sagaID, digest, func(ctx context.Context) (sdkclient.WorkflowUpdateHandle, error) {
		return c.temporal.UpdateWorkflow(ctx, options)
	})
}

// Status returns where a saga stands; see Wait for one that was written in a batch.
func (c *Client) Status(ctx context.Context, sagaID string) (saga.Outcome, error) {
	o, err := c.status(ctx, sagaID)
	if codeOf(err) == saga.CodeUnknownSaga && c.ledger != nil {
		if known, ledgerErr := c.ledger.Recall(ctx, sagaID); ledgerErr == nil && known != nil {
			return *known, nil
		}
	}
	return o, err
}

func (c *Client) status(ctx context.Context, sagaID string) (saga.Outcome, error) {
	id := saga.WorkflowID(sagaID)
	description, err := c.temporal.DescribeWorkflowExecution(ctx, id, "")
	if err != nil {
		return saga.Outcome{}, c.failed(ctx, sagaID, err)
	}
	switch description.GetWorkflowExecutionInfo().GetStatus() {
	case enumspb.WORKFLOW_EXECUTION_STATUS_RUNNING, enumspb.WORKFLOW_EXECUTION_STATUS_PAUSED:
	default: // a closed workflow answers without a worker
		return c.result(ctx, sagaID, "")
	}
	value, err := c.temporal.QueryWorkflow(ctx, id, "", saga.QueryState)
	if err != nil {
		return saga.Outcome{}, c.failed(ctx, sagaID, err)
	}
	var o saga.Outcome
	if err := value.Get(&o); err != nil {
		return saga.Outcome{}, c.failed(ctx, sagaID, err)
	}
	return o, nil
}

// ask puts a question until it is answered. A saga that had finished before the
// update came is answered by its result.
func (c *Client) ask(ctx context.Context, sagaID, digest string, question question) (saga.Outcome, error) {
	o, err := persist[saga.Outcome](ctx, question)
	switch {
	case err == nil:
		return settled(o, digest)
	case closedBefore(err):
		return c.result(ctx, sagaID, digest)
	}
	return saga.Outcome{}, c.failed(ctx, sagaID, err)
}

// question is an update of a saga's workflow, with its id: asking again asks
// nothing new.
type question func(context.Context) (sdkclient.WorkflowUpdateHandle, error)

// persist puts a question until it is answered or refused. A workflow whose worker
// is in trouble is asked again.
func persist[T any](ctx context.Context, question question) (T, error) {
	for {
		attempt, cancel := context.WithTimeout(ctx, askAgain)
		o, err := answer[T](attempt, question)
		lost := attempt.Err() != nil && ctx.Err() == nil
		cancel()
		switch {
		case err == nil, closedBefore(err):
			return o, err
		case lost:
			continue
		case !notReady(err) && !timedOut(err):
			return o, err
		}
		select {
		case <-ctx.Done():
			return o, err
		case <-time.After(notReadyPause):
		}
	}
}

func answer[T any](ctx context.Context, question question) (o T, err error) {
	handle, err := question(ctx)
	if err == nil {
		err = handle.Get(ctx, &o)
	}
	return o, err
}

// result waits for the workflow's end and returns the outcome that it ended with.
func (c *Client) result(ctx context.Context, sagaID, digest string) (saga.Outcome, error) {
	var o saga.Outcome
	if err := c.temporal.GetWorkflow(ctx, saga.WorkflowID(sagaID), "").Get(ctx, &o); err != nil {
		return saga.Outcome{}, c.failed(ctx, sagaID, err)
	}
	return settled(o, digest)
}

// settled returns the outcome if it is that of the caller's content.
func settled(o saga.Outcome, digest string) (saga.Outcome, error) {
	other := digest != "" && o.Content != digest
	if other || o.Error != nil && o.Error.Code == saga.CodeSagaIDReused {
		return saga.Outcome{}, reused(o.SagaID)
	}
	return o, nil
}

// check refuses what no worker would take, and returns the write's JSON and its
// content's digest.
func check(w *saga.Write) (encoded json.RawMessage, digest string, err error) {
	if err := w.Validate(); err != nil {
		return nil, "", err
	}
	if w.Stream != nil {
		return nil, "", invalid("saga %s: stream is not for clients: only the stream of %s begins such a saga, when it is refused a row; write mutations", w.SagaID, w.Stream.Sink)
	}
	encoded, err = json.Marshal(w)
	if err != nil {
		return nil, "", invalid("saga %s: a column's value is not JSON: %s", w.SagaID, err)
	}
	if len(encoded) > saga.MaxWriteBytes {
		return nil, "", invalid("saga %s has %d bytes: at most %d are allowed; split it into several sagas", w.SagaID, len(encoded), saga.MaxWriteBytes)
	}
	return encoded, w.Digest(), nil
}

func (c *Client) start(ctx context.Context, w *saga.Write) sdkclient.StartWorkflowOptions {
	return sdkclient.StartWorkflowOptions{
		ID:        saga.WorkflowID(w.SagaID),
		TaskQueue: c.prefix.TaskQueue(),
		// One id is one saga: join it while it runs, read its result afterwards. A
		// workflow that ended without an outcome, as a terminated one, is begun anew:
		// its commit finds what the ledger has, and only what is missing is done.
		WorkflowIDConflictPolicy:                 enumspb.WORKFLOW_ID_CONFLICT_POLICY_USE_EXISTING,
		WorkflowIDReusePolicy:                    enumspb.WORKFLOW_ID_REUSE_POLICY_ALLOW_DUPLICATE_FAILED_ONLY,
		WorkflowExecutionErrorWhenAlreadyStarted: true,
		TypedSearchAttributes:                    temporal.NewSearchAttributes(attribute.Start(w)...),
		StaticSummary:                            saga.Brief(w.Summary()),
		Memo:                                     traceOf(ctx),
	}
}

// traceOf returns the context's trace, by W3C's names, or nil. It goes into the
// workflow's memo, from where the saga's Kafka records get it.
func traceOf(ctx context.Context) map[string]any {
	carrier := propagation.MapCarrier{}
	propagation.TraceContext{}.Inject(ctx, carrier)
	if len(carrier) == 0 {
		return nil
	}
	memo := map[string]any{}
	for name, value := range carrier {
		memo[name] = value
	}
	return memo
}

func wait(sagaID string, level Level, digest string) sdkclient.UpdateWorkflowOptions {
	return sdkclient.UpdateWorkflowOptions{
		UpdateID:     rand.Text(),
		WorkflowID:   saga.WorkflowID(sagaID),
		UpdateName:   string(level),
		Args:         []any{saga.WaitInput{Content: digest}},
		WaitForStage: sdkclient.WorkflowUpdateStageCompleted,
	}
}
