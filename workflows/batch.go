package workflows

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"time"

	enumspb "go.temporal.io/api/enums/v1"
	"go.temporal.io/sdk/temporal"
	"go.temporal.io/sdk/workflow"

	"github.com/capsaga/capsaga/activities"
	"github.com/capsaga/capsaga/internal/attribute"
	"github.com/capsaga/capsaga/saga"
)

// Batch is the workflow of many sagas at once, whose input is the JSON of a
// saga.Batch.
//
//	CommitBatch ──► UpdateRedisBatch ────────┐
//	    │       ├─► PublishKafka ────────────┼─► FinishBatch
//	    │       └─► IndexElasticsearchBatch ─┘
//	    ▼                     ▼
//	 saga/<id>             saga/<id>
//
// What fails of one write while its neighbours succeed is split off into the
// workflow of that saga alone, which retries, parks or compensates it. What fails of
// all is tried again here, patiently; and when that has taken as long as the writes'
// policies allow, all are split off. So a batch never parks, and a write's trouble
// holds up no other.
//
// It cannot be cancelled as a whole: its writes have callers of their own.
func Batch(ctx workflow.Context, input json.RawMessage) (saga.BatchOutcome, error) {
	request, err := saga.ParseBatch(input)
	if err != nil {
		return saga.BatchOutcome{}, temporal.NewNonRetryableApplicationError(err.Error(), saga.CodeInvalidWrite, nil)
	}
	b := newBatch(input, request)
	ctx, _ = workflow.NewDisconnectedContext(ctx)
	if err := b.setup(ctx); err != nil {
		return saga.BatchOutcome{}, err
	}
	return b.run(ctx)
}

// batch is one batch's state.
type batch struct {
	input   json.RawMessage
	request *saga.Batch
	writes  []activities.BatchWrite // without a Write: malformed
	refused map[int]saga.Outcome    // of the malformed
	began   time.Time

	status    saga.Status
	awaiting  int // callers that wait for the commit
	commit    saga.Step
	sinks     []*saga.Step
	pivot     activities.CommitBatchOutput
	splitting map[int]bool // writes that are, or will be, split off
	split     []int        // those that are
	why       map[int]saga.ErrorInfo
}

func newBatch(input json.RawMessage, request *saga.Batch) *batch {
	b := &batch{
		input: input, request: request, status: saga.Pending, refused: map[int]saga.Outcome{},
		commit:    saga.Step{Name: saga.StepCommit, State: saga.StepPending},
		splitting: map[int]bool{}, why: map[int]saga.ErrorInfo{},
	}
	var errs map[int]error
	b.writes, errs = activities.ParseWrites(request)
	for i, data := range request.Writes {
		if err := errs[i]; err != nil {
			b.refused[i] = malformed(data, err)
		}
	}
	return b
}

// entities returns the entities that the writes name.
func (b *batch) entities() []string {
	var names []string
	for _, w := range b.writes {
		if w.Write != nil {
			names = append(names, w.Write.Entities()...)
		}
	}
	slices.Sort(names)
	return slices.Compact(names)
}

func (b *batch) summary() string { return saga.BatchSummary(len(b.writes), b.entities()) }

// setup makes the batch ready to be asked and found.
func (b *batch) setup(ctx workflow.Context) error {
	b.began = workflow.Now(ctx)
	b.describe(ctx)
	err := workflow.SetQueryHandlerWithOptions(ctx, saga.QueryState, func() (saga.BatchOutcome, error) {
		return b.snapshot(), nil
	}, workflow.QueryHandlerOptions{Description: "The outcomes so far, in the order of the writes."})
	if err != nil {
		return err
	}
	for _, u := range []struct {
		name, description string
		reached           func() bool
	}{
		{saga.UpdateCommitted, "Waits until each write is committed, rejected or split off.", func() bool { return b.status != saga.Pending }},
		{saga.UpdateVisible, "Waits until each write is in all sinks, or split off.", func() bool { return b.status == saga.Completed }},
	} {
		err := workflow.SetUpdateHandlerWithOptions(ctx, u.name, func(ctx workflow.Context) (saga.BatchOutcome, error) {
			if u.name == saga.UpdateCommitted {
				b.awaiting++
				defer func() { b.awaiting-- }()
			}
			err := workflow.Await(ctx, u.reached)
			return b.snapshot(), err
		}, workflow.UpdateHandlerOptions{Description: u.description})
		if err != nil {
			return err
		}
	}
	if !workflow.GetTypedSearchAttributes(ctx).ContainsKey(attribute.Status) {
		return workflow.UpsertTypedSearchAttributes(ctx, attribute.StartBatch(b.entities())...)
	}
	return nil
}

