package postgres

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/capsaga/capsaga/saga"
)

// CommitRequest is a write with what the ledger and the WAL say of its saga.
type CommitRequest struct {
	Write                   saga.Write
	Catalog                 *saga.Catalog
	WorkflowID, RunID       string
	TraceParent, TraceState string
}

// CommitResult is what the pivot came to.
type CommitResult struct {
	Status saga.Status     `json:"status"` // committed, rejected, or failed when the saga id was used for other content
	Error  *saga.ErrorInfo `json:"error,omitempty"`
	// WorkflowID is the workflow that the ledger names, which is another than the
	// request's when an earlier one committed the saga.
	WorkflowID  string            `json:"workflow_id"`
	Content     string            `json:"content"`
	Version     saga.Version      `json:"version,omitempty"`
	Confirmed   saga.Confirmation `json:"confirmed,omitempty"`
	CommittedAt time.Time         `json:"committed_at,omitzero"`
	// FlushLSN was read right after COMMIT: once the stream's confirmed position
	// has reached it, Kafka has the saga's rows.
	FlushLSN saga.LSN     `json:"flush_lsn,omitempty"`
	Owned    []saga.Owned `json:"owned,omitempty"`
	// Recorded is the outcome that the ledger has of a saga that had committed
	// before.
	Recorded *saga.Outcome `json:"recorded,omitempty"`
}

// maxTries bounds how often a transaction that lost against another is tried at
// once; after that the caller's patience decides.
const maxTries = 6

// Commit applies a write exactly once: the ledger's row, the mutations and the
// two logical messages that frame them are one transaction. A second call for
// the same saga id returns the first one's result.
//
// An error means that the outcome is not known or that the database did not take
// the write now: call again. What the database refuses for good is a result with
// status rejected, and nothing of the write has happened.
func (db *DB) Commit(ctx context.Context, request CommitRequest) (*CommitResult, error) {
	for try, described := 1, false; ; try++ {
		result, err := db.commitOnce(ctx, request)
		switch {
		case err == nil:
			return result, nil
		case errors.Is(err, errEpochUnknown):
			if _, err := db.verifyEpoch(ctx); err != nil {
				return nil, err
			}
		case errors.Is(err, errTableChanged):
			db.forgetTables()
		case tableChanged(err) && !described:
			described = true // a refusal stands only against a fresh description
			db.forgetTables()
		case lostRace(err):
		default:
			return db.settle(ctx, request, err)
		}
		if try == maxTries {
			return db.settle(ctx, request, err)
		}
		if err := pause(ctx, time.Duration(rand.IntN(10*try)+1)*time.Millisecond); err != nil {
			return nil, classify("commit saga "+request.Write.SagaID, err)
		}
	}
}

func pause(ctx context.Context, d time.Duration) error {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-timer.C:
		return nil
	}
}

// settle turns the last error into a rejection that the ledger remembers, or
// returns it for the caller to try again.
func (db *DB) settle(ctx context.Context, request CommitRequest, err error) (*CommitResult, error) {
	err = classify("commit saga "+request.Write.SagaID, err)
	var e *saga.Error
	if !errors.As(err, &e) || e.Class != saga.Rejected {
		return nil, err
	}
	if e.Code == saga.CodeInvalidValue {
		e = db.nameColumn(ctx, request, e)
	}
	result := &CommitResult{
		Status: saga.RejectedEnd, WorkflowID: request.WorkflowID, Content: request.Write.Digest(),
		Error: &saga.ErrorInfo{Code: e.Code, Message: e.Message, Class: e.Class, System: e.System},
	}
	return db.recordRejection(ctx, request, result)
}

func sqlState(err error) string {
	var pg *pgconn.PgError
	if errors.As(err, &pg) {
		return pg.Code
	}
	return ""
}

func lostRace(err error) bool {
	state := sqlState(err)
	return state == "40001" || state == "40P01"
}

// tableChanged reports whether an ALTER TABLE since the description was cached
// explains the error.
func tableChanged(err error) bool {
	var e *saga.Error
	if errors.As(err, &e) {
		return e.Code == saga.CodeUnknownColumn || e.Code == saga.CodeInvalidValue
	}
	state := sqlState(err)
	return state == "0A000" || strings.HasPrefix(state, "22") || strings.HasPrefix(state, "42")
}

