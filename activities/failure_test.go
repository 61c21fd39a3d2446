package activities

import (
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.temporal.io/sdk/temporal"

	"github.com/capsaga/capsaga/saga"
)

func TestFailure(t *testing.T) {
	t.Parallel()
	driver := errors.New("dial tcp: password=secret")
	for _, test := range []struct {
		name  string
		err   error
		final bool
		class saga.Class
		code  string
	}{
		{"unavailable", &saga.Error{Class: saga.Unavailable, System: "redis", Code: saga.CodeUnavailable, Message: "away", Err: driver}, false, saga.Unavailable, saga.CodeUnavailable},
		{"ambiguous", &saga.Error{Class: saga.Ambiguous, System: "redis", Code: saga.CodeUnavailable, Message: "no answer", Err: driver}, false, saga.Ambiguous, saga.CodeUnavailable},
		{"rejected", &saga.Error{Class: saga.Rejected, System: "redis", Code: saga.CodeRejected, Message: "WRONGTYPE", Err: driver}, true, saga.Rejected, saga.CodeRejected},
		{"wrapped", fmt.Errorf("apply: %w", &saga.Error{Class: saga.Rejected, System: "redis", Code: saga.CodeRejected, Message: "WRONGTYPE"}), true, saga.Rejected, saga.CodeRejected},
		{"not classified", errors.New("no such thing"), false, saga.Unavailable, saga.CodeUnavailable},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			err := failure(saga.StepRedis, test.err, 3, 300*time.Millisecond)
			var app *temporal.ApplicationError
			require.ErrorAs(t, err, &app)
			require.Equal(t, test.final, app.NonRetryable())
			require.Equal(t, string(test.class), app.Type())
			require.NotContains(t, err.Error(), "secret", "the driver's error entered the history")
			require.Equal(t, 300*time.Millisecond, app.NextRetryDelay())
			var f Failure
			require.NoError(t, app.Details(&f))
			require.Equal(t, 3, f.Attempt)
			require.Equal(t, test.code, f.Error.Code)
			require.Equal(t, "redis", f.Error.System)
		})
	}
}

func TestDelay(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		attempt int
		want    time.Duration
	}{
		{1, 100 * time.Millisecond},
		{2, 200 * time.Millisecond},
		{8, 12800 * time.Millisecond},
		{9, 25600 * time.Millisecond},
		{10, 30 * time.Second},
		{1_000_000, 30 * time.Second},
	} {
		require.Equal(t, test.want, delay(test.attempt), "attempt %d", test.attempt)
	}
	for range 1000 {
		d := jittered(time.Second)
		require.GreaterOrEqual(t, d, time.Second/2)
		require.LessOrEqual(t, d, time.Second)
	}
}
