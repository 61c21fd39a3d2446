package postgres

import (
	"context"
	"encoding/json"
	"errors"
	"maps"
	"slices"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/capsaga/capsaga/saga"
)

// BatchWrite is one write of a batch, with the trace of its caller.
type BatchWrite struct {
	Write                   *saga.Write
	Encoded                 json.RawMessage // Write as it came
	Digest                  string          // of Write
	TraceParent, TraceState string
}

// BatchRequest is the writes of a batch, in their callers' order.
type BatchRequest struct {
	Writes            []BatchWrite
	Catalog           *saga.Catalog
	WorkflowID, RunID string
}

// CommitBatch applies many writes, each exactly once and with a result of its own,
// as Commit does: many in one transaction, and writes of one row one after the other,
// in the batch's order. The results are in the order of the writes. A nil one says
// that the write could not be settled among the others, as one whose row another
// transaction holds: it is for Commit alone, which waits for it. It may be overtaken
// by later writes of the batch.
//
// What the database refuses of a transaction of many says nothing of each. So it is
// divided until the refused write is alone, which is committed by itself when all
// others are done.
//
// An error means that the outcome of some is not known or that the database takes
// nothing now: call again. What has committed answers with its result then.
func (db *DB) CommitBatch(ctx context.Context, request BatchRequest) ([]*CommitResult, error) {
	b := &batchCommit{db: db, request: request, results: make([]*CommitResult, len(request.Writes)), room: maxOwnedBytes, lateKeys: map[string]bool{}}
	if err := b.run(ctx); err != nil {
		return nil, classify("commit a batch", err)
	}
	return b.results, nil
}

func (b *batchCommit) run(ctx context.Context) error {
	taken, err := b.attachTaken(ctx)
	if err != nil {
		return err
	}
	rounds, err := b.plan(ctx, taken)
	if err != nil {
		return err
	}
	for _, round := range rounds {
		for _, consistency := range []saga.Consistency{saga.AP, saga.CP} {
			if err := b.commit(ctx, round[consistency], groupMode{consistency: consistency, patience: groupPatience}); err != nil {
				return err
			}
		}
	}
	slices.SortFunc(b.late, func(x, y *batchEntry) int { return x.at - y.at })
	for _, e := range b.late {
		if err := b.commitSingle(ctx, e); err != nil {
			return err
		}
	}
	return nil
}

// attachTaken answers the writes whose ids the ledger has. A batch that comes again
// is told what it came to, whatever it would come to now.
func (b *batchCommit) attachTaken(ctx context.Context) (map[string]bool, error) {
	digests := make(map[string]string, len(b.request.Writes))
	for _, w := range b.request.Writes {
		digests[w.Write.SagaID] = "" // of several with one id, each has its own digest
	}
	rows, err := b.db.pool.Query(ctx, "SELECT id FROM capsaga.saga WHERE id = ANY($1)", slices.Collect(maps.Keys(digests)))
	if err != nil {
		return nil, err
	}
	ids, err := pgx.CollectRows(rows, pgx.RowTo[string])
	if err != nil || len(ids) == 0 {
		return nil, err
	}
	taken := make(map[string]bool, len(ids))
	for _, id := range ids {
		taken[id] = true
	}
	clear(digests)
	for i, w := range b.request.Writes {
		if !taken[w.Write.SagaID] {
			continue
		}
		if _, twice := digests[w.Write.SagaID]; twice {
			known, err := readLedger(ctx, b.db.pool, w.Write.SagaID, w.Digest)
			if err != nil {
				return nil, err
			}
			b.settle(&batchEntry{at: i}, known)
			continue
		}
		digests[w.Write.SagaID] = w.Digest
	}
	known, err := readLedgers(ctx, b.db.pool, digests)
	if err != nil {
		return nil, err
	}
	for i, w := range b.request.Writes {
		if r := known[w.Write.SagaID]; r != nil && b.results[i] == nil && digests[w.Write.SagaID] == w.Digest {
			b.settle(&batchEntry{at: i}, r)
		}
	}
	return taken, nil
}

// The time that the rows and ids which other transactions hold are waited for, which
// holds up all of the batch.
const (
	// groupPatience is what a transaction that is about to end needs at most.
	groupPatience = 200 * time.Millisecond
	// groupImpatience is for a second try, when some row is known to be held.
	groupImpatience = 20 * time.Millisecond
	// singlePatience bounds the commit of a write by itself.
	singlePatience = 300 * time.Millisecond
	// waitBudget is for how long all of a batch may wait so. After it, nobody waits.
	waitBudget = time.Second
	noPatience = time.Millisecond
)