// commit is one attempt at a write, on one connection.
type commit struct {
	db      *DB
	conn    *pgxpool.Conn
	request CommitRequest
	digest  string
	plans   []*planned

	epoch  saga.Epoch
	before []json.RawMessage // per mutation
	owned  []saga.Owned
	tables map[string]*planned // entity → a plan, for its table
}

func (db *DB) commitOnce(ctx context.Context, request CommitRequest) (*CommitResult, error) {
	if err := request.Write.Validate(); err != nil {
		return nil, err
	}
	c := &commit{db: db, request: request, digest: request.Write.Digest(), tables: map[string]*planned{}}
	if err := c.plan(ctx); err != nil {
		return nil, err
	}
	conn, err := db.pool.Acquire(ctx)
	if err != nil {
		return nil, err
	}
	defer conn.Release() // a connection that is still in a transaction is closed by the pool
	c.conn = conn
	result, err := c.run(ctx)
	if err != nil && !conn.Conn().IsClosed() {
		if _, undo := conn.Exec(ctx, "ROLLBACK"); undo != nil {
			_ = conn.Conn().Close(context.WithoutCancel(ctx))
		}
	}
	return result, err
}

func (c *commit) plan(ctx context.Context) error {
	for i := range c.request.Write.Mutations {
		m := &c.request.Write.Mutations[i]
		e, err := c.request.Catalog.Entity(m.Entity)
		if err != nil {
			return err
		}
		t, err := c.db.table(ctx, e.Table)
		if err != nil {
			return err
		}
		p, err := plan(e, t, m)
		if err != nil {
			return err
		}
		c.plans = append(c.plans, p)
		c.tables[e.Name] = p
	}
	return nil
}

// run is the transaction, in four exchanges with the server: open it, apply the
// mutations, re-read the rows, close it.
func (c *commit) run(ctx context.Context) (*CommitResult, error) {
	first, err := c.open(ctx)
	if err != nil {
		return nil, err
	}
	if !first {
		return c.attach(ctx)
	}
	if err := c.lockRows(ctx); err != nil {
		return nil, err
	}
	if err := c.mutate(ctx); err != nil {
		return nil, err
	}
	if err := c.reread(ctx); err != nil {
		return nil, err
	}
	return c.close(ctx)
}

// open begins the transaction, emits the opening message and takes the saga id
// in the ledger. It waits for another transaction that holds the same id, and
// returns false if that one committed.
func (c *commit) open(ctx context.Context) (first bool, err error) {
	w := c.request.Write
	begin, err := json.Marshal(saga.BeginMessage{SagaID: w.SagaID, TraceParent: c.request.TraceParent, TraceState: c.request.TraceState})
	if err != nil {
		return false, err
	}
	request, err := json.Marshal(w)
	if err != nil {
		return false, err
	}
	level, timeout := "local", lockTimeout(ctx)
	if w.Consistency == saga.CP {
		level = "remote_apply"
	}
	var batch pgx.Batch
	var replicas string
	batch.Queue("BEGIN ISOLATION LEVEL READ COMMITTED")
	batch.Queue("SELECT set_config('synchronous_commit', $1, true), set_config('lock_timeout', $2, true), current_setting('synchronous_standby_names')", level, timeout).
		QueryRow(func(row pgx.Row) error { return row.Scan(nil, nil, &replicas) })
	batch.Queue(serverNow).QueryRow(func(row pgx.Row) error {
		c.epoch, err = c.db.checkEpoch(row)
		return err
	})
	batch.Queue("SELECT pg_logical_emit_message(true, $1, $2::text)", saga.MessageBegin, string(begin))
	batch.Queue("INSERT INTO capsaga.saga (id, workflow_id, run_id, content, write, status) VALUES ($1, $2, $3, $4, $5::text::json, 'pending') ON CONFLICT DO NOTHING",
		w.SagaID, c.request.WorkflowID, c.request.RunID, c.digest, string(request)).
		Exec(func(tag pgconn.CommandTag) error {
			first = tag.RowsAffected() == 1
			return nil
		})
	if err := c.conn.SendBatch(ctx, &batch).Close(); err != nil {
		return false, err
	}
	if w.Consistency == saga.CP && replicas == "" {
		return false, refuse(saga.CodeNoReplica, "consistency cp: the server has no synchronous replica (synchronous_standby_names is empty): configure one, or write with ap")
	}
	return first, nil
}

