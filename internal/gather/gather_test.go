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

	"github.com/stretchr/testify/require"

	"github.com/capsaga/capsaga/internal/gather"
	"github.com/capsaga/capsaga/saga"
)

var (
	errAway     = &saga.Error{Class: saga.Unavailable, System: "fake", Message: "nobody listens"}
	errRejected = &saga.Error{Class: saga.Rejected, System: "fake", Message: "not like this"}
)

// fake is a sink in memory. Each answer names its document, so that who gets it can
// tell whether it is theirs.
type fake struct {
	// before is asked before a request is answered.
	before func(ctx context.Context, keys string) error

	mu             sync.Mutex
	requests       []string // their keys
	underWay, most int
}

func (f *fake) Apply(ctx context.Context, docs []saga.Document) ([]saga.Applied, error) {
	keys := keysOf(docs)
	f.mu.Lock()
	f.requests = append(f.requests, keys)
	f.underWay++
	f.most = max(f.most, f.underWay)
	f.mu.Unlock()
	defer func() {
		f.mu.Lock()
		f.underWay--
		f.mu.Unlock()
	}()
	if f.before != nil {
		if err := f.before(ctx, keys); err != nil {
			return nil, err
		}
	}
	return answers(docs), nil
}

// made returns the requests so far.
func (f *fake) made() []string {
	f.mu.Lock()
	defer f.mu.Unlock()
	return slices.Clone(f.requests)
}

func keysOf(docs []saga.Document) string {
	keys := make([]string, len(docs))
	for i := range docs {
		keys[i] = docs[i].Key
	}
	return strings.Join(keys, " ")
}

func answers(docs []saga.Document) []saga.Applied {
	applied := make([]saga.Applied, len(docs))
	for i := range docs {
		applied[i] = saga.Applied{Changed: true, Err: answer(docs[i].Key)}
	}
	return applied
}

type answer string

func (a answer) Error() string { return string(a) }

// documents returns one per key; their entity is what a key has before a slash.
func documents(keys string) []saga.Document {
	var docs []saga.Document
	for key := range strings.FieldsSeq(keys) {
		entity, _, found := strings.Cut(key, "/")
		if !found {
			entity = "films"
		}
		docs = append(docs, saga.Document{Entity: entity, Key: key, Version: 1, Row: []byte(`{}`)})
	}
	return docs
}

// caller is an Apply under way.
type caller struct {
	keys     string
	applied  []saga.Applied
	err      error
	panicked any
	took     time.Duration
	done     chan struct{}
}

// start calls Apply and returns when that waits for something.
func start(ctx context.Context, sink *gather.Sink, keys string) *caller {
	c := &caller{keys: keys, done: make(chan struct{})}
	go func() {
		defer close(c.done)
		defer func() { c.panicked = recover() }()
		began := time.Now()
		c.applied, c.err = sink.Apply(ctx, documents(keys))
		c.took = time.Since(began)
	}()
	synctest.Wait()
	return c
}

// requireDone fails unless the call has ended with its own answers.
func (c *caller) requireDone(t *testing.T) {
	t.Helper()
	<-c.done
	require.NoError(t, c.err)
	require.Equal(t, answers(documents(c.keys)), c.applied)
}

// held returns a fake whose requests wait until they are released, or their context
// ends.
func held() (f *fake, release func()) {
	gate := make(chan struct{})
	f = &fake{before: func(ctx context.Context, _ string) error {
		select {
		case <-gate:
			return nil
		case <-ctx.Done():
			return ctx.Err()
		}
	}}
	return f, func() { close(gate) }
}

// inBubble runs a test with a clock of its own.
func inBubble(t *testing.T, test func(t *testing.T)) {
	t.Helper()
	t.Parallel()
	synctest.Test(t, test)
}

