package backfill_test

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/stretchr/testify/require"

	"github.com/capsaga/capsaga/internal/backfill"
	"github.com/capsaga/capsaga/internal/stacktest"
	"github.com/capsaga/capsaga/saga"
)

// hammer changes random rows of table hot from several sessions until stop: a
// sequence gives column v, which only rises. Deletes are for good, as keys are never
// used again.
func (w *world) hammer(rows int) (stop func()) {
	// A statement that is under way ends before stop returns: one whose context ended
	// would be left to the server, which may commit it later.
	ctx := context.Background()
	var stopped atomic.Bool
	var group sync.WaitGroup
	var next atomic.Int64
	next.Store(int64(rows))
	for range 4 {
		conn := w.connect()
		random := rand.New(rand.NewPCG(rand.Uint64(), 1))
		group.Go(func() {
			for !stopped.Load() {
				if err := change(ctx, conn, random, rows, &next); err != nil {
					w.t.Errorf("a writer failed: %v", err)
					return
				}
			}
		})
	}
	stop = func() {
		stopped.Store(true)
		group.Wait()
	}
	w.t.Cleanup(stop)
	return stop
}

// change is one transaction of a writer, which locks its rows in no order, so that
// it may deadlock with other writers, but not with a backfill.
func change(ctx context.Context, conn *pgx.Conn, random *rand.Rand, rows int, next *atomic.Int64) error {
	id := random.IntN(rows)
	switch random.IntN(10) {
	case 0:
		_, err := conn.Exec(ctx, "DELETE FROM hot WHERE id = $1", id)
		return err
	case 1:
		_, err := conn.Exec(ctx, "INSERT INTO hot VALUES ($1, nextval('versions'))", next.Add(1))
		return err
	case 2: // another key, behind or before the cursor
		_, err := conn.Exec(ctx, "UPDATE hot SET id = $2, v = nextval('versions') WHERE id = $1", id, -next.Add(1))
		return err
	case 3:
		_, err := conn.Exec(ctx, "UPDATE hot SET id = $2, v = nextval('versions') WHERE id = $1", id, next.Add(1))
		return err
	case 4:
		err := pgx.BeginFunc(ctx, conn, func(tx pgx.Tx) error {
			for range 3 {
				if _, err := tx.Exec(ctx, "UPDATE hot SET v = nextval('versions') WHERE id = $1", random.IntN(rows)); err != nil {
					return err
				}
			}
			return nil
		})
		var refused *pgconn.PgError
		if errors.As(err, &refused) && refused.Code == "40P01" { // with another writer
			return nil
		}
		return err
	}
	_, err := conn.Exec(ctx, "UPDATE hot SET v = nextval('versions') WHERE id = $1", id)
	return err
}

func (w *world) createHot(rows int) *saga.Entity {
	w.exec("CREATE SEQUENCE versions; CREATE TABLE hot (id int PRIMARY KEY, v bigint)")
	w.exec("INSERT INTO hot SELECT i, nextval('versions') FROM generate_series(0, $1 - 1) i", rows)
	return entity("hot", "id")
}

// Beside writers, no value goes back, no deleted row comes back, and in the end the
// sink has what the table has.
func TestBackfillBesideWriters(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	hot := w.createHot(20000)
	w.exec("SELECT pg_replication_slot_advance($1, pg_current_wal_lsn())", w.stack.Prefix.Slot(saga.PublicationRedis))
	stop := w.hammer(20000)
	s := w.read()
	w.serve(nil)
	for range 4 {
		w.await(w.submit(backfill.Request{Entity: hot}).ID, backfill.Done)
	}
	stop()
	w.requireSame(s, hot)
	require.Greater(t, s.reads, 4*5000)
}

// Wherever a runner dies, the next one goes on, and no row is skipped or comes
// twice.
func TestBackfillGoesOnAfterAnyCrash(t *testing.T) {
	t.Parallel()
	for name, kill := range map[string]func(w *world){
		"the worker stops":          nil,
		"the session is terminated": func(w *world) { w.terminateRunners() },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t)
			w.exec("CREATE TABLE cold (id int PRIMARY KEY, pad text); INSERT INTO cold SELECT i, repeat('x', 900) FROM generate_series(1, 3000) i")
			cold := entity("cold", "id")
			w.exec("SELECT pg_replication_slot_advance($1, pg_current_wal_lsn())", w.stack.Prefix.Slot(saga.PublicationRedis))
			s := w.read()
			b := w.submit(backfill.Request{Entity: cold})
			steps := w.crashEverywhere(b.ID, kill)
			require.Greater(t, steps, 10)
			w.requireSame(s, cold)
			require.Equal(t, 3000, s.reads, "no row came twice")
			require.Len(t, s.marks, 2)
			require.EqualValues(t, 3000, w.await(b.ID, backfill.Done).Rows)
		})
	}
}

