package postgres

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/capsaga/capsaga/saga"
)

// Mark keeps small values outside PostgreSQL, where a restored disk snapshot
// does not take them back.
type Mark interface {
	Mark(ctx context.Context, name string) (value string, found bool, err error)
	SetMark(ctx context.Context, name, value string) error
}

// markName names the high-water mark among the marks.
const markName = "epoch"

// highWater is the mark: the furthest that the WAL is known to have come.
type highWater struct {
	Epoch saga.Epoch `json:"epoch"`
	LSN   saga.LSN   `json:"lsn"`
}

// knownEpoch is what this process last verified, and the server that it asked: a
// server that was started again, or that is on another timeline, is asked anew.
type knownEpoch struct {
	epoch    saga.Epoch
	started  time.Time
	timeline string
}

// serverNow says which WAL the session writes to. Reading capsaga.epoch also
// takes its ACCESS SHARE lock until the transaction ends, which is what keeps an
// epoch from rising between a commit's versions and its COMMIT.
const serverNow = `
SELECT pg_postmaster_start_time(),
       substr(pg_walfile_name(pg_current_wal_lsn()), 1, 8),
       (SELECT coalesce(max(epoch), 0) FROM capsaga.epoch)`

// errEpochUnknown says that the server is not the one that was verified.
var errEpochUnknown = errors.New("the epoch has to be verified")

// checkEpoch compares what serverNow returned with what was verified.
func (db *DB) checkEpoch(row pgx.Row) (saga.Epoch, error) {
	var now knownEpoch
	if err := row.Scan(&now.started, &now.timeline, &now.epoch); err != nil {
		return 0, err
	}
	db.mu.Lock()
	defer db.mu.Unlock()
	if now.epoch == 0 || !now.started.Equal(db.epoch.started) || now.timeline != db.epoch.timeline || now.epoch != db.epoch.epoch {
		return 0, errEpochUnknown
	}
	return now.epoch, nil
}

// Epoch verifies, and where the WAL may have gone back raises, the epoch.
func (db *DB) Epoch(ctx context.Context) (saga.Epoch, error) {
	epoch, err := db.checkEpoch(db.pool.QueryRow(ctx, serverNow))
	if !errors.Is(err, errEpochUnknown) {
		return epoch, classify("read the epoch", err)
	}
	return db.verifyEpoch(ctx)
}

// verifyEpoch compares the newest epoch's WAL with the server's, and raises the
// epoch when it differs or lies behind the mark. The exclusive lock waits for
// every commit that has read the old epoch, so that per key versions never fall.
func (db *DB) verifyEpoch(ctx context.Context) (saga.Epoch, error) {
	mark, err := db.readMark(ctx)
	if err != nil {
		return 0, err
	}
	var known knownEpoch
	err = pgx.BeginFunc(ctx, db.pool, func(tx pgx.Tx) error {
		if _, err := tx.Exec(ctx, "LOCK TABLE capsaga.epoch IN ACCESS EXCLUSIVE MODE"); err != nil {
			return err
		}
		known, err = raiseEpoch(ctx, tx, mark)
		return err
	})
	if err != nil {
		return 0, classify("verify the epoch", err)
	}
	db.mu.Lock()
	db.epoch = known
	db.mu.Unlock()
	return known.epoch, nil
}

func raiseEpoch(ctx context.Context, tx pgx.Tx, mark highWater) (knownEpoch, error) {
	var now knownEpoch
	var system, timeline int64
	var position string
	err := tx.QueryRow(ctx, `
		SELECT pg_postmaster_start_time(), substr(w.file, 1, 8), ('x' || substr(w.file, 1, 8))::bit(32)::bigint,
		       (SELECT system_identifier FROM pg_control_system()), w.lsn::text
		FROM (SELECT lsn, pg_walfile_name(lsn) AS file FROM pg_current_wal_insert_lsn() lsn) w`).
		Scan(&now.started, &now.timeline, &timeline, &system, &position)
	if err != nil {
		return now, err
	}
	lsn, err := saga.ParseLSN(position)
	if err != nil {
		return now, err
	}
	var oldSystem, oldTimeline int64
	err = tx.QueryRow(ctx, "SELECT epoch, system_identifier, timeline FROM capsaga.epoch ORDER BY epoch DESC LIMIT 1").
		Scan(&now.epoch, &oldSystem, &oldTimeline)
	if err != nil && !noRows(err) {
		return now, err
	}
	sameWAL := now.epoch > 0 && oldSystem == system && oldTimeline == timeline
	behind := mark.Epoch > now.epoch || mark.Epoch == now.epoch && mark.LSN > lsn
	if sameWAL && !behind {
		return now, nil
	}
	now.epoch = max(now.epoch, mark.Epoch) + 1
	if now.epoch > saga.MaxEpoch {
		return now, &saga.Error{
			Class: saga.Rejected, System: "postgres", Code: saga.CodeRejected,
			Message: fmt.Sprintf("all %d epochs are used up: the versions cannot rise any more", saga.MaxEpoch),
		}
	}
	_, err = tx.Exec(ctx, "INSERT INTO capsaga.epoch (epoch, system_identifier, timeline, start_lsn) VALUES ($1, $2, $3, $4::text::pg_lsn)",
		int(now.epoch), system, timeline, position)
	return now, err
}