// groupMode says how a transaction of many writes is tried.
type groupMode struct {
	consistency saga.Consistency
	patience    time.Duration
	// skipLocked leaves out the writes whose row another transaction holds.
	skipLocked bool
	// ordered keeps the order of mutations of different kinds, such as the insert of
	// a row and that of another which refers to it.
	ordered bool
}

// batchCommit is the commit of one batch.
type batchCommit struct {
	db      *DB
	request BatchRequest
	results []*CommitResult
	room    int           // that is left for what the result tells of rows
	waited  time.Duration // for what others held
	// late are the writes that could not be committed among the others. Each is tried
	// alone when all others are done: what refuses it may be that a neighbour, such as
	// the row that it refers to, was not there yet. Later writes of its rows wait with
	// it, for their order.
	late     []*batchEntry
	lateKeys map[string]bool
}

// batchEntry is one write of a batch.
type batchEntry struct {
	BatchWrite
	at    int // in the request
	begin string
	plans []*planned
	names []string // what a round has once
	// single: it cannot share a transaction; alone: nor wait here for its turn.
	single, alone bool
}

// commit brings the writes to their results, in one transaction or, where that is
// refused, in several smaller ones.
func (b *batchCommit) commit(ctx context.Context, entries []*batchEntry, mode groupMode) error {
	var together, singles []*batchEntry
	for _, e := range entries {
		switch {
		case e.alone:
		case slices.ContainsFunc(e.names, func(name string) bool { return b.lateKeys[name] }):
			b.postpone(e)
		case e.single:
			singles = append(singles, e)
		default:
			together = append(together, e)
		}
	}
	if err := b.commitTogether(ctx, together, mode); err != nil {
		return err
	}
	for _, e := range singles {
		if err := b.commitSingle(ctx, e); err != nil {
			return err
		}
	}
	return nil
}

// postpone has a write committed alone, after all others.
func (b *batchCommit) postpone(e *batchEntry) {
	if slices.Contains(b.late, e) {
		return // by an attempt that lost a race
	}
	b.late = append(b.late, e)
	for _, name := range e.names {
		b.lateKeys[name] = true
	}
}

func (b *batchCommit) commitTogether(ctx context.Context, entries []*batchEntry, mode groupMode) error {
	if len(entries) == 0 {
		return nil
	}
	if b.waited > waitBudget {
		mode.patience = noPatience
	}
	began := time.Now()
	err := b.db.retry(ctx, func() error { return b.commitGroup(ctx, entries, mode) })
	if sqlState(err) == lockNotAvailable {
		b.waited += time.Since(began)
	}
	switch {
	case err == nil || ctx.Err() != nil || !answered(err):
		return err
	case sqlState(err) == lockNotAvailable && !mode.skipLocked:
		mode.skipLocked, mode.patience = true, groupImpatience
		return b.commitTogether(ctx, entries, mode)
	case len(entries) == 1:
		b.postpone(entries[0])
		return nil
	}
	mode.ordered = true
	half := len(entries) / 2
	if err := b.commitTogether(ctx, entries[:half], mode); err != nil {
		return err
	}
	return b.commitTogether(ctx, entries[half:], mode)
}

const lockNotAvailable = "55P03"

// answered reports whether it was the server, or this program, that refused what it
// was asked: then the writes are to be told apart. Else nobody has answered, or the
// server takes nothing from anyone, and all are to be tried again.
func answered(err error) bool {
	if errors.Is(err, errSameRow) || errors.Is(err, errRaced) || errors.Is(err, errTableChanged) {
		return true
	}
	var refused *saga.Error
	if errors.As(err, &refused) {
		return refused.Class == saga.Rejected
	}
	var pg *pgconn.PgError
	if !errors.As(err, &pg) {
		return false
	}
	class, _ := classOfState(pg.Code)
	switch pg.Code[:2] {
	case "40", "55", "57": // lost a race, waited for a lock, or ran into a time-out: others need not
		return pg.Code != "57P01" && pg.Code != "57P02" && pg.Code != "57P03"
	}
	return class == saga.Rejected
}

