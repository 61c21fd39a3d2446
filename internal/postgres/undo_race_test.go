package postgres_test

import (
	"context"
	"fmt"
	"net/url"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/capsaga/capsaga/internal/postgres"
	"github.com/capsaga/capsaga/saga"
)

// A newer write is never overwritten: each writer counts its own column up, and an
// undo that went over one of them would set it back.
func TestUndoNeverOverwritesANewerWrite(t *testing.T) {
	f := setup(t)
	const writers, rounds = 8, 60
	columns := make([]string, writers)
	for i := range columns {
		columns[i] = fmt.Sprintf("w%d bigint NOT NULL DEFAULT 0", i)
	}
	f.exec("CREATE TABLE busy (id int PRIMARY KEY, v text, " + strings.Join(columns, ", ") + ")")
	f.exec("INSERT INTO busy (id, v) VALUES (1, 'before')")
	f.entity("busy", "public.busy", "id")
	ctx, cancel := context.WithCancel(t.Context())
	var wg sync.WaitGroup
	counts := make([]int, writers)
	for i := range writers {
		wg.Go(func() {
			for ctx.Err() == nil {
				_, err := f.Pool().Exec(context.WithoutCancel(ctx), fmt.Sprintf("UPDATE busy SET w%[1]d = w%[1]d + 1 WHERE id = 1", i))
				if !assert.NoError(t, err) {
					return
				}
				counts[i]++
				select {
				case <-ctx.Done():
				case <-time.After(time.Duration(5+5*i) * time.Millisecond):
				}
			}
		})
	}
	undone, refused := 0, 0
	for round := range rounds {
		id := fmt.Sprint("s", round)
		f.committed(fmt.Sprintf(`{"saga_id":%q,"mutations":[{"entity":"busy","op":"patch","key":{"id":1},"set":{"v":%q}}]}`, id, id))
		r := f.undo(id)
		if r.Refused == nil {
			undone++
			continue
		}
		require.Equal(t, saga.CodeConflict, r.Refused.Code)
		refused++
	}
	cancel()
	wg.Wait()
	t.Logf("%d undone, %d refused", undone, refused)
	assert.Positive(t, refused)
	for i, n := range counts {
		assert.Equal(t, fmt.Sprint(n), f.text(fmt.Sprintf("SELECT w%d::text FROM busy", i)))
	}
}

// Sagas that add to one counter, of which some are undone while others go on.
func TestUndoOfAddsAmongOtherAdders(t *testing.T) {
	f := setup(t)
	f.exec("INSERT INTO product (id, title, stock, price) VALUES (1, 'one', 0, 0)")
	var wg sync.WaitGroup
	var want atomic.Int64
	for worker := range 6 {
		wg.Go(func() {
			for i := range 15 {
				id := fmt.Sprintf("s%d-%d", worker, i)
				amount := worker*100 + i + 1
				r, err := f.Commit(t.Context(), f.request(fmt.Sprintf(`{"saga_id":%q,"mutations":[{"entity":"products","op":"add","key":{"id":1},"add":{"stock":%d,"price":0.01}}]}`, id, amount)))
				if !assert.NoError(t, err) || !assert.Equal(t, saga.Committed, r.Status) {
					return
				}
				if i%2 == 0 {
					want.Add(int64(amount))
					continue
				}
				undo, err := f.Undo(t.Context(), postgres.UndoRequest{SagaID: id, Catalog: f.catalog})
				if assert.NoError(t, err) {
					assert.Nil(t, undo.Refused)
				}
			}
		})
	}
	wg.Wait()
	assert.Equal(t, fmt.Sprint(want.Load()), f.text("SELECT stock::text FROM product"))
	assert.Equal(t, "0.48", f.text("SELECT price::text FROM product"))
}

