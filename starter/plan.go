package main

import (
	"context"
	"errors"
	"fmt"

	"github.com/capsaga/capsaga/internal/config"
	"github.com/capsaga/capsaga/internal/listing"
	"github.com/capsaga/capsaga/saga"
)

// plan is what an operation would do to one saga, as it stands now.
type plan struct {
	SagaID   string        `json:"saga_id"`
	Status   saga.Status   `json:"status,omitempty"`
	Workflow listing.State `json:"workflow,omitempty"`
	Would    string        `json:"would,omitempty"`
	Error    string        `json:"error,omitempty"` // why that is not known
}

// plans looks at each saga of a request.
func (a *app) plans(ctx context.Context, c config.Config, r saga.BulkRequest) ([]plan, error) {
	if len(r.IDs) > 0 {
		var plans []plan
		for _, id := range r.IDs {
			plans = append(plans, a.planFor(ctx, c, id, r.Operation))
			if ctx.Err() != nil {
				return nil, errors.New("stopped: nothing was done")
			}
		}
		return plans, nil
	}
	var plans []plan
	err := a.each(ctx, c, r.Filter, func(s *listing.Saga) {
		// The list has no steps; what is parked is told by the systems.
		o := saga.Outcome{SagaID: s.SagaID, Status: s.Status}
		plans = append(plans, plan{SagaID: s.SagaID, Status: s.Status, Workflow: s.Workflow, Would: would(r.Operation, &o, s.Workflow)})
	})
	return plans, err
}

// each lists all sagas that a filter selects.
func (a *app) each(ctx context.Context, c config.Config, f saga.Filter, do func(*listing.Saga)) error {
	lister := a.lister(ctx, c)
	for after := ""; ; {
		page, err := lister.List(ctx, f, after, maxListed)
		if err != nil {
			return withSchemaHint(err)
		}
		for i := range page.Sagas {
			do(&page.Sagas[i])
		}
		if after = page.Next; after == "" {
			a.noteMissing(page)
			return nil
		}
	}
}

func (a *app) planFor(ctx context.Context, c config.Config, sagaID string, op saga.Operation) plan {
	s, err := a.lookUp(ctx, c, sagaID)
	if err != nil {
		return plan{SagaID: sagaID, Error: err.Error()}
	}
	return plan{SagaID: sagaID, Status: s.Status, Workflow: s.Workflow, Would: would(op, &s.Outcome, s.Workflow)}
}

// would says what an operation would do to a saga.
func would(op saga.Operation, o *saga.Outcome, workflow listing.State) string {
	listed := listing.Saga{Workflow: workflow}
	switch {
	case o.Status.Final():
		return fmt.Sprintf("nothing: it is %s", o.Status)
	case op.Action == saga.ActionCompensate && o.Stream != nil:
		return "fail: plain SQL wrote the row, and nobody knows what was before"
	case workflow == listing.NotStarted && op.Action == saga.ActionReplay:
		return "start it now"
	case listed.Stopped() && op.Action == saga.ActionReplay:
		return "start it again where it stood"
	case listed.Stopped():
		return "fail: its workflow does not run; replay it first"
	case op.Action == saga.ActionCompensate && o.Version == 0 && o.Status == saga.Pending:
		return "cancel it, as it has not committed"
	case op.Action == saga.ActionCompensate:
		return "undo it"
	case o.Status != saga.Parked && op.Action == saga.ActionReplay:
		return "nothing: it runs, and goes on by itself"
	case o.Status != saga.Parked:
		return "fail: it is not parked"
	case op.Action == saga.ActionSkip:
		return "give up " + skipped(op, o)
	case op.Action == saga.ActionEdit:
		return "change its rows and bring them to all sinks"
	}
	return "try its parked steps once more"
}

func skipped(op saga.Operation, o *saga.Outcome) string {
	if op.Step != "" {
		return string(op.Step)
	}
	for _, step := range o.Steps {
		if step.State == saga.StepParked {
			return string(step.Name)
		}
	}
	return "its parked step, if it is one"
}
