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
	var connect *pgconn.ConnectError
	if !errors.As(err, &connect) && !pgconn.SafeToRetry(err) {
		// The server may have got the statement, a COMMIT for one.
		e.Class = saga.Ambiguous
	}
	e.Message = action + ": " + ErrorText(err)
	return e
}

// states decides by SQLSTATE, the longest prefix first. What is not listed is
// rejected: the server understood the statement and refuses it. Of two readings
// the one holds that says whose fault it is: what the write asks for is rejected,
// also where an operator could allow it; what the server, its settings or a pooler
// on the way cannot do now is unavailable.
var states = []struct {
	prefix string
	class  saga.Class
	code   string
}{
	{"08", saga.Unavailable, saga.CodeUnavailable},         // connection
	{"08007", saga.Ambiguous, saga.CodeUnavailable},        // transaction resolution unknown
	{"0A000", saga.Rejected, saga.CodeRejected},            // not supported; a stale plan's has been tried again by then
	{"22", saga.Rejected, saga.CodeInvalidValue},           // data
	{"23", saga.Rejected, saga.CodeConstraintViolation},    // integrity
	{"25", saga.Unavailable, saga.CodeUnavailable},         // a transaction that is not as we left it: a standby's, one that failed or was idle too long, a pooler's
	{"26000", saga.Unavailable, saga.CodeUnavailable},      // no such prepared statement: a pooler changed the connection
	{"28", saga.Unavailable, saga.CodeUnavailable},         // the worker's password or pg_hba.conf: no fault of the write
	{"2D000", saga.Rejected, saga.CodeRejected},            // a trigger that commits
	{"3D000", saga.Unavailable, saga.CodeUnavailable},      // no such database
	{"3F000", saga.Unavailable, saga.CodeUnavailable},      // no such schema: Capsaga's own, as tables are looked up before
	{"40", saga.Unavailable, saga.CodeUnavailable},         // serialization failure, deadlock
	{"40002", saga.Rejected, saga.CodeConstraintViolation}, // integrity, found at the end of the transaction
	{"40003", saga.Ambiguous, saga.CodeUnavailable},        // statement completion unknown
	{"42501", saga.Rejected, saga.CodeRejected},            // a privilege or a row's policy: the role may not write this
	{"42703", saga.Rejected, saga.CodeUnknownColumn},
	{"428C9", saga.Rejected, saga.CodeInvalidValue},     // a generated column was named
	{"42P01", saga.Unavailable, saga.CodeUnavailable},   // no such table: as with 3F000
	{"42P05", saga.Unavailable, saga.CodeUnavailable},   // the prepared statement is there already: as with 26000
	{"44", saga.Rejected, saga.CodeConstraintViolation}, // a view's check option
	{"53", saga.Unavailable, saga.CodeUnavailable},      // disk full, out of memory, too many connections
	{"54", saga.Rejected, saga.CodeRejected},            // a limit of the program: a row over an index's size, too deep an expression
	{"55000", saga.Rejected, saga.CodeRejected},         // the object does not take it: a published table without replica identity
	{"55006", saga.Unavailable, saga.CodeUnavailable},   // object in use: a slot held by another
	{"55P03", saga.Unavailable, saga.CodeUnavailable},   // lock not available
	{"57", saga.Unavailable, saga.CodeUnavailable},      // cancelled, starting up, database dropped
	{"57P01", saga.Ambiguous, saga.CodeUnavailable},     // shut down or terminated: it may come between COMMIT and its answer
	{"57P02", saga.Ambiguous, saga.CodeUnavailable},     // another backend crashed: likewise
	{"58", saga.Unavailable, saga.CodeUnavailable},      // I/O
	{"72000", saga.Unavailable, saga.CodeUnavailable},   // snapshot too old
	{"F0", saga.Unavailable, saga.CodeUnavailable},      // configuration file
	{"HV00N", saga.Unavailable, saga.CodeUnavailable},   // a foreign server that a trigger needs is away
	{"P0", saga.Rejected, saga.CodeRejected},            // RAISE or ASSERT in a trigger: a rule of the business
	{"XX", saga.Unavailable, saga.CodeUnavailable},      // internal, corruption: seen passing after restarts, and no fault of the write
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