// lockTimeout keeps a wait for a row inside the caller's patience, so that it
// ends as an answer and not as a broken connection.
func lockTimeout(ctx context.Context) string {
	patience := 10 * time.Second
	if deadline, ok := ctx.Deadline(); ok {
		patience = min(patience, time.Until(deadline)*8/10)
	}
	return fmt.Sprintf("%dms", max(patience.Milliseconds(), 10))
}

// lockRows locks the rows of a write with several mutations in one order for all
// sagas, so that two of them do not deadlock.
func (c *commit) lockRows(ctx context.Context) error {
	if len(c.plans) < 2 {
		return nil
	}
	var reads []*planned
	for _, p := range c.plans {
		if p.read != nil {
			reads = append(reads, p)
		}
	}
	slices.SortStableFunc(reads, func(a, b *planned) int {
		return strings.Compare(a.table.Table.String()+"\x00"+a.read.args[0].(string), b.table.Table.String()+"\x00"+b.read.args[0].(string))
	})
	var batch pgx.Batch
	for _, p := range reads {
		batch.Queue(p.read.sql, p.read.args...)
	}
	return c.conn.SendBatch(ctx, &batch).Close()
}

// seen is what the locked read of one mutation found.
type seen struct {
	found  bool
	etag   string
	row    *string
	truths []bool
}

// mutate applies the mutations in the caller's order.
func (c *commit) mutate(ctx context.Context) error {
	var batch pgx.Batch
	reads := make([]seen, len(c.plans))
	keys := make([][]string, len(c.plans))
	for i, p := range c.plans {
		if p.read != nil {
			batch.Queue(p.read.sql, p.read.args...).QueryRow(func(row pgx.Row) error {
				err := row.Scan(&reads[i].etag, &reads[i].row, &reads[i].truths)
				if noRows(err) {
					return nil
				}
				reads[i].found = err == nil
				return err
			})
		}
		batch.Queue(p.write.sql, p.write.args...).QueryRow(func(row pgx.Row) error {
			err := row.Scan(&keys[i])
			if noRows(err) {
				return nil
			}
			return err
		})
	}
	err := c.conn.SendBatch(ctx, &batch).Close()
	// An unmet expectation says more than the constraint that the mutation broke
	// because of it.
	for i, p := range c.plans {
		if unmet := c.unmet(p, i, reads[i], err); unmet != nil {
			return unmet
		}
	}
	if err != nil {
		return err
	}
	for i, p := range c.plans {
		if keys[i] == nil {
			return refuse(saga.CodeNotFound, "mutations[%d]: %s: no such row, or a trigger of table %s kept it from changing", i, p.Target(), p.table.Table)
		}
		var before json.RawMessage
		if reads[i].row != nil {
			before = json.RawMessage(*reads[i].row)
		}
		c.before = append(c.before, before)
		key := saga.EncodeKey(keys[i])
		if p.entity.Elasticsearch != nil {
			if err := saga.CheckDocumentKey(p.entity.Name, key); err != nil {
				return err
			}
		}
		c.own(p.entity.Name, key)
	}
	return c.checkSize()
}

// maxOwnedBytes bounds what a saga's workflow has to carry of its rows: keys and
// etags are in the commit's result, in the outcome and in each caller's answer,
// and Temporal takes 2 MB of the one and 4 MB of all together.
const maxOwnedBytes = 256 << 10

func (c *commit) checkSize() error {
	size := 0
	for _, o := range c.owned {
		size += len(o.Entity) + len(o.Key) + len(`{"entity":"","key":"","etag":"1-4294967295"},`)
	}
	if size > maxOwnedBytes {
		return refuse(saga.CodeInvalidWrite, "the write changes %d rows, whose encoded keys and etags take %d bytes of at most %d: split it into several sagas", len(c.owned), size, maxOwnedBytes)
	}
	return nil
}

