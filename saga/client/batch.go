package client

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"slices"
	"sync"
	"time"

	enumspb "go.temporal.io/api/enums/v1"
	sdkclient "go.temporal.io/sdk/client"
	"go.temporal.io/sdk/temporal"

	"github.com/capsaga/capsaga/internal/attribute"
	"github.com/capsaga/capsaga/saga"
)

// Result is the answer to one write of a batch, as Write would give it. Beside an
// error, which says why the wait has ended, the outcome is as far as it is known.
type Result struct {
	Outcome saga.Outcome
	Err     error
}

// WriteBatch writes many sagas, many in one workflow, and waits until each has come
// to the level. The results are in the order of the writes, and each is as Write's:
// what becomes of one write says nothing of the others. Writes of one row are
// committed in their order, but for one that the database cannot settle at once: it
// goes on as a saga of its own, and may be overtaken. So does a write with steps of a
// service's own.
//
// The call may be repeated, whole or in part, as often as you like: a saga id is
// written once.
func (c *Client) WriteBatch(ctx context.Context, writes []saga.Write, level Level) []Result {
	results := make([]Result, len(writes))
	var items []*item
	var places []int
	var alone sync.WaitGroup
	for i := range writes {
		w := &writes[i]
		it, err := newItem(ctx, w, level)
		switch {
		case err != nil:
			results[i].Err = err
		case !it.groups():
			alone.Go(func() { results[i].Outcome, results[i].Err = c.writeAlone(ctx, it) })
		default:
			items, places = append(items, it), append(places, i)
		}
	}
	for _, chunk := range chunks(items, c.options.MaxWrites, c.options.MaxBytes) {
		c.fly(ctx, chunk)
	}
	for k, it := range items {
		results[places[k]] = it.wait(ctx, c)
	}
	alone.Wait()
	return results
}

// item is one write on its way in a batch.
type item struct {
	ctx     context.Context //nolint:containedctx // its caller's, for what is done for it alone
	sagaID  string
	write   *saga.Write // its caller's, until the flight owns one
	encoded json.RawMessage
	names   []string // of its entities
	digest  string
	level   Level
	trace   saga.Trace
	done    chan Result    // takes one
	told    bool           // of the flight alone
	left    func()         // tells the flight that the caller has left
	begun   sync.WaitGroup // of the start of its own workflow
}

// maxTraceBytes keeps the traces of a batch small beside its writes.
const maxTraceBytes = 600

func newItem(ctx context.Context, w *saga.Write, level Level) (*item, error) {
	encoded, digest, err := check(w)
	if err != nil {
		return nil, err
	}
	trace := traceOf(ctx)
	parent, _ := trace[saga.HeaderTraceParent].(string)
	state, _ := trace[saga.HeaderTraceState].(string)
	if len(parent)+len(state) > maxTraceBytes {
		parent, state = "", "" // the worker would leave it out as well
	}
	return &item{
		ctx: ctx, sagaID: w.SagaID, write: w, encoded: encoded, digest: digest, level: level, names: w.Entities(),
		trace: saga.Trace{Parent: parent, State: state}, done: make(chan Result, 1),
	}, nil
}

// groups reports whether the write may share a workflow: steps of a service's own
// are told in that of its saga.
func (it *item) groups() bool { return len(it.write.BeforeSteps)+len(it.write.AfterSteps) == 0 }

// own gives the item's flight a write that its caller, who may leave, cannot change.
func (it *item) own() *item {
	if w, err := saga.ParseWrite(it.encoded); err == nil { // it encodes a valid one
		it.write = w
	}
	return it
}

func (it *item) tell(r Result) {
	if !it.told {
		it.told = true
		it.done <- r
	}
}

// wait returns the answer, or that the caller has left: the write goes on.
func (it *item) wait(ctx context.Context, c *Client) Result {
	select {
	case r := <-it.done:
		return r
	case <-ctx.Done():
	}
	// What the flight knows comes a moment later.
	late := time.NewTimer(2 * stateTimeout)
	defer late.Stop()
	select {
	case r := <-it.done:
		return r
	case <-late.C:
		return Result{Err: c.unfinished(it.sagaID, ctx.Err())}
	}
}

// chunks deals the items out, in order, into batches within the limits.
func chunks(items []*item, maxWrites, maxBytes int) [][]*item {
	var all [][]*item
	from, size := 0, 0
	for i, it := range items {
		if i > from && (i-from == maxWrites || size+len(it.encoded) > maxBytes) {
			all = append(all, items[from:i])
			from, size = i, 0
		}
		size += len(it.encoded)
	}
	if from < len(items) {
		all = append(all, items[from:])
	}
	return all
}