func TestLoneCallerGoesAtOnce(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		f := &fake{}
		sink := gather.New("fake", f, gather.Limits{})
		for i := range 3 {
			c := start(t.Context(), sink, fmt.Sprintf("a%d b%d", i, i))
			c.requireDone(t)
			require.Zero(t, c.took)
		}
		require.Equal(t, []string{"a0 b0", "a1 b1", "a2 b2"}, f.made())
		applied, err := sink.Apply(t.Context(), nil)
		require.NoError(t, err)
		require.Empty(t, applied)
		require.Len(t, f.made(), 3, "a call without documents makes no request")
		require.True(t, sink.Idle())
	})
}

func TestCallsGatherWhileRequestsAreUnderWay(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		f, release := held()
		sink := gather.New("fake", f, gather.Limits{})
		var callers []*caller
		for _, keys := range []string{"a", "b", "c d", "e", "f g h"} {
			callers = append(callers, start(t.Context(), sink, keys))
		}
		require.Equal(t, []string{"a", "b"}, f.made())
		release()
		for _, c := range callers {
			c.requireDone(t)
		}
		require.Equal(t, []string{"a", "b", "c d e f g h"}, f.made())
		synctest.Wait()
		require.True(t, sink.Idle())
	})
}

func TestRequestsAreBounded(t *testing.T) {
	for name, test := range map[string]struct {
		limits gather.Limits
		want   []string
	}{
		// A document of the fake's takes two bytes beside its key.
		"by count": {gather.Limits{Requests: 1, Documents: 3}, []string{"first", "a b", "c d e", "f g h i", "j"}},
		"by bytes": {gather.Limits{Requests: 1, Bytes: 9}, []string{"first", "a b", "c d e", "f g h i", "j"}},
		"neither":  {gather.Limits{Requests: 1}, []string{"first", "a b c d e f g h i j"}},
	} {
		t.Run(name, func(t *testing.T) {
			inBubble(t, func(t *testing.T) {
				f, release := held()
				sink := gather.New("fake", f, test.limits)
				var callers []*caller
				for _, keys := range []string{"first", "a b", "c d", "e", "f g h i", "j"} {
					callers = append(callers, start(t.Context(), sink, keys))
				}
				release()
				for _, c := range callers {
					c.requireDone(t)
				}
				require.Equal(t, test.want, f.made())
				require.Equal(t, 1, f.most)
			})
		})
	}
}

func TestCallerWhoLeaves(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		f, release := held()
		sink := gather.New("fake", f, gather.Limits{Requests: 1})
		first := start(t.Context(), sink, "first")
		ctx, cancel := context.WithCancel(t.Context())
		waits := start(ctx, sink, "waits")
		stays := start(t.Context(), sink, "stays")
		cancel()
		<-waits.done
		require.ErrorIs(t, waits.err, context.Canceled)
		require.Equal(t, saga.Unavailable, saga.ClassOf(waits.err), "nothing was sent")
		require.EqualError(t, waits.err, "fake: apply 1 documents: not sent before the caller gave up")
		ended := start(ctx, sink, "ended")
		<-ended.done
		require.ErrorIs(t, ended.err, context.Canceled)
		release()
		first.requireDone(t)
		stays.requireDone(t)
		require.Equal(t, []string{"first", "stays"}, f.made())
	})
}

func TestRequestGoesOnWithoutACallerWhoLeft(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		gates := map[string]chan struct{}{"first": make(chan struct{}), "leaves stays": make(chan struct{})}
		f := &fake{before: func(ctx context.Context, keys string) error {
			select {
			case <-gates[keys]:
				return nil
			case <-ctx.Done():
				return ctx.Err()
			}
		}}
		sink := gather.New("fake", f, gather.Limits{Requests: 1})
		first := start(t.Context(), sink, "first")
		ctx, cancel := context.WithTimeout(t.Context(), 10*time.Millisecond)
		defer cancel()
		leaves := start(ctx, sink, "leaves")
		stays := start(t.Context(), sink, "stays")
		close(gates["first"])
		first.requireDone(t)
		<-leaves.done
		require.ErrorIs(t, leaves.err, context.DeadlineExceeded)
		require.Equal(t, saga.Ambiguous, saga.ClassOf(leaves.err))
		require.EqualError(t, leaves.err, "fake: apply 1 documents: no answer before the deadline, it may have been done")
		require.Equal(t, 10*time.Millisecond, leaves.took)
		close(gates["leaves stays"])
		stays.requireDone(t)
	})
}