// unmet returns why a mutation may not happen, given what its read found.
func (c *commit) unmet(p *planned, i int, s seen, failed error) *saga.Error {
	expect := p.Expect
	absentWanted := expect != nil && expect.Exists != nil && !*expect.Exists
	if p.read == nil || failed != nil && !s.found && !absentWanted {
		return nil
	}
	mustExist := p.Op != saga.Upsert || expect != nil && !absentWanted
	switch {
	case absentWanted && s.found:
		return refuse(saga.CodeExpectUnmet, "mutations[%d]: %s: expected no such row, and there is one", i, p.Target())
	case !s.found && mustExist && expect != nil:
		return refuse(c.absentCode(p), "mutations[%d]: %s: expected a row, and there is none", i, p.Target())
	case !s.found && mustExist:
		return refuse(saga.CodeNotFound, "mutations[%d]: %s: no such row", i, p.Target())
	case !s.found:
		return nil
	}
	if expect != nil && expect.ETag != "" && expect.ETag != etag(c.epoch, s.etag) {
		return refuse(saga.CodeExpectUnmet, "mutations[%d]: %s: expected etag %s, and the row has %s", i, p.Target(), expect.ETag, etag(c.epoch, s.etag))
	}
	for n, holds := range s.truths {
		if !holds {
			return refuse(p.conditions[n].code, "mutations[%d]: %s: %s, which does not hold", i, p.Target(), p.conditions[n].text)
		}
	}
	return nil
}

// absentCode is not_found for an operation that needs its row anyway.
func (c *commit) absentCode(p *planned) string {
	if p.Op == saga.Upsert {
		return saga.CodeExpectUnmet
	}
	return saga.CodeNotFound
}

func etag(epoch saga.Epoch, xmin string) string { return fmt.Sprintf("%d-%s", epoch, xmin) }

func (c *commit) own(entity, key string) {
	for _, o := range c.owned {
		if o.Entity == entity && o.Key == key {
			return
		}
	}
	c.owned = append(c.owned, saga.Owned{Entity: entity, Key: key})
}

// reread lets deferred triggers run and then reads the rows that the saga owns:
// RETURNING misses what AFTER triggers changed, and a row written inside a
// savepoint has the subtransaction's xmin.
func (c *commit) reread(ctx context.Context) error {
	var batch pgx.Batch
	batch.Queue("SET CONSTRAINTS ALL IMMEDIATE")
	for name, p := range c.tables {
		p.table.queueStamp(&batch) // the mutations hold the table's lock
		var keys []saga.Columns
		for _, o := range c.owned {
			if o.Entity == name {
				columns, err := keyColumns(p.entity, o.Key)
				if err != nil {
					return err
				}
				keys = append(keys, columns)
			}
		}
		s := readRows(p, keys)
		batch.Queue(s.sql, s.args...).Query(func(rows pgx.Rows) error {
			for rows.Next() {
				var texts []string
				var xmin, row string
				if err := rows.Scan(&texts, &xmin, &row); err != nil {
					return err
				}
				c.found(name, saga.EncodeKey(texts), etag(c.epoch, xmin), json.RawMessage(row))
			}
			return rows.Err()
		})
	}
	return c.conn.SendBatch(ctx, &batch).Close()
}

func (c *commit) found(entity, key, tag string, row json.RawMessage) {
	for i := range c.owned {
		if o := &c.owned[i]; o.Entity == entity && o.Key == key {
			o.ETag, o.Row = tag, row
		}
	}
}

// keyColumns turns a KEYENC back into columns; the text forms are read by the
// columns' own types.
func keyColumns(e *saga.Entity, key string) (saga.Columns, error) {
	texts, err := saga.DecodeKey(key)
	if err != nil {
		return nil, refuse(saga.CodeInvalidValue, "entity %s: %s", e.Name, err)
	}
	if len(texts) != len(e.Key) {
		return nil, refuse(saga.CodeMissingKey, "entity %s: key %q has %d columns: want %s", e.Name, key, len(texts), strings.Join(e.Key, ", "))
	}
	columns := saga.Columns{}
	for i, name := range e.Key {
		if columns[name], err = json.Marshal(texts[i]); err != nil {
			return nil, err
		}
	}
	return columns, nil
}

