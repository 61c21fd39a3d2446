package postgres_test

import (
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/capsaga/capsaga/internal/postgres"
	"github.com/capsaga/capsaga/internal/stacktest"
	"github.com/capsaga/capsaga/saga"
)

func (f *fixture) editRequest(sagaID, requestID, mutations string) postgres.EditRequest {
	f.t.Helper()
	list, err := saga.ParseMutations([]byte("[" + mutations + "]"))
	require.NoError(f.t, err)
	return postgres.EditRequest{SagaID: sagaID, RequestID: requestID, Mutations: list, Catalog: f.catalog}
}

func (f *fixture) edit(sagaID, requestID, mutations string) *postgres.ChangeResult {
	f.t.Helper()
	r, err := f.Edit(f.t.Context(), f.editRequest(sagaID, requestID, mutations))
	require.NoError(f.t, err)
	return r
}

func (f *fixture) edited(sagaID, requestID, mutations string) *postgres.ChangeResult {
	f.t.Helper()
	r := f.edit(sagaID, requestID, mutations)
	require.Nil(f.t, r.Refused, "%+v", r.Refused)
	return r
}

func TestEdit(t *testing.T) {
	f := setup(t)
	f.exec("INSERT INTO product (id, title, stock) VALUES (1, 'one', 1), (2, 'two', 2), (3, 'three', 3)")
	before := f.products()
	commit := f.committed(`{"saga_id":"a","mutations":[
		{"entity":"products","op":"patch","key":{"id":1},"set":{"title":"uno"}},
		{"entity":"products","op":"add","key":{"id":2},"add":{"stock":5}},
		{"entity":"products","op":"delete","key":{"id":3}},
		{"entity":"products","op":"insert","row":{"id":4,"title":"four"}}]}`)
	first := f.edited("a", "e1", `{"entity":"products","op":"patch","key":{"id":1},"set":{"title":"eins"},"expect":{"etag":"`+commit.Owned[0].ETag+`"}}`)
	assert.Greater(t, first.Version, commit.Version)
	require.Len(t, first.Owned, 4)
	assert.Contains(t, string(first.Owned[0].Row), "eins")
	assert.Equal(t, commit.Owned[1].ETag, first.Owned[1].ETag, "a row that was not edited keeps its etag")
	assert.Contains(t, string(first.Owned[1].Row), `"stock":7`)
	assert.True(t, first.Owned[2].Gone())
	assert.Equal(t, commit.Version, first.Owned[2].Version, "nothing locks a row that is not there")
	for _, i := range []int{0, 1, 3} {
		assert.Zero(t, first.Owned[i].Version)
	}
	second := f.edited("a", "e2", `{"entity":"products","op":"delete","key":{"id":4}},{"entity":"products","op":"add","key":{"id":1},"add":{"stock":1}}`)
	assert.Equal(t, commit.Version, second.Owned[2].Version)
	assert.True(t, second.Owned[3].Gone())
	assert.Zero(t, second.Owned[3].Version)
	third := f.edited("a", "e3", `{"entity":"products","op":"patch","key":{"id":1},"set":{"title":"ein"}}`)
	assert.Equal(t, second.Version, third.Owned[3].Version)

	again := f.edited("a", "e1", `{"entity":"products","op":"patch","key":{"id":1},"set":{"title":"eins"},"expect":{"etag":"`+commit.Owned[0].ETag+`"}}`)
	assert.Equal(t, first.Version, again.Version)
	assert.Equal(t, first.Owned[2].Version, again.Owned[2].Version)
	other := f.edit("a", "e1", `{"entity":"products","op":"patch","key":{"id":1},"set":{"title":"other"}}`)
	assert.Equal(t, saga.CodeInvalidWrite, other.Refused.Code)

	f.undone("a")
	assert.Equal(t, before, f.products(), "the undo takes the edits back too")
	late := f.edit("a", "e4", `{"entity":"products","op":"patch","key":{"id":1},"set":{"title":"x"}}`)
	assert.Equal(t, saga.CodeConflict, late.Refused.Code)
	assert.Contains(t, late.Refused.Message, "undone")
	assert.Equal(t, third.Version, f.edited("a", "e3", `{"entity":"products","op":"patch","key":{"id":1},"set":{"title":"ein"}}`).Version, "an edit that happened is still told")
}