// fly starts the workflow of a batch and tells each item its answer. It returns when
// the workflow has ended, or when nothing more can be learned of it; items that were
// split off are waited for besides.
func (c *Client) fly(ctx context.Context, items []*item) {
	f := &flight{client: c, items: items, byID: map[string][]*item{}, ended: map[string]bool{}}
	batch := saga.Batch{}
	var entities []string
	for _, it := range items {
		f.byID[it.sagaID] = append(f.byID[it.sagaID], it)
		batch.Writes = append(batch.Writes, it.encoded)
		entities = append(entities, it.names...)
		if it.trace != (saga.Trace{}) && batch.Traces == nil {
			batch.Traces = make([]saga.Trace, 0, len(items))
		}
	}
	if batch.Traces != nil {
		for _, it := range items {
			batch.Traces = append(batch.Traces, it.trace)
		}
	}
	slices.Sort(entities)
	options := c.startBatch(slices.Compact(entities), len(items))
	f.id = options.ID
	if c.notifier != nil {
		f.here(ctx, options, batch)
		return
	}
	f.there(ctx, options, batch)
}

func (c *Client) startBatch(entities []string, writes int) sdkclient.StartWorkflowOptions {
	return sdkclient.StartWorkflowOptions{
		ID:                       saga.BatchID(rand.Text()),
		TaskQueue:                c.prefix.TaskQueue(),
		WorkflowIDConflictPolicy: enumspb.WORKFLOW_ID_CONFLICT_POLICY_USE_EXISTING,
		WorkflowIDReusePolicy:    enumspb.WORKFLOW_ID_REUSE_POLICY_REJECT_DUPLICATE,
		TypedSearchAttributes:    temporal.NewSearchAttributes(attribute.StartBatch(entities)...),
		StaticSummary:            saga.Brief(saga.BatchSummary(writes, entities)),
	}
}

// flight is one batch under way.
type flight struct {
	client *Client
	id     string // of its workflow
	items  []*item
	byID   map[string][]*item
	ended  map[string]bool // sagas that have ended in the batch
}

// here runs the batch in this process, whose worker tells of each saga as it goes.
func (f *flight) here(ctx context.Context, options sdkclient.StartWorkflowOptions, batch saga.Batch) {
	ids := make([]string, 0, len(f.byID))
	for id := range f.byID {
		ids = append(ids, id)
	}
	outcomes, cancel := f.client.notifier.SubscribeAll(ids)
	defer cancel()
	options.EnableEagerStart = true
	run, err := f.client.temporal.ExecuteWorkflow(ctx, options, saga.WorkflowBatch, batch)
	if err != nil {
		f.fail(ctx, err)
		return
	}
	end := make(chan Result, 1)
	var out saga.BatchOutcome
	ask := sync.OnceFunc(func() {
		go func() { end <- Result{Err: run.Get(ctx, &out)} }()
	})
	began, first := time.Now(), true
	quiet := time.NewTimer(max(notificationGrace, 2*time.Duration(f.client.firstNews.Load())))
	defer quiet.Stop()
	for {
		select {
		case o := <-outcomes:
			if first {
				first = false
				f.client.firstNews.Store(int64(min(time.Since(began), quietTime)))
			}
			quiet.Reset(quietTime)
			if o.Status == saga.Pending { // it is split off, and the result tells when
				ask()
			}
			if f.hear(o) {
				return
			}
		case <-quiet.C:
			ask()
		case r := <-end:
			f.land(ctx, &out, r.Err)
			return
		}
	}
}

// quietTime is how long a flight in this process hears nothing more before it asks
// Temporal for the batch's result, which costs a few percent of its CPU. If it has heard
// nothing at all, as when another worker runs it, it waits for twice the time in which
// it had heard of the last one.
const quietTime = 500 * time.Millisecond

// hear tells those who wait for that much, and reports whether the batch has come to
// its end and nobody waits any more.
func (f *flight) hear(o saga.Outcome) (over bool) {
	for _, it := range f.byID[o.SagaID] {
		if o.Content == it.digest && it.level.reached(&o) {
			it.tell(answered(o, it.digest))
		}
	}
	if o.Status.Final() {
		f.ended[o.SagaID] = true
	}
	return len(f.ended) == len(f.byID) && !slices.ContainsFunc(f.items, func(it *item) bool { return !it.told })
}

