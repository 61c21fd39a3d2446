package postgres

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"strings"
	"syscall"
	"testing"

	"github.com/jackc/pgx/v5/pgconn"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/capsaga/capsaga/saga"
)

func TestClassify(t *testing.T) {
	used := map[string]bool{}
	for _, c := range []struct {
		state string
		class saga.Class
		code  string
		entry string // of states that decides; empty: none
	}{
		{"08000", saga.Unavailable, saga.CodeUnavailable, "08"},
		{"08003", saga.Unavailable, saga.CodeUnavailable, "08"},
		{"08006", saga.Unavailable, saga.CodeUnavailable, "08"},
		{"08P01", saga.Unavailable, saga.CodeUnavailable, "08"},
		{"08007", saga.Ambiguous, saga.CodeUnavailable, "08007"},
		{"0A000", saga.Rejected, saga.CodeRejected, "0A000"},
		{"21000", saga.Rejected, saga.CodeRejected, ""},
		{"22001", saga.Rejected, saga.CodeInvalidValue, "22"},
		{"22003", saga.Rejected, saga.CodeInvalidValue, "22"},
		{"22P02", saga.Rejected, saga.CodeInvalidValue, "22"},
		{"22P05", saga.Rejected, saga.CodeInvalidValue, "22"},
		{"23001", saga.Rejected, saga.CodeConstraintViolation, "23"},
		{"23502", saga.Rejected, saga.CodeConstraintViolation, "23"},
		{"23503", saga.Rejected, saga.CodeConstraintViolation, "23"},
		{"23505", saga.Rejected, saga.CodeConstraintViolation, "23"},
		{"23514", saga.Rejected, saga.CodeConstraintViolation, "23"},
		{"23P01", saga.Rejected, saga.CodeConstraintViolation, "23"},
		{"25001", saga.Unavailable, saga.CodeUnavailable, "25"},
		{"25006", saga.Unavailable, saga.CodeUnavailable, "25"},
		{"25P02", saga.Unavailable, saga.CodeUnavailable, "25"},
		{"25P03", saga.Unavailable, saga.CodeUnavailable, "25"},
		{"25P04", saga.Unavailable, saga.CodeUnavailable, "25"},
		{"26000", saga.Unavailable, saga.CodeUnavailable, "26000"},
		{"28000", saga.Unavailable, saga.CodeUnavailable, "28"},
		{"28P01", saga.Unavailable, saga.CodeUnavailable, "28"},
		{"2D000", saga.Rejected, saga.CodeRejected, "2D000"},
		{"38000", saga.Rejected, saga.CodeRejected, ""}, // raised by a trigger in another language
		{"3B001", saga.Rejected, saga.CodeRejected, ""},
		{"3D000", saga.Unavailable, saga.CodeUnavailable, "3D000"},
		{"3F000", saga.Unavailable, saga.CodeUnavailable, "3F000"},
		{"40000", saga.Unavailable, saga.CodeUnavailable, "40"},
		{"40001", saga.Unavailable, saga.CodeUnavailable, "40"},
		{"40P01", saga.Unavailable, saga.CodeUnavailable, "40"},
		{"40002", saga.Rejected, saga.CodeConstraintViolation, "40002"},
		{"40003", saga.Ambiguous, saga.CodeUnavailable, "40003"},
		{"42501", saga.Rejected, saga.CodeRejected, "42501"},
		{"42703", saga.Rejected, saga.CodeUnknownColumn, "42703"},
		{"42804", saga.Rejected, saga.CodeRejected, ""},
		{"42883", saga.Rejected, saga.CodeRejected, ""}, // a trigger calls what is not there
		{"428C9", saga.Rejected, saga.CodeInvalidValue, "428C9"},
		{"42P01", saga.Unavailable, saga.CodeUnavailable, "42P01"},
		{"42P05", saga.Unavailable, saga.CodeUnavailable, "42P05"},
		{"44000", saga.Rejected, saga.CodeConstraintViolation, "44"},
		{"53000", saga.Unavailable, saga.CodeUnavailable, "53"},
		{"53100", saga.Unavailable, saga.CodeUnavailable, "53"},
		{"53200", saga.Unavailable, saga.CodeUnavailable, "53"},
		{"53300", saga.Unavailable, saga.CodeUnavailable, "53"},
		{"53400", saga.Unavailable, saga.CodeUnavailable, "53"},
		{"54000", saga.Rejected, saga.CodeRejected, "54"},
		{"54001", saga.Rejected, saga.CodeRejected, "54"},
		{"54023", saga.Rejected, saga.CodeRejected, "54"},
		{"55000", saga.Rejected, saga.CodeRejected, "55000"},
		{"55006", saga.Unavailable, saga.CodeUnavailable, "55006"},
		{"55P03", saga.Unavailable, saga.CodeUnavailable, "55P03"},
		{"57014", saga.Unavailable, saga.CodeUnavailable, "57"},
		{"57P01", saga.Ambiguous, saga.CodeUnavailable, "57P01"},
		{"57P02", saga.Ambiguous, saga.CodeUnavailable, "57P02"},
		{"57P03", saga.Unavailable, saga.CodeUnavailable, "57"},
		{"57P04", saga.Unavailable, saga.CodeUnavailable, "57"},
		{"57P05", saga.Unavailable, saga.CodeUnavailable, "57"},
		{"58000", saga.Unavailable, saga.CodeUnavailable, "58"},
		{"58030", saga.Unavailable, saga.CodeUnavailable, "58"},
		{"58P01", saga.Unavailable, saga.CodeUnavailable, "58"},
		{"72000", saga.Unavailable, saga.CodeUnavailable, "72000"},
		{"F0000", saga.Unavailable, saga.CodeUnavailable, "F0"},
		{"F0001", saga.Unavailable, saga.CodeUnavailable, "F0"},
		{"HV00N", saga.Unavailable, saga.CodeUnavailable, "HV00N"},
		{"HV000", saga.Rejected, saga.CodeRejected, ""},
		{"P0001", saga.Rejected, saga.CodeRejected, "P0"},
		{"P0004", saga.Rejected, saga.CodeRejected, "P0"},
		{"U0001", saga.Rejected, saga.CodeRejected, ""}, // a state of a trigger's own
		{"XX000", saga.Unavailable, saga.CodeUnavailable, "XX"},
		{"XX001", saga.Unavailable, saga.CodeUnavailable, "XX"},
		{"XX002", saga.Unavailable, saga.CodeUnavailable, "XX"},
	} {
		used[c.entry] = true
		assert.True(t, strings.HasPrefix(c.state, c.entry), c.state)
		var e *saga.Error
		if assert.ErrorAs(t, classify("commit", &pgconn.PgError{Code: c.state, Message: "m"}), &e, c.state) {
			assert.Equal(t, c.class, e.Class, c.state)
			assert.Equal(t, c.code, e.Code, c.state)
			assert.Contains(t, e.Message, c.state)
		}
	}
	for _, s := range states {
		assert.True(t, used[s.prefix], "no row for %s", s.prefix)
	}
}

