package backfill

import (
	"errors"
	"strings"

	"github.com/jackc/pgx/v5/pgconn"

	"github.com/capsaga/capsaga/internal/postgres"
	"github.com/capsaga/capsaga/saga"
)

// verdict is what to do about a failed step.
type verdict int

const (
	again    verdict = iota // at once
	smaller                 // with fewer rows
	anew                    // with the table as it is now
	later                   // after a pause
	giveUp                  // it is refused for good
	lostHold                // the session is gone, and with it the right to go on
)

// verdicts decides by SQLSTATE, the longest prefix first. Anything else is decided
// by its class.
var verdicts = map[string]verdict{
	"40001": again,   // a row went to another partition while it was waited for
	"40P01": again,   // deadlock
	"55P03": smaller, // a row is locked for longer than we wait for it
	"57014": smaller, // the chunk took longer than it may hold its locks
	"54000": smaller, // a text of over 1 GB
	"53200": smaller, // out of memory
	"0A000": anew,    // the plan of a table that was altered
	"42P01": anew,    // it is gone, or was renamed
	"42703": anew,    // so is a column of it
	"42804": anew,    // the key has another type
	"42883": anew,
	"22P02": anew, // the cursor is no value of the key's type any more
	"22003": anew,
	"57P01": lostHold,
	"57P02": lostHold,
}

func judge(err error) verdict {
	var pg *pgconn.PgError
	var wait *waiting
	switch {
	case errors.Is(err, errMoved):
		return again
	case errors.As(err, &wait):
		return later
	case errors.As(err, &pg) && pg.Code == "XX000" && strings.Contains(pg.Message, "invalid memory alloc request size"):
		return smaller // so PostgreSQL says it of a single value
	case errors.As(err, &pg):
		if v, ok := verdicts[pg.Code]; ok {
			return v
		}
	}
	if saga.ClassOf(postgres.Classify("", err)) == saga.Rejected {
		return giveUp
	}
	return later
}

// held reports whether an error says that somebody else holds a row.
func held(err error) bool {
	var pg *pgconn.PgError
	return errors.As(err, &pg) && (pg.Code == "55P03" || pg.Code == "57014")
}
