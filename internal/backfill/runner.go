package backfill

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/capsaga/capsaga/internal/postgres"
	"github.com/capsaga/capsaga/saga"
)

// runner runs one backfill over one session, which holds the right to do so.
type runner struct {
	conn   *pgx.Conn
	prefix saga.Prefix
	log    *slog.Logger
	job    Backfill
	table  *table
	pace   pace
	// longest is for how long a chunk of several rows may hold locks.
	longest   time.Duration
	maxBehind int64
	since     int64  // bytes since the streams were last looked at
	said      string // what was last noted, without its details
	// before, if set, is called before each step that speaks to the server; tests
	// stop the runner there.
	before func(step string)
}

const (
	// patience is how long a chunk of a single row waits for it. Nobody can wait
	// for such a chunk in turn, but for the row.
	patience = 2 * time.Second
	// lookEvery is after how many bytes the streams are looked at.
	lookEvery = 8 << 20
)

var (
	// errEnded says that the backfill is not open any more.
	errEnded = errors.New("the backfill has ended")
	// errMoved says that somebody else took the next step.
	errMoved = errors.New("somebody else runs the backfill as well")
)

// step is called before each exchange with the server.
func (r *runner) step(name string) {
	if r.before != nil {
		r.before(name)
	}
}

// start prepares the session.
func (r *runner) start(ctx context.Context) error {
	var deadlock int64
	r.step("start")
	// The lock's timeout is for statements that are prepared while a table is altered.
	err := r.conn.QueryRow(ctx, `SELECT setting::bigint FROM pg_settings, set_config('application_name', 'capsaga-backfill', false) name_,
		set_config('lock_timeout', $1, false) limit_ WHERE name = 'deadlock_timeout'`, milliseconds(patience)).Scan(&deadlock)
	r.longest = max(time.Duration(deadlock)*time.Millisecond/2, 2*time.Millisecond)
	r.pace = newPace()
	return err
}

// run goes on until the backfill has ended, which is no error, the session is lost
// or ctx ends.
func (r *runner) run(ctx context.Context) error {
	if err := r.start(ctx); err != nil {
		return postgres.Classify("prepare a session", err)
	}
	pause := firstPause
	for {
		err := r.advance(ctx)
		if err == nil {
			pause = firstPause
			continue
		}
		if errors.Is(err, errEnded) {
			return nil
		}
		if err := r.recover(ctx, err); err != nil {
			return err
		}
		if judge(err) != later {
			continue
		}
		if err := sleep(ctx, pause); err != nil {
			return err
		}
		pause = min(2*pause, lastPause)
	}
}

const (
	firstPause = 100 * time.Millisecond
	lastPause  = 2 * time.Second
)

