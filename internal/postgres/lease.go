package postgres

import (
	"context"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/capsaga/capsaga/saga"
)

// StreamLease is what the holder of a slot stamps on its records.
type StreamLease struct {
	// Epoch is the newest epoch; Epochs tells that of each position.
	Epoch  saga.Epoch
	Epochs Epochs
	// Generation counts the holders of the slot.
	Generation int64
	// Bound is up to where the holder may confirm even positions; see SlotMark.
	Bound saga.LSN
	// Gap is set while nobody has asked for the backfill that closes it.
	Gap *StreamGap
}

// StreamGap is a part of the WAL that no holder of a slot has read, because the
// slot is not the one that the last holder had.
type StreamGap struct {
	// From is the last position that is known to have been confirmed; 0 where none
	// is, or where it is of another cluster's WAL. To is where the new slot begins.
	From, To saga.LSN
	Reason   string
	At       time.Time // when it was found; zero for who finds it
	// Floor is the version that the WAL had come to when the gap was found. What a
	// sink holds below it may have been deleted in the gap.
	Floor saga.Version
}

// AcquireStream counts a new holder of a slot. The caller has started
// replication already; the count rises only while its walsender still holds the
// slot, so that a holder that fell asleep on the way cannot get a number above
// its successor's.
//
// It also finds out whether the slot is still the one that the last holder had. If
// not, the gap is written down here, before anything of the new slot can be
// confirmed, and is returned to each holder until CloseGap.
func (db *DB) AcquireStream(ctx context.Context, slot string, backendPID uint32, holder string) (StreamLease, error) {
	epoch, err := db.Epoch(ctx)
	if err != nil {
		return StreamLease{}, err
	}
	lease := StreamLease{Epoch: epoch}
	err = pgx.BeginFunc(ctx, db.pool, func(tx pgx.Tx) error {
		// The server's default may be not to wait for its own disk.
		if _, err := tx.Exec(ctx, "SET LOCAL synchronous_commit = local"); err != nil {
			return err
		}
		return acquire(ctx, tx, &lease, slot, backendPID, holder)
	})
	if noRows(err) {
		return StreamLease{}, &saga.Error{
			Class: saga.Unavailable, System: "postgres", Code: saga.CodeUnavailable,
			Message: fmt.Sprintf("slot %s is no longer held by this worker's connection", slot),
		}
	}
	if err != nil {
		return StreamLease{}, classify("count the holder of slot "+slot, err)
	}
	lease.Epochs, err = readEpochs(ctx, db.pool)
	return lease, classify("read the epochs", err)
}

func acquire(ctx context.Context, tx pgx.Tx, lease *StreamLease, slot string, backendPID uint32, holder string) error {
	_, err := tx.Exec(ctx, "INSERT INTO capsaga.stream (slot, generation, holder) VALUES ($1, 0, '') ON CONFLICT DO NOTHING", slot)
	if err != nil {
		return err
	}
	known, err := readKnown(ctx, tx, slot)
	if err != nil {
		return err
	}
	found, err := readFound(ctx, tx, slot, backendPID) // after the row's lock, which may take its time
	if err != nil {
		return err
	}
	lease.Bound = known.bound
	if known.bound == 0 {
		lease.Bound = found.mark.LSN()
	}
	lease.Gap = known.gap
	if reason := known.gapTo(found); reason != "" {
		lease.Bound = found.mark.LSN()
		if lease.Gap, err = newGap(lease.Epoch, known, found, reason); err != nil {
			return err
		}
		_, err := tx.Exec(ctx, `
			UPDATE capsaga.stream SET gap_from = nullif($2::text::pg_lsn, '0/0'), gap_to = $3::text::pg_lsn, gap_floor = $4, gap_reason = $5,
			       gap_at = clock_timestamp(), gap_closed_at = NULL, lost = NULL WHERE slot = $1`,
			slot, lease.Gap.From.String(), lease.Gap.To.String(), int64(lease.Gap.Floor), lease.Gap.Reason)
		if err != nil {
			return err
		}
	}
	return tx.QueryRow(ctx, `
		UPDATE capsaga.stream SET generation = generation + 1, holder = $2, started_at = clock_timestamp(),
		       error = NULL, error_at = NULL, retired_at = NULL,
		       system_identifier = $3, bound = $4::text::pg_lsn, confirmed = $5::text::pg_lsn
		WHERE slot = $1 RETURNING generation`,
		slot, holder, found.system, lease.Bound.String(), found.mark.LSN().String()).Scan(&lease.Generation)
}

// knownStream is what the last holders wrote down of a slot.
type knownStream struct {
	system    int64    // 0: nothing yet
	bound     saga.LSN // 0: nothing yet
	confirmed saga.LSN
	lost      string
	gap       *StreamGap // open
}

// foundSlot is the slot that a new holder has.
type foundSlot struct {
	system int64
	mark   SlotMark
	insert saga.LSN // where the WAL has come to
}

// gapTo says why the slot is not the one that is known, and nothing if it is. A
// slot that has gone back, as a copy of it may have on a promoted standby, only
// repeats.
func (k knownStream) gapTo(f foundSlot) string {
	switch {
	case k.lost != "":
		return k.lost
	case k.system != 0 && k.system != f.system:
		return fmt.Sprintf("the slot is of another database cluster (system identifier %d, before %d)", f.system, k.system)
	case k.bound != 0 && !f.mark.Holder() && f.mark.LSN() > k.bound:
		return fmt.Sprintf("the slot was made anew or advanced by hand: no holder has confirmed %s", f.mark.LSN())
	}
	return ""
}

