package postgres

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/capsaga/capsaga/saga"
)

// SlotPlugin is the output plugin of the streams' slots.
const SlotPlugin = "pgoutput"

// Slot says how a stream's replication slot is to be.
type Slot struct {
	Name string
	// Publication has to be there before the slot: pgoutput looks it up as it was
	// when a change was made.
	Publication string
	// Failover has standbys keep a copy of the slot.
	Failover bool
}

// SlotState is a replication slot as PostgreSQL has it.
type SlotState struct {
	Kind      string // logical or physical
	Plugin    string
	Database  string
	Here      bool // it is of the database that was asked
	Temporary bool
	Active    bool
	PID       uint32   // of the walsender, 0 when there is none
	Confirmed SlotMark // as it stands in the slot
	Lost      string   // why the slot can no longer be read; empty: it can
	Failover  bool
}

// slotColumns needs PostgreSQL 17.
const slotColumns = `
SELECT slot_name::text, slot_type, coalesce(plugin, ''), coalesce(database, '')::text, coalesce(database = current_database(), false), temporary,
       active, coalesce(active_pid, 0), coalesce(confirmed_flush_lsn, '0/0')::text,
       CASE WHEN wal_status = 'lost' THEN coalesce(invalidation_reason, 'lost') ELSE coalesce(invalidation_reason, '') END, failover
FROM pg_replication_slots`

func scanSlot(row pgx.CollectableRow) (name string, s SlotState, err error) {
	var pid int64
	var confirmed string
	err = row.Scan(&name, &s.Kind, &s.Plugin, &s.Database, &s.Here, &s.Temporary, &s.Active, &pid, &confirmed, &s.Lost, &s.Failover)
	if err != nil {
		return name, s, err
	}
	s.PID = uint32(pid) //nolint:gosec // a process id
	lsn, err := saga.ParseLSN(confirmed)
	s.Confirmed = SlotMark(lsn)
	return name, s, err
}

// ReadSlots looks at slots; those that are not there are missing from the result.
func ReadSlots(ctx context.Context, db Querier, names ...string) (map[string]SlotState, error) {
	const action = "look at the replication slots"
	rows, err := db.Query(ctx, slotColumns+" WHERE slot_name = ANY ($1)", names)
	if err != nil {
		return nil, classify(action, err)
	}
	defer rows.Close()
	slots := map[string]SlotState{}
	for rows.Next() {
		name, s, err := scanSlot(rows)
		if err != nil {
			return nil, classify(action, err)
		}
		slots[name] = s
	}
	return slots, classify(action, rows.Err())
}

// SlotMark is a confirmed position as it stands in a slot. No position in the WAL
// is odd, as records are aligned; so the holder of a stream confirms one byte less
// than it has, and a position that is odd is a holder's. One that is even was set
// by whoever made or advanced the slot, or by a holder that had written it down
// before.
//
// Nothing is repeated for the byte: decoding passes over the transactions whose
// commit record begins before the position, and a record is longer than a byte.
type SlotMark saga.LSN

// MarkOf returns what a holder confirms for a position.
func MarkOf(lsn saga.LSN) SlotMark {
	if lsn == 0 {
		return 0
	}
	return SlotMark(lsn) - 1
}

// Holder says that the position was confirmed by a holder.
func (m SlotMark) Holder() bool { return m%2 == 1 }

// LSN is the position that is meant.
func (m SlotMark) LSN() saga.LSN {
	if m.Holder() {
		return saga.LSN(m) + 1
	}
	return saga.LSN(m)
}

// Check refuses a slot that the stream cannot be read from; that it was
// invalidated is not looked at.
func (s SlotState) Check(name string) error {
	const other = "choose another CAPSAGA_PREFIX, or drop the slot if nobody reads it"
	switch {
	case s.Kind != "logical":
		return refuseSlot("slot %s is a %s slot, not a logical one: %s", name, s.Kind, other)
	case !s.Here:
		return refuseSlot("slot %s belongs to database %s, not to this one: a prefix serves one database; %s", name, s.Database, other)
	case s.Plugin != SlotPlugin:
		return refuseSlot("slot %s has the output plugin %s, not %s: %s", name, s.Plugin, SlotPlugin, other)
	case s.Temporary:
		return refuseSlot("slot %s is temporary, so it goes with the session that made it: end that session, or %s", name, other)
	}
	return nil
}

func refuseSlot(format string, args ...any) *saga.Error {
	return &saga.Error{Class: saga.Rejected, System: "postgres", Code: saga.CodeRejected, Message: fmt.Sprintf(format, args...)}
}

// SlotChange is what EnsureSlot or RetireSlot did.
type SlotChange struct {
	Created, Altered, Dropped bool
	Detail                    string // for people; may be set when nothing was done
}

// slotLock keeps those apart who make or drop the same slot: whoever drops one
// that it found invalidated must not drop the one that another has made since.
const slotLock = "hashtext('capsaga.slot'), hashtext($1)"

