package e2e

import (
	"context"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/require"

	"github.com/capsaga/capsaga/saga"
)

// pgbenchSchema is what pgbench -i makes at scale 1.
const pgbenchSchema = `
CREATE TABLE pgbench_branches (bid int PRIMARY KEY, bbalance int, filler char(88)) WITH (fillfactor = 100);
CREATE TABLE pgbench_tellers (tid int PRIMARY KEY, bid int, tbalance int, filler char(84)) WITH (fillfactor = 100);
CREATE TABLE pgbench_accounts (aid int PRIMARY KEY, bid int, abalance int, filler char(84)) WITH (fillfactor = 100);
CREATE TABLE pgbench_history (tid int, bid int, aid int, delta int, mtime timestamp, filler char(22));
INSERT INTO pgbench_branches VALUES (1, 0, NULL);
INSERT INTO pgbench_tellers SELECT n, 1, 0, NULL FROM generate_series(1, 10) n;
INSERT INTO pgbench_accounts SELECT n, 1, 0, '' FROM generate_series(1, 100000) n;`

// tpcb is pgbench's own transaction, "TPC-B (sort of)".
func tpcb(ctx context.Context, conn *pgx.Conn, random *rand.Rand) error {
	aid, tid, delta := 1+random.IntN(100_000), 1+random.IntN(10), random.IntN(10_001)-5000
	var batch pgx.Batch
	batch.Queue("BEGIN")
	batch.Queue("UPDATE pgbench_accounts SET abalance = abalance + $1 WHERE aid = $2", delta, aid)
	batch.Queue("SELECT abalance FROM pgbench_accounts WHERE aid = $1", aid)
	batch.Queue("UPDATE pgbench_tellers SET tbalance = tbalance + $1 WHERE tid = $2", delta, tid)
	batch.Queue("UPDATE pgbench_branches SET bbalance = bbalance + $1 WHERE bid = 1", delta)
	batch.Queue("INSERT INTO pgbench_history (tid, bid, aid, delta, mtime) VALUES ($1, 1, $2, $3, CURRENT_TIMESTAMP)", tid, aid, delta)
	batch.Queue("END")
	return conn.SendBatch(ctx, &batch).Close()
}

// After TPC-B on pgbench's tables, whose history has no key, Redis and
// Elasticsearch equal PostgreSQL row for row, and the topics rebuild the tables.
func TestTPCB(t *testing.T) {
	w := connect(t, "testdata/pgbench.yaml")
	w.keyless = true
	w.keys = map[string]string{"pgbench_accounts": "aid", "pgbench_tellers": "tid", "pgbench_branches": "bid"}
	w.exec(pgbenchSchema)
	w.apply()
	w.startWorker()
	ctx, cancel := context.WithTimeout(context.Background(), ifSoaking(60*time.Second, 15*time.Second))
	defer cancel()
	var transactions atomic.Int64
	var clients sync.WaitGroup
	for n := range 4 {
		clients.Go(func() {
			conn, err := pgx.Connect(context.Background(), w.stack.PostgresURL)
			if err != nil {
				t.Error(err)
				return
			}
			defer func() { _ = conn.Close(context.Background()) }()
			random := rand.New(rand.NewPCG(uint64(n), 1)) //nolint:gosec // a test that can be repeated
			for ctx.Err() == nil {
				if err := tpcb(context.Background(), conn, random); err != nil {
					t.Error(err)
					return
				}
				transactions.Add(1)
			}
		})
	}
	clients.Wait()
	began := time.Now()
	w.settle(2 * time.Minute)
	t.Logf("%d transactions; the streams had them all %s after the last", transactions.Load(), time.Since(began).Round(time.Millisecond))
	w.requireSinks("pgbench_accounts", saga.Redis, saga.Elasticsearch, saga.Kafka)
	// Tables that are no entities were not backfilled: their topics begin with the load.
	for _, table := range []string{"pgbench_tellers", "pgbench_branches"} {
		requireSameRows(t, "Kafka", w.inPostgres(table), rebuild(t, w.keys[table], distinct(w.events(table))))
	}
	require.Len(t, distinct(w.events("pgbench_history")), int(transactions.Load()), "rows of the history in Kafka")
	require.Equal(t, value[int64](w, "SELECT sum(delta) FROM pgbench_history"), value[int64](w, "SELECT bbalance::bigint FROM pgbench_branches"))
}
