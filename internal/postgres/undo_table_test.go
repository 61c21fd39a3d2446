package postgres_test

import (
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

func TestUndoOfAnInsertIntoAColumnThatIsGone(t *testing.T) {
	f := setup(t)
	f.committed(`{"saga_id":"a","mutations":[{"entity":"products","op":"insert","row":{"id":1,"title":"one","stock":3}}]}`)
	f.exec("ALTER TABLE product DROP COLUMN stock")
	f.exec("UPDATE product SET title = 'theirs'")
	e, conflicts := f.conflict("a")
	assert.Contains(t, e.Message, "title")
	require.Len(t, conflicts, 1)
}

func TestUndoOfARowThatRefersToItself(t *testing.T) {
	f := setup(t)
	f.exec("CREATE TABLE node (id int PRIMARY KEY, parent int REFERENCES node ON DELETE CASCADE)")
	f.entity("nodes", "node", "id")
	f.committed(`{"saga_id":"a","mutations":[{"entity":"nodes","op":"insert","row":{"id":1,"parent":1}}]}`)
	f.undone("a")
	f.exec("INSERT INTO node VALUES (2, 2)")
	f.committed(`{"saga_id":"b","mutations":[{"entity":"nodes","op":"delete","key":{"id":2}}]}`)
	f.undone("b")
	assert.Equal(t, "2 2", f.text("SELECT concat_ws(' ', id, parent) FROM node"))
}

// ON UPDATE SET NULL takes a reference away, which nobody kept.
func TestUndoOfWhatOthersReferToByItsValue(t *testing.T) {
	f := setup(t)
	f.exec(`CREATE TABLE brand (id int PRIMARY KEY, code text UNIQUE, title text);
		CREATE TABLE model (id int PRIMARY KEY, code text REFERENCES brand (code) ON UPDATE SET NULL);
		INSERT INTO brand VALUES (1, 'a', 'A'); INSERT INTO model VALUES (1, 'a')`)
	f.entity("brands", "brand", "id")
	f.committed(`{"saga_id":"same","mutations":[{"entity":"brands","op":"upsert","row":{"id":1,"code":"a","title":"B"}}]}`)
	f.undone("same")
	f.committed(`{"saga_id":"other","mutations":[{"entity":"brands","op":"patch","key":{"id":1},"set":{"code":"b"}}]}`)
	f.exec("INSERT INTO model VALUES (2, 'b')")
	e, _ := f.conflict("other", "model", "brand")
	assert.Contains(t, e.Message, "public.model lose their reference")
}
