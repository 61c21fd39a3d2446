package e2e

import (
	"context"
	"fmt"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/require"

	"github.com/capsaga/capsaga/internal/stacktest"
	"github.com/capsaga/capsaga/saga"
	"github.com/capsaga/capsaga/saga/client"
)

// held is a lock of the test's own, which stops whoever wants the same.
type held struct {
	w  *world
	tx pgx.Tx
}

// hold locks what a query locks, until the test or release ends it.
func (w *world) hold(sql string, args ...any) *held {
	w.t.Helper()
	tx, err := w.db.Begin(context.Background())
	require.NoError(w.t, err)
	h := &held{w: w, tx: tx}
	w.t.Cleanup(h.release)
	_, err = tx.Exec(context.Background(), sql, args...)
	require.NoError(w.t, err)
	return h
}

func (h *held) release() { _ = h.tx.Rollback(context.Background()) }

// awaitBlocked waits until somebody waits for a lock in this database.
func (w *world) awaitBlocked() {
	w.t.Helper()
	stacktest.Eventually(w.t, 30*time.Second, func() error {
		if n := value[int](w, "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND datname = current_database()"); n == 0 {
			return fmt.Errorf("nobody waits for a lock")
		}
		return nil
	})
}

// awaitStep waits until a saga's step has come to a state.
func (w *world) awaitStep(id string, name saga.StepName, states ...saga.StepState) {
	w.t.Helper()
	stacktest.Eventually(w.t, 60*time.Second, func() error {
		ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
		defer cancel()
		o, err := w.client.Status(ctx, id)
		if err != nil {
			return err
		}
		step := o.Step(name)
		for _, state := range states {
			if step != nil && step.State == state {
				return nil
			}
		}
		return fmt.Errorf("step %s of saga %s is %+v, the saga %s", name, id, step, o.Status)
	})
}

func (w *world) start(write saga.Write) {
	w.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	require.NoError(w.t, w.client.Start(ctx, write))
}

func (w *world) cancel(id string) {
	w.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	require.NoError(w.t, w.temporal.CancelWorkflow(ctx, saga.WorkflowID(id), ""))
}

func (w *world) terminate(id string) {
	w.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	require.NoError(w.t, w.temporal.TerminateWorkflow(ctx, saga.WorkflowID(id), "", "by hand"))
}

// The points at which a saga is stopped from outside: each brings it there, and
// returns what lets it go on.
var points = map[string]func(w *world, id string) (goOn func()){
	"before the pivot": func(w *world, id string) func() {
		lock := w.hold("SELECT 1 FROM products WHERE id = 1 FOR UPDATE")
		w.start(saga.Write{SagaID: id, Mutations: []saga.Mutation{patch("products", 1, "title", "changed"), add("products", 2, "stock", -1)}})
		w.awaitBlocked()
		return lock.release
	},
	"between its sinks": func(w *world, id string) func() {
		w.write(client.WaitVisible, saga.Parked, saga.Write{SagaID: id, Mutations: []saga.Mutation{
			patch("products", 1, "title", "changed", "genre", "Drama"), add("products", 2, "stock", -1),
		}})
		return w.allowGenre
	},
	"while it is undone": func(w *world, id string) func() {
		w.write(client.WaitVisible, saga.Parked, saga.Write{SagaID: id, Mutations: []saga.Mutation{
			patch("products", 1, "title", "changed", "genre", "Drama"), add("products", 2, "stock", -1),
		}})
		lock := w.hold("SELECT 1 FROM products WHERE id = 1 FOR UPDATE")
		w.cancel(id)
		w.awaitBlocked()
		return lock.release
	},
}

// A cancellation before the pivot leaves nothing, and after it undoes the saga.
func TestCancelAtEachPoint(t *testing.T) {
	for point, bring := range points {
		t.Run(point, func(t *testing.T) {
			w := newClashingWorld(t)
			w.startWorker()
			w.stock(1, 2)
			before := w.inPostgres("products")
			id := w.id("stopped")
			goOn := bring(w, id)
			w.cancel(id)
			if point == "before the pivot" { // whether it came in time is the lock's to say
				defer goOn()
			} else {
				goOn()
			}
			o := w.await(id)
			want := saga.Compensated
			if point == "before the pivot" {
				want = saga.Cancelled
			}
			require.Equal(t, want, o.Status, "%+v", o)
			requireSameRows(t, "PostgreSQL after the cancellation", before, w.inPostgres("products"))
			w.requireAgree()
		})
	}
}

// Terminated at any point, a saga is replayed from there: forward, or on with its
// undo.
func TestTerminateAtEachPoint(t *testing.T) {
	for point, bring := range points {
		t.Run(point, func(t *testing.T) {
			w := newClashingWorld(t)
			w.startWorker()
			w.stock(1, 2)
			id := w.id("stopped")
			goOn := bring(w, id)
			w.terminate(id)
			goOn()
			want := saga.Completed
			if point == "while it is undone" {
				want = saga.Compensated
			}
			o := w.replayed(id)
			require.Equal(t, want, o.Status, "%+v", o)
			title, stock := `"changed"`, "99"
			if want == saga.Compensated {
				title, stock = `"film 1"`, "100"
			}
			rows := w.inPostgres("products")
			require.Equal(t, title, rows["1"]["title"])
			require.Equal(t, stock, rows["2"]["stock"], "done once")
			w.requireAgree()

			require.Equal(t, o.Version, w.replayed(id).Version, "a saga that has ended has nothing to replay")
		})
	}
}
