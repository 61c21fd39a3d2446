package postgres_test

import (
	"fmt"
	"sync/atomic"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/capsaga/capsaga/internal/postgres"
	"github.com/capsaga/capsaga/internal/stacktest"
	"github.com/capsaga/capsaga/saga"
)

// openBench opens a database with Capsaga's schema.
func openBench(b *testing.B) *postgres.DB {
	b.Helper()
	stack := stacktest.New(b)
	_, err := postgres.Migrate(b.Context(), stack.PostgresURL)
	require.NoError(b, err)
	db, err := postgres.Open(b.Context(), stack.PostgresURL)
	require.NoError(b, err)
	b.Cleanup(db.Close)
	return db
}

// openWithProducts opens one with a table, and a catalog that has it.
func openWithProducts(b *testing.B) (*postgres.DB, *saga.Catalog) {
	b.Helper()
	db := openBench(b)
	_, err := db.Pool().Exec(b.Context(), "CREATE TABLE product (id bigint PRIMARY KEY, title text NOT NULL, stock bigint)")
	require.NoError(b, err)
	return db, &saga.Catalog{Entities: map[string]*saga.Entity{
		"products": {Name: "products", Table: saga.Table{Schema: "public", Name: "product"}, Key: []string{"id"}},
	}}
}

// BenchmarkCommit measures a commit of one row, one after the other and from
// eight callers.
func BenchmarkCommit(b *testing.B) {
	db, catalog := openWithProducts(b)
	var count atomic.Int64
	commit := func() error {
		n := count.Add(1)
		w, err := saga.ParseWrite(fmt.Appendf(nil, `{"saga_id":"s%d","mutations":[{"entity":"products","op":"upsert","row":{"id":%d,"title":"a title","stock":%d}}]}`, n, n%1000, n))
		if err != nil {
			return err
		}
		r, err := db.Commit(b.Context(), postgres.CommitRequest{Write: *w, Catalog: catalog, WorkflowID: "w", RunID: "r"})
		if err == nil && r.Status != saga.Committed {
			err = fmt.Errorf("%+v", r.Error)
		}
		return err
	}
	b.Run("one", func(b *testing.B) {
		for b.Loop() {
			require.NoError(b, commit())
		}
	})
	b.Run("eight", func(b *testing.B) {
		b.SetParallelism(4) // of 2 processors
		b.RunParallel(func(pb *testing.PB) {
			for pb.Next() {
				if err := commit(); err != nil {
					b.Error(err)
				}
			}
		})
	})
}

func BenchmarkAdoptRefused(b *testing.B) {
	db := openBench(b)
	entity := &saga.Entity{Name: "products", Redis: &saga.RedisSink{}}
	for _, hot := range []bool{false, true} {
		b.Run(map[bool]string{false: "new rows", true: "one row"}[hot], func(b *testing.B) {
			version := saga.Version(1)
			for b.Loop() {
				var rows []saga.Refused
				for range 500 {
					version++
					r := saga.Refused{Sink: saga.Redis, Entity: entity, Key: version.String(), Version: version, Error: noField}
					if hot {
						r.Key = "hot"
					}
					rows = append(rows, r)
				}
				require.NoError(b, db.AdoptRefused(b.Context(), rows))
			}
			b.ReportMetric(float64(500*b.N)/b.Elapsed().Seconds(), "rows/s")
		})
	}
}

// BenchmarkCommitBatch measures batches of fresh rows against the same rows
// upserted by one statement without a saga.
func BenchmarkCommitBatch(b *testing.B) {
	const size = 500
	db, catalog := openWithProducts(b)
	n := 0
	report := func(b *testing.B) { b.ReportMetric(float64(size*b.N)/b.Elapsed().Seconds(), "rows/s") }
	b.Run("bare upsert", func(b *testing.B) {
		for b.Loop() {
			var ids, stocks []int64
			var titles []string
			for range size {
				n++
				ids, titles, stocks = append(ids, int64(n)), append(titles, "a title of some length, as they are"), append(stocks, 5)
			}
			_, err := db.Pool().Exec(b.Context(), `INSERT INTO product (id, title, stock) SELECT * FROM unnest($1::bigint[], $2::text[], $3::bigint[])
				ON CONFLICT (id) DO UPDATE SET title = excluded.title, stock = excluded.stock`, ids, titles, stocks)
			require.NoError(b, err)
		}
		report(b)
	})
	var done []saga.Outcome
	b.Run("batch", func(b *testing.B) {
		for b.Loop() {
			r := postgres.BatchRequest{Catalog: catalog, WorkflowID: "w", RunID: "r"}
			for range size {
				n++
				line := fmt.Appendf(nil, `{"saga_id":"s%d","mutations":[{"entity":"products","op":"upsert","row":{"id":%d,"title":"a title of some length, as they are","stock":5}}]}`, n, n)
				w, err := saga.ParseWrite(line)
				require.NoError(b, err)
				r.Writes = append(r.Writes, postgres.BatchWrite{Write: w, Encoded: line, Digest: w.Digest()})
			}
			results, err := db.CommitBatch(b.Context(), r)
			require.NoError(b, err)
			for i, result := range results {
				o := result.Outcome(r.Writes[i].Write.SagaID)
				o.Status = saga.Completed
				done = append(done, o)
			}
		}
		report(b)
	})
	b.Run("record", func(b *testing.B) {
		for b.Loop() {
			require.NoError(b, db.RecordOutcomes(b.Context(), done[:min(size, len(done))]))
			done = done[min(size, len(done)):]
		}
		report(b)
	})
}