// run is the story.
func (b *batch) run(ctx workflow.Context) (saga.BatchOutcome, error) {
	b.commitAll(ctx)
	b.splitOff(ctx)
	b.status = saga.Committed
	b.describe(ctx)
	b.deliver(ctx)
	b.finish(ctx)
	b.splitOff(ctx)
	b.status = saga.Completed
	b.describe(ctx)
	if err := workflow.UpsertTypedSearchAttributes(ctx, attribute.Status.ValueSet(string(b.status))); err != nil {
		return b.snapshot(), err
	}
	err := workflow.Await(ctx, func() bool { return workflow.AllHandlersFinished(ctx) })
	return b.snapshot(), err
}

// The bounds of the quick attempts of a batch, which does much more in each than a
// saga alone.
const (
	quickBatch   = 5 * time.Second
	quickBatchCP = 15 * time.Second
	// quickBatchAwaited is for a sink while a caller waits for the commit, whose answer
	// leaves with the end of the workflow task.
	quickBatchAwaited = 500 * time.Millisecond
	batchAttempt      = 30 * time.Second
)

// commitAll runs the pivot. Where PostgreSQL does not answer for as long as the
// writes' policies allow, each write goes on alone.
func (b *batch) commitAll(ctx workflow.Context) {
	began := workflow.Now(ctx)
	b.commit.State, b.commit.StartedAt = saga.StepRunning, began
	quick, patienceLeft := quickBatch, saga.DefaultParkAfter
	for _, w := range b.writes {
		if w.Write == nil {
			continue
		}
		patienceLeft = min(patienceLeft, w.Write.Policy.ParkAfterOrDefault())
		if w.Write.Consistency == saga.CP {
			quick = quickBatchCP
		}
	}
	in := activities.CommitBatchInput{Batch: b.input, Writes: b.writes}
	err := b.try(ctx, &b.commit, quick, patienceLeft, effects.CommitBatch, in, &b.pivot)
	b.commit.Duration = saga.Duration(workflow.Now(ctx).Sub(began))
	if err != nil || len(b.pivot.Writes) != len(b.writes) {
		b.pivot = activities.CommitBatchOutput{}
		b.pivot.Writes = make([]saga.BatchWrite, len(b.writes))
		e := failureOf(saga.StepCommit, err).Error
		for i, w := range b.writes {
			if w.Write != nil {
				b.giveUp(i, e)
			}
		}
	}
	for i, w := range b.writes {
		r := &b.pivot.Writes[i]
		switch {
		case w.Write == nil:
			o := b.refused[i]
			r.Outcome = &o
		case r.Outcome == nil && r.Transaction == 0:
			b.giveUp(i, saga.ErrorInfo{Message: "it cannot be committed beside the others, or is on its way already"})
		case r.Outcome != nil:
			r.Outcome.SagaID = w.Write.SagaID
		}
	}
}

// try makes a quick attempt, and then patient ones until one succeeds or the time is
// over.
func (b *batch) try(ctx workflow.Context, step *saga.Step, quick, patienceLeft time.Duration, effect, in, out any) error {
	began := workflow.Now(ctx)
	err := workflow.ExecuteLocalActivity(quickly(ctx, quick), effect, in).Get(ctx, out)
	step.Attempts++
	if err == nil {
		step.State = saga.StepDone
		return nil
	}
	f := failureOf(step.Name, err)
	step.State, step.Error = saga.StepRetrying, &f.Error
	b.describe(ctx)
	options := patience(batchAttempt, fmt.Sprintf("%s → %s", b.summary(), step.Name.System()))
	options.ScheduleToCloseTimeout = max(patienceLeft-workflow.Now(ctx).Sub(began), minPatience)
	err = workflow.ExecuteActivity(workflow.WithActivityOptions(ctx, options), effect, in).Get(ctx, out)
	if err == nil {
		step.State, step.Error = saga.StepDone, nil
	}
	return err
}