// readRows reads rows by key: key texts, xmin, row.
func readRows(p *planned, keys []saga.Columns) statement {
	objects := make([]string, len(keys))
	for i, key := range keys {
		objects[i] = object(key)
	}
	defs := make([]string, len(p.entity.Key))
	for i, name := range p.entity.Key {
		defs[i] = quote(name) + " " + p.table.Column(name).Type
	}
	return statement{
		sql: fmt.Sprintf("SELECT %s, t.xmin::text, %s FROM json_to_recordset($1::text::json) AS k(%s) JOIN %s t ON %s",
			keyTexts(p.entity), p.table.rowJSON(), strings.Join(defs, ", "), p.table.quoted(), equalKeys(p.entity, "k")),
		args: []any{"[" + strings.Join(objects, ",") + "]"},
	}
}

// close emits the closing message, whose LSN is the version, completes the
// ledger's row and commits.
func (c *commit) close(ctx context.Context) (*CommitResult, error) {
	end, err := json.Marshal(saga.EndMessage{SagaID: c.request.Write.SagaID, Epoch: c.epoch, Owned: c.ownedTables()})
	if err != nil {
		return nil, err
	}
	owned, err := json.Marshal(c.owned)
	if err != nil {
		return nil, err
	}
	before, err := json.Marshal(c.before)
	if err != nil {
		return nil, err
	}
	r := &CommitResult{
		Status: saga.Committed, WorkflowID: c.request.WorkflowID, Content: c.digest,
		Confirmed: saga.ConfirmedLocally, Owned: c.owned,
	}
	var version int64
	var batch pgx.Batch
	batch.Queue(`WITH v AS MATERIALIZED (SELECT pg_logical_emit_message(true, $2, $3::text) AS lsn)
		UPDATE capsaga.saga SET status = 'committed', result = $4::text::json, before = $5::text::json,
		       version = ($6::bigint << 53) + (SELECT (lsn - '0/0'::pg_lsn)::bigint FROM v)
		WHERE id = $1 RETURNING version`,
		c.request.Write.SagaID, saga.MessageEnd, string(end), string(owned), string(before), int64(c.epoch)).
		QueryRow(func(row pgx.Row) error { return row.Scan(&version) })
	if c.request.Write.Consistency == saga.CP {
		// The wait for the replica is part of COMMIT; its end by this timeout leaves
		// the transaction committed on the primary.
		batch.Queue("SELECT set_config('statement_timeout', $1, true)", fmt.Sprintf("%dms", c.db.replicationTimeout.Milliseconds()))
	}
	batch.Queue("COMMIT")
	c.queueCommitted(&batch, r)
	warned := watchNotices(c.conn.Conn())
	if err := c.conn.SendBatch(ctx, &batch).Close(); err != nil {
		return nil, err
	}
	r.Version = saga.Version(version)
	if c.request.Write.Consistency == saga.CP && len(warned.warnings) == 0 {
		r.Confirmed = saga.ConfirmedByReplica
	}
	return r, nil
}

func (c *commit) queueCommitted(batch *pgx.Batch, r *CommitResult) {
	batch.Queue("SELECT pg_current_wal_flush_lsn()::text, clock_timestamp()").QueryRow(func(row pgx.Row) error {
		var position string
		if err := row.Scan(&position, &r.CommittedAt); err != nil {
			return err
		}
		var err error
		r.FlushLSN, err = saga.ParseLSN(position)
		return err
	})
}

// ownedTables groups the owned keys by table, as the stream looks them up.
func (c *commit) ownedTables() []saga.OwnedKeys {
	var list []saga.OwnedKeys
	for _, o := range c.owned {
		table := c.tables[o.Entity].table.Table.String()
		i := slices.IndexFunc(list, func(k saga.OwnedKeys) bool { return k.Table == table })
		if i < 0 {
			list = append(list, saga.OwnedKeys{Table: table})
			i = len(list) - 1
		}
		list[i].Keys = append(list[i].Keys, o.Key)
	}
	return list
}
