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
	outcomes, cancel := c.notifier.Subscribe(it.sagaID)
	defer cancel()
	b := c.beginHere(ctx, it)
	o, err := c.hear(ctx, it, b, outcomes)
	if err != nil && b.early != nil {
		return c.notRefused(it, <-b.early, o, err)
	}
	return o, err
}

// hear waits for the outcome of a saga that begins in this process.
func (c *Client) hear(ctx context.Context, it *item, b beginning, outcomes <-chan saga.Outcome) (saga.Outcome, error) {
	id, begun := it.sagaID, b.begun
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
		case err := <-begun:
			if closedBefore(err) {
				return c.result(ctx, id, it.digest)
			}
			if err != nil {
				return saga.Outcome{}, c.failed(ctx, id, err)
			}
			begun, late = nil, time.After(notificationGrace)
		case <-late:
			return c.wait(ctx, id, it.digest, it.level)
		case <-ctx.Done():
			return saga.Outcome{}, c.unfinished(id, ctx.Err())
		}
	}
}

// beginning is a saga that begins in this process.
type beginning struct {
	begun <-chan error            // how the start of its workflow went
	early <-chan saga.EarlyCommit // what the commit beside it came to; nil without one
}

// startTimeout bounds a start that goes on without its caller.
const startTimeout = 10 * time.Second

// beginHere starts the saga's workflow and, where that may be, commits its write beside
// it. Then neither depends on the caller any more: what is committed is to have its
// workflow. Where this process is killed between the two, a worker starts it.
func (c *Client) beginHere(ctx context.Context, it *item) beginning {
	options := c.start(ctx, it.write)
	options.EnableEagerStart = true
	begun := make(chan error, 1)
	b := beginning{begun: begun}
	if c.commitsEarly(it) {
		ctx = context.WithoutCancel(ctx)
		token := saga.EarlyToken(rand.Text())
		if options.Memo == nil {
			options.Memo = map[string]any{}
		}
		options.Memo[saga.MemoEarly] = token
		early := make(chan saga.EarlyCommit, 1)
		b.early = early
		go func() { early <- c.committer.Commit(ctx, *it.write, token, it.trace) }()
	}
	it.begun.Go(func() {
		ctx, cancel := context.WithTimeout(ctx, startTimeout)
		defer cancel()
		_, err := c.temporal.ExecuteWorkflow(ctx, options, saga.WorkflowSaga, it.encoded)
		begun <- err
	})
	return b
}

// commitsEarly reports whether the write is committed beside the start. Who waits for
// the replica may wait for long; what runs before the commit is the workflow's to tell;
// and only a group keeps commits from outrunning Temporal.
func (c *Client) commitsEarly(it *item) bool {
	return c.committer != nil && !c.options.Off && it.groups() && it.write.Consistency != saga.CP
}

// notRefused keeps an error that says "rejected", as of a start that Temporal refuses
// or of an id that another workflow has, from a write that has committed or may have.
func (c *Client) notRefused(it *item, early saga.EarlyCommit, o saga.Outcome, err error) (saga.Outcome, error) {
	id := it.sagaID
	switch {
	case early.Outcome != nil && it.level.reached(early.Outcome):
		return *early.Outcome, nil
	case saga.ClassOf(err) != saga.Rejected || early.Refused:
		if early.Outcome != nil && o.Version == 0 {
			o = *early.Outcome
		}
		return o, err
	case early.Outcome != nil:
		return *early.Outcome, &saga.Error{
			Class: saga.Unavailable, System: "temporal", Code: saga.CodeUnavailable, Err: err,
			Message: fmt.Sprintf("saga %s is committed, and has no workflow yet (%s): the workers try to start it", id, err),
		}
	}
	return o, &saga.Error{
		Class: saga.Ambiguous, System: "temporal", Code: saga.CodeStillRunning, Err: err,
		Message: fmt.Sprintf("saga %s may be committed, and has no workflow yet (%s): write it again with the same id", id, err),
	}
}