// deliver brings the committed rows to all sinks, side by side.
func (b *batch) deliver(ctx workflow.Context) {
	left := workflow.NewWaitGroup(ctx)
	for _, sink := range b.pivot.Order {
		step := &saga.Step{Name: saga.StepName(sink), State: saga.StepRunning, StartedAt: workflow.Now(ctx)}
		b.sinks = append(b.sinks, step)
		left.Add(1)
		workflow.Go(ctx, func(ctx workflow.Context) {
			defer left.Done()
			b.reach(ctx, sink, step)
			step.Duration = saga.Duration(workflow.Now(ctx).Sub(step.StartedAt))
		})
	}
	left.Wait(ctx)
}

// reach brings the rows to one sink.
func (b *batch) reach(ctx workflow.Context, sink saga.Sink, step *saga.Step) {
	rows := b.rows(sink)
	if len(rows) == 0 { // all of them were split off
		step.State = saga.StepDone
		return
	}
	var out activities.BatchSinkOutput
	var err error
	patienceLeft, quick := time.Duration(b.pivot.ParkAfter), quickBatch
	if b.awaiting > 0 {
		quick = quickBatchAwaited
	}
	switch sink {
	case saga.Kafka: // it waits for a position; rows would only fill the history
		err = b.try(ctx, step, quick, patienceLeft, effects.PublishKafka, activities.SinkInput{FlushLSN: b.pivot.FlushLSN}, &out)
	case saga.Redis:
		err = b.try(ctx, step, quick, patienceLeft, effects.UpdateRedisBatch, activities.BatchSinkInput{Rows: rows}, &out)
	case saga.Elasticsearch:
		err = b.try(ctx, step, quick, patienceLeft, effects.IndexElasticsearchBatch, activities.BatchSinkInput{Rows: rows}, &out)
	}
	if err != nil {
		e := failureOf(step.Name, err).Error
		for _, row := range rows {
			b.giveUp(row.At, e)
		}
	}
	for _, f := range out.Failed {
		b.giveUp(f.At, f.Error)
	}
}

// rows are those that go to the sink, in the order of the writes.
func (b *batch) rows(sink saga.Sink) []activities.BatchRow {
	var rows []activities.BatchRow
	for i, w := range b.writes {
		version := b.pivot.Committed(i)
		if version == 0 || b.splitting[i] {
			continue
		}
		for _, owned := range b.pivot.Owned(i) {
			if !slices.Contains(b.pivot.Sinks[owned.Entity], sink) {
				continue
			}
			if owned.Version == 0 {
				owned.Version = version
			}
			rows = append(rows, activities.BatchRow{At: i, SagaID: w.Write.SagaID, Owned: owned})
		}
	}
	return rows
}

// giveUp has a write split off.
func (b *batch) giveUp(i int, e saga.ErrorInfo) {
	if !b.splitting[i] {
		b.splitting[i], b.why[i] = true, e
	}
}

// finish has the ledger learn that the sagas have completed.
func (b *batch) finish(ctx workflow.Context) {
	if len(b.pivot.Transactions) == 0 && len(b.splitting) == 0 {
		return // nothing was committed here
	}
	in := activities.FinishBatchInput{Steps: b.steps(), Writes: b.writes, Table: &b.pivot.BatchTable}
	if len(b.splitting) > 0 { // the waiters of those have their answers elsewhere
		in.Table = nil
	}
	for i, w := range b.writes {
		if b.splitting[i] { // also one whose commit nobody has told of may have happened
			in.Alone = append(in.Alone, w.Write.SagaID)
		}
	}
	out := b.snapshot()
	out.Status = saga.Completed // as soon as this is told
	for _, i := range b.pivot.Single {
		if !b.splitting[i] {
			in.Completed = append(in.Completed, out.Outcome(i, b.writes[i].Write.SagaID, b.writes[i].Digest))
		}
	}
	if workflow.ExecuteLocalActivity(quickly(ctx, quickBatch), effects.FinishBatch, in).Get(ctx, nil) == nil {
		return
	}
	options := patience(batchAttempt, "record: "+b.summary())
	if err := workflow.ExecuteActivity(workflow.WithActivityOptions(ctx, options), effects.FinishBatch, in).Get(ctx, nil); err != nil {
		workflow.GetLogger(ctx).Error("the ledger refused the outcomes; the sagas themselves are not touched by that", "error", err)
	}
}

// splitsAtOnce bounds how many workflows are being started.
const splitsAtOnce = 20

