package activities

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"time"

	"go.temporal.io/sdk/temporal"

	"github.com/capsaga/capsaga/saga"
)

// The delays between attempts, before jitter. The workflow's retry policies name
// them too, for attempts that end without an answer.
const (
	FirstDelay = 100 * time.Millisecond
	MaxDelay   = 30 * time.Second
)

// Failure is what a failed attempt tells the workflow.
type Failure struct {
	Error   saga.ErrorInfo `json:"error"`
	Attempt int            `json:"attempt"`
}

// failure turns an adapter's error into Temporal's: final when the system
// rejected the request, else retryable after a delay, which is next. The driver's own error
// stays behind, since it may name what must not enter a workflow's history.
func failure(step saga.StepName, err error, attempt int, next time.Duration) error {
	f := Failure{Error: errorInfo(step, err), Attempt: attempt}
	return temporal.NewApplicationErrorWithOptions(f.Error.Message, string(f.Error.Class), temporal.ApplicationErrorOptions{
		NonRetryable:   f.Error.Class == saga.Rejected,
		NextRetryDelay: next,
		Details:        []any{f},
	})
}

// errorInfo describes an error. One that no adapter has classified may pass, and
// is told in its own words.
func errorInfo(step saga.StepName, err error) saga.ErrorInfo {
	var classified *saga.Error
	if errors.As(err, &classified) {
		return saga.ErrorInfo{
			Code: classified.Code, Message: classified.Message,
			Class: classified.Class, System: classified.System,
		}
	}
	return saga.ErrorInfo{
		Code: saga.CodeUnavailable, Class: saga.Unavailable, System: systemOf(step),
		Message: fmt.Sprintf("%s: %s", step, err),
	}
}

func systemOf(step saga.StepName) string {
	switch step {
	case stepCancel, stepRecord, stepRecall, stepWaive, stepEdit:
		return "postgres"
	case stepGate:
		return "temporal"
	}
	return step.System()
}

// delay returns how long to wait after the n-th attempt.
func delay(attempt int) time.Duration {
	d := FirstDelay
	for range attempt - 1 {
		if d *= 2; d >= MaxDelay {
			return MaxDelay
		}
	}
	return d
}

// jittered spreads a delay over its upper half, so that sagas which failed
// together do not come back together.
func jittered(d time.Duration) time.Duration {
	return d/2 + rand.N(d/2+1)
}