func sleep(ctx context.Context, d time.Duration) error {
	select {
	case <-time.After(d):
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// advance takes the next step.
func (r *runner) advance(ctx context.Context) error {
	if err := r.load(ctx); err != nil {
		return err
	}
	if r.job.State == Requested {
		return r.begin(ctx)
	}
	if r.table == nil {
		t, err := describe(ctx, r.conn, r.job.Table, r.job.Key)
		if err != nil {
			return err
		}
		r.table = t
	}
	for {
		if err := r.awaitStreams(ctx); err != nil {
			return err
		}
		if err := r.chunk(ctx); err != nil {
			return err
		}
	}
}

// load reads where the backfill stands.
func (r *runner) load(ctx context.Context) error {
	r.step("load")
	found, err := Find(ctx, r.conn, r.job.ID)
	if err != nil {
		return err
	}
	if found == nil || !found.State.Open() {
		return errEnded
	}
	r.job = *found
	return nil
}

// recover makes the session ready to go on after an error. It returns one when
// there is no going on.
func (r *runner) recover(ctx context.Context, cause error) error {
	if r.conn.IsClosed() || ctx.Err() != nil {
		return errors.Join(ctx.Err(), cause)
	}
	r.step("rollback")
	if _, err := r.conn.Exec(ctx, "ROLLBACK"); err != nil {
		return errors.Join(cause, err)
	}
	switch judge(cause) {
	case again:
		return nil
	case smaller:
		return r.slow(ctx, cause)
	case anew:
		// Refused, if the table or its key is gone.
		t, err := describe(ctx, r.conn, r.job.Table, r.job.Key)
		switch {
		case err != nil && saga.ClassOf(err) == saga.Rejected:
			return r.fail(ctx, err)
		case err != nil:
			return err
		case r.table != nil && t.stamp == r.table.stamp:
			return r.fail(ctx, cause)
		}
		r.table = t
		return nil
	case giveUp:
		return r.fail(ctx, cause)
	case lostHold:
		return cause
	}
	var wait *waiting
	if errors.As(cause, &wait) {
		return r.note(ctx, wait.reason, wait.details)
	}
	return r.note(ctx, postgres.Classify("backfill "+r.job.Entity, cause).Error(), "")
}

// waiting is the error of a step that cannot be taken yet.
type waiting struct{ reason, details string }

func (w *waiting) Error() string { return w.reason + w.details }

// slow takes fewer rows next time. What fails with a single row either waits for
// others or can never be done.
func (r *runner) slow(ctx context.Context, cause error) error {
	single := !r.pace.slow()
	switch {
	case held(cause):
		r.log.Debug("a chunk waits for rows", "entity", r.job.Entity, "rows", r.pace.rows)
		if single {
			return r.note(ctx, "waits for a row that another transaction holds locked: "+r.where(), r.blocker(ctx))
		}
	case single:
		return r.fail(ctx, fmt.Errorf("a row is too large for a message, and for replication as well: %s: make it smaller, or take the entity's sinks away from the table: %w", r.where(), cause))
	}
	return nil
}

// where says which row is next.
func (r *runner) where() string {
	if r.job.cursor == nil {
		return fmt.Sprintf("the first row of %s", r.job.Table)
	}
	return fmt.Sprintf("the row of %s after (%s) = (%s)", r.job.Table, strings.Join(r.job.Key, ", "), strings.Join(r.job.cursor, ", "))
}

// blocker names who has had a transaction open for longest, as far as it can be
// told.
func (r *runner) blocker(ctx context.Context) string {
	var pid int64
	var application string
	var age time.Duration
	err := r.conn.QueryRow(ctx, `
		SELECT pid, coalesce(application_name, ''), clock_timestamp() - xact_start FROM pg_stat_activity
		WHERE backend_xid IS NOT NULL AND pid <> pg_backend_pid() AND datname = current_database() ORDER BY xact_start LIMIT 1`).Scan(&pid, &application, &age)
	if err != nil {
		return ""
	}
	return fmt.Sprintf(" (the oldest transaction is of process %d %s, open for %s)", pid, application, age.Round(time.Second))
}

// note keeps what the backfill waits for, for all to see; an empty text says that
// it goes on. The details may change while the reason is the same.
func (r *runner) note(ctx context.Context, reason, details string) error {
	if reason == r.said && details == "" {
		return nil
	}
	r.step("note")
	_, err := r.conn.Exec(ctx, "UPDATE capsaga.backfill SET error = nullif($2, ''), updated_at = clock_timestamp() WHERE id = $1 AND finished_at IS NULL",
		r.job.ID, reason+details)
	if err == nil && reason != r.said {
		if reason != "" {
			r.log.Warn("a backfill waits", "entity", r.job.Entity, "backfill", r.job.ID, "reason", reason+details)
		}
		r.said = reason
	}
	return err
}

// fail ends the backfill: an operator has to do something first.
func (r *runner) fail(ctx context.Context, cause error) error {
	cause = postgres.Classify("backfill "+r.job.Entity, cause)
	r.step("fail")
	_, err := r.conn.Exec(ctx, `UPDATE capsaga.backfill SET state = $2, error = $3, updated_at = clock_timestamp(), finished_at = clock_timestamp()
		WHERE id = $1 AND finished_at IS NULL`, r.job.ID, Failed, cause.Error()+"; then run `capsaga backfill "+r.job.Entity+"`")
	if err == nil {
		r.log.Error("a backfill failed", "entity", r.job.Entity, "backfill", r.job.ID, "error", cause)
	}
	return err
}

// streamOf is the publication whose stream feeds a sink.
var streamOf = map[saga.Sink]string{
	saga.Redis: saga.PublicationRedis, saga.Kafka: saga.PublicationKafka, saga.Elasticsearch: saga.PublicationElasticsearch,
}

// slots returns the slots of the streams that the backfill feeds.
func slots(prefix saga.Prefix, sinks []saga.Sink) []string {
	var names []string
	for _, sink := range sinks {
		names = append(names, prefix.Slot(streamOf[sink]))
	}
	return names
}

// awaitStreams waits while a stream is far behind.
func (r *runner) awaitStreams(ctx context.Context) error {
	if r.since < min(lookEvery, r.maxBehind) {
		return nil
	}
	r.since = 0
	for {
		behind, err := r.behind(ctx)
		if err != nil {
			return err
		}
		if err := r.note(ctx, behind, ""); err != nil || behind == "" {
			return err
		}
		if err := sleep(ctx, 5*firstPause); err != nil {
			return err
		}
		if err := r.load(ctx); err != nil { // it may have been cancelled
			return err
		}
	}
}

// behind says which stream the backfill has to wait for, if there is one. Without
// its slot a stream would not get the rows at all.
func (r *runner) behind(ctx context.Context) (string, error) {
	r.step("look at the slots")
	rows, err := r.conn.Query(ctx, `
		SELECT w.slot, s.slot_name IS NOT NULL, coalesce(pg_current_wal_lsn() - s.confirmed_flush_lsn, 0)::bigint
		FROM unnest($1::text[]) w(slot) LEFT JOIN pg_replication_slots s ON s.slot_name = w.slot AND s.database = current_database()`,
		slots(r.prefix, r.job.Sinks))
	if err != nil {
		return "", err
	}
	var problems []string
	var slot string
	var there bool
	var lag int64
	_, err = pgx.ForEachRow(rows, []any{&slot, &there, &lag}, func() error {
		switch {
		case !there:
			problems = append(problems, fmt.Sprintf("replication slot %s does not exist: `capsaga catalog apply` creates it", slot))
		case lag > r.maxBehind:
			problems = append(problems, fmt.Sprintf("waits for the stream of slot %s, which is over %d MiB behind", slot, r.maxBehind>>20))
		}
		return nil
	})
	slices.Sort(problems)
	return strings.Join(problems, "; "), err
}
