package stream

import (
	"errors"
	"fmt"
	"strings"

	"github.com/jackc/pgx/v5/pgconn"

	"github.com/capsaga/capsaga/internal/postgres"
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
	e.Message = action + ": " + postgres.ErrorText(err)
	return e
}

// slotActive reports whether an error says that another holds the slot.
func slotActive(err error) bool {
	var server *pgconn.PgError
	return errors.As(err, &server) && server.Code == "55006"
}
