package catalog

import (
	"context"

	"github.com/jackc/pgx/v5"

	"github.com/capsaga/capsaga/internal/postgres"
)

// standbySlot is a slot that synchronized_standby_slots names.
type standbySlot struct {
	Name      string
	Connected bool
	Feedback  bool // its standby sends hot_standby_feedback
	Physical  bool // it is there
}

const standbySlotsQuery = `
SELECT named.slot, coalesce(s.active, false), s.xmin IS NOT NULL OR s.catalog_xmin IS NOT NULL, coalesce(s.slot_type = 'physical', false)
FROM (SELECT trim(both ' "' FROM n) AS slot FROM unnest(string_to_array(current_setting('synchronized_standby_slots'), ',')) n) named
LEFT JOIN pg_replication_slots s ON s.slot_name = named.slot
WHERE named.slot <> '' ORDER BY 1`

// A standby that copies slots has a session for it beside its walsender, under the
// name that its primary_conninfo gives both, or else under PostgreSQL's own.
const slotCopiersQuery = `
SELECT count(*) FROM pg_stat_activity a WHERE a.backend_type = 'client backend' AND (a.application_name LIKE '%slotsync worker'
    OR a.application_name IN (SELECT application_name FROM pg_stat_replication))`

// checkFailover says what slots that standbys copy cost, and what they still lack.
// Nothing of it keeps the catalog from being applied: a standby may come later.
func (v *validator) checkFailover(ctx context.Context) error {
	const field = "streams.failover"
	if !v.file.Catalog.Streams.Failover {
		return nil
	}
	rows, err := v.db.Query(ctx, standbySlotsQuery)
	if err != nil {
		return postgres.Classify("read synchronized_standby_slots", err)
	}
	slots, err := pgx.CollectRows(rows, pgx.RowToStructByPos[standbySlot])
	if err != nil {
		return postgres.Classify("read synchronized_standby_slots", err)
	}
	var copiers int
	if err := v.db.QueryRow(ctx, slotCopiersQuery).Scan(&copiers); err != nil {
		return postgres.Classify("look for standbys that copy slots", err)
	}
	if len(slots) == 0 {
		v.warn(field, "synchronized_standby_slots is empty, so a sink may see what a promoted standby never had: ALTER SYSTEM SET synchronized_standby_slots to the physical slots of the standbys that may be promoted; the price is that all streams then wait while one of them is away")
	}
	for _, s := range slots {
		v.checkStandbySlot(field, s)
	}
	if copiers == 0 {
		v.warn(field, "no standby copies slots, so a promoted one would have none and all rows would be backfilled: set on the standby sync_replication_slots = on, hot_standby_feedback = on, primary_slot_name, and a dbname in primary_conninfo")
	}
	return nil
}

func (v *validator) checkStandbySlot(field string, s standbySlot) {
	switch {
	case !s.Physical:
		v.warn(field, "synchronized_standby_slots names %s, which is no physical slot: all streams would stand still; create it for the standby, or take the name out", s.Name)
	case !s.Connected:
		v.warn(field, "the standby of slot %s, which synchronized_standby_slots names, is away: all streams wait for it; start it, or take the name out", s.Name)
	case !s.Feedback:
		v.warn(field, "the standby of slot %s sends no hot_standby_feedback, without which it cannot keep copies of slots: set hot_standby_feedback = on there", s.Name)
	default:
		v.warn(field, "all streams wait while the standby of slot %s is away, as synchronized_standby_slots names it: this is what keeps a sink from seeing what a promoted standby never had", s.Name)
	}
}