// commitSingle commits a write by itself, which also gives a refusal its words and
// its place in the ledger.
func (b *batchCommit) commitSingle(ctx context.Context, e *batchEntry) error {
	bounded, cancel := ctx, context.CancelFunc(func() {})
	if e.Write.Consistency != saga.CP { // whose wait for the replica is part of it
		patience := max(min(singlePatience, waitBudget-b.waited), groupImpatience)
		bounded, cancel = context.WithTimeout(ctx, patience)
	}
	defer cancel()
	began := time.Now()
	r, err := b.db.Commit(bounded, CommitRequest{
		Write: *e.Write, Catalog: b.request.Catalog, WorkflowID: b.request.WorkflowID, RunID: b.request.RunID,
		TraceParent: e.TraceParent, TraceState: e.TraceState,
	})
	switch {
	case err == nil:
		b.settle(e, r)
		return nil
	case ctx.Err() != nil:
		return err
	case bounded.Err() != nil || answered(unwrapped(err)):
		b.waited += time.Since(began)
		return nil // it gets a saga of its own
	}
	return err
}

// unwrapped is the driver's error behind a classified one.
func unwrapped(err error) error {
	var known *saga.Error
	if errors.As(err, &known) && known.Err != nil {
		return known.Err
	}
	return err
}

// settle gives a write its result, if there is room for what it says: a batch has
// as much of it as a single saga.
func (b *batchCommit) settle(e *batchEntry, r *CommitResult) {
	if b.room -= ownedBytes(r.Owned); b.room >= 0 {
		b.results[e.at] = r
	}
}

// plan checks the writes and deals them out into rounds: in each a row is written
// by one of them at most, so that its etag, its image and its version are that
// write's, and the order of writes of one row is that of the rounds.
func (b *batchCommit) plan(ctx context.Context, taken map[string]bool) ([]map[saga.Consistency][]*batchEntry, error) {
	var rounds []map[saga.Consistency][]*batchEntry
	last := map[string]int{} // row → number of the rounds that its last write needs
	for i := range b.request.Writes {
		if taken[b.request.Writes[i].Write.SagaID] {
			continue
		}
		e, err := b.entry(ctx, i)
		if err != nil {
			return nil, err
		}
		e.names = e.keys()
		keys := e.names
		round := 0
		for _, key := range keys {
			round = max(round, last[key])
		}
		for _, key := range keys {
			last[key] = round + 1
		}
		if round == len(rounds) {
			rounds = append(rounds, map[saga.Consistency][]*batchEntry{})
		}
		consistency := saga.AP
		if e.Write.Consistency == saga.CP {
			consistency = saga.CP
		}
		rounds[round][consistency] = append(rounds[round][consistency], e)
	}
	return rounds, nil
}

// entry plans one write. What its plan refuses, its own commit says.
func (b *batchCommit) entry(ctx context.Context, i int) (*batchEntry, error) {
	w := b.request.Writes[i]
	e := &batchEntry{BatchWrite: w, at: i}
	e.alone = len(w.Write.BeforeSteps)+len(w.Write.AfterSteps) > 0 || w.Write.Stream != nil
	begin, err := json.Marshal(saga.BeginMessage{SagaID: w.Write.SagaID, TraceParent: w.TraceParent, TraceState: w.TraceState})
	if err != nil {
		return nil, err
	}
	e.begin = string(begin)
	for k := range w.Write.Mutations {
		m := &w.Write.Mutations[k]
		entity, err := b.request.Catalog.Entity(m.Entity)
		if err != nil {
			e.single = true
			break
		}
		t, err := b.db.table(ctx, entity.Table)
		if err != nil && !answered(err) {
			return nil, err
		}
		var p *planned
		if err == nil {
			p, err = check(entity, t, m)
		}
		if err != nil {
			e.single = true
			break
		}
		e.plans = append(e.plans, p)
		// What a delete takes along, or a trigger changes, may be rows of other writes,
		// whose images and expectations would be those of before.
		e.single = e.single || m.Op == saga.Delete && len(t.Cascades) > 0 || t.Triggered
	}
	return e, nil
}

// keys names what a round has once: the saga's id, and the rows that the write
// changes, as far as it names them itself.
func (e *batchEntry) keys() []string {
	keys := []string{"\x00" + e.Write.SagaID} // which is no table's name
	seen := map[string]bool{}
	for _, p := range e.plans {
		if !p.namesKey() {
			continue
		}
		key := lockOrder(p.table, p.entity, p.KeyColumns())
		e.single = e.single || seen[key] // it changes a row twice
		seen[key] = true
		keys = append(keys, key)
	}
	return keys
}

// namesKey is false of an insert that leaves a part of the key to its default.
func (p *planned) namesKey() bool {
	for _, name := range p.entity.Key {
		if _, named := p.KeyColumns()[name]; !named {
			return false
		}
	}
	return true
}
