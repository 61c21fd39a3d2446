package stream

import (
	"context"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/capsaga/capsaga/internal/postgres"
	"github.com/capsaga/capsaga/saga"
)

// Info is a stream as operators see it.
type Info struct {
	Name   string `json:"name"` // the publication
	Slot   string `json:"slot"`
	Exists bool   `json:"exists"` // false: the slot is gone
	Holder string `json:"holder"` // empty when nobody holds it
	Active bool   `json:"active"`
	// Generation counts the holders.
	Generation   int64    `json:"generation"`
	ConfirmedLSN saga.LSN `json:"confirmed_lsn"`
	LagBytes     int64    `json:"lag_bytes"`
	// LagSeconds is the age of the oldest transaction that is not confirmed, as the
	// holder knows it to a second; while nobody holds the slot, at least the time
	// since somebody did.
	LagSeconds float64 `json:"lag_seconds"`
	// WALStatus is PostgreSQL's: reserved, extended, unreserved or lost. Of what the
	// slot needs, RetainedBytes of WAL are kept, and SafeBytes more may be written
	// before the slot is lost; null: there is no limit.
	WALStatus     string `json:"wal_status"`
	RetainedBytes int64  `json:"retained_bytes"`
	SafeBytes     *int64 `json:"safe_wal_size"`
	// Failover says that standbys are to keep a copy of the slot, Synced that this
	// slot began as such a copy.
	Failover bool `json:"failover"`
	Synced   bool `json:"synced"`
	// DecodedTransactions and DecodedBytes are what the server has decoded for the
	// slot since its statistics were reset: between two looks, the throughput.
	DecodedTransactions int64  `json:"decoded_transactions"`
	DecodedBytes        int64  `json:"decoded_bytes"`
	Gap                 *Past  `json:"gap,omitempty"`
	Error               string `json:"error,omitempty"`
	// Alarms says what waits for an operator while the stream goes on: each topic whose
	// records are parked.
	Alarms []string `json:"alarms,omitempty"`
}

// Past is the last gap of a stream. It is open until the backfill that closes it
// was requested.
type Past struct {
	From   *saga.LSN `json:"from"` // null: not known
	To     saga.LSN  `json:"to"`
	Reason string    `json:"reason"`
	At     time.Time `json:"at"`
	Open   bool      `json:"open"`
}

// statusQuery reads the streams by slot, in the order given: those that have a
// slot, and those that had one and are still wanted. inactive_since needs
// PostgreSQL 17.
const statusQuery = `
SELECT wanted.slot, s.slot_name IS NOT NULL, coalesce(s.active, false), coalesce(c.holder, ''), coalesce(c.generation, 0),
       coalesce(s.confirmed_flush_lsn - '0/0', 0)::bigint,
       coalesce(w.position - s.confirmed_flush_lsn, 0)::bigint,
       coalesce(extract(epoch FROM clock_timestamp() - least(c.oldest_at, CASE WHEN NOT s.active THEN s.inactive_since END,
           CASE WHEN c.error IS NOT NULL THEN c.error_at END)), 0)::float8,
       coalesce(s.wal_status, ''), coalesce(w.position - s.restart_lsn, 0)::bigint, s.safe_wal_size,
       coalesce(s.failover, false), coalesce(s.synced, false), coalesce(d.total_txns, 0), coalesce(d.total_bytes, 0),
       c.gap_at, coalesce(c.gap_from - '0/0', 0)::bigint, coalesce(c.gap_to - '0/0', 0)::bigint, coalesce(c.gap_reason, ''), c.gap_closed_at IS NULL,
       coalesce(c.error, ''), coalesce(s.invalidation_reason, '')
FROM unnest($1::text[]) WITH ORDINALITY AS wanted(slot, position)
LEFT JOIN pg_replication_slots s ON s.slot_name = wanted.slot AND s.database = current_database()
LEFT JOIN pg_stat_replication_slots d ON d.slot_name = s.slot_name
LEFT JOIN capsaga.stream c ON c.slot = wanted.slot
CROSS JOIN (SELECT CASE WHEN pg_is_in_recovery() THEN pg_last_wal_replay_lsn() ELSE pg_current_wal_lsn() END AS position) w
WHERE s.slot_name IS NOT NULL OR c.bound IS NOT NULL AND c.retired_at IS NULL
ORDER BY wanted.position`

