package postgres

import (
	"context"
	"errors"
	"fmt"
	"io"
	"testing"

	"github.com/jackc/pgx/v5/pgconn"
	"github.com/stretchr/testify/assert"

	"github.com/capsaga/capsaga/saga"
)

func TestClassify(t *testing.T) {
	for _, c := range []struct {
		state string
		class saga.Class
		code  string
	}{
		{"40001", saga.Unavailable, saga.CodeUnavailable},
		{"40P01", saga.Unavailable, saga.CodeUnavailable},
		{"40003", saga.Ambiguous, saga.CodeUnavailable},
		{"08006", saga.Unavailable, saga.CodeUnavailable},
		{"08007", saga.Ambiguous, saga.CodeUnavailable},
		{"25006", saga.Unavailable, saga.CodeUnavailable},
		{"53100", saga.Unavailable, saga.CodeUnavailable},
		{"53300", saga.Unavailable, saga.CodeUnavailable},
		{"55P03", saga.Unavailable, saga.CodeUnavailable},
		{"55006", saga.Unavailable, saga.CodeUnavailable},
		{"57014", saga.Unavailable, saga.CodeUnavailable},
		{"57P01", saga.Unavailable, saga.CodeUnavailable},
		{"57P03", saga.Unavailable, saga.CodeUnavailable},
		{"58030", saga.Unavailable, saga.CodeUnavailable},
		{"XX000", saga.Unavailable, saga.CodeUnavailable},
		{"22003", saga.Rejected, saga.CodeInvalidValue},
		{"22P02", saga.Rejected, saga.CodeInvalidValue},
		{"428C9", saga.Rejected, saga.CodeInvalidValue},
		{"23505", saga.Rejected, saga.CodeConstraintViolation},
		{"23503", saga.Rejected, saga.CodeConstraintViolation},
		{"23514", saga.Rejected, saga.CodeConstraintViolation},
		{"42703", saga.Rejected, saga.CodeUnknownColumn},
		{"42501", saga.Rejected, saga.CodeRejected},
		{"28P01", saga.Unavailable, saga.CodeUnavailable},
		{"3D000", saga.Unavailable, saga.CodeUnavailable},
		{"3F000", saga.Unavailable, saga.CodeUnavailable},
		{"42P01", saga.Unavailable, saga.CodeUnavailable},
		{"P0001", saga.Rejected, saga.CodeRejected}, // RAISE in a trigger
	} {
		var e *saga.Error
		if assert.ErrorAs(t, classify("commit", &pgconn.PgError{Code: c.state, Message: "m"}), &e, c.state) {
			assert.Equal(t, c.class, e.Class, c.state)
			assert.Equal(t, c.code, e.Code, c.state)
		}
	}
}

func TestClassifyWithoutAnswer(t *testing.T) {
	assert.NoError(t, classify("x", nil))
	assert.Equal(t, saga.Ambiguous, saga.ClassOf(classify("commit", io.ErrUnexpectedEOF)), "a COMMIT may have arrived")
	assert.Equal(t, saga.Ambiguous, saga.ClassOf(classify("commit", context.DeadlineExceeded)))
	known := &saga.Error{Class: saga.Rejected, System: "catalog"}
	assert.Same(t, known, classify("x", known))
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
