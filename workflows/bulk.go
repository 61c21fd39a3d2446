package workflows

import (
	"encoding/json"
	"fmt"
	"strconv"
	"strings"
	"time"

	"go.temporal.io/sdk/temporal"
	"go.temporal.io/sdk/workflow"

	"github.com/capsaga/capsaga/activities"
	"github.com/capsaga/capsaga/saga"
)

// bulkEffects names the activities of Bulk; it is never called.
var bulkEffects *activities.Bulk

const (
	// pagesPerRun keeps a run's history short: its worker may have to read all of
	// it again.
	pagesPerRun = 100
	// selectAttempt and pageAttempt bound an attempt to select and to work off a
	// page. A page whose sagas all run into their timeouts takes half of it.
	selectAttempt = 30 * time.Second
	pageAttempt   = 15 * time.Minute
	// itemsPerAnswer keeps an answer about the progress small.
	itemsPerAnswer = 1_000
)

// Bulk is the workflow of one request about many sagas. It selects them and deals
// with them page by page, and goes on as a new run when its history grows. A saga
// that fails or does not answer is named in the result and holds up no other.
// Cancelled, it stops between two sagas, with the result so far.
func Bulk(ctx workflow.Context, request saga.BulkRequest) (saga.BulkProgress, error) {
	if err := request.Validate(); err != nil {
		return saga.BulkProgress{}, temporal.NewNonRetryableApplicationError(err.Error(), saga.CodeInvalidWrite, nil)
	}
	b := &bulk{request: request}
	if err := b.setup(ctx); err != nil {
		return saga.BulkProgress{}, err
	}
	return b.run(ctx)
}

// bulk is one request's state.
type bulk struct {
	request saga.BulkRequest
	saga.BulkState
	selected             int
	itemBytes, failBytes int
	failures             int // that are named behind MaxBulkItems
}

// setup makes the request ready to be asked.
func (b *bulk) setup(ctx workflow.Context) error {
	if b.request.State != nil {
		b.BulkState, b.request.State = *b.request.State, nil
		b.selected = b.Progress.Done
		for i := range b.Progress.Items {
			b.count(&b.Progress.Items[i], i)
		}
	} else {
		b.Progress = saga.BulkProgress{Identity: b.request.Identity, StartedAt: workflow.Now(ctx), Total: max(b.request.Expected, len(b.request.IDs)), Items: []saga.BulkItem{}}
		// What comes to be parked from now on is for another request.
		if b.request.Filter.Before.IsZero() {
			b.request.Filter.Before = b.Progress.StartedAt
		}
	}
	b.describe(ctx)
	return workflow.SetQueryHandlerWithOptions(ctx, saga.QueryProgress, func(since int) (saga.BulkProgress, error) {
		return b.since(since), nil
	}, workflow.QueryHandlerOptions{Description: "How far the request has come; the argument is how many items you have already."})
}

// since returns the progress with the items from an index on.
func (b *bulk) since(index int) saga.BulkProgress {
	p := b.Progress
	from := min(max(index, 0), len(p.Items))
	p.Items = p.Items[from:min(len(p.Items), from+itemsPerAnswer)]
	return p
}

func (b *bulk) run(ctx workflow.Context) (saga.BulkProgress, error) {
	for pages := 0; ; pages++ {
		if pages >= pagesPerRun || workflow.GetInfo(ctx).GetContinueAsNewSuggested() {
			b.request.State = &b.BulkState
			return b.Progress, workflow.NewContinueAsNewError(ctx, Bulk, b.request)
		}
		page, err := b.next(ctx)
		if err == nil && len(page.IDs) > 0 {
			err = b.operate(ctx, page.IDs)
		}
		if ctx.Err() != nil {
			b.Progress.Cancelled = true
			b.describe(ctx)
			return b.Progress, nil
		}
		if err != nil {
			return b.Progress, err
		}
		if b.Cursor = page.Next; b.Cursor == "" {
			b.Progress.Finished, b.Progress.Total = true, b.Progress.Done
			b.describe(ctx)
			return b.Progress, nil
		}
		b.describe(ctx)
	}
}

// next selects a page.
func (b *bulk) next(ctx workflow.Context) (page activities.SelectOutput, err error) {
	if len(b.request.IDs) > 0 {
		return b.slice(), nil
	}
	options := patience(selectAttempt, "select sagas")
	options.WaitForCancellation = true
	in := activities.SelectInput{Filter: b.request.Filter, Cursor: b.Cursor}
	err = workflow.ExecuteActivity(workflow.WithActivityOptions(ctx, options), bulkEffects.SelectSagas, in).Get(ctx, &page)
	b.selected += len(page.IDs)
	b.Progress.Total = max(b.Progress.Total, b.selected)
	if page.Note != "" {
		b.Progress.Note = page.Note
	}
	return page, err
}

