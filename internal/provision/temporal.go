package provision

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"go.temporal.io/api/enums/v1"
	"go.temporal.io/api/operatorservice/v1"
	"go.temporal.io/api/serviceerror"
	"go.temporal.io/api/workflowservice/v1"

	"github.com/capsaga/capsaga/saga"
)

// Temporal is the part of the SDK's client that provisioning needs.
type Temporal interface {
	OperatorService() operatorservice.OperatorServiceClient
	WorkflowService() workflowservice.WorkflowServiceClient
}

// usableWithin is how long the server's caches may take to learn of a new
// search attribute: they are read anew every 10 s.
const usableWithin = 60 * time.Second

// callTimeout bounds one call, so that a server that hangs is named.
const callTimeout = 10 * time.Second

// attributes are the search attributes of a saga with their types.
var attributes = map[string]enums.IndexedValueType{
	saga.AttributeStatus:     enums.INDEXED_VALUE_TYPE_KEYWORD,
	saga.AttributeErrorClass: enums.INDEXED_VALUE_TYPE_KEYWORD,
	saga.AttributeBlockedOn:  enums.INDEXED_VALUE_TYPE_KEYWORD_LIST,
	saga.AttributeEntities:   enums.INDEXED_VALUE_TYPE_KEYWORD_LIST,
	saga.AttributeKeys:       enums.INDEXED_VALUE_TYPE_KEYWORD_LIST,
}

func attributeNames() []string {
	var names []string
	for name := range attributes {
		names = append(names, name)
	}
	slices.Sort(names)
	return names
}

func (a *applier) pingTemporal(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	_, err := a.deps.Temporal.WorkflowService().DescribeNamespace(ctx, &workflowservice.DescribeNamespaceRequest{Namespace: a.deps.Namespace})
	return a.temporalError("look for namespace "+a.deps.Namespace, err)
}

// listAttributes returns the types of the namespace's own search attributes.
func (a *applier) listAttributes(ctx context.Context) (map[string]enums.IndexedValueType, error) {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	response, err := a.deps.Temporal.OperatorService().ListSearchAttributes(ctx, &operatorservice.ListSearchAttributesRequest{Namespace: a.deps.Namespace})
	if err != nil {
		return nil, a.temporalError("list the search attributes of namespace "+a.deps.Namespace, err)
	}
	return response.CustomAttributes, nil
}

// checkAttributes refuses a search attribute that is there with another type,
// which Temporal cannot change.
func (a *applier) checkAttributes(ctx context.Context) error {
	there, err := a.listAttributes(ctx)
	if err != nil {
		return err
	}
	for _, name := range attributeNames() {
		if is, ok := there[name]; ok && is != attributes[name] {
			return &saga.Error{
				Class: saga.Rejected, System: "temporal", Code: saga.CodeRejected,
				Message: fmt.Sprintf("search attribute %s of namespace %s is of type %s and Capsaga needs %s: use another namespace, or remove it with temporal operator search-attribute remove --namespace %s --name %s",
					name, a.deps.Namespace, is, attributes[name], a.deps.Namespace, name),
			}
		}
	}
	return nil
}

// AddAttributes makes a namespace know the search attributes of sagas, and returns when
// sagas may start with them: Apply's part of Temporal.
func AddAttributes(ctx context.Context, t Temporal, namespace string) error {
	a := &applier{deps: Deps{Temporal: t, Namespace: namespace}}
	return a.applyAttributes(ctx)
}

func (a *applier) applyAttributes(ctx context.Context) error {
	there, err := a.listAttributes(ctx)
	if err != nil {
		return err
	}
	missing := map[string]enums.IndexedValueType{}
	for name, kind := range attributes {
		if _, ok := there[name]; !ok {
			missing[name] = kind
		}
	}
	if len(missing) > 0 {
		if err := a.addAttributes(ctx, missing); err != nil {
			return err
		}
	}
	// Also when none is missing: a run that was cut off here did not wait.
	if err := a.awaitAttributes(ctx); err != nil {
		return err
	}
	for _, name := range attributeNames() {
		change := Change{System: "temporal", Kind: "search attribute", Name: name, Action: Unchanged}
		if _, ok := missing[name]; ok {
			change.Action, change.Detail = Created, attributes[name].String()
		}
		a.done(change)
	}
	return nil
}

func (a *applier) addAttributes(ctx context.Context, missing map[string]enums.IndexedValueType) error {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	_, err := a.deps.Temporal.OperatorService().AddSearchAttributes(ctx, &operatorservice.AddSearchAttributesRequest{
		Namespace: a.deps.Namespace, SearchAttributes: missing,
	})
	var exists *serviceerror.AlreadyExists
	if errors.As(err, &exists) {
		return nil // another run was first; awaitAttributes sees to the rest
	}
	return a.temporalError("add search attributes to namespace "+a.deps.Namespace, err)
}

// awaitAttributes returns when a query over all of them is understood, which is
// the moment from which a saga may start with them.
func (a *applier) awaitAttributes(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, usableWithin)
	defer cancel()
	var terms []string
	for _, name := range attributeNames() {
		terms = append(terms, name+" = 'none'")
	}
	request := &workflowservice.CountWorkflowExecutionsRequest{Namespace: a.deps.Namespace, Query: strings.Join(terms, " AND ")}
	tick := time.NewTicker(100 * time.Millisecond)
	defer tick.Stop()
	for {
		_, err := a.deps.Temporal.WorkflowService().CountWorkflowExecutions(ctx, request)
		if err == nil {
			return nil
		}
		var unknown *serviceerror.InvalidArgument
		var absent *serviceerror.NamespaceNotFound // the cache lags here too
		if !errors.As(err, &unknown) && !errors.As(err, &absent) {
			return a.temporalError("wait for the search attributes", err)
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return &saga.Error{
				Class: saga.Unavailable, System: "temporal", Code: saga.CodeUnavailable, Err: err,
				Message: fmt.Sprintf("the search attributes of namespace %s are not usable yet (%s): apply again", a.deps.Namespace, err),
			}
		}
	}
}
