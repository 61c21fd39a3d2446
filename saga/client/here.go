package client

import (
	"context"
	"crypto/rand"
	"fmt"
	"time"

	"github.com/capsaga/capsaga/saga"
)

// writeHere starts a saga in this process.
func (c *Client) writeHere(ctx context.Context, it *item) (saga.Outcome, error) {
	id := it.write.SagaID
	outcomes, cancel := c.notifier.Subscribe(id)
	defer cancel()
	begun := c.beginHere(ctx, it)
	var late <-chan time.Time
	for {
		select {
		case o := <-outcomes:
			switch {
			case o.Status == saga.Pending: // a batch leaves it to its own workflow
			case o.Content != it.digest:
				return saga.Outcome{}, reused(id)
			case it.level.reached(&o):
				return settled(o, it.digest)
			}
		case b := <-begun:
			if b.err != nil {
				return c.notBegun(ctx, it, b)
			}
			begun, late = nil, time.After(notificationGrace)
		case <-late:
			return c.wait(ctx, id, it.digest, it.level)
		case <-ctx.Done():
			return saga.Outcome{}, c.unfinished(id, ctx.Err())
		}
	}
}

// beginning is how the start of a workflow went.
type beginning struct {
	err       error
	committed *saga.Outcome // by this call
}

// startTimeout bounds a start that goes on without its caller.
const startTimeout = 30 * time.Second

// beginHere starts the saga's workflow and, beside it, commits its write. Once it has
// begun neither depends on the caller any more: what is committed is to have its
// workflow. Where this process is killed between the two, a worker starts it.
func (c *Client) beginHere(ctx context.Context, it *item) <-chan beginning {
	options := c.start(ctx, it.write)
	options.EnableEagerStart = true
	early := make(chan *saga.Outcome, 1)
	close(early)
	if c.commitsEarly(it) {
		token := saga.EarlyToken(rand.Text())
		if options.Memo == nil {
			options.Memo = map[string]any{}
		}
		options.Memo[saga.MemoEarly] = token
		early = make(chan *saga.Outcome, 1)
		go func() { early <- c.commitEarly(ctx, it, token) }()
	}
	begun := make(chan beginning, 1)
	it.begun.Go(func() {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), startTimeout)
		defer cancel()
		_, err := c.temporal.ExecuteWorkflow(ctx, options, saga.WorkflowSaga, it.encoded)
		b := beginning{err: err}
		if err != nil {
			b.committed = <-early
		}
		begun <- b
	})
	return begun
}

// commitsEarly reports whether the write is committed beside the start. Who waits for
// the replica may wait for long; what runs before the commit is the workflow's to tell;
// and only a group keeps commits from outrunning Temporal.
func (c *Client) commitsEarly(it *item) bool {
	return c.committer != nil && !c.options.Off && it.groups() && it.write.Consistency != saga.CP
}

// notBegun tells what a write has come to whose workflow was not started.
func (c *Client) notBegun(ctx context.Context, it *item, b beginning) (saga.Outcome, error) {
	id := it.write.SagaID
	switch {
	case b.committed != nil && it.level.reached(b.committed):
		return *b.committed, nil
	case b.committed != nil:
		return *b.committed, &saga.Error{
			Class: saga.Unavailable, System: "temporal", Code: saga.CodeUnavailable, Err: b.err,
			Message: fmt.Sprintf("saga %s is committed, and its workflow is not started yet (%s): a worker will start it as soon as it can", id, b.err),
		}
	case closedBefore(b.err):
		return c.result(ctx, id, it.digest)
	}
	return saga.Outcome{}, c.failed(ctx, id, b.err)
}

// commitEarly commits the write as it was encoded: its caller may have left, and have
// changed it.
func (c *Client) commitEarly(ctx context.Context, it *item, token string) *saga.Outcome {
	w, err := saga.ParseWrite(it.encoded)
	if err != nil {
		return nil
	}
	return c.committer.Commit(ctx, *w, token, it.trace)
}