// readMark returns the highest of the marks; zero when none was written yet. A
// store that has none does not speak for one that is away: then the mark is not
// known, and without it a restored snapshot cannot be told, and versions that
// fall behind the sinks' would be lost updates.
func (db *DB) readMark(ctx context.Context) (highWater, error) {
	var highest highWater
	var away []error
	for _, store := range db.marks {
		value, found, err := store.Mark(ctx, markName)
		switch {
		case err != nil:
			away = append(away, err)
		case found:
			var mark highWater
			if err := json.Unmarshal([]byte(value), &mark); err != nil {
				return highest, fmt.Errorf("the high-water mark %q: %w", value, err)
			}
			highest = highest.max(mark)
		}
	}
	if highest == (highWater{}) && len(away) > 0 {
		// Whatever a store says of itself, such as that the password is wrong, it is
		// no fault of the write that waits for the mark.
		err := errors.Join(away...)
		return highest, &saga.Error{
			Class: saga.Unavailable, System: "postgres", Code: saga.CodeUnavailable, Err: err,
			Message: fmt.Sprintf("the high-water mark of the WAL is not known: %s", err),
		}
	}
	return highest, nil
}

func (m highWater) max(other highWater) highWater {
	if other.Epoch > m.Epoch || other.Epoch == m.Epoch && other.LSN > m.LSN {
		return other
	}
	return m
}

// AdvanceMark writes the WAL's current position to every store of the mark, of
// which one has to take it. Workers call it every second or so: a snapshot
// restored to less than that ago is not told by it.
func (db *DB) AdvanceMark(ctx context.Context) error {
	if len(db.marks) == 0 {
		return nil
	}
	epoch, err := db.Epoch(ctx)
	if err != nil {
		return err
	}
	var position string
	if err := db.pool.QueryRow(ctx, "SELECT pg_current_wal_flush_lsn()::text").Scan(&position); err != nil {
		return classify("read the WAL position", err)
	}
	lsn, err := saga.ParseLSN(position)
	if err != nil {
		return err
	}
	value, err := json.Marshal(highWater{Epoch: epoch, LSN: lsn})
	if err != nil {
		return err
	}
	var away []error
	for _, store := range db.marks {
		if err := store.SetMark(ctx, markName, string(value)); err != nil {
			away = append(away, err)
		}
	}
	if len(away) < len(db.marks) {
		return nil
	}
	return errors.Join(away...)
}

// Epochs tells the epoch of any position of this database's WAL.
type Epochs []EpochStart

// EpochStart is an epoch and the position from which it holds.
type EpochStart struct {
	Epoch saga.Epoch
	Start saga.LSN
}

// At returns the epoch of a position: the newest that had begun by then.
func (e Epochs) At(lsn saga.LSN) saga.Epoch {
	for i := len(e) - 1; i > 0; i-- {
		if e[i].Start <= lsn {
			return e[i].Epoch
		}
	}
	if len(e) == 0 {
		return 0
	}
	return e[0].Epoch
}

func readEpochs(ctx context.Context, q Querier) (Epochs, error) {
	rows, err := q.Query(ctx, "SELECT epoch, start_lsn::text FROM capsaga.epoch ORDER BY epoch")
	if err != nil {
		return nil, err
	}
	return pgx.CollectRows(rows, func(row pgx.CollectableRow) (EpochStart, error) {
		var s EpochStart
		var position string
		if err := row.Scan(&s.Epoch, &position); err != nil {
			return s, err
		}
		lsn, err := saga.ParseLSN(position)
		s.Start = lsn
		return s, err
	})
}
