package backfill

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/capsaga/capsaga/internal/postgres"
	"github.com/capsaga/capsaga/saga"
)

// Reason says why a backfill was requested, to people.
type Reason string

// The reasons.
const (
	// Asked is an operator's; it is content with a backfill that is under way.
	Asked Reason = "asked for"
	// Added is that the catalog names a sink for the first time.
	Added Reason = "new in the catalog"
	// Gap is that a stream missed changes.
	Gap Reason = "changes were missed"
	// Anew is that a topic begins anew: its key is another, or it was deleted.
	Anew Reason = "its topic begins anew"
	// Altered is that the table has other columns than the sinks' rows.
	Altered Reason = "columns changed"
	// Reindexed is that a new index has to be filled.
	Reindexed Reason = "new index"
	// Emptied is that a topic or an index had to be created again.
	Emptied Reason = "its topic or index was gone"
)

// Request asks for a backfill.
type Request struct {
	Entity *saga.Entity
	Sinks  []saga.Sink // default: all of the entity's
	Reason Reason      // default Asked
	// Sweep also removes what the sinks hold from before now and the backfill does not
	// find; in Kafka the topic begins anew.
	Sweep bool
	// Floor and Index: see saga.BackfillMessage.
	Floor saga.Version
	Index string
}

// State is where a backfill stands.
type State string

// The states.
const (
	Requested State = "requested"
	Running   State = "running"
	Done      State = "done"
	Failed    State = "failed"
	Cancelled State = "cancelled"
)

// Open reports whether the backfill has yet to end.
func (s State) Open() bool { return s == Requested || s == Running }

// Backfill is a backfill as it stands.
type Backfill struct {
	ID        int64        `json:"id"`
	Entity    string       `json:"entity"`
	Table     saga.Table   `json:"table"`
	Key       []string     `json:"-"`
	Sinks     []saga.Sink  `json:"sinks"`
	Reason    Reason       `json:"reason"`
	State     State        `json:"state"`
	Rows      int64        `json:"rows"`
	Bytes     int64        `json:"bytes"`
	Estimated int64        `json:"estimated_rows"`
	Floor     saga.Version `json:"floor,omitempty"`
	Index     string       `json:"index,omitempty"`
	Error     string       `json:"error,omitempty"`
	// ReplacedBy is the backfill that does it instead; zero: none.
	ReplacedBy int64 `json:"replaced_by,omitempty"`

	RequestedAt time.Time  `json:"requested_at"`
	StartedAt   *time.Time `json:"started_at,omitempty"`
	UpdatedAt   time.Time  `json:"updated_at"`
	FinishedAt  *time.Time `json:"finished_at,omitempty"`

	// cursor and last are keys; nil: there is none.
	cursor, last []string
}

const backfillColumns = `id, entity, table_name, key, sinks, reason, state, rows, bytes, estimated, coalesce(floor, 0), coalesce(index, ''),
    coalesce(error, ''), coalesce(replaced_by, 0), requested_at, started_at, updated_at, finished_at, cursor, last`

func scanBackfill(row pgx.CollectableRow) (b Backfill, err error) {
	var table string
	var floor int64
	err = row.Scan(&b.ID, &b.Entity, &table, &b.Key, &b.Sinks, &b.Reason, &b.State, &b.Rows, &b.Bytes, &b.Estimated, &floor, &b.Index,
		&b.Error, &b.ReplacedBy, &b.RequestedAt, &b.StartedAt, &b.UpdatedAt, &b.FinishedAt, &b.cursor, &b.last)
	if err != nil {
		return b, err
	}
	b.Floor = saga.Version(floor)
	b.Table, err = saga.ParseTable(table)
	return b, err
}

func query(ctx context.Context, db postgres.Querier, where string, args ...any) ([]Backfill, error) {
	rows, err := db.Query(ctx, "SELECT "+backfillColumns+" FROM capsaga.backfill "+where, args...)
	if err != nil {
		return nil, postgres.Classify("read the backfills", err)
	}
	backfills, err := pgx.CollectRows(rows, scanBackfill)
	return backfills, postgres.Classify("read the backfills", err)
}