// withSlot runs do while nobody else makes or drops the slot. The session's time
// limit is set for it, as a new slot waits for all transactions that are open.
func withSlot(ctx context.Context, conn *pgx.Conn, name string, limit time.Duration, do func() error) (err error) {
	action := "change slot " + name
	if _, err := conn.Exec(ctx, fmt.Sprintf("SET statement_timeout = %d", limit.Milliseconds())); err != nil {
		return classify(action, err)
	}
	defer func() {
		if _, resetErr := conn.Exec(ctx, "RESET statement_timeout"); err == nil {
			err = classify(action, resetErr)
		}
	}()
	if _, err := conn.Exec(ctx, "SELECT pg_advisory_lock("+slotLock+")", name); err != nil {
		return slowSlot(ctx, conn, name, limit, err)
	}
	defer func() {
		if _, unlockErr := conn.Exec(ctx, "SELECT pg_advisory_unlock("+slotLock+")", name); err == nil {
			err = classify(action, unlockErr)
		}
	}()
	return slowSlot(ctx, conn, name, limit, do())
}

// EnsureSlot makes the slot if it is not there, or makes it anew if the server has
// invalidated it. What lies between is then missing downstream: that is written
// down before the slot goes, and AcquireStream tells the slot's next holder.
//
// Without first, a slot that never existed is refused: whether there is to be such
// a stream is said by `capsaga catalog apply`.
func EnsureSlot(ctx context.Context, conn *pgx.Conn, want Slot, limit time.Duration, first bool) (change SlotChange, err error) {
	err = withSlot(ctx, conn, want.Name, limit, func() error {
		change, err = ensureSlot(ctx, conn, want, first)
		return err
	})
	return change, err
}

func ensureSlot(ctx context.Context, conn *pgx.Conn, want Slot, first bool) (change SlotChange, err error) {
	slots, err := ReadSlots(ctx, conn, want.Name)
	if err != nil {
		return change, err
	}
	is, there := slots[want.Name]
	if there {
		if err := is.Check(want.Name); err != nil {
			return change, err
		}
		if is.Lost == "" {
			return alterSlot(ctx, conn, want, is)
		}
	}
	reason, err := mayMakeSlot(ctx, conn, want, first || there)
	if err != nil {
		return change, err
	}
	if there {
		reason = "the server had invalidated it (" + is.Lost + ")"
	}
	if reason != "" {
		change.Detail = reason + ": what was written meanwhile is backfilled"
		if err := noteLost(ctx, conn, want.Name, reason); err != nil {
			return change, err
		}
	}
	if there {
		if _, err := conn.Exec(ctx, "SELECT pg_drop_replication_slot($1)", want.Name); err != nil {
			return change, fmt.Errorf("drop the invalidated slot %s: %w", want.Name, err)
		}
	}
	change.Created = true
	return change, makeSlot(ctx, conn, want)
}

// mayMakeSlot refuses to make a slot where it does not belong. It returns why the
// new slot leaves a gap, and nothing for a stream's first one.
func mayMakeSlot(ctx context.Context, conn *pgx.Conn, want Slot, first bool) (gap string, err error) {
	var standby, published, before, retired bool
	err = conn.QueryRow(ctx, `
		SELECT pg_is_in_recovery(), EXISTS (SELECT FROM pg_publication WHERE pubname = $2),
		       EXISTS (SELECT FROM capsaga.stream WHERE slot = $1 AND bound IS NOT NULL),
		       EXISTS (SELECT FROM capsaga.stream WHERE slot = $1 AND retired_at IS NOT NULL)`,
		want.Name, want.Publication).Scan(&standby, &published, &before, &retired)
	switch {
	case err != nil:
		return "", classify("look at the stream of slot "+want.Name, err)
	case standby:
		return "", &saga.Error{
			Class: saga.Unavailable, System: "postgres", Code: saga.CodeUnavailable,
			Message: fmt.Sprintf("slot %s is not on this server, which is a standby: point CAPSAGA_POSTGRES_URL at the primary", want.Name),
		}
	case !published:
		return "", refuseSlot("publication %s does not exist: `capsaga catalog apply` creates it, and the slot %s after it", want.Publication, want.Name)
	case !first && retired:
		return "", refuseSlot("replication slot %s was dropped by `capsaga catalog apply`, as no entity needed its stream: start the worker with the catalog that was applied, or apply this one", want.Name)
	case !first && !before:
		return "", refuseSlot("replication slot %s does not exist: `capsaga catalog apply` creates it", want.Name)
	case retired:
		return "no entity needed the stream for a while", nil
	case before:
		return "it did not exist any more", nil
	}
	return "", nil
}

// noteLost writes down that a slot has to be made anew, before it is.
func noteLost(ctx context.Context, conn *pgx.Conn, name, reason string) error {
	_, err := conn.Exec(ctx, `
		INSERT INTO capsaga.stream AS s (slot, generation, holder, lost) VALUES ($1, 0, '', $2)
		ON CONFLICT (slot) DO UPDATE SET lost = excluded.lost
		WHERE set_config('synchronous_commit', 'local', true) IS NOT NULL`, name, reason)
	return classify("write down the gap of slot "+name, err)
}

