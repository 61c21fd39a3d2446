package gather_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"pgregory.net/rapid"

	"github.com/capsaga/capsaga/internal/gather"
	"github.com/capsaga/capsaga/saga"
)

// plan is what one caller of the property does.
type plan struct {
	keys    string
	at      time.Duration
	patient time.Duration
}

func drawPlans(rt *rapid.T) []plan {
	var plans []plan
	for i := range rapid.IntRange(1, 40).Draw(rt, "callers") {
		var keys []string
		for j := range rapid.IntRange(1, 4).Draw(rt, "documents") {
			keys = append(keys, fmt.Sprintf("%c/%d.%d", rapid.SampledFrom([]rune("abc")).Draw(rt, "entity"), i, j))
		}
		if rapid.IntRange(0, 9).Draw(rt, "poison") == 0 {
			keys = append(keys, fmt.Sprintf("a/poison%d", i))
		}
		plans = append(plans, plan{
			keys: strings.Join(keys, " "),
			at:   time.Duration(rapid.IntRange(0, 30).Draw(rt, "at")) * time.Millisecond,
			// Odd, so that no answer comes at the very moment of a deadline.
			patient: time.Duration(rapid.IntRange(1, 50).Draw(rt, "patient"))*time.Millisecond + time.Microsecond,
		})
	}
	return plans
}

// Whoever stays gets the answers to their own documents, in their order, or the
// rejection that is their own; whoever leaves does so at their deadline; and no request
// is larger than it may be.
func TestEachCallerGetsTheirOwn(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(rt *rapid.T) {
		limits := gather.Limits{
			Requests: rapid.IntRange(1, 3).Draw(rt, "requests"), Documents: rapid.IntRange(1, 20).Draw(rt, "bound"),
			ByEntity: rapid.Bool().Draw(rt, "by entity"),
		}
		takes := time.Duration(rapid.IntRange(0, 10).Draw(rt, "takes")) * time.Millisecond
		plans := drawPlans(rt)
		var failures []string
		synctest.Test(t, func(t *testing.T) { failures = carryOut(t, limits, takes, plans) })
		if len(failures) > 0 {
			rt.Fatal(strings.Join(failures, "\n"))
		}
	})
}

func carryOut(t *testing.T, limits gather.Limits, takes time.Duration, plans []plan) (failures []string) {
	f := &fake{before: func(ctx context.Context, keys string) error {
		select {
		case <-time.After(takes):
		case <-ctx.Done():
			return ctx.Err()
		}
		if strings.Contains(keys, "poison") {
			return errRejected
		}
		return nil
	}}
	sink := gather.New("fake", f, limits)
	var mu sync.Mutex
	complain := func(format string, args ...any) {
		mu.Lock()
		defer mu.Unlock()
		failures = append(failures, fmt.Sprintf(format, args...))
	}
	var group sync.WaitGroup
	for _, p := range plans {
		group.Go(func() {
			time.Sleep(p.at)
			ctx, cancel := context.WithTimeout(t.Context(), p.patient)
			defer cancel()
			began := time.Now()
			applied, err := sink.Apply(ctx, documents(p.keys))
			took := time.Since(began)
			switch {
			case errors.Is(err, context.DeadlineExceeded):
				if took != p.patient {
					complain("%s left after %s of %s", p.keys, took, p.patient)
				}
			case strings.Contains(p.keys, "poison"):
				if saga.ClassOf(err) != saga.Rejected {
					complain("%s got %v", p.keys, err)
				}
			case err != nil || !slices.Equal(applied, answers(documents(p.keys))):
				complain("%s got %v %v", p.keys, applied, err)
			}
		})
	}
	group.Wait()
	synctest.Wait()
	whole := map[string]bool{}
	for _, p := range plans {
		whole[p.keys] = true
	}
	for _, keys := range f.made() {
		if len(strings.Fields(keys)) > limits.Documents && !whole[keys] {
			complain("a request of %s", keys)
		}
	}
	if !sink.Idle() {
		complain("something is left")
	}
	return failures
}