// Its deadline is the latest of its callers', and it does not outlive their interest.
func TestRequestEndsWithItsLastCaller(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		gate := make(chan struct{})
		var ended []time.Time
		f := &fake{before: func(ctx context.Context, keys string) error {
			if keys == "first" {
				<-gate
				return nil
			}
			deadline, ok := ctx.Deadline()
			if ok != (keys != "c d") {
				t.Errorf("%s: the deadline is %v", keys, deadline)
			}
			<-ctx.Done()
			ended = append(ended, time.Now())
			return ctx.Err()
		}}
		sink := gather.New("fake", f, gather.Limits{Requests: 1, Documents: 2})
		began := time.Now()
		first := start(t.Context(), sink, "first")
		within := func(d time.Duration) context.Context {
			ctx, cancel := context.WithTimeout(t.Context(), d)
			t.Cleanup(cancel)
			return ctx
		}
		a, b := start(within(30*time.Millisecond), sink, "a"), start(within(20*time.Millisecond), sink, "b")
		endless, cancel := context.WithCancel(t.Context())
		c, d := start(within(40*time.Millisecond), sink, "c"), start(endless, sink, "d")
		close(gate)
		first.requireDone(t)
		<-b.done
		require.Equal(t, 20*time.Millisecond, b.took)
		<-a.done
		require.Equal(t, 30*time.Millisecond, a.took)
		<-c.done
		require.Equal(t, 40*time.Millisecond, c.took)
		time.Sleep(time.Second)
		cancel()
		<-d.done
		synctest.Wait()
		require.Equal(t, []string{"first", "a b", "c d"}, f.made())
		require.Equal(t, []time.Duration{30 * time.Millisecond, 1040 * time.Millisecond}, []time.Duration{ended[0].Sub(began), ended[1].Sub(began)})
		require.True(t, sink.Idle())
	})
}

// failing answers requests that hold the key with the error, once the first request
// has been released.
func failing(key string, err error) (f *fake, release func()) {
	f, release = held()
	hold := f.before
	f.before = func(ctx context.Context, keys string) error {
		if err := hold(ctx, keys); err != nil {
			return err
		}
		if slices.Contains(strings.Fields(keys), key) {
			return err
		}
		return nil
	}
	return f, release
}

func TestPoisonIsNotForNeighbours(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		f, release := failing("poison", errRejected)
		sink := gather.New("fake", f, gather.Limits{Requests: 1})
		var innocent []*caller
		for _, keys := range []string{"first", "a", "b c"} {
			innocent = append(innocent, start(t.Context(), sink, keys))
		}
		guilty := start(t.Context(), sink, "d poison")
		innocent = append(innocent, start(t.Context(), sink, "e"))
		release()
		for _, c := range innocent {
			c.requireDone(t)
		}
		<-guilty.done
		require.Same(t, errRejected, guilty.err)
		require.Equal(t, []string{"first", "a b c d poison e"}, f.made()[:2])
		require.ElementsMatch(t, []string{"a", "b c", "d poison", "e"}, f.made()[2:])
		lone := start(t.Context(), sink, "poison")
		<-lone.done
		require.Same(t, errRejected, lone.err)
		require.Len(t, f.made(), 7, "who was alone is not sent again")
	})
}