// makeSlot also notes the position of a stream's first slot, so that one that is
// made anew before it was ever held is told too.
func makeSlot(ctx context.Context, conn *pgx.Conn, want Slot) error {
	_, err := conn.Exec(ctx, "SELECT pg_create_logical_replication_slot($1, $2, false, false, $3)", want.Name, SlotPlugin, want.Failover)
	if err != nil {
		return fmt.Errorf("create slot %s: %w", want.Name, err)
	}
	_, err = conn.Exec(ctx, `
		INSERT INTO capsaga.stream AS s (slot, generation, holder, bound, system_identifier)
		SELECT slot_name, 0, '', confirmed_flush_lsn, (SELECT system_identifier FROM pg_control_system())
		FROM pg_replication_slots WHERE slot_name = $1
		ON CONFLICT (slot) DO UPDATE SET retired_at = NULL, bound = coalesce(s.bound, excluded.bound),
		    system_identifier = coalesce(s.system_identifier, excluded.system_identifier)`, want.Name)
	return classify("note the position of slot "+want.Name, err)
}

// alterSlot changes whether standbys keep a copy of the slot, which can be done
// only while nobody holds it.
func alterSlot(ctx context.Context, conn *pgx.Conn, want Slot, is SlotState) (change SlotChange, err error) {
	if is.Failover == want.Failover {
		return change, nil
	}
	if is.Active {
		change.Detail = fmt.Sprintf("failover stays %t while a worker holds the slot: one that starts with this catalog changes it", is.Failover)
		return change, nil
	}
	config := conn.Config().Config.Copy()
	config.RuntimeParams["replication"] = "database"
	replication, err := pgconn.ConnectConfig(ctx, config)
	if err != nil {
		return change, classify("connect for replication", err)
	}
	defer func() { _ = replication.Close(ctx) }()
	if err := AlterSlot(ctx, replication, want); err != nil {
		return change, err
	}
	change.Altered, change.Detail = true, fmt.Sprintf("failover from %t to %t", is.Failover, want.Failover)
	return change, nil
}

// AlterSlot sets a slot's failover over a replication connection, which alone has
// the command for it.
func AlterSlot(ctx context.Context, replication *pgconn.PgConn, want Slot) error {
	command := fmt.Sprintf("ALTER_REPLICATION_SLOT %s (FAILOVER %t)", pgx.Identifier{want.Name}.Sanitize(), want.Failover)
	_, err := replication.Exec(ctx, command).ReadAll()
	return classify(fmt.Sprintf("set failover of slot %s to %t", want.Name, want.Failover), err)
}

// RetireSlot drops the slot of a stream that no entity needs any more, unless it
// is held: a slot that nobody reads keeps the WAL until the disk is full.
func RetireSlot(ctx context.Context, conn *pgx.Conn, name string, limit time.Duration) (change SlotChange, err error) {
	err = withSlot(ctx, conn, name, limit, func() error {
		slots, err := ReadSlots(ctx, conn, name)
		is, there := slots[name]
		if err != nil || !there || is.Check(name) != nil {
			return err
		}
		if is.Active {
			change.Detail = "no entity needs it, but a worker holds it: stop the workers that have an older catalog and apply again, or the slot will keep the WAL"
			return nil
		}
		// First the word and then the deed, so that a worker with an older catalog
		// does not take the slot for a lost one.
		if _, err := conn.Exec(ctx, "UPDATE capsaga.stream SET retired_at = clock_timestamp(), error = NULL, error_at = NULL WHERE slot = $1", name); err != nil {
			return classify("retire slot "+name, err)
		}
		_, err = conn.Exec(ctx, "SELECT pg_drop_replication_slot($1)", name)
		change = SlotChange{Dropped: err == nil, Detail: "no entity needs it: left alone, it would keep the WAL until the disk is full"}
		return classify("drop slot "+name, err)
	})
	return change, err
}

// slowSlot names what a new slot waits for, when the wait was too long.
func slowSlot(ctx context.Context, conn *pgx.Conn, name string, limit time.Duration, err error) error {
	var failure *pgconn.PgError
	if errors.As(err, &failure) && failure.Code == "57014" && ctx.Err() == nil {
		return &saga.Error{
			Class: saga.Unavailable, System: "postgres", Code: saga.CodeUnavailable, Err: err,
			Message: fmt.Sprintf("create slot %s: not within %s, as it waits for open transactions%s: end them, and it is tried again with the next apply or by the worker",
				name, limit, oldestTransaction(ctx, conn)),
		}
	}
	return classify("change slot "+name, err)
}

// oldestTransaction names what a new slot waits for, as far as it can be told.
func oldestTransaction(ctx context.Context, conn *pgx.Conn) string {
	var pid int
	var database string
	var age time.Duration
	err := conn.QueryRow(ctx, `
		SELECT pid, coalesce(datname, '')::text, now() - xact_start FROM pg_stat_activity
		WHERE backend_xid IS NOT NULL AND pid <> pg_backend_pid() ORDER BY xact_start LIMIT 1`).Scan(&pid, &database, &age)
	if err != nil {
		return ""
	}
	return fmt.Sprintf(" (the oldest is of process %d in database %s, for %s)", pid, database, age.Round(time.Second))
}
