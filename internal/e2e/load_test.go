package e2e

import (
	"context"
	"fmt"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/capsaga/capsaga/internal/postgres"
	"github.com/capsaga/capsaga/internal/stacktest"
	"github.com/capsaga/capsaga/saga"
	"github.com/capsaga/capsaga/saga/client"
)

// The keys of a load: shared ones that everybody changes and nobody deletes, and
// after them those that have one writer each, which inserts and deletes in turn.
const (
	sharedKeys  = 200
	writers     = 48
	stockAtLoad = 1_000_000
)

// load writes sagas from many goroutines, as callers do who never give up: what
// did not answer is written again with the same id.
type load struct {
	w     *world
	sagas callers
	total int64 // sagas to write, the first of which make the shared keys

	next     atomic.Int64
	answered atomic.Int64 // sagas whose commit is known
	open     atomic.Int64 // sagas that a caller is writing
	retries  atomic.Int64

	mu     sync.Mutex
	wrote  map[string]int // the changes that each makes
	stock  [sharedKeys + 1]int64
	failed []string
}

// callers is how the load's writes become sagas.
type callers interface {
	Write(ctx context.Context, w saga.Write, level client.Level) (saga.Outcome, error)
	Start(ctx context.Context, w saga.Write) error
	Wait(ctx context.Context, sagaID string, level client.Level) (saga.Outcome, error)
}

func newLoad(w *world, total int) *load {
	return &load{w: w, sagas: w.client, total: int64(total), wrote: map[string]int{}}
}

// grouped is a client whose concurrent writes share workflows, and which learns from
// the ledger of those that have no workflow of their own.
func (w *world) grouped(g client.Group) *client.Client {
	w.t.Helper()
	ledger, err := postgres.Open(context.Background(), w.stack.PostgresURL)
	require.NoError(w.t, err)
	w.t.Cleanup(ledger.Close)
	c, err := client.New(client.Options{Temporal: w.temporal, Prefix: w.stack.Prefix, Ledger: ledger, Group: g})
	require.NoError(w.t, err)
	return c
}

// batching writes what its callers want in batches that it makes itself.
type batching struct {
	*client.Client
	mu      sync.Mutex
	waiting []*waitingWrite
}

type waitingWrite struct {
	write saga.Write
	done  chan client.Result
}

// Write puts the write into the next batch, which leaves a moment after its first
// write has come.
func (b *batching) Write(ctx context.Context, w saga.Write, level client.Level) (saga.Outcome, error) {
	mine := &waitingWrite{w, make(chan client.Result, 1)}
	b.mu.Lock()
	b.waiting = append(b.waiting, mine)
	if len(b.waiting) == 1 {
		time.AfterFunc(10*time.Millisecond, func() { b.leave(context.WithoutCancel(ctx), level) })
	}
	b.mu.Unlock()
	select {
	case r := <-mine.done:
		return r.Outcome, r.Err
	case <-ctx.Done():
		return saga.Outcome{}, ctx.Err()
	}
}

func (b *batching) leave(ctx context.Context, level client.Level) {
	b.mu.Lock()
	batch := b.waiting
	b.waiting = nil
	b.mu.Unlock()
	writes := make([]saga.Write, len(batch))
	for i, w := range batch {
		writes[i] = w.write
	}
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	for i, r := range b.WriteBatch(ctx, writes, level) {
		batch[i].done <- r
	}
}

// run writes all sagas and returns when each is committed or was started.
func (l *load) run(ctx context.Context) {
	l.prepare(ctx)
	var group sync.WaitGroup
	for writer := range writers {
		group.Go(func() {
			random := rand.New(rand.NewPCG(uint64(writer), 1)) //nolint:gosec // a test that can be repeated
			churn := &churned{id: sharedKeys + 1 + writer}
			for ctx.Err() == nil {
				n := l.next.Add(1)
				if n > l.total {
					return
				}
				l.one(ctx, int(n), random, churn)
			}
		})
	}
	group.Wait()
}

// prepare makes the shared keys.
func (l *load) prepare(ctx context.Context) {
	var group sync.WaitGroup
	for range writers {
		group.Go(func() {
			for n := l.next.Add(1); n <= sharedKeys && ctx.Err() == nil; n = l.next.Add(1) {
				l.write(ctx, saga.Write{SagaID: l.w.id("%d", n), Mutations: []saga.Mutation{
					upsert("products", "id", n, "title", fmt.Sprintf("film %d", n), "stock", stockAtLoad, "imdb_rating", 7.5),
				}})
			}
		})
	}
	group.Wait()
	l.next.Store(sharedKeys)
}

// churned is a key with one writer.
type churned struct {
	id    int
	there bool
}

