package postgres_test

import (
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/capsaga/capsaga/internal/postgres"
	"github.com/capsaga/capsaga/saga"
)

// A workflow that begins anew brings the sinks what the edits left, whatever had
// been recorded by then.
func TestAttachTellsTheRowsAsTheLastEditLeftThem(t *testing.T) {
	f := setup(t)
	f.exec("INSERT INTO product (id, title) VALUES (1, 'one'), (2, 'two')")
	line := `{"saga_id":"a","mutations":[{"entity":"products","op":"delete","key":{"id":1}},{"entity":"products","op":"patch","key":{"id":2},"set":{"title":"zwei"}}]}`
	commit := f.committed(line)
	assert.Equal(t, commit.RunID, f.commit(line).RunID)
	f.record("a", saga.Parked, saga.Step{Name: saga.StepRedis, State: saga.StepDone})
	f.edited("a", "e1", `{"entity":"products","op":"patch","key":{"id":2},"set":{"title":"deux"}}`)
	edit := f.edited("a", "e2", `{"entity":"products","op":"upsert","row":{"id":1,"title":"again"}},{"entity":"products","op":"delete","key":{"id":2}}`)
	again := f.commit(line)
	assert.Equal(t, saga.Committed, again.Status)
	assert.Equal(t, edit.Version, again.Version)
	require.Len(t, again.Owned, 2)
	assert.Equal(t, edit.Owned[0].ETag, again.Owned[0].ETag)
	assert.True(t, again.Owned[1].Gone())
	assert.Equal(t, saga.Parked, again.Recorded.Status)

	f.undone("a")
	assert.Equal(t, saga.Compensating, f.commit(line).Recorded.Status, "whatever was recorded last")
}

func TestRecordsThatComeLate(t *testing.T) {
	f := setup(t)
	f.committed(`{"saga_id":"a","mutations":[{"entity":"products","op":"insert","row":{"id":1,"title":"x"}}]}`)
	status := func() string { return f.text("SELECT status FROM capsaga.saga") }
	f.record("a", saga.Parked, saga.Step{Name: saga.StepRedis, State: saga.StepParked})
	f.record("a", saga.Compensating)
	f.record("a", saga.Parked, saga.Step{Name: saga.StepRedis, State: saga.StepParked})
	assert.Equal(t, string(saga.Compensating), status(), "it is not for another run to go on with the saga")
	f.record("a", saga.Parked, saga.Step{Name: "undo-mail", State: saga.StepParked})
	f.record("a", saga.Committed, saga.Step{Name: saga.StepRedis, State: saga.StepDone})
	assert.Equal(t, string(saga.Parked), status())
	f.record("a", saga.Compensating, saga.Step{Name: "undo-mail", State: saga.StepDone})
	assert.Equal(t, string(saga.Compensating), status())
	f.record("a", saga.Compensated)
	assert.Equal(t, string(saga.Compensated), status())
}

// What a service says may have any character.
func TestListAfterAnErrorThatHoldsNUL(t *testing.T) {
	f := setup(t)
	f.committed(`{"saga_id":"a","mutations":[{"entity":"products","op":"insert","row":{"id":1,"title":"x"}}]}`)
	f.record("a", saga.Compensating)
	f.record("a", saga.Compensated, saga.Step{Name: "mail", State: saga.StepSkipped, Error: &saga.ErrorInfo{Class: saga.Rejected, Message: "no\x00such"}})
	assert.Equal(t, "a", f.ids(postgres.ListFilter{}))
}
