// Package gather lets the documents of concurrent calls to a sink travel in one
// request: a pipeline of Redis, a bulk request of Elasticsearch. A call that comes
// while few requests are under way goes at once, by itself, so a lone caller waits for
// nothing. What comes while they are under way waits and goes together as soon as one
// of them has ended; there is no timer for it. Callers block meanwhile, which is all
// the back-pressure there is to it: nothing is held whose caller has gone.
//
// It holds nothing durable. After a crash, or for a caller who left while a request
// was under way, any of the documents may have been applied. They are to be sent
// again, which is safe as the sinks compare versions.
//
// It does not retry, with one exception: where a request of several callers is
// rejected as a whole, each makes its own, since one caller's document must not be
// the end of another's. It does not merge documents of a row, and it keeps order
// among one caller's documents only. One caller whose documents make requests fail
// in another way than by a rejection fails those who travel along, and they may try
// again.
package gather

import (
	"container/list"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/capsaga/capsaga/saga"
)

// Applier sets documents where they are newer; the answer has an entry per document.
type Applier interface {
	Apply(ctx context.Context, docs []saga.Document) ([]saga.Applied, error)
}

// Limits bound the requests. Those of zero have the default.
type Limits struct {
	// Requests is how many are under way before calls wait; default 2.
	Requests int
	// Documents bounds one request of several calls; default 1,000.
	Documents int
	// Bytes bounds the keys and rows of one request of several calls; default 4 MiB.
	Bytes int
	// ByEntity lets only documents of the same entities travel together, and counts
	// the requests of each on their own: for a sink where one entity's can hang while
	// others' do not.
	ByEntity bool
}

// The defaults of Limits.
const (
	DefaultRequests  = 2
	DefaultDocuments = 1000
	DefaultBytes     = 4 << 20
)

// overdue is how long a request may take before it does not count among those under
// way any more. Of connections that hang, two would else hold up all calls until their
// deadlines, though a new connection may well be answered.
const overdue = 500 * time.Millisecond

// Sink gathers the calls to another sink. It is safe for concurrent use.
type Sink struct {
	system string
	sink   Applier
	limits Limits

	mu    sync.Mutex
	lanes map[string]*lane // those with anything in them
}

// New returns a sink that passes calls on to the one given, gathered. The system is
// its name in errors.
func New(system string, sink Applier, limits Limits) *Sink {
	if limits.Requests <= 0 {
		limits.Requests = DefaultRequests
	}
	if limits.Documents <= 0 {
		limits.Documents = DefaultDocuments
	}
	if limits.Bytes <= 0 {
		limits.Bytes = DefaultBytes
	}
	return &Sink{system: system, sink: sink, limits: limits, lanes: map[string]*lane{}}
}

// lane is the calls that may travel together.
type lane struct {
	name     string
	waiting  list.List // of *call
	underWay map[*request]struct{}
}

// busy returns how many requests are under way that are not overdue.
func (l *lane) busy(now time.Time) (n int) {
	for r := range l.underWay {
		if now.Sub(r.began) < overdue {
			n++
		}
	}
	return n
}

// call is one Apply.
type call struct {
	docs     []saga.Document
	bytes    int
	deadline time.Time // zero: none

	place   *list.Element // among those that wait; nil from its departure on
	request *request      // that it departed with

	done chan struct{} // closed when there is a result:
	result
}

// result is what became of a call.
type result struct {
	applied []saga.Applied
	err     error
	alone   bool // there is none: the call has to be made by itself
}

// request is what goes to the sink at once.
type request struct {
	calls  []*call
	docs   []saga.Document
	began  time.Time
	left   int // callers who have gone
	cancel context.CancelFunc
}

// Apply passes the documents on and returns what became of each, in their order.
// When ctx ends first, it returns at once with an error that wraps ctx's, while the
// request goes on for those who share it; the rows must therefore not be changed even
// after it has returned. A request that fails as a whole fails with the same error for
// all who share it.
func (s *Sink) Apply(ctx context.Context, docs []saga.Document) ([]saga.Applied, error) {
	if len(docs) == 0 {
		return nil, nil
	}
	c := &call{docs: docs, done: make(chan struct{})}
	c.deadline, _ = ctx.Deadline()
	for i := range docs {
		c.bytes += len(docs[i].Key) + len(docs[i].Row)
	}
	if err := ctx.Err(); err != nil {
		return nil, s.notSent(c, err)
	}
	l := s.join(c)
	look := time.NewTicker(overdue)
	defer look.Stop()
	for {
		select {
		case <-c.done:
			if c.alone {
				return s.sink.Apply(ctx, docs)
			}
			return c.applied, c.err
		case <-ctx.Done():
			return nil, s.leave(l, c, ctx.Err())
		case <-look.C:
			s.mu.Lock()
			s.depart(l)
			s.mu.Unlock()
		}
	}
}