// Beginner begins a transaction: a pool, a connection, or a transaction, of which
// the request is then a part.
type Beginner interface {
	Begin(ctx context.Context) (pgx.Tx, error)
}

// Submit requests a backfill and returns the one that does it. At most one is open
// for an entity and sink. One that an operator asks for joins an open one that has
// all its sinks. Any other has a reason for which rows that an open one has passed
// already have to come again: it takes the place of the open ones, and their sinks.
//
// What an earlier backfill left undone, a floor or a new index, passes to the next
// one of the same sink.
func Submit(ctx context.Context, db Beginner, r Request) (b Backfill, err error) {
	if r.Reason == "" {
		r.Reason = Asked
	}
	if len(r.Sinks) == 0 {
		r.Sinks = r.Entity.Sinks()
	}
	for _, sink := range r.Sinks {
		if !r.Entity.HasSink(sink) {
			return b, refuse("entity %s has no sink %s: the catalog gives it %s", r.Entity.Name, sink, joinSinks(r.Entity.Sinks()))
		}
	}
	err = pgx.BeginFunc(ctx, db, func(tx pgx.Tx) (err error) {
		if r.Sweep && r.Floor == 0 {
			if r.Floor, err = currentVersion(ctx, tx); err != nil {
				return err
			}
		}
		b, err = submit(ctx, tx, r)
		return err
	})
	return b, postgres.Classify("request a backfill of "+r.Entity.Name, err)
}

func submit(ctx context.Context, tx pgx.Tx, r Request) (b Backfill, err error) {
	if _, err := tx.Exec(ctx, "SELECT pg_advisory_xact_lock(hashtext('capsaga.backfill.request'), hashtext($1))", r.Entity.Name); err != nil {
		return b, err
	}
	open, err := query(ctx, tx, "WHERE entity = $1 AND sinks && $2 AND finished_at IS NULL ORDER BY id FOR UPDATE", r.Entity.Name, r.Sinks)
	if err != nil {
		return b, err
	}
	for _, o := range open {
		if r.Reason == Asked && r.Floor == 0 && r.Index == "" && o.serves(r) {
			return o, nil
		}
	}
	var replaced []int64
	for _, o := range open {
		replaced = append(replaced, o.ID)
		r.Sinks = mergeSinks(r.Sinks, o.Sinks, r.Entity)
		if o.Reason != r.Reason && !strings.Contains(string(r.Reason), string(o.Reason)) && o.Reason != Asked {
			r.Reason += ", " + o.Reason
		}
	}
	if err := r.takeOver(ctx, tx); err != nil {
		return b, err
	}
	if b, err = r.insert(ctx, tx); err != nil {
		return b, err
	}
	_, err = tx.Exec(ctx, `UPDATE capsaga.backfill SET state = $2, error = 'backfill ' || $3::bigint || ' does it instead', replaced_by = $3, updated_at = clock_timestamp(), finished_at = clock_timestamp()
		WHERE id = ANY ($1)`, replaced, Cancelled, b.ID)
	return b, err
}

// serves reports whether the open backfill does all that a request of no urgency
// asks for.
func (b *Backfill) serves(r Request) bool {
	for _, sink := range r.Sinks {
		if !slices.Contains(b.Sinks, sink) {
			return false
		}
	}
	return b.of(r.Entity)
}

// of reports whether the backfill walks the entity's table by its key, in the order
// of whichever index.
func (b *Backfill) of(e *saga.Entity) bool {
	return b.Table == e.Table && slices.Equal(slices.Sorted(slices.Values(b.Key)), slices.Sorted(slices.Values(e.Key)))
}

// mergeSinks adds those that the entity still has.
func mergeSinks(sinks, more []saga.Sink, e *saga.Entity) []saga.Sink {
	var merged []saga.Sink
	for _, sink := range e.Sinks() {
		if slices.Contains(sinks, sink) || slices.Contains(more, sink) {
			merged = append(merged, sink)
		}
	}
	return merged
}