// one writes the n-th saga.
func (l *load) one(ctx context.Context, n int, random *rand.Rand, churn *churned) {
	w := saga.Write{SagaID: l.w.id("%d", n)}
	key, other := 1+random.IntN(sharedKeys), 1+random.IntN(sharedKeys)
	amount := 1 + random.IntN(9)
	switch kind := random.IntN(10); {
	case kind < 4: // a sale: doubled or lost, it would show in the sum
		w.Mutations = []saga.Mutation{add("products", key, "stock", -amount)}
		l.move(key, -amount)
	case kind < 6: // between two rows, and a row of another entity
		w.Mutations = []saga.Mutation{
			add("products", key, "stock", -amount), add("products", other, "stock", amount),
			upsert("users", "id", n, "name", fmt.Sprintf("customer %d", n), "email", fmt.Sprintf("%d@example.org", n)),
		}
		l.move(key, -amount)
		l.move(other, amount)
	case kind < 7:
		w.Mutations = []saga.Mutation{patch("products", key, "title", fmt.Sprintf("film %d of saga %d", key, n), "price_cents", n)}
	case kind < 8:
		w.Mutations = []saga.Mutation{upsert("products", "id", key, "title", fmt.Sprintf("film %d by saga %d", key, n), "imdb_rating", 8.1)}
	case churn.there:
		w.Mutations = []saga.Mutation{remove("products", churn.id)}
		churn.there = false
	default:
		w.Mutations = []saga.Mutation{insert("products", "id", churn.id, "title", fmt.Sprintf("made by saga %d", n))}
		churn.there = true
	}
	// A fifth does not wait; the order on a key with one writer needs the wait.
	if n%5 == 0 && w.Mutations[0].Op != saga.Delete && w.Mutations[0].Op != saga.Insert {
		l.start(ctx, w)
		return
	}
	l.write(ctx, w)
}

func (l *load) move(key, amount int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.stock[key] += int64(amount)
}

func (l *load) write(ctx context.Context, w saga.Write) {
	l.persist(ctx, w, func(ctx context.Context) error {
		o, err := l.sagas.Write(ctx, w, client.WaitCommitted)
		if err == nil && o.Version == 0 {
			l.fail("saga %s ended %s: %+v", w.SagaID, o.Status, o.Error)
		}
		return err
	})
}

func (l *load) start(ctx context.Context, w saga.Write) {
	l.persist(ctx, w, func(ctx context.Context) error { return l.sagas.Start(ctx, w) })
}

// persist repeats a call until it is answered.
func (l *load) persist(ctx context.Context, w saga.Write, call func(context.Context) error) {
	l.mu.Lock()
	l.wrote[w.SagaID] = len(w.Mutations)
	l.mu.Unlock()
	l.open.Add(1)
	defer l.open.Add(-1)
	for {
		attempt, cancel := context.WithTimeout(ctx, 15*time.Second)
		err := call(attempt)
		cancel()
		if err == nil {
			l.answered.Add(1)
			return
		}
		if ctx.Err() != nil || saga.ClassOf(err) == saga.Rejected {
			l.fail("saga %s: %v", w.SagaID, err)
			return
		}
		l.retries.Add(1)
		select {
		case <-time.After(100 * time.Millisecond):
		case <-ctx.Done():
		}
	}
}

func (l *load) fail(format string, args ...any) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.failed = append(l.failed, fmt.Sprintf(format, args...))
}

// reached waits until so many sagas are answered, and wants that others are
// still being written.
func (l *load) reached(t testing.TB, answered int64) {
	t.Helper()
	stacktest.Eventually(t, 5*time.Minute, func() error {
		if n := l.answered.Load(); n < answered {
			return fmt.Errorf("%d sagas are answered of %d; %d are being written", n, answered, l.open.Load())
		}
		return nil
	})
	require.Positive(t, l.open.Load(), "no saga is under way")
}

// requireAllThere waits until every saga has completed, and wants that nothing is
// lost or doubled anywhere.
func (l *load) requireAllThere(t testing.TB, within time.Duration) {
	t.Helper()
	require.Empty(t, l.failed)
	require.Len(t, l.wrote, int(l.total))
	l.requireOutcomes(t, within)
	rows := l.w.inPostgres("products")
	for key := 1; key <= sharedKeys; key++ {
		require.Equal(t, fmt.Sprint(stockAtLoad+l.stock[key]), rows[fmt.Sprint(key)]["stock"], "stock of product %d", key)
	}
	l.w.requireConverged(l.wrote)
}

// requireOutcomes waits until Temporal tells of each saga that it has completed.
// The ledger's copy of an outcome may be lost with PostgreSQL, the saga not.
func (l *load) requireOutcomes(t testing.TB, within time.Duration) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), within)
	defer cancel()
	ids := make(chan string)
	var group sync.WaitGroup
	for range writers {
		group.Go(func() {
			for id := range ids {
				if o, err := l.sagas.Wait(ctx, id, client.WaitVisible); err != nil || o.Status != saga.Completed {
					l.fail("saga %s: %+v, %v", id, o, err)
				}
			}
		})
	}
	for id := range l.wrote {
		ids <- id
	}
	close(ids)
	group.Wait()
	require.Empty(t, l.failed)
}
