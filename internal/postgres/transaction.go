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
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/capsaga/capsaga/saga"
)

// transaction is one attempt at changing rows, on one connection. A commit, an
// edit and an undo are made of its parts: the two logical messages that frame the
// rows in the WAL, the locks, and the read of what the rows came to.
type transaction struct {
	db      *DB
	conn    *pgxpool.Conn
	catalog *saga.Catalog

	epoch    saga.Epoch
	replicas string // synchronous_standby_names
	tables   map[string]*planned
	plans    []*planned
	notes    []undoNote // per mutation
	owned    []saga.Owned
	index    map[rowKey]int // of owned
}

// rowKey names a row of an entity by its KEYENC.
type rowKey struct{ entity, key string }

func (db *DB) newTransaction(catalog *saga.Catalog) transaction {
	return transaction{db: db, catalog: catalog, tables: map[string]*planned{}, index: map[rowKey]int{}}
}

// errRaced says that a row came into being between the read of its absence and
// the upsert.
var errRaced = errors.New("another transaction inserted the row meanwhile")

// maxTries bounds how often a transaction that lost against another is tried at
// once; after that the caller's patience decides.
const maxTries = 6

// retry runs once until it neither lost against another transaction nor found
// that the server or a table is not as it was. It returns the last error.
func (db *DB) retry(ctx context.Context, once func() error) error {
	for try, described := 1, false; ; try++ {
		err := once()
		switch {
		case err == nil:
			return nil
		case errors.Is(err, errEpochUnknown):
			if _, err := db.verifyEpoch(ctx); err != nil {
				return err
			}
		case errors.Is(err, errTableChanged):
			db.forgetTables()
		case tableChanged(err) && !described:
			described = true // a refusal stands only against a fresh description
			stale, lookErr := db.forgetStale(ctx)
			if lookErr != nil {
				return lookErr
			}
			if !stale && sqlState(err) != "0A000" { // which is about a prepared statement
				return err
			}
		case lostRace(err):
		default:
			return err
		}
		if try == maxTries {
			return err
		}
		if err := pause(ctx, time.Duration(rand.IntN(10*try)+1)*time.Millisecond); err != nil {
			return err
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

func lostRace(err error) bool {
	state := sqlState(err)
	return state == "40001" || state == "40P01" || errors.Is(err, errRaced)
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

// onConnection runs one attempt, and leaves no open transaction behind.
func (x *transaction) onConnection(ctx context.Context, run func() error) error {
	conn, err := x.db.pool.Acquire(ctx)
	if err != nil {
		return err
	}
	defer conn.Release() // a connection that is still in a transaction is closed by the pool
	x.conn = conn
	err = run()
	if err != nil && !conn.Conn().IsClosed() {
		if _, undo := conn.Exec(ctx, "ROLLBACK"); undo != nil {
			_ = conn.Conn().Close(context.WithoutCancel(ctx))
		}
	}
	return err
}

// plan turns the mutations into SQL.
func (x *transaction) plan(ctx context.Context, mutations []saga.Mutation) error {
	for i := range mutations {
		e, t, err := x.describe(ctx, mutations[i].Entity)
		if err != nil {
			return err
		}
		p, err := plan(e, t, &mutations[i])
		if err != nil {
			return err
		}
		x.plans = append(x.plans, p)
		x.tables[e.Name] = p
	}
	return nil
}

func (x *transaction) describe(ctx context.Context, entity string) (*saga.Entity, *TableInfo, error) {
	e, err := x.catalog.Entity(entity)
	if err != nil {
		return nil, nil, err
	}
	t, err := x.db.table(ctx, e.Table)
	return e, t, err
}

// queueBegin opens the transaction and emits the opening message.
func (x *transaction) queueBegin(ctx context.Context, batch *pgx.Batch, message saga.BeginMessage) error {
	begin, err := json.Marshal(message)
	if err != nil {
		return err
	}
	x.queueOpen(batch, lockTimeout(ctx))
	batch.Queue("SELECT pg_logical_emit_message(true, $1, $2::text)", saga.MessageBegin, string(begin))
	return nil
}

// queueOpen opens the transaction.
func (x *transaction) queueOpen(batch *pgx.Batch, lockTimeout time.Duration) {
	batch.Queue("BEGIN ISOLATION LEVEL READ COMMITTED")
	batch.Queue("SELECT set_config('synchronous_commit', 'local', true), set_config('lock_timeout', $1, true), current_setting('synchronous_standby_names')",
		fmt.Sprintf("%dms", max(lockTimeout.Milliseconds(), 1))).
		QueryRow(func(row pgx.Row) error { return row.Scan(nil, nil, &x.replicas) })
	batch.Queue(serverNow).QueryRow(func(row pgx.Row) (err error) {
		x.epoch, err = x.db.checkEpoch(row)
		return err
	})
}

// lockTimeout keeps a wait for a row inside the caller's patience, so that it
// ends as an answer and not as a broken connection.
func lockTimeout(ctx context.Context) time.Duration {
	patience := 10 * time.Second
	if deadline, ok := ctx.Deadline(); ok {
		patience = min(patience, time.Until(deadline)*8/10)
	}
	return patience
}

// checkReplica refuses what asks for a synchronous replica where there is none.
func (x *transaction) checkReplica(c saga.Consistency) error {
	if c == saga.CP && x.replicas == "" {
		return refuse(saga.CodeNoReplica, "consistency cp: the server has no synchronous replica (synchronous_standby_names is empty): configure one, or write with ap")
	}
	return nil
}

// lockOrder sorts rows in the order in which every transaction locks them, so
// that two of them do not deadlock. A value's JSON and its text form sort alike.
func lockOrder(t *TableInfo, e *saga.Entity, key saga.Columns) string {
	parts := []string{t.Table.String()}
	for _, name := range e.Key {
		var text string
		if json.Unmarshal(key[name], &text) != nil {
			text = string(key[name])
		}
		parts = append(parts, text)
	}
	return strings.Join(parts, "\x00")
}

// own notes a row that the transaction changed.
func (x *transaction) own(entity, key string) {
	if _, known := x.index[rowKey{entity, key}]; !known {
		x.index[rowKey{entity, key}] = len(x.owned)
		x.owned = append(x.owned, saga.Owned{Entity: entity, Key: key})
	}
}

// reread lets deferred triggers run and then reads the rows that the saga owns:
// RETURNING misses what AFTER triggers changed, and a row written inside a
// savepoint has the subtransaction's xmin.
func (x *transaction) reread(ctx context.Context) error {
	var batch pgx.Batch
	batch.Queue("SET CONSTRAINTS ALL IMMEDIATE")
	keys := map[string][]saga.Columns{}
	for _, o := range x.owned {
		columns, err := keyColumns(x.tables[o.Entity].entity, o.Key)
		if err != nil {
			return err
		}
		keys[o.Entity] = append(keys[o.Entity], columns)
	}
	for name, p := range x.tables {
		p.table.queueStamp(&batch) // the mutations hold the table's lock
		s := readRows(p, keys[name])
		batch.Queue(s.sql, s.args...).Query(func(rows pgx.Rows) error {
			for rows.Next() {
				var texts []string
				var xmin, row string
				if err := rows.Scan(&texts, &xmin, &row); err != nil {
					return err
				}
				if i, known := x.index[rowKey{name, saga.EncodeKey(texts)}]; known {
					x.owned[i].ETag, x.owned[i].Row = etag(x.epoch, xmin), json.RawMessage(row)
				}
			}
			return rows.Err()
		})
	}
	return x.conn.SendBatch(ctx, &batch).Close()
}

func etag(epoch saga.Epoch, xmin string) string { return fmt.Sprintf("%d-%s", epoch, xmin) }

// endMessage is what the closing message says.
func (x *transaction) endMessage(sagaID string) (string, error) {
	var list []saga.OwnedKeys
	for _, o := range x.owned {
		table := x.tables[o.Entity].table.Table.String()
		i := slices.IndexFunc(list, func(k saga.OwnedKeys) bool { return k.Table == table })
		if i < 0 {
			list = append(list, saga.OwnedKeys{Table: table})
			i = len(list) - 1
		}
		list[i].Keys = append(list[i].Keys, o.Key)
	}
	end, err := json.Marshal(saga.EndMessage{SagaID: sagaID, Epoch: x.epoch, Owned: list})
	return string(end), err
}

// committed is what is known right after COMMIT.
type committed struct {
	confirmed saga.Confirmation
	flushed   saga.LSN
	at        time.Time
}

// finish sends the batch that closes the transaction, with its COMMIT.
func (x *transaction) finish(ctx context.Context, batch *pgx.Batch, consistency saga.Consistency) (committed, error) {
	done := committed{confirmed: saga.ConfirmedLocally}
	if consistency == saga.CP {
		// The wait for the replica is part of COMMIT; its end by this timeout leaves
		// the transaction committed on the primary.
		batch.Queue("SELECT set_config('synchronous_commit', 'remote_apply', true), set_config('statement_timeout', $1, true)",
			fmt.Sprintf("%dms", x.db.replicationTimeout.Milliseconds()))
	}
	batch.Queue("COMMIT")
	batch.Queue("SELECT pg_current_wal_flush_lsn()::text, clock_timestamp()").QueryRow(func(row pgx.Row) error {
		var position string
		err := row.Scan(&position, &done.at)
		if err == nil {
			done.flushed, err = saga.ParseLSN(position)
		}
		return err
	})
	warned := watchNotices(x.conn.Conn())
	if err := x.conn.SendBatch(ctx, batch).Close(); err != nil {
		return done, err
	}
	if consistency == saga.CP && len(warned.warnings) == 0 {
		done.confirmed = saga.ConfirmedByReplica
	}
	return done, nil
}