// takeOver adds to a request what the backfills since the last one that was done
// were to leave behind and did not.
func (r *Request) takeOver(ctx context.Context, tx pgx.Tx) error {
	for _, sink := range r.Sinks {
		undone, err := query(ctx, tx, `WHERE entity = $1 AND $2 = ANY (sinks) AND (floor IS NOT NULL OR index IS NOT NULL)
			AND id > (SELECT coalesce(max(id), 0) FROM capsaga.backfill WHERE entity = $1 AND $2 = ANY (sinks) AND state = $3) ORDER BY id DESC`,
			r.Entity.Name, sink, Done)
		if err != nil {
			return err
		}
		for _, b := range undone {
			r.Floor = max(r.Floor, b.Floor)
			if r.Index == "" && sink == saga.Elasticsearch {
				r.Index = b.Index
			}
		}
	}
	return nil
}

// keepFor is how long an ended backfill is remembered.
const keepFor = "90 days"

// insert adds the row. The next transaction to begin has the horizon's number.
func (r *Request) insert(ctx context.Context, tx pgx.Tx) (Backfill, error) {
	if _, err := tx.Exec(ctx, "DELETE FROM capsaga.backfill WHERE entity = $1 AND finished_at < clock_timestamp() - $2::interval", r.Entity.Name, keepFor); err != nil {
		return Backfill{}, err
	}
	rows, err := tx.Query(ctx, `
		INSERT INTO capsaga.backfill (entity, table_name, key, sinks, reason, floor, index, horizon)
		VALUES ($1, $2, $3, $4, $5, nullif($6::bigint, 0), nullif($7, ''), pg_snapshot_xmax(pg_current_snapshot()))
		RETURNING `+backfillColumns,
		r.Entity.Name, r.Entity.Table.String(), r.Entity.Key, r.Sinks, r.Reason, int64(r.Floor), r.Index)
	if err != nil {
		return Backfill{}, err
	}
	return pgx.CollectExactlyOneRow(rows, scanBackfill)
}

// Cancel ends the open backfills of an entity and returns them.
func Cancel(ctx context.Context, db postgres.Querier, entity string) ([]Backfill, error) {
	rows, err := db.Query(ctx, `
		UPDATE capsaga.backfill SET state = $2, error = 'an operator cancelled it', updated_at = clock_timestamp(), finished_at = clock_timestamp()
		WHERE entity = $1 AND finished_at IS NULL RETURNING `+backfillColumns, entity, Cancelled)
	if err != nil {
		return nil, postgres.Classify("cancel the backfill of "+entity, err)
	}
	cancelled, err := pgx.CollectRows(rows, scanBackfill)
	return cancelled, postgres.Classify("cancel the backfill of "+entity, err)
}

// List returns the open backfills and the newest ones of those that have ended,
// newest first.
func List(ctx context.Context, db postgres.Querier, limit int) ([]Backfill, error) {
	return query(ctx, db, "ORDER BY finished_at IS NOT NULL, id DESC LIMIT $1", limit)
}

// Find returns a backfill. One that is not there any more is nil.
func Find(ctx context.Context, db postgres.Querier, id int64) (*Backfill, error) {
	found, err := query(ctx, db, "WHERE id = $1", id)
	if err != nil || len(found) == 0 {
		return nil, err
	}
	return &found[0], nil
}

func joinSinks(sinks []saga.Sink) string {
	names := make([]string, len(sinks))
	for i, sink := range sinks {
		names[i] = string(sink)
	}
	return strings.Join(names, ", ")
}

func refuse(format string, args ...any) *saga.Error {
	return &saga.Error{Class: saga.Rejected, System: "postgres", Code: saga.CodeRejected, Message: fmt.Sprintf(format, args...)}
}

// message returns the head of a message of the backfill.
func (b *Backfill) message(kind saga.BackfillKind) saga.BackfillMessage {
	return saga.BackfillMessage{ID: b.ID, Kind: kind, Entity: b.Entity, Table: b.Table, Sinks: b.Sinks, Floor: b.Floor, Index: b.Index}
}

// line returns the head as it is written, one line of JSON.
func line(m saga.BackfillMessage) (string, error) {
	text, err := json.Marshal(m)
	return string(text) + "\n", err
}
