package postgres

import (
	"context"
	"errors"
	"fmt"

	"github.com/jackc/pgx/v5/pgconn"

	"github.com/capsaga/capsaga/saga"
)

// nameColumn finds the value that the server refused: the server names no column
// for it, so each value is tried alone. It changes nothing.
func (db *DB) nameColumn(ctx context.Context, catalog *saga.Catalog, mutations []saga.Mutation, refused *saga.Error) *saga.Error {
	if sqlState(refused.Err) == "" {
		return refused // our own check, which names its column
	}
	for i := range mutations {
		m := &mutations[i]
		e, err := catalog.Entity(m.Entity)
		if err != nil {
			return refused
		}
		t, err := db.table(ctx, e.Table)
		if err != nil {
			return refused
		}
		for _, columns := range []saga.Columns{m.Key, m.Row, m.Set, m.Add, whereColumns(m.Expect)} {
			for _, name := range names(columns) {
				if problem := db.tryValue(ctx, t, name, columns); problem != "" {
					return refuse(saga.CodeInvalidValue, "mutations[%d]: entity %s: the value of column %q does not fit its type %s: %s",
						i, m.Entity, name, t.Column(name).Type, problem)
				}
			}
		}
	}
	return refused
}

func whereColumns(expect *saga.Expect) saga.Columns {
	columns := saga.Columns{}
	if expect != nil {
		for _, c := range expect.Where {
			columns[c.Column] = c.Value
		}
	}
	return columns
}

// tryValue returns what the server says of one value, or nothing.
func (db *DB) tryValue(ctx context.Context, t *TableInfo, name string, columns saga.Columns) string {
	c := t.Column(name)
	if c == nil {
		return ""
	}
	var fits bool
	err := db.pool.QueryRow(ctx, fmt.Sprintf("SELECT r.%s IS NULL OR true FROM json_to_record($1::text::json) AS r(%s %s)", quote(name), quote(name), c.Type),
		object(saga.Columns{name: columns[name]})).Scan(&fits)
	var pg *pgconn.PgError
	if errors.As(err, &pg) {
		return pg.Message
	}
	return ""
}