// there runs the batch in another process. The answer to who waits for the commit
// comes with an update; all others read the workflow's result.
func (f *flight) there(ctx context.Context, options sdkclient.StartWorkflowOptions, batch saga.Batch) {
	c := f.client
	var out saga.BatchOutcome
	if slices.ContainsFunc(f.items, func(it *item) bool { return it.level == WaitCommitted }) {
		update := sdkclient.UpdateWorkflowOptions{
			UpdateID: rand.Text(), WorkflowID: options.ID, UpdateName: saga.UpdateCommitted,
			WaitForStage: sdkclient.WorkflowUpdateStageCompleted,
		}
		committed, err := persist[saga.BatchOutcome](ctx, func(ctx context.Context) (sdkclient.WorkflowUpdateHandle, error) {
			return c.temporal.UpdateWithStartWorkflow(ctx, sdkclient.UpdateWithStartWorkflowOptions{
				StartWorkflowOperation: c.temporal.NewWithStartWorkflowOperation(options, saga.WorkflowBatch, batch),
				UpdateOptions:          update,
			})
		})
		if err != nil && !closedBefore(err) {
			f.fail(ctx, err)
			return
		}
		if err == nil {
			f.tellCommitted(&committed)
		}
		if !slices.ContainsFunc(f.items, func(it *item) bool { return !it.told }) {
			return
		}
	} else if _, err := c.temporal.ExecuteWorkflow(ctx, options, saga.WorkflowBatch, batch); err != nil {
		f.fail(ctx, err)
		return
	}
	err := c.temporal.GetWorkflow(ctx, options.ID, "").Get(ctx, &out)
	f.land(ctx, &out, err)
}

// tellCommitted answers those who wait for no more than the commit.
func (f *flight) tellCommitted(out *saga.BatchOutcome) {
	split := splitOf(out)
	for i, it := range f.items {
		if split[i] {
			f.follow(it)
			continue
		}
		if o := out.Outcome(i, it.sagaID, it.digest); it.level.reached(&o) {
			it.tell(answered(o, it.digest))
		}
	}
}

// land answers all who are still waiting with what the batch has come to.
func (f *flight) land(ctx context.Context, out *saga.BatchOutcome, err error) {
	if err != nil {
		f.fail(ctx, err)
		return
	}
	split := splitOf(out)
	for i, it := range f.items {
		if it.told {
			continue
		}
		o := out.Outcome(i, it.sagaID, it.digest)
		if split[i] || o.Status == saga.Pending {
			f.follow(it)
			continue
		}
		it.tell(answered(o, it.digest))
	}
}

func splitOf(out *saga.BatchOutcome) map[int]bool {
	split := make(map[int]bool, len(out.Split))
	for _, i := range out.Split {
		split[i] = true
	}
	return split
}

func answered(o saga.Outcome, digest string) Result {
	o, err := settled(o, digest)
	if err != nil {
		o = saga.Outcome{}
	}
	return Result{Outcome: o, Err: err}
}

// follow waits for a saga that was split off, besides the flight.
func (f *flight) follow(it *item) {
	if it.told {
		return
	}
	it.told = true
	go func() {
		o, err := f.client.wait(it.ctx, it.sagaID, it.digest, it.level)
		it.done <- Result{Outcome: o, Err: err}
	}()
}

// stateTimeout bounds the question how far a batch is whose end nobody waits for any
// more.
const stateTimeout = 2 * time.Second

// fail tells all who are still waiting that the batch's end is not known, and how far
// it is, if its workflow answers.
func (f *flight) fail(ctx context.Context, err error) {
	out, _ := f.state(ctx)
	for i, it := range f.items {
		if it.told {
			continue
		}
		r := Result{Err: f.client.failed(ctx, it.sagaID, err)}
		if o := out.Outcome(i, it.sagaID, it.digest); o.Version != 0 && saga.ClassOf(r.Err) != saga.Rejected {
			r.Outcome = o
		}
		it.tell(r)
	}
}

func (f *flight) state(ctx context.Context) (out saga.BatchOutcome, err error) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), stateTimeout)
	defer cancel()
	value, err := f.client.temporal.QueryWorkflow(ctx, f.id, "", saga.QueryState)
	if err == nil {
		err = value.Get(&out)
	}
	return out, err
}
