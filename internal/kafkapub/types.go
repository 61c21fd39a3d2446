package kafkapub

import (
	"context"
	"errors"
	"fmt"
	"sync"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgtype"

	"github.com/capsaga/capsaga/internal/postgres"
	"github.com/capsaga/capsaga/saga"
)

// typeInfo is what is needed to encode a value of a type.
type typeInfo struct {
	oid      uint32 // of the base type, for a domain
	modifier int32  // a domain's own; -1 if it has none
	element  *typeInfo
	// delimiter separates an array's elements in its text form.
	delimiter byte
}

// types looks types up by OID and remembers them: what an OID means never
// changes while the type exists.
type types struct {
	db postgres.Querier

	mu    sync.Mutex
	known map[uint32]*typeInfo
}

func newTypes(db postgres.Querier) *types {
	return &types{db: db, known: map[uint32]*typeInfo{}}
}

// lookup returns the type of an OID. One that is gone by now is encoded as text.
func (t *types) lookup(ctx context.Context, oid uint32) (*typeInfo, error) {
	t.mu.Lock()
	info, ok := t.known[oid]
	t.mu.Unlock()
	if ok {
		return info, nil
	}
	info, err := t.read(ctx, oid)
	if err != nil {
		return nil, err
	}
	t.mu.Lock()
	t.known[oid] = info
	t.mu.Unlock()
	return info, nil
}

func (t *types) read(ctx context.Context, oid uint32) (*typeInfo, error) {
	var kind, delimiter string
	var base, element uint32
	var modifier int32
	var array bool
	err := t.db.QueryRow(ctx, `
		SELECT t.typtype::text, t.typbasetype, t.typtypmod, t.typelem, t.typsubscript = 'array_subscript_handler'::regproc,
		       coalesce(e.typdelim, ',')::text
		FROM pg_type t LEFT JOIN pg_type e ON e.oid = t.typelem WHERE t.oid = $1`, oid).
		Scan(&kind, &base, &modifier, &element, &array, &delimiter)
	switch {
	case errors.Is(err, pgx.ErrNoRows):
		return &typeInfo{oid: pgtype.TextOID, modifier: -1}, nil
	case err != nil:
		return nil, &saga.Error{
			Class: saga.Unavailable, System: "postgres", Code: saga.CodeUnavailable, Err: err,
			Message: fmt.Sprintf("look up type %d: the database does not answer", oid),
		}
	case kind == "d":
		return t.readDomain(ctx, base, modifier)
	case array && element != 0:
		of, err := t.lookup(ctx, element)
		if err != nil {
			return nil, err
		}
		return &typeInfo{oid: oid, modifier: -1, element: of, delimiter: delimiter[0]}, nil
	}
	return &typeInfo{oid: oid, modifier: -1}, nil
}

// readDomain returns the base type with the domain's own modifier.
func (t *types) readDomain(ctx context.Context, base uint32, modifier int32) (*typeInfo, error) {
	of, err := t.lookup(ctx, base)
	if err != nil {
		return nil, err
	}
	info := *of
	if modifier != -1 {
		info.modifier = modifier
	}
	return &info, nil
}