// crashEverywhere runs a backfill by services of which the first dies before the
// first exchange with the server, the second before the second, and so on. A
// runner that gets further each time ends.
func (w *world) crashEverywhere(id int64, kill func(w *world)) (crashes int) {
	w.t.Helper()
	for {
		b, err := backfill.Find(context.Background(), w.db.Pool(), id)
		require.NoError(w.t, err)
		if b.State == backfill.Done {
			return crashes
		}
		crashes++
		died := make(chan struct{})
		steps := 0
		var once sync.Once
		ended := make(chan struct{})
		config := backfill.Config{DB: w.db, Prefix: w.stack.Prefix, Logger: w.log, Poll: 5 * time.Millisecond}
		service := backfill.NewService(config)
		ctx, cancel := context.WithCancel(context.Background())
		backfill.OnStep(service, func(string) {
			if steps++; steps == crashes {
				if kill != nil {
					kill(w)
				} else {
					cancel()
				}
				once.Do(func() { close(died) })
			}
		})
		go func() {
			defer close(ended)
			_ = service.Run(ctx)
		}()
		stacktest.Eventually(w.t, 20*time.Second, func() error {
			select {
			case <-died:
				return nil
			default:
			}
			b, err := backfill.Find(context.Background(), w.db.Pool(), id)
			if err == nil && b.State != backfill.Done {
				err = fmt.Errorf("it neither died nor ended: %+v", b)
			}
			return err
		})
		cancel()
		<-ended
	}
}

func (w *world) terminateRunners() {
	w.exec("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'capsaga-backfill' AND datname = current_database()")
}

// Two runners that know nothing of each other do the same as one.
func TestTwoRunnersAtOnce(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.exec("CREATE TABLE cold (id int PRIMARY KEY, pad text); INSERT INTO cold SELECT i, repeat('x', 500) FROM generate_series(1, 20000) i")
	cold := entity("cold", "id")
	w.exec("SELECT pg_replication_slot_advance($1, pg_current_wal_lsn())", w.stack.Prefix.Slot(saga.PublicationRedis))
	s := w.read()
	b := w.submit(backfill.Request{Entity: cold})
	var group sync.WaitGroup
	for range 3 {
		group.Go(func() {
			if err := backfill.RunUnlocked(context.Background(), w.db, w.stack.Prefix, b, w.log); err != nil {
				t.Errorf("a runner failed: %v", err)
			}
		})
	}
	group.Wait()
	w.requireSame(s, cold)
	require.Equal(t, 20000, s.reads, "no row came twice")
	require.Len(t, s.marks, 2)
}

// Of several services one runs a backfill, and when it stops another one goes on.
func TestOneServiceRunsABackfill(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.exec("CREATE TABLE cold (id int PRIMARY KEY); INSERT INTO cold SELECT i FROM generate_series(1, 10) i")
	cold := entity("cold", "id")
	b := w.submit(backfill.Request{Entity: cold})
	blocker := w.connect()
	_, err := blocker.Exec(t.Context(), "BEGIN; SELECT FROM cold WHERE id = 5 FOR UPDATE")
	require.NoError(t, err)
	var first, second atomic.Int64
	stop := w.serve(func(string) { first.Add(1) })
	w.await(b.ID, backfill.Running)
	w.serve(func(string) { second.Add(1) })
	stacktest.Eventually(t, 10*time.Second, func() error {
		if b, err := backfill.Find(t.Context(), w.db.Pool(), b.ID); err != nil || b.Rows != 4 {
			return fmt.Errorf("%+v: %w", b, err)
		}
		return nil
	})
	require.Zero(t, second.Load(), "the other one has the right to it")
	stop()
	was := first.Load()
	stacktest.Eventually(t, 10*time.Second, func() error {
		if second.Load() == 0 {
			return errors.New("nobody goes on")
		}
		return nil
	})
	_, err = blocker.Exec(t.Context(), "ROLLBACK")
	require.NoError(t, err)
	w.await(b.ID, backfill.Done)
	require.Equal(t, was, first.Load())
}