func TestWholeFailureIsForAll(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		f, release := failing("a", errAway)
		sink := gather.New("fake", f, gather.Limits{Requests: 1})
		first, a, b := start(t.Context(), sink, "first"), start(t.Context(), sink, "a"), start(t.Context(), sink, "b")
		release()
		first.requireDone(t)
		for _, c := range []*caller{a, b} {
			<-c.done
			require.Same(t, errAway, c.err)
			require.Nil(t, c.applied)
		}
		require.Equal(t, []string{"first", "a b"}, f.made())
		start(t.Context(), sink, "c").requireDone(t)
	})
}

// A panic reaches the goroutine of the caller whose documents cause it, and no other.
func TestPanicIsTheCallersOwn(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		f, release := held()
		hold := f.before
		f.before = func(ctx context.Context, keys string) error {
			if err := hold(ctx, keys); err != nil {
				return err
			}
			if strings.Contains(keys, "bomb") {
				panic("bang")
			}
			return nil
		}
		sink := gather.New("fake", f, gather.Limits{Requests: 1})
		first, a, bomb := start(t.Context(), sink, "first"), start(t.Context(), sink, "a"), start(t.Context(), sink, "bomb")
		release()
		first.requireDone(t)
		a.requireDone(t)
		<-bomb.done
		require.Equal(t, "bang", bomb.panicked)
		require.True(t, sink.Idle())
	})
}

type short struct{}

func (short) Apply(context.Context, []saga.Document) ([]saga.Applied, error) {
	return make([]saga.Applied, 1), nil
}

func TestAnswerOfAnotherLength(t *testing.T) {
	t.Parallel()
	_, err := gather.New("fake", short{}, gather.Limits{}).Apply(t.Context(), documents("a b"))
	require.EqualError(t, err, "fake: 1 results for 2 documents")
}

// Two connections that hang do not hold up everybody else until their deadlines.
func TestHangingRequestsDoNotHoldOthers(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		gate := make(chan struct{})
		f := &fake{before: func(ctx context.Context, keys string) error {
			if !strings.HasPrefix(keys, "hang") {
				return nil
			}
			<-gate // whatever the context says
			return errors.New("at last")
		}}
		sink := gather.New("fake", f, gather.Limits{})
		one, two := start(t.Context(), sink, "hang1"), start(t.Context(), sink, "hang2")
		a, b := start(t.Context(), sink, "a"), start(t.Context(), sink, "b")
		a.requireDone(t)
		b.requireDone(t)
		require.Equal(t, gather.Overdue, a.took)
		late := start(t.Context(), sink, "late")
		late.requireDone(t)
		require.Zero(t, late.took)
		require.Equal(t, []string{"hang1", "hang2", "a b", "late"}, f.made())
		close(gate)
		<-one.done
		<-two.done
		synctest.Wait()
		require.True(t, sink.Idle())
	})
}

func TestEntitiesApart(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		gate := make(chan struct{})
		f := &fake{before: func(_ context.Context, keys string) error {
			if strings.Contains(keys, "red/") {
				<-gate
			}
			return nil
		}}
		sink := gather.New("fake", f, gather.Limits{Requests: 1, ByEntity: true})
		red := []*caller{start(t.Context(), sink, "red/1"), start(t.Context(), sink, "red/2"), start(t.Context(), sink, "red/3")}
		start(t.Context(), sink, "green/1").requireDone(t)
		both := []*caller{start(t.Context(), sink, "red/4 green/4"), start(t.Context(), sink, "green/5 red/5"), start(t.Context(), sink, "red/6 green/6 red/7")}
		start(t.Context(), sink, "green/2").requireDone(t)
		close(gate)
		for _, c := range append(red, both...) {
			c.requireDone(t)
		}
		require.ElementsMatch(t, []string{
			"red/1", "green/1", "red/4 green/4", "green/2", "red/2 red/3", "green/5 red/5 red/6 green/6 red/7",
		}, f.made())
		synctest.Wait()
		require.True(t, sink.Idle())
	})
}
