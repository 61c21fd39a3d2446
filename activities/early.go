package activities

import (
	"context"
	"sync"
	"time"

	"github.com/capsaga/capsaga/saga"
)

// Early commits writes of clients in this process while their workflows are being
// started, so that a caller who waits for the commit does not wait for Temporal. The
// workflow's own Commit takes the result over, in this process by the token that both
// know, and in any other as the ledger has it.
//
// The ledger names the token in place of the workflow's run. So a saga whose workflow
// was never started, as its process was killed between the two, is found there and
// started by a worker (worker/adopt.go).
type Early struct{ saga *Saga }

// NewEarly returns what commits for the activities.
func NewEarly(a *Saga) *Early { return &Early{a} }

const (
	// earlyTimeout bounds an early commit: what takes longer is for the workflow.
	earlyTimeout = 2 * time.Second
	// earlyAge is for how long a result is kept for its workflow, which may run in
	// another process, and so be further than the result says.
	earlyAge = 5 * time.Second
)

// earlyCommit is one under way, or its result.
type earlyCommit struct {
	token string
	done  chan struct{} // closed when it is over
	out   CommitOutput
	err   error
}

// earlyCommits are those of this process.
type earlyCommits struct {
	mu    sync.Mutex
	sagas map[string]*earlyCommit
}

func (c *earlyCommits) enter(sagaID, token string) *earlyCommit {
	e := &earlyCommit{token: token, done: make(chan struct{})}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.sagas[sagaID] = e
	time.AfterFunc(earlyAge, func() { c.remove(sagaID, token) })
	return e
}

func (c *earlyCommits) remove(sagaID, token string) *earlyCommit {
	c.mu.Lock()
	defer c.mu.Unlock()
	e := c.sagas[sagaID]
	if e == nil || e.token != token {
		return nil
	}
	delete(c.sagas, sagaID)
	return e
}

// take waits for the commit that has this token and returns its result. Without one,
// or where its end is not known, the caller commits.
func (c *earlyCommits) take(ctx context.Context, sagaID, token string) (out CommitOutput, ok bool) {
	if token == "" {
		return out, false
	}
	e := c.remove(sagaID, token)
	if e == nil {
		return out, false
	}
	select {
	case <-e.done:
		return e.out, e.err == nil
	case <-ctx.Done(): // the next attempt asks the ledger
		return out, false
	}
}

// Commit commits a write, and tells the waiters of this process if it was this call
// that did. Whatever else becomes of the write is for the workflow to tell.
func (e *Early) Commit(ctx context.Context, w saga.Write, token string, trace saga.Trace) saga.EarlyCommit {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), earlyTimeout)
	defer cancel()
	entry := e.saga.early.enter(w.SagaID, token)
	defer close(entry.done)
	began := e.saga.Now()
	in := CommitInput{Write: w, TraceParent: trace.Parent, TraceState: trace.State, Early: token}
	entry.out, entry.err = e.saga.commitAs(ctx, in, saga.WorkflowID(w.SagaID), token, 1)
	switch {
	case entry.err != nil || entry.out.Status == saga.Committed && entry.out.Rerun:
		return saga.EarlyCommit{}
	case entry.out.Status != saga.Committed:
		return saga.EarlyCommit{Refused: true}
	}
	o := entry.out.Outcome(w.SagaID, e.saga.Now().Sub(began), 1)
	e.saga.Notifier.Publish(o)
	return saga.EarlyCommit{Outcome: &o}
}