// join puts the call behind those that wait, or on its way.
func (s *Sink) join(c *call) *lane {
	name := ""
	if s.limits.ByEntity {
		name = entities(c.docs)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	l := s.lanes[name]
	if l == nil {
		l = &lane{name: name, underWay: map[*request]struct{}{}}
		s.lanes[name] = l
	}
	c.place = l.waiting.PushBack(c)
	s.depart(l)
	return l
}

// entities returns the names of the documents' entities as one text.
func entities(docs []saga.Document) string {
	names := []string{docs[0].Entity}
	for i := range docs {
		if name := docs[i].Entity; name != names[0] && !slices.Contains(names, name) {
			names = append(names, name)
		}
	}
	slices.Sort(names)
	return strings.Join(names, " ")
}

// depart sends what waits for as long as there is room; s.mu is held.
func (s *Sink) depart(l *lane) {
	for now := time.Now(); l.waiting.Len() > 0 && l.busy(now) < s.limits.Requests; {
		r, ctx := s.load(l, now)
		l.underWay[r] = struct{}{}
		go s.run(ctx, l, r)
	}
}

// load takes the calls that fit in one request, at least one, off those that wait. Its
// deadline is the latest of theirs.
func (s *Sink) load(l *lane, now time.Time) (*request, context.Context) {
	r := &request{began: now}
	docs, bytes := 0, 0
	latest, endless := time.Time{}, false
	for e := l.waiting.Front(); e != nil; e = l.waiting.Front() {
		c := e.Value.(*call) //nolint:forcetypeassert // nothing else is in the list
		docs += len(c.docs)
		bytes += c.bytes
		if len(r.calls) > 0 && (docs > s.limits.Documents || bytes > s.limits.Bytes) {
			break
		}
		l.waiting.Remove(e)
		c.place, c.request = nil, r
		r.calls = append(r.calls, c)
		endless = endless || c.deadline.IsZero()
		if c.deadline.After(latest) {
			latest = c.deadline
		}
	}
	if r.docs = r.calls[0].docs; len(r.calls) > 1 {
		r.docs = make([]saga.Document, 0, docs)
		for _, c := range r.calls {
			r.docs = append(r.docs, c.docs...)
		}
	}
	ctx := context.Background()
	if endless {
		ctx, r.cancel = context.WithCancel(ctx)
	} else {
		ctx, r.cancel = context.WithDeadline(ctx, latest)
	}
	return r, ctx
}

// run makes the request, lets what waits follow, and deals out the results.
func (s *Sink) run(ctx context.Context, l *lane, r *request) {
	applied, sent, err := s.send(ctx, r.docs)
	r.cancel()
	s.mu.Lock()
	delete(l.underWay, r)
	s.depart(l)
	if len(l.underWay) == 0 && l.waiting.Len() == 0 {
		delete(s.lanes, l.name)
	}
	s.mu.Unlock()
	alone := !sent || len(r.calls) > 1 && err != nil && saga.ClassOf(err) == saga.Rejected
	for _, c := range r.calls {
		c.result = result{err: err, alone: alone}
		if n := len(c.docs); err == nil && sent {
			c.applied, applied = applied[:n:n], applied[n:]
		}
		close(c.done)
	}
}

// send makes one request. A panic is left to the callers: who makes the call alone
// has it in a goroutine where it is expected.
func (s *Sink) send(ctx context.Context, docs []saga.Document) (applied []saga.Applied, sent bool, err error) {
	defer func() { sent = recover() == nil }()
	applied, err = s.sink.Apply(ctx, docs)
	if err == nil && len(applied) != len(docs) {
		err = fmt.Errorf("%s: %d results for %d documents", s.system, len(applied), len(docs))
	}
	return applied, true, err
}

// leave takes a call back whose context has ended. A request that nobody waits for
// any more is cancelled.
func (s *Sink) leave(l *lane, c *call, why error) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if c.place != nil {
		l.waiting.Remove(c.place)
		return s.notSent(c, why)
	}
	if c.request.left++; c.request.left == len(c.request.calls) {
		c.request.cancel()
	}
	return &saga.Error{
		Class: saga.Ambiguous, System: s.system, Code: saga.CodeUnavailable, Err: why,
		Message: fmt.Sprintf("apply %d documents: no answer before %s, it may have been done", len(c.docs), event(why)),
	}
}

// notSent is the error of a caller whose context ended before anything was sent.
func (s *Sink) notSent(c *call, why error) error {
	return &saga.Error{
		Class: saga.Unavailable, System: s.system, Code: saga.CodeUnavailable, Err: why,
		Message: fmt.Sprintf("apply %d documents: not sent before %s", len(c.docs), event(why)),
	}
}

func event(why error) string {
	if errors.Is(why, context.DeadlineExceeded) {
		return "the deadline"
	}
	return "the caller gave up"
}
