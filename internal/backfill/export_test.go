package backfill

import (
	"context"
	"log/slog"

	"github.com/capsaga/capsaga/internal/postgres"
	"github.com/capsaga/capsaga/saga"
)

// OnStep has a function called before each exchange of a service's runners with the
// server.
func OnStep(s *Service, before func(step string)) { s.before = before }

// RunUnlocked runs a backfill without the right to do so.
func RunUnlocked(ctx context.Context, db *postgres.DB, prefix saga.Prefix, b Backfill, log *slog.Logger) error {
	pooled, err := db.Pool().Acquire(ctx)
	if err != nil {
		return err
	}
	conn := pooled.Hijack()
	defer closeSession(ctx, conn)
	r := &runner{conn: conn, prefix: prefix, log: log, job: b, maxBehind: 1 << 40}
	return r.run(ctx)
}
