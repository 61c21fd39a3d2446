package postgres

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/jackc/pgx/v5/pgconn"

	"github.com/capsaga/capsaga/saga"
)

// Classify is for packages that have queries of their own on the pool.
func Classify(action string, err error) error { return classify(action, err) }

// classify turns a driver's error into a *saga.Error: by SQLSTATE where the
// server answered, else as unavailable. An error that is one already passes.
//
// The message never holds the connection string.
func classify(action string, err error) error {
	if err == nil {
		return nil
	}
	var known *saga.Error
	if errors.As(err, &known) {
		return err
	}
	e := &saga.Error{System: "postgres", Err: err}
	var pg *pgconn.PgError
	if errors.As(err, &pg) {
		e.Class, e.Code = classOfState(pg.Code)
		e.Message = action + ": " + describeState(pg)
		return e
	}
	e.Class, e.Code = saga.Unavailable, saga.CodeUnavailable
	if !pgconn.SafeToRetry(err) {
		// The server may have got the statement, a COMMIT for one.
		e.Class = saga.Ambiguous
	}
	e.Message = action + ": " + ErrorText(err)
	return e
}

// states decides by SQLSTATE, the longest prefix first. What is not listed is
// rejected: the server understood the statement and refuses it.
var states = []struct {
	prefix string
	class  saga.Class
	code   string
}{
	{"40003", saga.Ambiguous, saga.CodeUnavailable},   // statement completion unknown
	{"40", saga.Unavailable, saga.CodeUnavailable},    // serialization failure, deadlock
	{"08007", saga.Ambiguous, saga.CodeUnavailable},   // transaction resolution unknown
	{"08", saga.Unavailable, saga.CodeUnavailable},    // connection
	{"25006", saga.Unavailable, saga.CodeUnavailable}, // read-only: a standby, or just demoted
	{"25P03", saga.Unavailable, saga.CodeUnavailable}, // idle in transaction too long
	{"53", saga.Unavailable, saga.CodeUnavailable},    // disk full, out of memory, too many connections
	{"28", saga.Unavailable, saga.CodeUnavailable},    // the worker's password or pg_hba.conf: no fault of the write
	{"3D000", saga.Unavailable, saga.CodeUnavailable}, // no such database
	{"3F000", saga.Unavailable, saga.CodeUnavailable}, // no such schema: Capsaga's own, as tables are looked up before
	{"42P01", saga.Unavailable, saga.CodeUnavailable}, // no such table: likewise
	{"55006", saga.Unavailable, saga.CodeUnavailable}, // object in use: a slot held by another
	{"55P03", saga.Unavailable, saga.CodeUnavailable}, // lock not available
	{"57", saga.Unavailable, saga.CodeUnavailable},    // shutdown, crash, cancel
	{"58", saga.Unavailable, saga.CodeUnavailable},    // I/O
	{"XX", saga.Unavailable, saga.CodeUnavailable},    // internal: seen passing after restarts
	{"F0", saga.Unavailable, saga.CodeUnavailable},    // configuration file
	{"0A000", saga.Rejected, saga.CodeRejected},
	{"22", saga.Rejected, saga.CodeInvalidValue},
	{"23505", saga.Rejected, saga.CodeConstraintViolation},
	{"23", saga.Rejected, saga.CodeConstraintViolation},
	{"428C9", saga.Rejected, saga.CodeInvalidValue}, // a generated column was named
	{"42703", saga.Rejected, saga.CodeUnknownColumn},
	{"44", saga.Rejected, saga.CodeConstraintViolation}, // a view's check option
}

func classOfState(state string) (saga.Class, string) {
	class, code, best := saga.Rejected, saga.CodeRejected, 0
	for _, s := range states {
		if len(s.prefix) > best && strings.HasPrefix(state, s.prefix) {
			class, code, best = s.class, s.code, len(s.prefix)
		}
	}
	return class, code
}

// describeState says what the server said, with what it named. Detail is left
// out: it quotes values of the row.
func describeState(pg *pgconn.PgError) string {
	var b strings.Builder
	b.WriteString(pg.Message)
	switch {
	case pg.ConstraintName != "":
		fmt.Fprintf(&b, " (constraint %s of table %s.%s", pg.ConstraintName, pg.SchemaName, pg.TableName)
	case pg.ColumnName != "":
		fmt.Fprintf(&b, " (column %s of table %s.%s", pg.ColumnName, pg.SchemaName, pg.TableName)
	default:
		b.WriteString(" (SQLSTATE ")
		b.WriteString(pg.Code)
		b.WriteString(")")
		return b.String()
	}
	fmt.Fprintf(&b, ", SQLSTATE %s)", pg.Code)
	return b.String()
}

// ErrorText says what went wrong on the way to the server, where and what to
// check. It never holds a part of a connection string but host, port and database.
func ErrorText(err error) string {
	var connect *pgconn.ConnectError
	switch {
	case errors.As(err, &connect):
		return fmt.Sprintf("cannot connect to %s:%d database %s: %s: check that the server runs and that CAPSAGA_POSTGRES_URL is right",
			connect.Config.Host, connect.Config.Port, connect.Config.Database, innermost(err))
	case errors.Is(err, context.DeadlineExceeded), pgconn.Timeout(err):
		return "no answer in time"
	case errors.Is(err, context.Canceled):
		return "cancelled"
	}
	return innermost(err)
}

// innermost returns the text of the last error of the chain, which is the
// operating system's or the server's and so names no connection string.
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
