package workflows

import (
	"fmt"

	"go.temporal.io/sdk/workflow"

	"github.com/capsaga/capsaga/activities"
	"github.com/capsaga/capsaga/saga"
)

// newSink is the step that brings the saga's rows to a sink.
func (s *story) newSink(sink saga.Sink) *step {
	policy, ok := s.pivot.Policies[sink]
	if !ok {
		policy = s.write.Policy
	}
	return s.sinkStep(saga.StepName(sink), sink, policy, s.pivot.Version, s.pivot.Owned)
}

// undoneSink is the step that brings the rows to a sink as an undo left them.
func (s *story) undoneSink(sink saga.Sink, version saga.Version, owned []saga.Owned) *step {
	return s.sinkStep(saga.StepName(sink).Undo(), sink, saga.Policy{ParkAfter: s.pivot.Policies[sink].ParkAfter}, version, owned)
}

func (s *story) sinkStep(name saga.StepName, sink saga.Sink, policy saga.Policy, version saga.Version, owned []saga.Owned) *step {
	effect := map[saga.Sink]any{
		saga.Redis:         effects.UpdateRedis,
		saga.Kafka:         effects.PublishKafka,
		saga.Elasticsearch: effects.IndexElasticsearch,
	}[sink]
	in := activities.SinkInput{SagaID: s.write.SagaID, Version: version, FlushLSN: s.flush, Rows: s.pivot.Rows(owned, sink)}
	if sink == saga.Kafka {
		in.Rows = nil // it waits for a position; keys would only fill the history
	}
	t := &step{
		story: s, policy: policy, waives: true, quick: quickSink,
		state: saga.Step{Name: name, State: saga.StepPending},
		options: func() workflow.ActivityOptions {
			return patience(sinkAttempt, fmt.Sprintf("%s → %s", s.write.Summary(), sink))
		},
	}
	if s.awaitingCommit > 0 {
		t.quick = quickSinkAwaited
	}
	t.call = func(ctx workflow.Context, local bool, options workflow.ActivityOptions) func() (int, error) {
		var out activities.SinkOutput
		future := t.start(ctx, local, options, effect, in)
		return func() (int, error) {
			err := future.Get(ctx, &out)
			return out.Attempt, err
		}
	}
	return t
}

// start starts an activity, locally or as a regular one.
func (t *step) start(ctx workflow.Context, local bool, options workflow.ActivityOptions, activity, in any) workflow.Future {
	if local {
		return workflow.ExecuteLocalActivity(quickly(ctx, t.quick), activity, in)
	}
	return workflow.ExecuteActivity(workflow.WithActivityOptions(ctx, options), activity, in)
}

// reach runs steps side by side, those that are not over yet, and reports whether
// all of them have come to their end.
func (s *story) reach(ctx workflow.Context, steps []*step) bool {
	left := workflow.NewWaitGroup(ctx)
	all := true
	for _, t := range steps {
		if t.state.State.Over() {
			continue
		}
		left.Add(1)
		workflow.Go(ctx, func(ctx workflow.Context) {
			defer left.Done()
			if !t.run(ctx) {
				all = false
			}
		})
	}
	detached, _ := workflow.NewDisconnectedContext(ctx)
	left.Wait(detached) // a cancelled step has to say that it stopped
	return all
}
