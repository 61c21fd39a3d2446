package client

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	enumspb "go.temporal.io/api/enums/v1"
	"go.temporal.io/api/serviceerror"
	sdkclient "go.temporal.io/sdk/client"
	"go.temporal.io/sdk/temporal"

	"github.com/capsaga/capsaga/saga"
)

// updateOutlived is the type of the failure of an update that was still
// unanswered when its workflow closed.
const updateOutlived = "AcceptedUpdateCompletedWorkflow"

func invalid(format string, args ...any) error {
	return &saga.Error{Class: saga.Rejected, System: "capsaga", Code: saga.CodeInvalidWrite, Message: fmt.Sprintf(format, args...)}
}

func reused(sagaID string) error {
	return &saga.Error{
		Class: saga.Rejected, System: "capsaga", Code: saga.CodeSagaIDReused,
		Message: fmt.Sprintf("saga id %q is in use with other content: give each write its own id", sagaID),
	}
}

func alreadyStarted(err error) bool {
	var started *serviceerror.WorkflowExecutionAlreadyStarted
	return errors.As(err, &started)
}

// closedBefore reports whether the workflow was closed, or closed under way, when
// its update came. An id that Temporal does not know looks the same; reading the
// result tells.
func closedBefore(err error) bool {
	var missing *serviceerror.NotFound
	var outlived *temporal.ApplicationError
	return alreadyStarted(err) || errors.As(err, &missing) ||
		errors.As(err, &outlived) && outlived.Type() == updateOutlived
}

// notReady reports whether the saga runs, but its workflow tasks fail for now, as
// when a worker is overloaded or was deployed broken.
func notReady(err error) bool {
	var failing *serviceerror.WorkflowNotReady
	return errors.As(err, &failing)
}

// timedOut reports whether a question's time was over, which Temporal and its
// client may find before the context does.
func timedOut(err error) bool {
	var waited *sdkclient.WorkflowUpdateServiceTimeoutOrCanceledError
	return errors.As(err, &waited)
}

// failed says in the caller's words what went wrong with Temporal.
func (c *Client) failed(ctx context.Context, sagaID string, err error) error {
	var refusal *temporal.ApplicationError
	var missing *serviceerror.NotFound
	var malformed *serviceerror.InvalidArgument
	var ended *temporal.WorkflowExecutionError
	switch {
	case codeOf(err) != "":
		return err // told in the caller's words already
	case errors.As(err, &ended):
		return lost(sagaID, err)
	case errors.As(err, &refusal) && refusal.Type() == saga.CodeSagaIDReused:
		return reused(sagaID)
	case errors.As(err, &refusal):
		return refused(refusal)
	case ctx.Err() != nil, timedOut(err):
		return c.unfinished(sagaID, err)
	case errors.As(err, &missing):
		return &saga.Error{
			Class: saga.Rejected, System: "temporal", Code: saga.CodeUnknownSaga, Err: err,
			Message: fmt.Sprintf("no workflow %s: the saga was never started, or its history is past its retention", saga.WorkflowID(sagaID)),
		}
	case errors.As(err, &malformed) && strings.Contains(err.Error(), "search attribute"):
		return &saga.Error{
			Class: saga.Rejected, System: "temporal", Code: saga.CodeRejected, Err: err,
			Message: fmt.Sprintf("start saga %s: the namespace lacks Capsaga's search attributes: run `capsaga catalog apply` (%s)", sagaID, err),
		}
	case errors.As(err, &malformed):
		return &saga.Error{
			Class: saga.Rejected, System: "temporal", Code: saga.CodeRejected, Err: err,
			Message: fmt.Sprintf("saga %s: temporal refuses the request: %s", sagaID, err),
		}
	}
	return &saga.Error{
		Class: saga.Unavailable, System: "temporal", Code: saga.CodeUnavailable, Err: err,
		Message: fmt.Sprintf("saga %s: no answer (%s): is a capsaga-worker with prefix %s running? The same request, with the same id, may be made again", sagaID, err, c.prefix),
	}
}

// refused is what the saga itself answered to a request that does not fit it.
func refused(err *temporal.ApplicationError) error {
	code := err.Type()
	if code == "" {
		code = saga.CodeRejected
	}
	return &saga.Error{Class: saga.Rejected, System: "capsaga", Code: code, Message: err.Message(), Err: err}
}

// codeOf returns the code of an error of this package.
func codeOf(err error) string {
	var e *saga.Error
	if errors.As(err, &e) {
		return e.Code
	}
	return ""
}

// lost tells of a workflow that ended without an outcome.
func lost(sagaID string, err error) error {
	how := "failed"
	var terminated *temporal.TerminatedError
	var timeout *temporal.TimeoutError
	switch {
	case errors.As(err, &terminated):
		how = "was terminated"
	case errors.As(err, &timeout):
		how = "timed out"
	case temporal.IsCanceledError(err):
		how = "was cancelled"
	}
	return &saga.Error{
		Class: saga.Ambiguous, System: "temporal", Code: saga.CodeWorkflowLost, Err: err,
		Message: fmt.Sprintf("workflow %s %s before its saga's end; what it had committed stands, and `capsaga replay %s` goes on from there", saga.WorkflowID(sagaID), how, sagaID),
	}
}

// notStarted tells a caller who left before the write did.
func (c *Client) notStarted(sagaID string, err error) error {
	return &saga.Error{
		Class: saga.Unavailable, System: "temporal", Code: saga.CodeUnavailable, Err: err,
		Message: fmt.Sprintf("saga %s was not started before the wait for it ended (%s), as those before it are still under way: write it again with the same id", sagaID, err),
	}
}

// unfinished tells of a wait that ended before the saga. The caller's context may
// be over, so whether a worker is there is asked in a short one of our own.
func (c *Client) unfinished(sagaID string, err error) error {
	hint := "wait for it again, or write it again with the same id"
	ctx, cancel := context.WithTimeout(context.Background(), time.Second)
	defer cancel()
	queue := c.prefix.TaskQueue()
	described, failure := c.temporal.DescribeTaskQueue(ctx, queue, enumspb.TASK_QUEUE_TYPE_WORKFLOW)
	switch {
	case failure != nil:
		hint = fmt.Sprintf("temporal does not answer (%s)", failure)
	case len(described.GetPollers()) == 0:
		hint = fmt.Sprintf("no worker polls task queue %s: is capsaga-worker running with prefix %s?", queue, c.prefix)
	}
	return &saga.Error{
		Class: saga.Ambiguous, System: "temporal", Code: saga.CodeStillRunning, Err: err,
		Message: fmt.Sprintf("the wait for saga %s ended before the saga, which goes on if it was started: %s", sagaID, hint),
	}
}
