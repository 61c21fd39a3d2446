package provision

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/capsaga/capsaga/internal/postgres"
	"github.com/capsaga/capsaga/saga"
)

const plugin = "pgoutput"

type slot struct {
	there     bool
	kind      string // logical or physical
	plugin    string
	database  string
	lost      string // why it can no longer be read; empty: it can
	temporary bool
}

const slotQuery = `
SELECT slot_type, coalesce(plugin, ''), coalesce(database, ''), temporary,
       CASE WHEN wal_status = 'lost' THEN coalesce(invalidation_reason, 'lost') ELSE coalesce(invalidation_reason, '') END
FROM pg_replication_slots WHERE slot_name = $1`

func (a *applier) readSlot(ctx context.Context, name string) (s slot, err error) {
	rows, err := a.conn.Query(ctx, slotQuery, name)
	if err != nil {
		return s, postgres.Classify("look for slot "+name, err)
	}
	_, err = pgx.ForEachRow(rows, []any{&s.kind, &s.plugin, &s.database, &s.temporary, &s.lost}, func() error {
		s.there = true
		return nil
	})
	return s, postgres.Classify("look for slot "+name, err)
}

// checkSlots refuses slots that a stream could not read from.
func (a *applier) checkSlots(ctx context.Context) error {
	var database string
	if err := a.conn.QueryRow(ctx, "SELECT current_database()::text").Scan(&database); err != nil {
		return postgres.Classify("read the database's name", err)
	}
	for _, want := range a.publications() {
		name := a.deps.Prefix.Slot(want.name)
		s, err := a.readSlot(ctx, name)
		if err != nil {
			return err
		}
		if !s.there {
			continue
		}
		if err := s.usable(name, database); err != nil {
			return err
		}
		is, err := readPublication(ctx, a.conn, want.name)
		if err != nil {
			return postgres.Classify("read publication "+want.name, err)
		}
		if !is.there {
			return refuse("slot %s is there and publication %s is not: a publication made now would not cover the changes that the slot still holds, and they would be lost; "+
				"drop the slot with SELECT pg_drop_replication_slot('%s'), apply again and backfill", name, want.name, name)
		}
	}
	return nil
}

func (s slot) usable(name, database string) error {
	const other = "choose another CAPSAGA_PREFIX, or drop the slot if nobody reads it"
	switch {
	case s.kind != "logical":
		return refuse("slot %s is a %s slot, not a logical one: %s", name, s.kind, other)
	case s.database != database:
		return refuse("slot %s belongs to database %s, and this is %s: a prefix serves one database; %s", name, s.database, database, other)
	case s.plugin != plugin:
		return refuse("slot %s has the output plugin %s, not %s: %s", name, s.plugin, plugin, other)
	case s.temporary:
		return refuse("slot %s is temporary, so it goes with the session that made it: end that session, or %s", name, other)
	case s.lost != "":
		return refuse("slot %s can no longer be read (%s), so changes are missing downstream: drop it with SELECT pg_drop_replication_slot('%s'), apply again and backfill", name, s.lost, name)
	}
	return nil
}

func refuse(format string, args ...any) error {
	return &saga.Error{Class: saga.Rejected, System: "postgres", Code: saga.CodeRejected, Message: fmt.Sprintf(format, args...)}
}

// applySlots makes the slots of the streams that there are. A slot that nobody
// reads would keep the WAL until the disk is full.
func (a *applier) applySlots(ctx context.Context) error {
	for _, p := range a.publications() {
		if !p.all && len(p.tables) == 0 && p.name != saga.PublicationKafka {
			continue
		}
		if err := a.applySlot(ctx, a.deps.Prefix.Slot(p.name)); err != nil {
			return err
		}
	}
	return nil
}

// applySlot makes a slot. PostgreSQL waits for the transactions that are open, so
// the wait is bounded and its cause is named.
func (a *applier) applySlot(ctx context.Context, name string) error {
	change := Change{System: "postgres", Kind: "slot", Name: name, Action: Unchanged}
	s, err := a.readSlot(ctx, name)
	if err != nil {
		return err
	}
	if !s.there {
		change.Action = Created
		if err := a.createSlot(ctx, name); err != nil {
			return err
		}
	}
	a.done(change)
	return nil
}

func (a *applier) createSlot(ctx context.Context, name string) error {
	limit := fmt.Sprintf("SET statement_timeout = %d", a.options.SlotTimeout.Milliseconds())
	if _, err := a.conn.Exec(ctx, limit); err != nil {
		return postgres.Classify("create slot "+name, err)
	}
	_, err := a.conn.Exec(ctx, "SELECT pg_create_logical_replication_slot($1, $2)", name, plugin)
	if _, resetErr := a.conn.Exec(ctx, "RESET statement_timeout"); err == nil {
		err = resetErr
	}
	var failure *pgconn.PgError
	if errors.As(err, &failure) && failure.Code == "57014" && ctx.Err() == nil {
		return &saga.Error{
			Class: saga.Unavailable, System: "postgres", Code: saga.CodeUnavailable, Err: err,
			Message: fmt.Sprintf("create slot %s: not within %s, as it waits for open transactions%s: end them and apply again",
				name, a.options.SlotTimeout, a.oldestTransaction(ctx)),
		}
	}
	return postgres.Classify("create slot "+name, err)
}

// oldestTransaction names what a new slot waits for, as far as it can be told.
func (a *applier) oldestTransaction(ctx context.Context) string {
	var pid int
	var database string
	var age time.Duration
	err := a.conn.QueryRow(ctx, `
		SELECT pid, coalesce(datname, '')::text, now() - xact_start FROM pg_stat_activity
		WHERE backend_xid IS NOT NULL AND pid <> pg_backend_pid() ORDER BY xact_start LIMIT 1`).Scan(&pid, &database, &age)
	if err != nil {
		return ""
	}
	return fmt.Sprintf(" (the oldest is of process %d in database %s, for %s)", pid, database, age.Round(time.Second))
}
