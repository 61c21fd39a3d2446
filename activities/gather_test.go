package activities

import (
	"context"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/capsaga/capsaga/internal/gather"
	"github.com/capsaga/capsaga/saga"
)

// script is a sink that takes a while for each request and answers with what is next.
type script struct {
	mu      sync.Mutex
	answers []error
}

func (s *script) Apply(ctx context.Context, docs []saga.Document) ([]saga.Applied, error) {
	s.mu.Lock()
	err := s.answers[0]
	s.answers = s.answers[1:]
	s.mu.Unlock()
	select {
	case <-time.After(100 * time.Millisecond):
		return make([]saga.Applied, len(docs)), err
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

// What many callers hear of one request counts as what it is: one answer, or one
// failure of the sink.
func TestBreakerWithRequestsThatAreShared(t *testing.T) {
	t.Parallel()
	rejected := &saga.Error{Class: saga.Rejected, System: "redis", Message: "not like this"}
	for name, test := range map[string]struct {
		answers []error // of the first request, the shared one, and those after it
		later   bool    // the shared one's callers come when the first has been answered
		open    bool
	}{
		"away, and then back":      {answers: []error{errAway, nil}},
		"rejected for one of them": {answers: []error{nil, rejected, nil, rejected, nil}},
		"away":                     {answers: []error{errAway, errAway}, open: true},
		"away since":               {answers: []error{nil, errAway, errAway}, later: true, open: true},
		// It was there when they came; those who come now will tell.
		"away for those who waited": {answers: []error{nil, errAway}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				a := New(Dependencies{Redis: gather.New("redis", &script{answers: test.answers}, gather.Limits{Requests: 1})})
				var group sync.WaitGroup
				call := func() {
					group.Go(func() {
						_ = a.request(t.Context(), saga.StepRedis, func() error {
							_, err := a.Redis.Apply(t.Context(), []saga.Document{{Entity: "films", Key: "1", Version: 1}})
							return err
						})
					})
					synctest.Wait()
				}
				call()
				if test.later {
					time.Sleep(150 * time.Millisecond)
					call()
				}
				for range 3 {
					call()
				}
				group.Wait()
				require.Equal(t, test.open, a.breakers[saga.StepRedis].admit(saga.StepRedis, time.Now(), quick) != nil)
			})
		})
	}
}
