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

// BenchmarkCommit measures a commit of one row, one after the other and from
// eight callers.
func BenchmarkCommit(b *testing.B) {
	stack := stacktest.New(b)
	_, err := postgres.Migrate(b.Context(), stack.PostgresURL)
	require.NoError(b, err)
	db, err := postgres.Open(b.Context(), stack.PostgresURL)
	require.NoError(b, err)
	b.Cleanup(db.Close)
	_, err = db.Pool().Exec(b.Context(), "CREATE TABLE product (id bigint PRIMARY KEY, title text NOT NULL, stock bigint)")
	require.NoError(b, err)
	catalog := &saga.Catalog{Entities: map[string]*saga.Entity{
		"products": {Name: "products", Table: saga.Table{Schema: "public", Name: "product"}, Key: []string{"id"}},
	}}
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
	stack := stacktest.New(b)
	_, err := postgres.Migrate(b.Context(), stack.PostgresURL)
	require.NoError(b, err)
	db, err := postgres.Open(b.Context(), stack.PostgresURL)
	require.NoError(b, err)
	b.Cleanup(db.Close)
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
