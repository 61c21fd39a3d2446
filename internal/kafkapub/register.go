package kafkapub

import (
	"context"
	"fmt"

	"github.com/jackc/pgx/v5"

	"github.com/capsaga/capsaga/internal/postgres"
	"github.com/capsaga/capsaga/saga"
)

// register keeps in capsaga.topic what holders of the stream have to know of its
// topics from each other. Only the present holder may write it.
type register struct {
	db         postgres.Querier
	slot       string
	generation int64
}

// entry is what the register says of a topic.
type entry struct {
	Topic    string
	Table    string
	Key      []string // columns
	ID       string   // the cluster's, empty while it is not known
	Diverted bool
	Position int64 // in the parked topic, of a diverted one
}

// known is what the register says of a topic that had records.
type known struct {
	key []string
	id  string
}

const selectEntry = `SELECT topic, table_name, key, topic_id, diverted_at IS NOT NULL, coalesce(position, 0) FROM capsaga.topic WHERE slot = $1`

func (r *register) entries(ctx context.Context) ([]entry, error) {
	return r.query(ctx, "read what is known of the topics", selectEntry)
}

// requests returns the diverted topics that someone asked to drain.
func (r *register) requests(ctx context.Context) ([]entry, error) {
	return r.query(ctx, "look for topics to drain", selectEntry+` AND diverted_at IS NOT NULL AND drain_at IS NOT NULL ORDER BY topic`)
}

func (r *register) query(ctx context.Context, action, sql string) ([]entry, error) {
	rows, err := r.db.Query(ctx, sql, r.slot)
	if err != nil {
		return nil, registerError(action, err)
	}
	entries, err := pgx.CollectRows(rows, pgx.RowToStructByPos[entry])
	if err != nil {
		return nil, registerError(action, err)
	}
	return entries, nil
}

// setKnown says by which columns a table's records are keyed from here on, and in
// which topic they are.
func (r *register) setKnown(ctx context.Context, topic string, table saga.Table, now known) error {
	return r.write(ctx, "note the key of topic "+topic, `
		INSERT INTO capsaga.topic AS t (slot, topic, table_name, key, topic_id)
		SELECT slot, $3, $4, $5, $6 FROM capsaga.stream WHERE slot = $1 AND generation = $2
		ON CONFLICT (slot, topic) DO UPDATE SET key = excluded.key, topic_id = excluded.topic_id, table_name = excluded.table_name`,
		topic, tableName(table), append([]string{}, now.key...), now.id)
}

func (r *register) divert(ctx context.Context, t *target, why error, position int64) error {
	key := append([]string{}, t.key...) // an empty array, not NULL
	return r.write(ctx, "note that topic "+t.spec.Name+" is diverted", `
		INSERT INTO capsaga.topic AS t (slot, topic, table_name, key, diverted_at, reason, position)
		SELECT slot, $3, $4, $5, clock_timestamp(), $6, $7 FROM capsaga.stream WHERE slot = $1 AND generation = $2
		ON CONFLICT (slot, topic) DO UPDATE SET diverted_at = coalesce(t.diverted_at, excluded.diverted_at), reason = excluded.reason,
		    position = coalesce(t.position, excluded.position)`, t.spec.Name, tableName(t.table), key, why.Error(), position)
}

// drained says up to where a topic's parked records have been brought back.
func (r *register) drained(ctx context.Context, topic string, position int64) error {
	return r.write(ctx, "note how far topic "+topic+" is drained", `
		UPDATE capsaga.topic t SET position = $4 FROM capsaga.stream s
		WHERE t.slot = $1 AND s.slot = t.slot AND s.generation = $2 AND t.topic = $3`, topic, position)
}

// lift ends a diversion.
func (r *register) lift(ctx context.Context, topic string) error {
	return r.write(ctx, "note that topic "+topic+" is drained", `
		UPDATE capsaga.topic t SET diverted_at = NULL, reason = NULL, position = NULL, drain_at = NULL, drain_error = NULL FROM capsaga.stream s
		WHERE t.slot = $1 AND s.slot = t.slot AND s.generation = $2 AND t.topic = $3`, topic)
}

// refuse answers a request to drain a topic.
func (r *register) refuse(ctx context.Context, topic string, why error) error {
	return r.write(ctx, "note that topic "+topic+" cannot be drained", `
		UPDATE capsaga.topic t SET drain_at = NULL, drain_error = $4 FROM capsaga.stream s
		WHERE t.slot = $1 AND s.slot = t.slot AND s.generation = $2 AND t.topic = $3`, topic, why.Error())
}

// write writes if this is still the holder: the statement joins the stream's row of
// its generation.
func (r *register) write(ctx context.Context, action, sql string, args ...any) error {
	tag, err := r.db.Exec(ctx, sql, append([]any{r.slot, r.generation}, args...)...)
	if err == nil && tag.RowsAffected() == 0 {
		err = fmt.Errorf("another worker holds the stream")
	}
	return registerError(action, err)
}

func registerError(action string, err error) error {
	if err == nil {
		return nil
	}
	return &saga.Error{
		Class: saga.Unavailable, System: "postgres", Code: saga.CodeUnavailable, Err: err,
		Message: action + ": " + postgres.ErrorText(err),
	}
}

func tableName(t saga.Table) string {
	if t == (saga.Table{}) {
		return ""
	}
	return t.String()
}
