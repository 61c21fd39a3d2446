package provision

import (
	"context"
	"errors"
	"fmt"

	"go.temporal.io/api/serviceerror"

	"github.com/capsaga/capsaga/saga"
)

// temporalError classifies an error of Temporal's API and says what to do.
func (a *applier) temporalError(action string, err error) error {
	if err == nil {
		return nil
	}
	var known *saga.Error
	if errors.As(err, &known) {
		return err
	}
	class, advice := classifyTemporal(err, a.deps.Namespace)
	code := saga.CodeUnavailable
	if class == saga.Rejected {
		code = saga.CodeRejected
	}
	address := a.deps.TemporalAddress
	if address == "" {
		address = "Temporal"
	}
	return &saga.Error{
		Class: class, System: "temporal", Code: code, Err: err,
		Message: fmt.Sprintf("%s at %s: %s: %s", action, address, err, advice),
	}
}

func classifyTemporal(err error, namespace string) (saga.Class, string) {
	var (
		noNamespace *serviceerror.NamespaceNotFound
		notFound    *serviceerror.NotFound
		denied      *serviceerror.PermissionDenied
		invalid     *serviceerror.InvalidArgument
		unknown     *serviceerror.Unimplemented
	)
	switch {
	case errors.As(err, &noNamespace), errors.As(err, &notFound):
		return saga.Rejected, "create it with temporal operator namespace create " + namespace + ", or set TEMPORAL_NAMESPACE"
	case errors.As(err, &denied):
		return saga.Rejected, "give the client's identity the right to administer namespace " + namespace
	case errors.As(err, &invalid):
		return saga.Rejected, "a namespace on an SQL store has room for 3 KeywordList attributes: remove one that is not used, or use another namespace"
	case errors.As(err, &unknown):
		return saga.Rejected, "this server does not let clients administer search attributes: create them with its own tools"
	case errors.Is(err, context.Canceled):
		return saga.Unavailable, "run it again to go on"
	}
	return saga.Unavailable, "check that the server runs and that TEMPORAL_ADDRESS is right"
}
