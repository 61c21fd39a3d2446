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
	Name         string   `json:"name"` // the publication
	Slot         string   `json:"slot"`
	Holder       string   `json:"holder"` // empty when nobody holds it
	Active       bool     `json:"active"`
	ConfirmedLSN saga.LSN `json:"confirmed_lsn"`
	LagBytes     int64    `json:"lag_bytes"`
	// LagSeconds is how long ago what is not confirmed was written, as far as
	// PostgreSQL knows: the walsender's own measure while the stream moves, else
	// the time since it stopped.
	LagSeconds float64 `json:"lag_seconds"`
	Error      string  `json:"error,omitempty"`
	// Alarms says what waits for an operator while the stream goes on: each topic whose
	// records are parked.
	Alarms []string `json:"alarms,omitempty"`
}

// statusQuery reads the slots by name, in the order given. inactive_since needs
// PostgreSQL 17.
const statusQuery = `
SELECT s.slot_name, s.active, coalesce(c.holder, ''), coalesce(s.confirmed_flush_lsn, '0/0')::text,
       coalesce(pg_current_wal_lsn() - s.confirmed_flush_lsn, 0)::bigint,
       coalesce(extract(epoch FROM greatest(
           r.flush_lag,
           CASE WHEN NOT s.active THEN clock_timestamp() - s.inactive_since END,
           CASE WHEN c.error IS NOT NULL THEN clock_timestamp() - c.error_at END)), 0)::float8,
       coalesce(c.error, ''), coalesce(s.wal_status, '')
FROM unnest($1::text[]) WITH ORDINALITY AS wanted(slot, position)
JOIN pg_replication_slots s ON s.slot_name = wanted.slot
LEFT JOIN pg_stat_replication r ON r.pid = s.active_pid
LEFT JOIN capsaga.stream c ON c.slot = s.slot_name
ORDER BY wanted.position`

// Status returns the streams whose slots exist, in the order redispub, kafkapub,
// espub.
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
	var confirmed, status string
	err := row.Scan(&info.Slot, &info.Active, &info.Holder, &confirmed, &info.LagBytes, &info.LagSeconds, &info.Error, &status)
	if err != nil {
		return info, err
	}
	if !info.Active {
		info.Holder = ""
	}
	if info.LagBytes <= 0 {
		info.LagBytes, info.LagSeconds = 0, 0
	}
	if status == "lost" && info.Error == "" {
		info.Error = "the slot was invalidated by the server"
	}
	info.ConfirmedLSN, err = saga.ParseLSN(confirmed)
	return info, err
}