// A child that is inserted while its parent's insert is being undone: either the
// undo is refused or the child is; it never vanishes with the parent.
func TestUndoOfAnInsertAgainstNewReferences(t *testing.T) {
	f := setup(t)
	f.exec("CREATE TABLE part (id int PRIMARY KEY, product bigint NOT NULL REFERENCES product ON DELETE CASCADE)")
	for round := range 40 {
		id := fmt.Sprint("s", round)
		f.committed(fmt.Sprintf(`{"saga_id":%q,"mutations":[{"entity":"products","op":"insert","row":{"id":%d,"title":"x"}}]}`, id, round))
		var wg sync.WaitGroup
		inserted := false
		wg.Go(func() {
			_, err := f.Pool().Exec(t.Context(), "INSERT INTO part VALUES ($1, $1)", round)
			inserted = err == nil
		})
		r := f.undo(id)
		wg.Wait()
		assert.Equal(t, inserted, r.Refused != nil)
		assert.Equal(t, fmt.Sprint(inserted), f.text("SELECT EXISTS (SELECT FROM part WHERE id = $1)::text", round))
	}
}

// A change whose connection breaks at any point has happened whole or not at all,
// and calling it again gives the right result.
func TestChangesSurviveABrokenConnection(t *testing.T) {
	f := setup(t)
	for _, kind := range []string{"undo", "edit"} {
		for _, afterServer := range []bool{false, true} {
			at := 1
			for broke := true; broke; at++ {
				id := fmt.Sprintf("%s-%t-%d", kind, afterServer, at)
				row := len(id)*1000 + at + map[string]int{"undo": 100, "edit": 200}[kind]
				f.exec("INSERT INTO product (id, title, stock) VALUES ($1, 'one', 1)", row)
				f.committed(fmt.Sprintf(`{"saga_id":%q,"mutations":[{"entity":"products","op":"add","key":{"id":%d},"add":{"stock":10}}]}`, id, row))
				f.exec("UPDATE product SET title = 'theirs' WHERE id = $1", row)
				edit := f.editRequest(id, "e", fmt.Sprintf(`{"entity":"products","op":"add","key":{"id":%d},"add":{"stock":100}}`, row))
				call := func(db *postgres.DB) (*postgres.ChangeResult, error) {
					if kind == "edit" {
						return db.Edit(t.Context(), edit)
					}
					return db.Undo(t.Context(), postgres.UndoRequest{SagaID: id, Catalog: f.catalog})
				}
				done, undone := map[string]string{"undo": "1", "edit": "111"}[kind], "11"

				var err error
				broke, err = f.throughBrittle(at, afterServer, call)
				stock := f.text("SELECT stock::text FROM product WHERE id = $1", row)
				recorded := f.text("SELECT count(*)::text FROM capsaga.change WHERE saga_id = $1", id)
				assert.Equal(t, map[string]string{"0": undone, "1": done}[recorded], stock)
				if !broke {
					assert.NoError(t, err)
				}
				r, err := call(f.DB)
				require.NoError(t, err)
				require.Nil(t, r.Refused)
				assert.Equal(t, done, f.text("SELECT stock::text FROM product WHERE id = $1", row))
				assert.Equal(t, r.Version.String(), f.text("SELECT version::text FROM capsaga.change WHERE saga_id = $1", id))
			}
			assert.Greater(t, at, 6, "each exchange was broken once")
		}
	}
}

// throughBrittle makes the call through a proxy that cuts the connection at its
// nth exchange, after a warm-up that opened it and described the tables.
func (f *fixture) throughBrittle(at int, afterServer bool, call func(*postgres.DB) (*postgres.ChangeResult, error)) (broke bool, err error) {
	f.t.Helper()
	proxy := newCuttingProxy(f.t, f.url)
	u, err := url.Parse(f.url)
	require.NoError(f.t, err)
	u.Host = proxy.address()
	db, err := postgres.Open(f.t.Context(), u.String()+"&pool_max_conns=1")
	require.NoError(f.t, err)
	defer db.Close()
	_, err = db.Epoch(f.t.Context())
	require.NoError(f.t, err)
	_, err = db.ReadRow(f.t.Context(), f.catalog.Entities["products"], "0")
	require.NoError(f.t, err)
	proxy.cut(at, afterServer)
	_, err = call(db)
	return proxy.hasCut(), err
}