func TestEditRefusals(t *testing.T) {
	f := setup(t)
	f.exec("INSERT INTO product (id, title, stock) VALUES (1, 'one', 1), (2, 'two', 2)")
	f.committed(`{"saga_id":"a","mutations":[{"entity":"products","op":"patch","key":{"id":1},"set":{"title":"uno"}}]}`)
	f.rejected(`{"saga_id":"refused","mutations":[{"entity":"products","op":"delete","key":{"id":77}}]}`)
	before := f.contents(nil)
	for _, c := range []struct{ saga, request, mutation, code, says string }{
		{"a", "r", `{"entity":"products","op":"patch","key":{"id":2},"set":{"title":"x"}}`, saga.CodeInvalidWrite, "products/2 is not a row of saga"},
		{"a", "r", `{"entity":"products","op":"insert","row":{"id":3,"title":"x"}}`, saga.CodeInvalidWrite, "products/3"},
		{"a", "r", `{"entity":"products","op":"patch","key":{"id":77},"set":{"title":"x"}}`, saga.CodeNotFound, "products/77"},
		{"a", "r", `{"entity":"products","op":"patch","key":{"id":1},"set":{"stock":"many"}}`, saga.CodeInvalidValue, `column "stock"`},
		{"a", "r", `{"entity":"products","op":"patch","key":{"id":1},"set":{"colour":"red"}}`, saga.CodeUnknownColumn, `"colour"`},
		{"a", "r", `{"entity":"nothing","op":"patch","key":{"id":1},"set":{"colour":"red"}}`, saga.CodeUnknownEntity, "products"},
		{"a", "r", `{"entity":"products","op":"add","key":{"id":1},"add":{"stock":-5}}`, saga.CodeConstraintViolation, "product_stock_check"},
		{"a", "r", `{"entity":"products","op":"add","key":{"id":1},"add":{"stock":-5},"expect":{"where":[["stock",">=",5]]}}`, saga.CodeExpectUnmet, "stock >= 5"},
		{"a", "r", `{"entity":"products","op":"insert","row":{"id":1,"title":"x"}}`, saga.CodeConstraintViolation, "product_pkey"},
		{"a", "", `{"entity":"products","op":"patch","key":{"id":1},"set":{"title":"x"}}`, saga.CodeInvalidWrite, "request id"},
		{"nothing", "r", `{"entity":"products","op":"patch","key":{"id":1},"set":{"title":"x"}}`, saga.CodeUnknownSaga, "nothing"},
		{"refused", "r", `{"entity":"products","op":"patch","key":{"id":1},"set":{"title":"x"}}`, saga.CodeUnknownSaga, "never committed"},
	} {
		t.Run(c.code+" "+c.says, func(t *testing.T) {
			r := f.edit(c.saga, c.request, c.mutation)
			require.NotNil(t, r.Refused)
			assert.Equal(t, c.code, r.Refused.Code, r.Refused.Message)
			assert.Contains(t, r.Refused.Message, c.says)
			assert.Equal(t, saga.Rejected, r.Refused.Class)
			assert.Equal(t, before, f.contents(nil))
		})
	}
	// Not remembered: the same request may succeed later.
	assert.Equal(t, saga.CodeConstraintViolation, f.edit("a", "r", `{"entity":"products","op":"add","key":{"id":1},"add":{"stock":-5}}`).Refused.Code)
	f.exec("UPDATE product SET stock = 6 WHERE id = 1")
	f.edited("a", "r", `{"entity":"products","op":"add","key":{"id":1},"add":{"stock":-5}}`)
}

// An edit does not make someone else's change the saga's own.
func TestUndoAfterEditOfAForeignChange(t *testing.T) {
	f := setup(t)
	f.exec("INSERT INTO product (id, title, stock) VALUES (1, 'one', 1), (2, 'two', 2), (3, 'three', 3)")
	for i, id := range []int{1, 2, 3} {
		f.committed(fmt.Sprintf(`{"saga_id":"s%d","mutations":[{"entity":"products","op":"patch","key":{"id":%d},"set":{"title":"ours"}}]}`, i, id))
	}
	f.exec("UPDATE product SET title = 'theirs' WHERE id < 3")
	r := f.edited("s0", "e", `{"entity":"products","op":"patch","key":{"id":1},"set":{"title":"edited"}}`)
	assert.Equal(t, "1-"+f.text("SELECT xmin::text FROM product WHERE id = 1"), r.Owned[0].ETag, "the result has what is there")
	refused, conflicts := f.conflict("s0")
	assert.Contains(t, refused.Message, "products/1")
	assert.Contains(t, string(conflicts[0].Ours), "edited")

	f.exec("DELETE FROM product WHERE id = 2")
	f.edited("s1", "e", `{"entity":"products","op":"insert","row":{"id":2,"title":"edited"}}`)
	f.conflict("s1")
	f.edited("s2", "e", `{"entity":"products","op":"add","key":{"id":3},"add":{"stock":1}}`)
	f.undone("s2")
	assert.Contains(t, f.products(), "(3,three,3,")
}

// What was only added, by the saga and by its edits, is taken back whatever others
// did.
func TestUndoOfAddsAfterForeignChanges(t *testing.T) {
	f := setup(t)
	f.exec("INSERT INTO product (id, title, stock, price) VALUES (1, 'one', 10, 1.10)")
	f.committed(`{"saga_id":"a","mutations":[{"entity":"products","op":"add","key":{"id":1},"add":{"stock":5,"price":0.05}},{"entity":"products","op":"patch","key":{"id":1},"add":{"stock":2}}]}`)
	f.exec("UPDATE product SET title = 'theirs', stock = stock * 2 WHERE id = 1")
	f.edited("a", "e", `{"entity":"products","op":"add","key":{"id":1},"add":{"stock":-1}}`)
	assert.Contains(t, f.products(), "(1,theirs,33,1.15,")
	f.undone("a")
	assert.Contains(t, f.products(), "(1,theirs,27,1.10,")
}

