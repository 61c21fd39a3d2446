package attack

import (
	"context"
	"fmt"
	"math/rand/v2"
	"sync"
	"sync/atomic"

	"golang.org/x/sync/errgroup"
)

// workload is the attack itself: each of its workers holds one connection at a
// time and draws what it does next from a seeded source. The interleaving is the
// servers' own, so a seed gives the same statements and not the same run.
type workload struct {
	*arena
	seed uint64
	more func() bool // whether to go on

	mu      sync.Mutex
	reports []sagaReport
	counts  counts
}

// counts are the figures of a run, for its log.
type counts struct {
	sagas, rejected, retried, plain, conflicts, deadlocks, etags atomic.Int64
}

// worker is one of the connections' owners.
type worker struct {
	*workload
	*rand.Rand
	name   string
	serial int
}

func (l *workload) run(ctx context.Context) error {
	group, ctx := errgroup.WithContext(ctx)
	for i := range connections {
		w := &worker{workload: l, Rand: rand.New(rand.NewPCG(l.seed, uint64(i))), name: fmt.Sprintf("w%02d", i)}
		group.Go(func() error {
			for l.more() {
				if err := w.step(ctx); err != nil {
					return fmt.Errorf("%s: %w", w.name, err)
				}
			}
			return nil
		})
	}
	return group.Wait()
}

func (w *worker) step(ctx context.Context) error {
	if w.IntN(100) < 40 {
		return w.saga(ctx)
	}
	return w.plain(ctx)
}

func (w *worker) key() int { return 1 + w.IntN(keys) }

// other returns a key that is not k.
func (w *worker) other(k int) int { return 1 + (k+w.IntN(keys-1))%keys }

// blob is now and then large enough to be stored out of line.
func (w *worker) blob() string {
	if w.IntN(30) > 0 {
		return "small"
	}
	b := make([]byte, 2500)
	for i := range b {
		b[i] = byte('a' + w.IntN(26))
	}
	return string(b)
}

// pick returns one of the choices by weight.
func pick[T any](w *worker, choices []choice[T]) T {
	total := 0
	for _, c := range choices {
		total += c.weight
	}
	n := w.IntN(total)
	for _, c := range choices {
		if n -= c.weight; n < 0 {
			return c.what
		}
	}
	panic("unreachable")
}

type choice[T any] struct {
	weight int
	what   T
}