// Status returns the streams that have or had a slot, in the order redispub,
// kafkapub, espub.
func Status(ctx context.Context, db postgres.Querier, prefix saga.Prefix) ([]Info, error) {
	names := map[string]string{}
	var slots []string
	for _, publication := range []string{saga.PublicationRedis, saga.PublicationKafka, saga.PublicationElasticsearch} {
		slot := prefix.Slot(publication)
		names[slot] = publication
		slots = append(slots, slot)
	}
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	rows, err := db.Query(ctx, statusQuery, slots)
	if err != nil {
		return nil, classify("read the streams", err)
	}
	infos, err := pgx.CollectRows(rows, scanInfo)
	if err != nil {
		return nil, classify("read the streams", err)
	}
	alarms, err := readAlarms(ctx, db, slots)
	if err != nil {
		return nil, classify("read the streams' alarms", err)
	}
	for i := range infos {
		infos[i].Name = names[infos[i].Slot]
		infos[i].Alarms = alarms[infos[i].Slot]
	}
	return infos, nil
}

// readAlarms returns the alarms by slot.
func readAlarms(ctx context.Context, db postgres.Querier, slots []string) (map[string][]string, error) {
	rows, err := db.Query(ctx, `
		SELECT slot, format('topic %s refuses records and they are parked since %s: %s; once that is mended, bring them back with "capsaga streams drain %1$s"',
		       topic, to_char(diverted_at AT TIME ZONE 'UTC', 'YYYY-MM-DD HH24:MI:SS"Z"'), coalesce(drain_error, reason))
		FROM capsaga.topic WHERE slot = ANY ($1) AND diverted_at IS NOT NULL ORDER BY slot, topic`, slots)
	if err != nil {
		return nil, err
	}
	alarms := map[string][]string{}
	var slot, alarm string
	_, err = pgx.ForEachRow(rows, []any{&slot, &alarm}, func() error {
		alarms[slot] = append(alarms[slot], alarm)
		return nil
	})
	return alarms, err
}

func scanInfo(row pgx.CollectableRow) (Info, error) {
	var info Info
	var mark postgres.SlotMark
	var from saga.LSN
	var gapAt *time.Time
	var invalidated string
	gap := &Past{}
	err := row.Scan(&info.Slot, &info.Exists, &info.Active, &info.Holder, &info.Generation, &mark, &info.LagBytes, &info.LagSeconds,
		&info.WALStatus, &info.RetainedBytes, &info.SafeBytes, &info.Failover, &info.Synced, &info.DecodedTransactions, &info.DecodedBytes,
		&gapAt, &from, &gap.To, &gap.Reason, &gap.Open, &info.Error, &invalidated)
	if err != nil {
		return info, err
	}
	if gapAt != nil {
		gap.At, info.Gap = *gapAt, gap
		if from != 0 {
			gap.From = &from
		}
	}
	info.settle(mark, invalidated)
	return info, nil
}

// settle makes of the server's figures what they mean.
func (i *Info) settle(mark postgres.SlotMark, invalidated string) {
	i.ConfirmedLSN = mark.LSN()
	i.LagBytes = max(0, i.LagBytes-int64(i.ConfirmedLSN)+int64(mark)) //nolint:gosec // positions are below 2^53
	i.LagSeconds = max(0, i.LagSeconds)
	if !i.Active {
		i.Holder = ""
	}
	switch {
	case !i.Exists || i.WALStatus == "lost":
		i.LagBytes, i.RetainedBytes = 0, 0
	case i.LagBytes == 0:
		i.LagSeconds = 0
	}
	if i.Error != "" {
		return
	}
	switch {
	case !i.Exists:
		i.Error = "the slot is gone: a worker with the role stream makes it anew and has what was missed backfilled; so does `capsaga catalog apply`"
	case i.WALStatus == "lost":
		i.Error = "the slot was invalidated by the server (" + invalidated + "): a worker with the role stream makes it anew and has what was missed backfilled"
	case i.Gap != nil && i.Gap.Open:
		i.Error = "changes were missed and the backfill is not requested yet: a worker with the role stream does it, or `capsaga backfill` of each entity"
	case i.WALStatus == "unreserved":
		i.Error = "the slot is about to be lost, as its WAL is beyond max_slot_wal_keep_size: make the stream move, or raise the limit"
	}
}
