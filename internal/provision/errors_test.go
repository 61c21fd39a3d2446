package provision

import (
	"context"
	"errors"
	"fmt"
	"testing"

	"github.com/stretchr/testify/assert"
	"go.temporal.io/api/serviceerror"

	"github.com/capsaga/capsaga/saga"
)

func TestTemporalError(t *testing.T) {
	cases := []struct {
		err    error
		class  saga.Class
		code   string
		advice string
	}{
		{serviceerror.NewNamespaceNotFound("shop"), saga.Rejected, saga.CodeRejected, "temporal operator namespace create shop"},
		{serviceerror.NewNotFound("no such namespace"), saga.Rejected, saga.CodeRejected, "TEMPORAL_NAMESPACE"},
		{serviceerror.NewPermissionDenied("no", ""), saga.Rejected, saga.CodeRejected, "the right to administer namespace shop"},
		{serviceerror.NewInvalidArgument("too many"), saga.Rejected, saga.CodeRejected, "room for 3 KeywordList attributes"},
		{serviceerror.NewUnimplemented("no"), saga.Rejected, saga.CodeRejected, "with its own tools"},
		{serviceerror.NewUnavailable("connection refused"), saga.Unavailable, saga.CodeUnavailable, "TEMPORAL_ADDRESS"},
		{serviceerror.NewDeadlineExceeded("late"), saga.Unavailable, saga.CodeUnavailable, "TEMPORAL_ADDRESS"},
		{serviceerror.NewInternal("oops"), saga.Unavailable, saga.CodeUnavailable, "TEMPORAL_ADDRESS"},
		{context.DeadlineExceeded, saga.Unavailable, saga.CodeUnavailable, "TEMPORAL_ADDRESS"},
		{context.Canceled, saga.Unavailable, saga.CodeUnavailable, "run it again"},
		{errors.New("what no one knows"), saga.Unavailable, saga.CodeUnavailable, "TEMPORAL_ADDRESS"},
	}
	a := &applier{deps: Deps{Namespace: "shop", TemporalAddress: "127.0.0.1:7233"}}
	for _, c := range cases {
		t.Run(fmt.Sprintf("%T", c.err), func(t *testing.T) {
			err := a.temporalError("add search attributes", c.err)
			var failure *saga.Error
			assert.ErrorAs(t, err, &failure)
			assert.Equal(t, c.class, failure.Class)
			assert.Equal(t, c.code, failure.Code)
			assert.ErrorIs(t, err, c.err)
			assert.Contains(t, err.Error(), "127.0.0.1:7233")
			assert.Contains(t, err.Error(), c.advice)
		})
	}
	assert.NoError(t, a.temporalError("add search attributes", nil))
	known := &saga.Error{Class: saga.Rejected, System: "temporal"}
	assert.Same(t, known, a.temporalError("add search attributes", known))
}