func TestClassifyWithoutAnswer(t *testing.T) {
	assert.NoError(t, classify("x", nil))
	for _, err := range []error{
		io.ErrUnexpectedEOF, io.EOF, context.DeadlineExceeded, context.Canceled, net.ErrClosed,
		fmt.Errorf("write failed: %w", syscall.EPIPE), fmt.Errorf("read failed: %w", syscall.ECONNRESET),
	} {
		var e *saga.Error
		if assert.ErrorAs(t, classify("commit", err), &e) {
			assert.Equal(t, saga.Ambiguous, e.Class, "%v: a COMMIT may have arrived", err)
			assert.Equal(t, saga.CodeUnavailable, e.Code)
		}
	}
	known := &saga.Error{Class: saga.Rejected, System: "catalog"}
	assert.Same(t, known, classify("x", known))
}

// Where the server got nothing, the request has not happened.
func TestClassifyBeforeAnythingWasSent(t *testing.T) {
	db, err := Open(t.Context(), "postgres://me@127.0.0.1:1/db?connect_timeout=1&sslmode=disable")
	require.NoError(t, err)
	defer db.Close()
	e := new(saga.Error)
	require.ErrorAs(t, db.Ping(t.Context()), &e)
	assert.Equal(t, saga.Unavailable, e.Class)
	assert.Contains(t, e.Message, "127.0.0.1:1 database db")

	listener, err := new(net.ListenConfig).Listen(t.Context(), "tcp", "127.0.0.1:0") // takes connections and says nothing
	require.NoError(t, err)
	defer func() { _ = listener.Close() }()
	db, err = Open(t.Context(), "postgres://me@"+listener.Addr().String()+"/db?connect_timeout=1&sslmode=disable")
	require.NoError(t, err)
	defer db.Close()
	require.ErrorAs(t, db.Ping(t.Context()), &e)
	assert.Equal(t, saga.Unavailable, e.Class)
	assert.Contains(t, e.Message, "cannot connect")
}

func TestErrorsHoldNoPassword(t *testing.T) {
	for _, url := range []string{
		"postgres://me:hunter2@127.0.0.1:1/db?connect_timeout=1", "postgres://me:hunter2@127.0.0.1:nonsense/db", "host=127.0.0.1 port=1 password=hunter2 user=me nonsense",
	} {
		db, err := Open(t.Context(), url)
		if err == nil {
			err = db.Ping(t.Context())
			db.Close()
		}
		if assert.Error(t, err) {
			assert.NotContains(t, fmt.Sprintf("%v %+v", err, err), "hunter2")
			var e *saga.Error
			assert.True(t, errors.As(err, &e))
		}
	}
}
