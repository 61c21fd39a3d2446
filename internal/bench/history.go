package bench

import (
	"context"
	"fmt"
	"slices"
	"sync"

	sdkclient "go.temporal.io/sdk/client"
	"go.temporal.io/sdk/interceptor"
)

// starts knows the workflows that clients in this process have started: Temporal's
// own list lags behind.
type starts struct {
	interceptor.ClientInterceptorBase
	mu  sync.Mutex
	ids []string
}

// InterceptClient is what the SDK calls for each client.
func (s *starts) InterceptClient(next interceptor.ClientOutboundInterceptor) interceptor.ClientOutboundInterceptor {
	return &startsOf{interceptor.ClientOutboundInterceptorBase{Next: next}, s}
}

type startsOf struct {
	interceptor.ClientOutboundInterceptorBase
	starts *starts
}

// ExecuteWorkflow notes what has been started.
func (s *startsOf) ExecuteWorkflow(ctx context.Context, in *interceptor.ClientExecuteWorkflowInput) (sdkclient.WorkflowRun, error) {
	run, err := s.Next.ExecuteWorkflow(ctx, in)
	if err == nil {
		s.starts.mu.Lock()
		s.starts.ids = append(s.starts.ids, run.GetID())
		s.starts.mu.Unlock()
	}
	return run, err
}

func (s *starts) forget() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.ids = nil
}

// histories is what the workflows of one measurement leave in Temporal.
type histories struct {
	workflows     int     // all of them
	events, bytes float64 // of one: medians of those that were looked at
}

// lookedAt is how many workflows' histories are asked for.
const lookedAt = 20

func (s *starts) histories(ctx context.Context, temporal sdkclient.Client) (h histories, err error) {
	s.mu.Lock()
	ids := slices.Clone(s.ids)
	s.mu.Unlock()
	h.workflows = len(ids)
	var events, bytes []float64
	for _, at := range spread(len(ids), lookedAt) {
		described, err := temporal.DescribeWorkflowExecution(ctx, ids[at], "")
		if err != nil {
			return h, fmt.Errorf("look at workflow %s: %w", ids[at], err)
		}
		info := described.GetWorkflowExecutionInfo()
		events = append(events, float64(info.GetHistoryLength()))
		bytes = append(bytes, float64(info.GetHistorySizeBytes()))
	}
	if len(events) > 0 {
		h.events, h.bytes = median(events), median(bytes)
	}
	return h, nil
}

// spread returns at most some places of n, evenly from the first on.
func spread(n, most int) []int {
	count := min(n, most)
	places := make([]int, count)
	for i := range places {
		places[i] = i * n / count
	}
	return places
}
