package postgres

import (
	"context"
	"time"
)

// Prune forgets sagas that finished longer ago than that, at most limit of them,
// with their changes, waivers and conflicts, and returns how many. A saga that
// someone is changing is left for the next time. An id that was forgotten is new.
func (db *DB) Prune(ctx context.Context, olderThan time.Duration, limit int) (int, error) {
	tag, err := db.pool.Exec(ctx, `
		DELETE FROM capsaga.saga WHERE ctid = ANY(ARRAY(
		    SELECT ctid FROM capsaga.saga s
		    WHERE finished_at < clock_timestamp() - make_interval(secs => $1) AND NOT `+underWay+`
		    ORDER BY finished_at LIMIT $2 FOR UPDATE SKIP LOCKED))`, olderThan.Seconds(), limit)
	if err == nil {
		_, err = db.pool.Exec(ctx, `DELETE FROM capsaga.batch b WHERE coalesce(finished_at, created_at) < clock_timestamp() - make_interval(secs => $1)
			AND (finished_at IS NOT NULL OR NOT EXISTS (SELECT FROM capsaga.saga s WHERE s.id = ANY(b.ids) AND s.outcome IS NULL))`, olderThan.Seconds())
	}
	return int(tag.RowsAffected()), classify("prune the ledger", err)
}