// splitOff starts the workflows of the sagas that go on alone. One that is there
// already, from its caller or an operator, is as good.
func (b *batch) splitOff(ctx workflow.Context) {
	var open []int
	for i := range b.writes {
		if b.splitting[i] && !slices.Contains(b.split, i) {
			open = append(open, i)
		}
	}
	for chunk := range slices.Chunk(open, splitsAtOnce) {
		var starts []workflow.ChildWorkflowFuture
		for _, i := range chunk {
			starts = append(starts, b.startAlone(ctx, i))
		}
		for k, start := range starts {
			err := start.GetChildWorkflowExecution().Get(ctx, nil)
			if err != nil && !temporal.IsWorkflowExecutionAlreadyStartedError(err) {
				workflow.GetLogger(ctx).Error("a saga could not be split off: `capsaga replay` starts it", "saga_id", b.writes[chunk[k]].Write.SagaID, "error", err)
			}
			b.split = append(b.split, chunk[k])
		}
		b.describe(ctx)
	}
}

// startAlone starts the workflow of one saga, which outlives the batch.
func (b *batch) startAlone(ctx workflow.Context, i int) workflow.ChildWorkflowFuture {
	w := b.writes[i]
	memo := map[string]any{saga.MemoBegan: b.began}
	if w.TraceParent != "" {
		memo[saga.HeaderTraceParent] = w.TraceParent
	}
	if w.TraceState != "" {
		memo[saga.HeaderTraceState] = w.TraceState
	}
	options := workflow.ChildWorkflowOptions{
		WorkflowID:            saga.WorkflowID(w.Write.SagaID),
		WorkflowIDReusePolicy: enumspb.WORKFLOW_ID_REUSE_POLICY_ALLOW_DUPLICATE_FAILED_ONLY,
		ParentClosePolicy:     enumspb.PARENT_CLOSE_POLICY_ABANDON,
		TypedSearchAttributes: temporal.NewSearchAttributes(attribute.Start(w.Write)...),
		StaticSummary:         saga.Brief(w.Write.Summary()),
		Memo:                  memo,
	}
	return workflow.ExecuteChildWorkflow(workflow.WithChildOptions(ctx, options), saga.WorkflowSaga, b.request.Writes[i])
}

func (b *batch) steps() []saga.Step {
	steps := []saga.Step{b.commit}
	for _, s := range b.sinks {
		steps = append(steps, *s)
	}
	return steps
}

// snapshot is where the batch stands.
func (b *batch) snapshot() saga.BatchOutcome {
	return saga.BatchOutcome{Status: b.status, Steps: b.steps(), Split: b.split, BatchTable: b.pivot.BatchTable}
}

// splitsShown bounds how many of the sagas that were split off the details name.
const splitsShown = 20

// describe renews the details that the Temporal UI shows.
func (b *batch) describe(ctx workflow.Context) {
	var text strings.Builder
	fmt.Fprintf(&text, "**%s**\n\n%s", plain(b.summary()), b.status)
	counts := map[saga.Status]int{}
	for i := range b.pivot.Writes {
		switch r := &b.pivot.Writes[i]; {
		case b.splitting[i]:
		case r.Outcome != nil:
			counts[r.Outcome.Status]++
		case r.Transaction > 0:
			counts[b.status]++
		}
	}
	for _, status := range []saga.Status{saga.Completed, saga.Committed, saga.Pending, saga.RejectedEnd, saga.Failed, saga.Cancelled, saga.Compensated} {
		if counts[status] > 0 {
			fmt.Fprintf(&text, ", %d %s", counts[status], status)
		}
	}
	text.WriteString("\n\n| step | state | attempts | duration |\n|---|---|---|---|\n")
	for _, step := range b.steps() {
		fmt.Fprintf(&text, "| %s | %s | %d | %s |\n", step.Name, step.State, step.Attempts, time.Duration(step.Duration).Round(100*time.Microsecond))
	}
	for _, step := range b.steps() {
		if step.Error != nil && step.State == saga.StepRetrying {
			fmt.Fprintf(&text, "\n**%s** is retrying, %s: %s\n", step.Name, step.Error.Class, plain(step.Error.Message))
		}
	}
	if len(b.splitting) > 0 {
		fmt.Fprintf(&text, "\n%d go on alone:\n\n", len(b.splitting))
	}
	shown := 0
	for i := range b.writes {
		if !b.splitting[i] {
			continue
		}
		if shown++; shown > splitsShown {
			text.WriteString("- and more\n")
			break
		}
		fmt.Fprintf(&text, "- `%s`: %s\n", plain(saga.WorkflowID(b.writes[i].Write.SagaID)), plain(b.why[i].Message))
	}
	workflow.SetCurrentDetails(ctx, text.String())
}
