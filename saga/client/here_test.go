package client_test

import (
	"context"
	"encoding/json"
	"errors"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.temporal.io/api/serviceerror"
	sdkclient "go.temporal.io/sdk/client"

	"github.com/capsaga/capsaga/internal/notify"
	"github.com/capsaga/capsaga/saga"
	"github.com/capsaga/capsaga/saga/client"
)

// refusing is a Temporal that takes no start.
type refusing struct {
	sdkclient.Client
	err error
}

func (r refusing) ExecuteWorkflow(context.Context, sdkclient.StartWorkflowOptions, any, ...any) (sdkclient.WorkflowRun, error) {
	return nil, r.err
}

// committing answers each commit alike.
type committing saga.EarlyCommit

func (c committing) Commit(_ context.Context, w saga.Write, _ string, _ saga.Trace) saga.EarlyCommit {
	if c.Outcome != nil {
		c.Outcome.SagaID, c.Outcome.Content = w.SagaID, w.Digest()
	}
	return saga.EarlyCommit(c)
}

// A write that has committed, or may have, is never told to be rejected because
// Temporal refuses its workflow.
func TestCommittedWithoutAWorkflow(t *testing.T) {
	t.Parallel()
	refusal, away := serviceerror.NewInvalidArgument("no"), errors.New("away")
	committed := func() *saga.Outcome { return &saga.Outcome{Status: saga.Committed, Version: 7} }
	for name, c := range map[string]struct {
		start   error
		early   saga.EarlyCommit
		level   client.Level
		class   saga.Class // of the error
		version saga.Version
	}{
		"committed is all that is waited for": {refusal, saga.EarlyCommit{Outcome: committed()}, client.WaitCommitted, "", 7},
		"committed, and refused":              {refusal, saga.EarlyCommit{Outcome: committed()}, client.WaitVisible, saga.Unavailable, 7},
		"committed, and away":                 {away, saga.EarlyCommit{Outcome: committed()}, client.WaitVisible, saga.Unavailable, 7},
		"not known, and refused":              {refusal, saga.EarlyCommit{}, client.WaitCommitted, saga.Ambiguous, 0},
		"not known, and away":                 {away, saga.EarlyCommit{}, client.WaitVisible, saga.Unavailable, 0},
		"nothing, and refused":                {refusal, saga.EarlyCommit{Refused: true}, client.WaitVisible, saga.Rejected, 0},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			cl, err := client.New(client.Options{Temporal: refusing{err: c.start}, Notifier: notify.NewHub(), Committer: committing(c.early)})
			require.NoError(t, err)
			ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
			defer cancel()
			w := saga.Write{SagaID: "a", Mutations: []saga.Mutation{{Entity: "products", Op: saga.Delete, Key: saga.Columns{"id": json.RawMessage("1")}}}}
			o, err := cl.Write(ctx, w, c.level)
			if c.class == "" {
				require.NoError(t, err)
			} else {
				require.Equal(t, c.class, saga.ClassOf(err), "%v", err)
			}
			require.Equal(t, c.version, o.Version)
		})
	}
}