func TestChangesAtOnceHappenOnce(t *testing.T) {
	f := setup(t)
	f.exec("INSERT INTO product (id, title, stock) VALUES (1, 'one', 10)")
	f.committed(`{"saga_id":"a","mutations":[{"entity":"products","op":"add","key":{"id":1},"add":{"stock":5}}]}`)
	f.exec("UPDATE product SET title = 'theirs'") // so that an undo subtracts, which twice would be seen
	request := f.editRequest("a", "e", `{"entity":"products","op":"add","key":{"id":1},"add":{"stock":100}}`)
	for _, round := range []struct {
		call func() (*postgres.ChangeResult, error)
		want string
	}{
		{func() (*postgres.ChangeResult, error) { return f.Edit(t.Context(), request) }, "115"},
		{func() (*postgres.ChangeResult, error) {
			return f.Undo(t.Context(), postgres.UndoRequest{SagaID: "a", Catalog: f.catalog})
		}, "10"},
	} {
		versions := make([]saga.Version, 20)
		var wg sync.WaitGroup
		for i := range versions {
			wg.Go(func() {
				r, err := round.call()
				if assert.NoError(t, err) && assert.Nil(t, r.Refused) {
					versions[i] = r.Version
				}
			})
		}
		wg.Wait()
		for _, version := range versions {
			assert.Equal(t, versions[0], version)
		}
		assert.Equal(t, round.want, f.text("SELECT stock::text FROM product"))
	}
}

// The changes of a saga that asked for the replica wait for it too: what it shows
// is never older than what they reported.
func TestChangesWaitForTheReplicaToo(t *testing.T) {
	f := setup(t)
	base := stacktest.PortBase(t)
	replica, err := pgxpool.New(t.Context(), strings.Replace(f.url, fmt.Sprint(":", base+432), fmt.Sprint(":", base+433), 1))
	require.NoError(t, err)
	t.Cleanup(replica.Close)
	title := func(id int) (title string) {
		require.NoError(t, replica.QueryRow(t.Context(), "SELECT coalesce((SELECT title FROM product WHERE id = $1), '')", id).Scan(&title))
		return title
	}
	for id := range 20 {
		name := fmt.Sprint("s", id)
		f.committed(fmt.Sprintf(`{"saga_id":%q,"consistency":"cp","mutations":[{"entity":"products","op":"insert","row":{"id":%d,"title":"one"}}]}`, name, id))
		assert.Equal(t, "one", title(id))
		f.edited(name, "e", fmt.Sprintf(`{"entity":"products","op":"patch","key":{"id":%d},"set":{"title":"two"}}`, id))
		assert.Equal(t, "two", title(id))
		f.undone(name)
		assert.Empty(t, title(id))
	}
}

// While an edit waits, someone puts back a row that the saga had deleted. Nothing
// has locked it, so the edit cannot say what it is at its own version.
func TestEditLeavesARowToWhoeverInsertedItMeanwhile(t *testing.T) {
	f := setup(t)
	f.exec(`INSERT INTO product (id, title) VALUES (1, 'one'), (2, 'two');
		CREATE FUNCTION wait() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN PERFORM pg_advisory_xact_lock(1); RETURN new; END $$`)
	commit := f.committed(`{"saga_id":"a","mutations":[{"entity":"products","op":"delete","key":{"id":1}},{"entity":"products","op":"patch","key":{"id":2},"set":{"title":"zwei"}}]}`)
	f.exec("CREATE TRIGGER wait BEFORE UPDATE ON product FOR EACH ROW EXECUTE FUNCTION wait()")
	tx, err := f.Pool().Begin(t.Context())
	require.NoError(t, err)
	_, err = tx.Exec(t.Context(), "SELECT pg_advisory_xact_lock(1)")
	require.NoError(t, err)
	edited := make(chan *postgres.ChangeResult)
	go func() {
		edited <- f.edit("a", "e", `{"entity":"products","op":"patch","key":{"id":2},"set":{"title":"deux"}}`)
	}()
	require.Eventually(t, func() bool {
		return f.text("SELECT count(*)::text FROM pg_locks WHERE locktype = 'advisory' AND NOT granted AND database = (SELECT oid FROM pg_database WHERE datname = current_database())") == "1"
	}, 10*time.Second, 10*time.Millisecond)
	f.exec("INSERT INTO product (id, title) VALUES (1, 'theirs')")
	require.NoError(t, tx.Commit(t.Context()))
	r := <-edited
	require.Nil(t, r.Refused)
	assert.True(t, r.Owned[0].Gone(), "a later change of theirs may be older than the edit")
	assert.Equal(t, commit.Version, r.Owned[0].Version)
	_, conflicts := f.conflict("a")
	require.Len(t, conflicts, 1)
	assert.Equal(t, "1", conflicts[0].Key)
}