// slice returns the page of the ids at the cursor, an index.
func (b *bulk) slice() (page activities.SelectOutput) {
	from, _ := strconv.Atoi(b.Cursor) // empty at first; else our own
	to := min(from+activities.BulkPage, len(b.request.IDs))
	page.IDs = b.request.IDs[from:to]
	if to < len(b.request.IDs) {
		page.Next = strconv.Itoa(to)
	}
	return page
}

// operate deals with the sagas of a page.
func (b *bulk) operate(ctx workflow.Context, ids []string) error {
	options := patience(pageAttempt, fmt.Sprintf("%s %d sagas, %s and on", b.request.Operation.Action, len(ids), ids[0]))
	options.HeartbeatTimeout = activities.BulkHeartbeat
	options.WaitForCancellation = true // it tells what it has done
	name := b.request.Request
	if name == "" {
		name = workflow.GetInfo(ctx).FirstRunID
	}
	var out activities.OperateOutput
	in := activities.OperateInput{Request: name, Operation: b.request.Operation, IDs: ids}
	err := workflow.ExecuteActivity(workflow.WithActivityOptions(ctx, options), bulkEffects.OperateSagas, in).Get(ctx, &out)
	for _, item := range out.Items {
		b.add(item)
	}
	return err
}

// add takes over what became of a saga, and names it while there is room.
func (b *bulk) add(item saga.BulkItem) {
	b.Progress.Done++
	if item.Error != nil {
		b.Progress.Failed++
	}
	if !b.count(&item, len(b.Progress.Items)) {
		b.Progress.Unnamed++
		return
	}
	b.Progress.Items = append(b.Progress.Items, item)
}

// count makes room for the item that is to have an index, and reports whether
// there is some.
func (b *bulk) count(item *saga.BulkItem, index int) bool {
	encoded, err := json.Marshal(item)
	if err != nil {
		return false // its texts are always JSON
	}
	size := len(encoded)
	switch {
	case index < saga.MaxBulkItems && b.failures == 0 && b.itemBytes+size <= saga.MaxBulkItemBytes:
		b.itemBytes += size
		return true
	case item.Error != nil && b.failures < saga.MaxBulkFailures && b.failBytes+size <= saga.MaxBulkFailureBytes:
		b.failures++
		b.failBytes += size
		return true
	}
	return false
}

// describe renews the details that the Temporal UI shows.
func (b *bulk) describe(ctx workflow.Context) {
	workflow.SetCurrentDetails(ctx, bulkDetails(&b.request, &b.Progress))
}

func bulkDetails(r *saga.BulkRequest, p *saga.BulkProgress) string {
	var text strings.Builder
	fmt.Fprintf(&text, "**%s %s**\n\n%d of %d done, %d failed", r.Operation.Action, plain(selection(r)), p.Done, p.Total, p.Failed)
	switch {
	case p.Finished:
		text.WriteString("; finished")
	case p.Cancelled:
		text.WriteString("; cancelled")
	default:
		text.WriteString("\n\nTo stop it, cancel this workflow: it ends between two sagas.")
	}
	if p.Note != "" {
		fmt.Fprintf(&text, "\n\n%s", plain(p.Note))
	}
	if p.Failed > 0 {
		text.WriteString("\n\n| saga | failure |\n|---|---|\n")
	}
	shown := 0
	for i := range p.Items {
		if e := p.Items[i].Error; e != nil && shown < 10 {
			shown++
			fmt.Fprintf(&text, "| %s | %s |\n", plain(p.Items[i].SagaID), plain(e.Message))
		}
	}
	if p.Failed > shown {
		fmt.Fprintf(&text, "\n%d more failed.\n", p.Failed-shown)
	}
	return text.String()
}

// selection names in a few words what a request is about.
func selection(r *saga.BulkRequest) string {
	if len(r.IDs) > 0 {
		return fmt.Sprintf("%d sagas", len(r.IDs))
	}
	words := []string{"sagas"}
	for _, status := range r.Filter.Statuses {
		words = append(words, string(status))
	}
	if r.Filter.Stopped {
		words = append(words, "without a running workflow")
	}
	if r.Filter.BlockedOn != "" {
		words = append(words, "blocked on "+r.Filter.BlockedOn)
	}
	if r.Filter.Entity != "" {
		words = append(words, "of "+r.Filter.Entity)
	}
	if r.Filter.ErrorClass != "" {
		words = append(words, "error class "+string(r.Filter.ErrorClass))
	}
	return strings.Join(words, " ")
}
