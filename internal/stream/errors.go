package stream

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/jackc/pgx/v5/pgconn"

	"github.com/capsaga/capsaga/saga"
)

// errLost ends a holder that can no longer be sure of its slot.
var errLost = errors.New("the hold of the slot is in doubt")

// refusals are the SQLSTATEs that no retry changes.
var refusals = []string{
	"28",    // authorisation
	"3D000", // no such database
	"42",    // no such slot, publication or privilege
	"55000", // the slot was invalidated, or wal_level is not logical
	"22023", // the slot is another plugin's
}

// classify turns the driver's error of an action into a *saga.Error whose text
// holds no part of a connection string.
func classify(action string, err error) error {
	if err == nil {
		return nil
	}
	var known *saga.Error
	if errors.As(err, &known) {
		return err
	}
	e := &saga.Error{Class: saga.Unavailable, System: "postgres", Code: saga.CodeUnavailable, Err: err}
	var server *pgconn.PgError
	if errors.As(err, &server) {
		for _, state := range refusals {
			if strings.HasPrefix(server.Code, state) {
				e.Class, e.Code = saga.Rejected, saga.CodeRejected
			}
		}
		e.Message = fmt.Sprintf("%s: %s (SQLSTATE %s)", action, server.Message, server.Code)
		return e
	}
	e.Message = action + ": " + describe(err)
	return e
}

func describe(err error) string {
	var connect *pgconn.ConnectError
	switch {
	case errors.As(err, &connect):
		return fmt.Sprintf("cannot connect to %s:%d database %s: %s: check that the server runs",
			connect.Config.Host, connect.Config.Port, connect.Config.Database, innermost(err))
	case errors.Is(err, context.DeadlineExceeded), pgconn.Timeout(err):
		return "no answer in time"
	case errors.Is(err, context.Canceled):
		return "cancelled"
	}
	return innermost(err)
}

// innermost returns the text of the last error of the chain: the system's or the
// server's own, which names no connection string.
func innermost(err error) string {
	for {
		if joined, ok := err.(interface{ Unwrap() []error }); ok && len(joined.Unwrap()) > 0 {
			err = joined.Unwrap()[0]
			continue
		}
		next := errors.Unwrap(err)
		if next == nil {
			return err.Error()
		}
		err = next
	}
}

// slotActive reports whether an error says that another holds the slot.
func slotActive(err error) bool {
	var server *pgconn.PgError
	return errors.As(err, &server) && server.Code == "55006"
}
