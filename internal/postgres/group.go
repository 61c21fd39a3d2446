package postgres

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/capsaga/capsaga/saga"
)

// group is one attempt at a transaction of many writes. It goes the way of every
// transaction, with sets of rows in place of single ones:
//
//	open    which of the ids the ledger has; lock and read the rows
//	change  those whose expectations are met, each row behind a message capsaga-begin
//	re-read
//	close   message capsaga-end; the ledger; COMMIT
//
// The ledger's rows come last, in the order of their ids, and already with their
// results: a commit writes them once. An id that another transaction has taken
// meanwhile is a violation of the ledger's key, which undoes this transaction; the
// next attempt finds the id taken.
type group struct {
	transaction
	batch *batchCommit
	mode  groupMode

	entries []*groupEntry
	sets    []*mutationSet
	changed bool // a row was changed
}

// groupEntry is a write in a group.
type groupEntry struct {
	*batchEntry
	taken     bool            // the ledger has its id
	held      bool            // another transaction holds a row of it
	postponed bool            // it is tried again when all others are done
	rejected  *saga.ErrorInfo // an expectation is unmet
	notes     []undoNote      // per mutation
	rows      []int           // per mutation its row, in transaction.owned
}

// open reports whether the write is still to be done.
func (e *groupEntry) open() bool { return !e.taken && !e.held && !e.postponed && e.rejected == nil }

// errSameRow says that two writes of a group name one row in two ways.
var errSameRow = errors.New("two writes of the transaction change one row")

// commitGroup is one attempt.
func (b *batchCommit) commitGroup(ctx context.Context, entries []*batchEntry, mode groupMode) error {
	g := &group{transaction: b.db.newTransaction(b.request.Catalog), batch: b, mode: mode}
	for _, e := range entries {
		g.entries = append(g.entries, &groupEntry{batchEntry: e, notes: make([]undoNote, len(e.plans)), rows: make([]int, len(e.plans))})
	}
	g.gather()
	return g.onConnection(ctx, func() error { return g.run(ctx) })
}

func (g *group) run(ctx context.Context) error {
	if err := g.open(ctx); err != nil {
		return err
	}
	if err := g.attachTaken(ctx); err != nil {
		return err
	}
	g.refuseUnmet()
	if err := g.change(ctx); err != nil {
		return err
	}
	if g.changed {
		if err := g.reread(ctx); err != nil {
			return err
		}
	}
	return g.close(ctx)
}

// open begins the transaction, looks up the ids, and locks and reads the rows.
func (g *group) open(ctx context.Context) error {
	var batch pgx.Batch
	g.queueOpen(&batch, min(g.mode.patience, lockTimeout(ctx)))
	// A plan that was made while a table was small must not be kept when it is not.
	batch.Queue("SELECT set_config('plan_cache_mode', 'force_custom_plan', true)")
	ids := make(map[string]*groupEntry, len(g.entries))
	list := make([]string, 0, len(g.entries))
	for _, e := range g.entries {
		ids[e.Write.SagaID] = e
		list = append(list, e.Write.SagaID)
	}
	batch.Queue("SELECT id FROM capsaga.saga WHERE id = ANY($1)", list).Query(func(rows pgx.Rows) error {
		for rows.Next() {
			var id string
			if err := rows.Scan(&id); err != nil {
				return err
			}
			ids[id].taken = true
		}
		return rows.Err()
	})
	g.queueReads(&batch)
	if err := g.conn.SendBatch(ctx, &batch).Close(); err != nil {
		return err
	}
	return g.checkReplica(g.mode.consistency)
}

// attachTaken answers the writes whose id the ledger has with what it says of them.
func (g *group) attachTaken(ctx context.Context) error {
	digests := map[string]string{}
	for _, e := range g.entries {
		if e.taken {
			digests[e.Write.SagaID] = e.Digest
		}
	}
	if len(digests) == 0 {
		return nil
	}
	known, err := readLedgers(ctx, g.conn, digests)
	if err != nil {
		return err
	}
	for _, e := range g.entries {
		if e.taken && known[e.Write.SagaID] != nil {
			g.batch.settle(e.batchEntry, known[e.Write.SagaID])
		}
	}
	return nil
}