// newGap joins a gap that is still open: its backfill has to begin anew.
func newGap(epoch saga.Epoch, known knownStream, found foundSlot, reason string) (*StreamGap, error) {
	floor, err := saga.NewVersion(epoch, found.insert)
	if err != nil {
		return nil, err
	}
	gap := &StreamGap{From: known.confirmed, To: found.mark.LSN(), Reason: reason, Floor: floor}
	if known.gap != nil {
		gap.From = known.gap.From
	}
	if known.system != 0 && known.system != found.system {
		gap.From = 0
	}
	return gap, nil
}

// position is a column's LSN as a number, 0 for null.
func position(column string) string { return "coalesce(" + column + " - '0/0', 0)::bigint" }

var knownQuery = "SELECT coalesce(system_identifier, 0), " + position("bound") + ", " + position("coalesce(confirmed, bound)") + `,
       coalesce(lost, ''), gap_at IS NOT NULL AND gap_closed_at IS NULL, ` + position("gap_from") + ", " + position("gap_to") + `,
       coalesce(gap_floor, 0), coalesce(gap_reason, ''), coalesce(gap_at, 'epoch')
FROM capsaga.stream WHERE slot = $1 FOR UPDATE`

func readKnown(ctx context.Context, tx pgx.Tx, slot string) (known knownStream, err error) {
	gap, open := &StreamGap{}, false
	err = tx.QueryRow(ctx, knownQuery, slot).Scan(&known.system, &known.bound, &known.confirmed,
		&known.lost, &open, &gap.From, &gap.To, &gap.Floor, &gap.Reason, &gap.At)
	if open {
		known.gap = gap
	}
	return known, err
}

var foundQuery = "SELECT (SELECT system_identifier FROM pg_control_system()), " + position("confirmed_flush_lsn") + ", " + position("pg_current_wal_insert_lsn()") + `
FROM pg_replication_slots WHERE slot_name = $1 AND active_pid = $2`

func readFound(ctx context.Context, tx pgx.Tx, slot string, backendPID uint32) (found foundSlot, err error) {
	err = tx.QueryRow(ctx, foundQuery, slot, int64(backendPID)).Scan(&found.system, &found.mark, &found.insert)
	return found, err
}

// SettleStream lets the holder confirm even positions a little further than it has
// come: as far as the WAL is once this is written, with room for a record or two of
// the server's own. A slot that is made anew after a change was missed lies beyond
// that: the change takes 100 bytes at the least, the new slot 50. The formula is
// measured: an update of the row is 96 bytes longer than the row.
//
// It returns 0 when the holder does not hold the slot any more.
func (db *DB) SettleStream(ctx context.Context, slot string, backendPID uint32, generation int64, confirmed saga.LSN) (saga.LSN, error) {
	var bound saga.LSN
	err := db.pool.QueryRow(ctx, `
		UPDATE capsaga.stream AS s SET confirmed = $4::text::pg_lsn, bound = $4::text::pg_lsn + pg_column_size(s.*) + 96 + 72
		WHERE slot = $1 AND generation = $3 AND set_config('synchronous_commit', 'local', true) IS NOT NULL
		AND EXISTS (SELECT FROM pg_replication_slots WHERE slot_name = $1 AND active_pid = $2)
		RETURNING `+position("bound"), slot, int64(backendPID), generation, confirmed.String()).Scan(&bound)
	if noRows(err) {
		return 0, nil
	}
	return bound, classify("note the position of slot "+slot, err)
}

// ProgressStream keeps how far a holder has come, for people: a crash may take the
// last second of it. oldest is when the oldest transaction that waits was
// committed, and zero when none is worth a word.
func (db *DB) ProgressStream(ctx context.Context, slot string, generation int64, confirmed saga.LSN, oldest time.Time) error {
	var at *time.Time
	if !oldest.IsZero() {
		at = &oldest
	}
	_, err := db.pool.Exec(ctx, `
		UPDATE capsaga.stream SET confirmed = greatest(confirmed, $3::text::pg_lsn), oldest_at = $4
		WHERE slot = $1 AND generation = $2 AND set_config('synchronous_commit', 'off', true) IS NOT NULL`,
		slot, generation, confirmed.String(), at)
	return classify("note the progress of slot "+slot, err)
}

// CloseGap notes that a backfill of all that the gap may have held was asked for.
func (db *DB) CloseGap(ctx context.Context, slot string, gap StreamGap) error {
	_, err := db.pool.Exec(ctx, `
		UPDATE capsaga.stream SET gap_closed_at = clock_timestamp()
		WHERE slot = $1 AND gap_floor = $2 AND gap_closed_at IS NULL`, slot, int64(gap.Floor))
	return classify("close the gap of slot "+slot, err)
}

// repairLimit bounds how long a slot that is made anew waits for transactions that
// are open; then it is said what is waited for, and tried again.
const repairLimit = 30 * time.Second

// RepairSlot makes a stream's slot anew if it is gone or was invalidated.
func (db *DB) RepairSlot(ctx context.Context, want Slot) (SlotChange, error) {
	conn, err := pgx.ConnectConfig(ctx, db.pool.Config().ConnConfig)
	if err != nil {
		return SlotChange{}, classify("connect", err)
	}
	defer func() { _ = conn.Close(context.WithoutCancel(ctx)) }()
	return EnsureSlot(ctx, conn, want, repairLimit, false)
}

// ReportStream keeps why a stream stands still, for all workers and the CLI to
// see; the empty string says that it moves.
func (db *DB) ReportStream(ctx context.Context, slot, problem string) error {
	_, err := db.pool.Exec(ctx, `
		INSERT INTO capsaga.stream AS s (slot, generation, holder, error, error_at)
		VALUES ($1, 0, '', nullif($2, ''), clock_timestamp())
		ON CONFLICT (slot) DO UPDATE SET error = nullif($2, ''), error_at = clock_timestamp()`, slot, problem)
	return classify("report the state of slot "+slot, err)
}
