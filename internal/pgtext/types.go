package pgtext

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

// Type is what is needed to write a value of a type as JSON.
type Type struct {
	OID      uint32 // of the base type, for a domain
	Modifier int32  // a domain's own; -1 if it has none
	Element  *Type  // of an array's elements, else nil
	// Delimiter separates an array's elements in its text form.
	Delimiter byte
	// Opaque says that PostgreSQL alone knows the value's JSON: a composite, a type
	// with a cast to json, or an array of such.
	Opaque bool
}

// Types looks types up by OID and remembers them: what an OID means never
// changes while the type exists. It is safe for concurrent use.
type Types struct {
	db postgres.Querier

	mu    sync.Mutex
	known map[uint32]*Type
}

// NewTypes returns types of a database.
func NewTypes(db postgres.Querier) *Types {
	return &Types{db: db, known: map[uint32]*Type{}}
}

// Lookup returns the type of an OID. One that is gone by now is read as text. Its
// error is of class Unavailable.
func (t *Types) Lookup(ctx context.Context, oid uint32) (*Type, error) {
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

const typeQuery = `
SELECT t.typtype::text, t.typbasetype, t.typtypmod, t.typelem, t.typsubscript = 'array_subscript_handler'::regproc,
       coalesce(e.typdelim, ',')::text,
       t.typtype = 'c' OR t.oid = 'record'::regtype
         OR t.oid >= 16384 AND EXISTS (SELECT FROM pg_cast c WHERE c.castsource = t.oid AND c.casttarget = 'json'::regtype AND c.castmethod = 'f')
FROM pg_type t LEFT JOIN pg_type e ON e.oid = t.typelem WHERE t.oid = $1`

func (t *Types) read(ctx context.Context, oid uint32) (*Type, error) {
	var kind, delimiter string
	var base, element uint32
	var modifier int32
	var array, opaque bool
	err := t.db.QueryRow(ctx, typeQuery, oid).Scan(&kind, &base, &modifier, &element, &array, &delimiter, &opaque)
	switch {
	case errors.Is(err, pgx.ErrNoRows):
		return &Type{OID: pgtype.TextOID, Modifier: -1}, nil
	case err != nil:
		return nil, &saga.Error{
			Class: saga.Unavailable, System: "postgres", Code: saga.CodeUnavailable, Err: err,
			Message: fmt.Sprintf("look up type %d: the database does not answer", oid),
		}
	case kind == "d":
		return t.readDomain(ctx, base, modifier)
	case array && element != 0:
		of, err := t.Lookup(ctx, element)
		if err != nil {
			return nil, err
		}
		return &Type{OID: oid, Modifier: -1, Element: of, Delimiter: delimiter[0], Opaque: of.Opaque}, nil
	}
	return &Type{OID: oid, Modifier: -1, Opaque: opaque}, nil
}

// readDomain returns the base type with the domain's own modifier.
func (t *Types) readDomain(ctx context.Context, base uint32, modifier int32) (*Type, error) {
	of, err := t.Lookup(ctx, base)
	if err != nil {
		return nil, err
	}
	info := *of
	if modifier != -1 {
		info.Modifier = modifier
	}
	return &info, nil
}
