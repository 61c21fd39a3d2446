package activities

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"go.temporal.io/sdk/activity"
	"go.temporal.io/sdk/temporal"

	"github.com/capsaga/capsaga/saga"
)

// Finder selects sagas.
type Finder interface {
	// Find returns sagas that a filter selects, behind a cursor, which is empty at
	// first and at the end. Over all pages each saga comes once.
	Find(ctx context.Context, f saga.Filter, cursor string, limit int) (Found, error)
}

// Found is one page of a selection.
type Found struct {
	IDs  []string
	Next string
	Note string // what could not be looked at
}

// Operator does an operation on one saga. Its request id gives it one effect.
type Operator interface {
	Operate(ctx context.Context, sagaID, request string, op saga.Operation) (saga.Answer, error)
	Status(ctx context.Context, sagaID string) (saga.Outcome, error)
}

// BulkDependencies are what the activities of Bulk work with.
type BulkDependencies struct {
	Catalog  *saga.Catalog
	Finder   Finder
	Operator Operator
	// ItemTimeout bounds the wait for one saga; default DefaultItemTimeout. What
	// was asked of it goes on.
	ItemTimeout time.Duration
}

// The bounds of a page, which is one activity.
const (
	// DefaultItemTimeout keeps a saga that does not answer from holding up the
	// others.
	DefaultItemTimeout = 30 * time.Second
	// BulkPage is how many sagas one activity deals with, and bulkConcurrency how
	// many at once: an operator's request must not crowd out new sagas.
	BulkPage        = 50
	bulkConcurrency = 8
	// BulkHeartbeat is after how long without a sign another worker takes a page
	// over.
	BulkHeartbeat = 10 * time.Second
	// incompleteAfter is from which attempt on a selection is taken that one of
	// the two systems did not answer for: a hiccup must not narrow it.
	incompleteAfter = 8
	// maxItemMessage keeps a page's result small.
	maxItemMessage = 300
)

// Bulk is the activities of a request about many sagas. All its exported methods
// are activities.
type Bulk struct {
	deps BulkDependencies
}

// NewBulk returns the activities.
func NewBulk(d BulkDependencies) *Bulk {
	if d.ItemTimeout == 0 {
		d.ItemTimeout = DefaultItemTimeout
	}
	return &Bulk{deps: d}
}

// SelectInput is the input of SelectSagas.
type SelectInput struct {
	Filter saga.Filter `json:"filter"`
	Cursor string      `json:"cursor,omitempty"`
}

// SelectOutput is the result of SelectSagas. It is kept in the history, so that a
// page that is tried again has the same sagas, though some of them have left the
// selection by then.
type SelectOutput struct {
	IDs  []string `json:"ids"`
	Next string   `json:"next,omitempty"` // empty: there are no more
	Note string   `json:"note,omitempty"`
}

// SelectSagas returns the next page of a selection. It changes nothing.
func (b *Bulk) SelectSagas(ctx context.Context, in SelectInput) (SelectOutput, error) {
	bounded, cancel := beforeDeadline(ctx)
	defer cancel()
	attempt := int(activity.GetInfo(ctx).Attempt)
	found, err := b.deps.Finder.Find(bounded, in.Filter, in.Cursor, BulkPage)
	if err == nil && found.Note != "" && attempt < incompleteAfter {
		err = errors.New(found.Note)
	}
	if err != nil {
		return SelectOutput{}, failure("select", err, attempt, jittered(delay(attempt)))
	}
	return SelectOutput(found), nil
}

// OperateInput is the input of OperateSagas.
type OperateInput struct {
	Request   string         `json:"request"`
	Operation saga.Operation `json:"operation"`
	IDs       []string       `json:"ids"`
}

// OperateOutput is the result of OperateSagas. It lacks those sagas that were not
// begun when the request was cancelled.
type OperateOutput struct {
	Items []saga.BulkItem `json:"items"`
}

// OperateSagas does the operation on each saga of a page. It is idempotent by the
// request and the saga's id, and what its heartbeats told is not done again at
// all.
func (b *Bulk) OperateSagas(ctx context.Context, in OperateInput) (OperateOutput, error) {
	p := &page{bulk: b, in: in, items: make([]*saga.BulkItem, len(in.IDs))}
	p.resume(ctx)
	beats, stop := context.WithCancel(ctx)
	defer stop()
	go p.beat(beats)
	err := p.run(ctx)
	return OperateOutput{Items: p.finished()}, err
}

// page is one run of OperateSagas.
type page struct {
	bulk *Bulk
	in   OperateInput

	mu    sync.Mutex
	items []*saga.BulkItem // by the index of their ids; nil: not done yet
}

// resume takes over what an attempt before told.
func (p *page) resume(ctx context.Context) {
	var told []saga.BulkItem
	if !activity.HasHeartbeatDetails(ctx) || activity.GetHeartbeatDetails(ctx, &told) != nil {
		return
	}
	done := map[string]saga.BulkItem{}
	for _, item := range told {
		done[item.SagaID] = item
	}
	for i, id := range p.in.IDs {
		if item, ok := done[id]; ok {
			p.items[i] = &item
		}
	}
}