// refuseUnmet finds the writes whose expectations do not hold, under the rows' locks
// and before anything is changed.
func (g *group) refuseUnmet() {
	for _, s := range g.sets {
		for _, r := range s.rows {
			if r.busy() {
				r.entry.held = true
			}
			if !r.entry.open() {
				continue
			}
			e := g.unmet(r.planned, r.at, r.seen, nil)
			switch {
			case e == nil:
			case e.Code == saga.CodeNotFound: // a neighbour may be about to insert it, under another form of its key
				r.entry.postponed = true
				g.batch.postpone(r.entry.batchEntry)
			default:
				r.entry.rejected = errorInfo(e)
			}
		}
	}
}

// change applies the mutations, set by set.
func (g *group) change(ctx context.Context) error {
	var batch pgx.Batch
	for _, s := range g.sets {
		g.changed = s.queueWrite(&batch) || g.changed
	}
	if err := g.conn.SendBatch(ctx, &batch).Close(); err != nil {
		return err
	}
	for _, s := range g.sets {
		for _, r := range s.rows {
			if !r.entry.open() {
				continue
			}
			if err := g.noteRow(r); err != nil {
				return err
			}
		}
	}
	return nil
}

// noteRow keeps what undoing the mutation needs, and whose the row is.
func (g *group) noteRow(r *setRow) error {
	switch {
	case !r.seen.written && r.Op == saga.Upsert && !r.seen.found:
		return raced(r.at, r.planned)
	case !r.seen.written:
		return absent(r.at, r.planned)
	}
	key, err := r.ownKey(r.seen.key)
	if err != nil {
		return err
	}
	if _, known := g.index[rowKey{r.entity.Name, key}]; known {
		return errSameRow
	}
	g.own(r.entity.Name, key)
	g.tables[r.entity.Name] = r.planned
	r.entry.notes[r.at] = noteOf(key, r.seen)
	r.entry.rows[r.at] = g.index[rowKey{r.entity.Name, key}]
	return nil
}

// close emits the closing message, whose LSN is the version of all, enters the sagas
// into the ledger and commits.
func (g *group) close(ctx context.Context) error {
	ledger, err := g.ledgerRows()
	if err != nil {
		return err
	}
	if len(ledger.ids) == 0 {
		_, err := g.conn.Exec(ctx, "ROLLBACK")
		return err
	}
	var version *int64
	var batch pgx.Batch
	if g.changed {
		end, err := g.endMessage("")
		if err != nil {
			return err
		}
		batch.Queue("SELECT ($3::bigint << 53) + (pg_logical_emit_message(true, $1, $2::text) - '0/0'::pg_lsn)::bigint AS version",
			saga.MessageEnd, end, int64(g.epoch)).
			QueryRow(func(row pgx.Row) error { return row.Scan(&version) })
		if err := g.conn.SendBatch(ctx, &batch).Close(); err != nil {
			return err
		}
		batch = pgx.Batch{}
	}
	ledger.queue(&batch, g.batch.request, version)
	done, err := g.finish(ctx, &batch, g.mode.consistency)
	if takesID(err) {
		return errRaced
	}
	if err != nil {
		return err
	}
	g.settle(version, done)
	return nil
}

// takesID reports whether another transaction has entered one of the ids since they
// were looked up.
func takesID(err error) bool {
	var pg *pgconn.PgError
	return errors.As(err, &pg) && pg.Code == "23505" && pg.SchemaName == saga.Schema && pg.TableName == "saga"
}

// settle gives the writes their results.
func (g *group) settle(version *int64, done committed) {
	for _, e := range g.entries {
		r := &CommitResult{WorkflowID: g.batch.request.WorkflowID, RunID: g.batch.request.RunID, Content: e.Digest}
		switch {
		case e.rejected != nil:
			r.Status, r.Error = saga.RejectedEnd, e.rejected
		case e.open():
			r.Status, r.Version, r.Confirmed = saga.Committed, saga.Version(*version), done.confirmed
			r.CommittedAt, r.FlushLSN, r.Owned, r.InBatch = done.at, done.flushed, g.ownedBy(e), true
		default:
			continue
		}
		g.batch.settle(e.batchEntry, r)
	}
}