// beat shows that the page is at work while its sagas take their time.
func (p *page) beat(ctx context.Context) {
	tick := time.NewTicker(BulkHeartbeat / 4)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
			activity.RecordHeartbeat(ctx, p.finished())
		}
	}
}

// finished returns what is done, in the order of the ids.
func (p *page) finished() []saga.BulkItem {
	p.mu.Lock()
	defer p.mu.Unlock()
	items := make([]saga.BulkItem, 0, len(p.items))
	for _, item := range p.items {
		if item != nil {
			items = append(items, *item)
		}
	}
	return items
}

// run deals with the sagas that are left, some at once. Cancelled, or with the
// worker about to stop, it begins no more and finishes those under way.
func (p *page) run(ctx context.Context) error {
	var left []int
	for i, item := range p.items {
		if item == nil {
			left = append(left, i)
		}
	}
	next := make(chan int)
	var group sync.WaitGroup
	for range min(bulkConcurrency, len(left)) {
		group.Go(func() {
			for i := range next {
				item := p.bulk.operate(ctx, p.in, p.in.IDs[i])
				p.mu.Lock()
				p.items[i] = &item
				p.mu.Unlock()
				activity.RecordHeartbeat(ctx, p.finished())
			}
		})
	}
	err := feed(ctx, left, next)
	close(next)
	group.Wait()
	return err
}

// feed hands out the sagas; only a worker that stops is an error, as another has
// to go on.
func feed(ctx context.Context, left []int, next chan<- int) error {
	stopping := activity.GetWorkerStopChannel(ctx)
	for _, i := range left {
		// An idle worker must not win against the end.
		select {
		case <-stopping:
			return errStopping
		case <-ctx.Done():
			return nil
		default:
		}
		select {
		case next <- i:
		case <-stopping:
			return errStopping
		case <-ctx.Done():
			return nil
		}
	}
	return nil
}

var errStopping = temporal.NewApplicationError("the worker stops: another one goes on behind what is done", "stopping")

// operate deals with one saga, whatever becomes of it.
func (b *Bulk) operate(ctx context.Context, in OperateInput, sagaID string) saga.BulkItem {
	// Begun, it is finished, also when the request is cancelled meanwhile.
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), b.deps.ItemTimeout)
	defer cancel()
	item := saga.BulkItem{SagaID: sagaID}
	answer, err := b.answer(ctx, in, sagaID)
	item.Did, item.Status, item.Note = answer.Did, answer.Status, answer.Note
	switch {
	case err != nil && ctx.Err() != nil:
		item.Did, item.Error = "", &saga.ErrorInfo{Code: saga.CodeStillRunning, Class: saga.Ambiguous, System: "capsaga",
			Message: fmt.Sprintf("not answered within %s; what was asked for stands and goes on", b.deps.ItemTimeout)}
	case err != nil:
		e := errorInfo(saga.StepName(in.Operation.Action), err)
		item.Did, item.Error = "", &e
	case answer.Status == saga.Parked && in.Operation.Action != saga.ActionSkip:
		item.Error = parkedOn(&answer.Outcome)
	}
	if item.Error != nil {
		item.Error.Message = shortened(item.Error.Message, maxItemMessage)
	}
	return item
}

// answer asks, again and again while a system that it needs is away.
func (b *Bulk) answer(ctx context.Context, in OperateInput, sagaID string) (saga.Answer, error) {
	attempt := 0
	for {
		attempt++
		answer, err := b.ask(ctx, in, sagaID)
		if err == nil || saga.ClassOf(err) != saga.Unavailable {
			return answer, err
		}
		select {
		case <-ctx.Done():
			return answer, err
		case <-time.After(jittered(delay(attempt))):
		}
	}
}

func (b *Bulk) ask(ctx context.Context, in OperateInput, sagaID string) (saga.Answer, error) {
	op := in.Operation
	if len(op.Set) > 0 {
		o, err := b.deps.Operator.Status(ctx, sagaID)
		if err != nil {
			return saga.Answer{}, err
		}
		patch, err := b.deps.Catalog.RowPatch(&o, op.Row, op.Set)
		if err != nil {
			return saga.Answer{}, err
		}
		op.Mutations, op.Set, op.Row = []saga.Mutation{patch}, nil, ""
	}
	return b.deps.Operator.Operate(ctx, sagaID, in.Request+"/"+sagaID, op)
}

// parkedOn says why a saga is parked, though it was dealt with.
func parkedOn(o *saga.Outcome) *saga.ErrorInfo {
	e := saga.ErrorInfo{Code: saga.CodeRejected, System: "capsaga", Message: "it is parked again"}
	if o.Error != nil {
		e = *o.Error
	}
	return &e
}

// shortened cuts a text to at most n bytes, between two characters.
func shortened(text string, n int) string {
	if len(text) <= n {
		return text
	}
	const ellipsis = "…"
	cut := 0
	for i := range text {
		if i > n-len(ellipsis) {
			break
		}
		cut = i
	}
	return text[:cut] + ellipsis
}