// ownedBy returns the rows of one write.
func (g *group) ownedBy(e *groupEntry) []saga.Owned {
	owned := make([]saga.Owned, len(e.rows))
	for i, at := range e.rows {
		owned[i] = g.owned[at]
	}
	return owned
}

// ledgerRows are the ledger's rows to enter, a slice per column.
type ledgerRows struct {
	ids, contents, writes, entities, statuses []string
	results, undos, problems                  []*string
	committed                                 []string // ids
}

// ledgerRows returns them in the order of the ids, in which every transaction
// enters them, so that two do not wait for one another.
func (g *group) ledgerRows() (*ledgerRows, error) {
	l := &ledgerRows{}
	entries := slices.DeleteFunc(slices.Clone(g.entries), func(e *groupEntry) bool { return e.taken || e.held || e.postponed })
	slices.SortFunc(entries, func(a, b *groupEntry) int { return strings.Compare(a.Write.SagaID, b.Write.SagaID) })
	for _, e := range entries {
		l.ids, l.contents = append(l.ids, e.Write.SagaID), append(l.contents, e.Digest)
		l.writes = append(l.writes, string(e.Encoded))
		l.entities = append(l.entities, strings.Join(e.Write.Entities(), ",")) // a name has no comma
		if e.rejected != nil {
			if err := l.addRejected(e); err != nil {
				return nil, err
			}
			continue
		}
		if err := l.addCommitted(e, g.ownedBy(e)); err != nil {
			return nil, err
		}
	}
	return l, nil
}

func (l *ledgerRows) addRejected(e *groupEntry) error {
	problem, err := jsonText(e.rejected)
	l.statuses = append(l.statuses, string(saga.RejectedEnd))
	l.results, l.undos, l.problems = append(l.results, problem), append(l.undos, nil), append(l.problems, problem)
	return err
}

func (l *ledgerRows) addCommitted(e *groupEntry, owned []saga.Owned) error {
	if size := ownedBytes(owned); size > maxOwnedBytes {
		return tooManyRows(len(owned), size)
	}
	result, err := jsonText(keep(owned))
	if err != nil {
		return err
	}
	undo, err := jsonText(e.notes)
	// The batch's row says that it is not yet.
	l.statuses, l.committed = append(l.statuses, string(saga.Completed)), append(l.committed, e.Write.SagaID)
	l.results, l.undos, l.problems = append(l.results, result), append(l.undos, undo), append(l.problems, nil)
	return err
}

func jsonText(v any) (*string, error) {
	body, err := json.Marshal(v)
	if err != nil {
		return nil, fmt.Errorf("write the ledger: %w", err)
	}
	text := string(body)
	return &text, nil
}

// queue enters the rows.
func (l *ledgerRows) queue(batch *pgx.Batch, r BatchRequest, version *int64) {
	batch.Queue(`INSERT INTO capsaga.saga (id, workflow_id, run_id, version, content, write, entities, status, result, undo, error, error_class, finished_at)
		SELECT r.id, $1, $2, CASE WHEN r.problem IS NULL THEN $3::bigint END, r.content, r.write::json, string_to_array(r.entities, ','),
		       r.status, r.result::json, r.undo::json, r.problem::json, CASE WHEN r.problem IS NOT NULL THEN $4 END, clock_timestamp()
		FROM unnest($5::text[], $6::text[], $7::text[], $8::text[], $9::text[], $10::text[], $11::text[], $12::text[])
		     AS r(id, content, write, entities, status, result, undo, problem)`,
		r.WorkflowID, r.RunID, version, string(saga.Rejected),
		l.ids, l.contents, l.writes, l.entities, l.statuses, l.results, l.undos, l.problems)
	if len(l.committed) > 0 {
		batch.Queue("INSERT INTO capsaga.batch (workflow_id, version, ids) VALUES ($1, $2, $3)", r.WorkflowID, version, l.committed)
	}
}
