package postgres_test

import (
	"context"
	"errors"
	"sync"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/capsaga/capsaga/internal/postgres"
	"github.com/capsaga/capsaga/saga"
)

// memoryMark is a mark whose loss can be told.
type memoryMark struct {
	mu    sync.Mutex
	value string
	err   error
}

func (m *memoryMark) Mark(context.Context, string) (string, bool, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.value, m.value != "", m.err
}

func (m *memoryMark) SetMark(_ context.Context, _, value string) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.value = value
	return m.err
}

// reopen is another process on the same database.
func (f *fixture) reopen(options ...postgres.Option) *postgres.DB {
	f.t.Helper()
	db, err := postgres.Open(f.t.Context(), f.url, options...)
	require.NoError(f.t, err)
	f.t.Cleanup(db.Close)
	return db
}

func epochOf(t *testing.T, db *postgres.DB) saga.Epoch {
	t.Helper()
	epoch, err := db.Epoch(t.Context())
	require.NoError(t, err)
	return epoch
}

func TestEpochStaysWhileTheWALGoesOn(t *testing.T) {
	mark := &memoryMark{}
	f := setup(t, postgres.WithMarks(mark))
	assert.Equal(t, saga.Epoch(1), epochOf(t, f.DB))
	require.NoError(t, f.AdvanceMark(t.Context()))
	assert.Equal(t, saga.Epoch(1), epochOf(t, f.reopen(postgres.WithMarks(mark))))
}

func TestEpochRises(t *testing.T) {
	for name, goBack := range map[string]func(f *fixture, mark *memoryMark){
		"another timeline":  func(f *fixture, _ *memoryMark) { f.exec("UPDATE capsaga.epoch SET timeline = timeline + 1") },
		"another system":    func(f *fixture, _ *memoryMark) { f.exec("UPDATE capsaga.epoch SET system_identifier = 1") },
		"restored snapshot": func(_ *fixture, mark *memoryMark) { mark.value = `{"epoch":1,"lsn":"FFFF/0"}` },
	} {
		t.Run(name, func(t *testing.T) {
			mark := &memoryMark{}
			f := setup(t, postgres.WithMarks(mark))
			before := f.committed(`{"saga_id":"a","mutations":[{"entity":"products","op":"insert","row":{"id":1,"title":"one"}}]}`)
			goBack(f, mark)
			other := f.reopen(postgres.WithMarks(mark))
			assert.Equal(t, saga.Epoch(2), epochOf(t, other))
			require.NoError(t, other.AdvanceMark(t.Context()))
			after := f.committed(`{"saga_id":"b","mutations":[{"entity":"products","op":"upsert","row":{"id":1,"title":"two"}}]}`)
			assert.Equal(t, saga.Epoch(2), after.Version.Epoch(), "a worker that verified before sees the rise")
			assert.Greater(t, after.Version, before.Version)
			assert.Equal(t, saga.Epoch(2), epochOf(t, f.reopen(postgres.WithMarks(mark))), "once is enough")
		})
	}
}

func TestEpochOfTheMarkIsOvertaken(t *testing.T) {
	mark := &memoryMark{value: `{"epoch":7,"lsn":"0/1"}`}
	f := setup(t, postgres.WithMarks(mark))
	assert.Equal(t, saga.Epoch(8), epochOf(t, f.DB), "the database lost what it knew of seven epochs")
}

// Without the mark a restored snapshot cannot be told, so nothing commits.
func TestNoCommitWithoutTheMark(t *testing.T) {
	refused := &saga.Error{Class: saga.Rejected, System: "redis", Code: saga.CodeRejected, Message: "the password is wrong"}
	mark := &memoryMark{err: refused}
	f := setup(t, postgres.WithMarks(mark))
	_, err := f.Commit(t.Context(), f.request(`{"saga_id":"a","mutations":[{"entity":"products","op":"insert","row":{"id":1,"title":"one"}}]}`))
	require.ErrorContains(t, err, "the password is wrong")
	assert.Equal(t, saga.Unavailable, saga.ClassOf(err), "a store that is set up wrongly rejects no write")
	mark.err = nil
	f.committed(`{"saga_id":"a","mutations":[{"entity":"products","op":"insert","row":{"id":1,"title":"one"}}]}`)
}

func TestEpochsAt(t *testing.T) {
	epochs := postgres.Epochs{{Epoch: 1, Start: 100}, {Epoch: 2, Start: 500}, {Epoch: 3, Start: 300}}
	for lsn, want := range map[saga.LSN]saga.Epoch{50: 1, 100: 1, 299: 1, 300: 3, 600: 3} {
		assert.Equal(t, want, epochs.At(lsn), lsn)
	}
	assert.Zero(t, postgres.Epochs(nil).At(5))
}

// Redis away does not keep PostgreSQL from committing as long as another store
// knows the mark; one that knows nothing does not count.
func TestOneStoreOfTheMarkMayBeAway(t *testing.T) {
	away, here := &memoryMark{err: errors.New("away")}, &memoryMark{}
	f := setup(t, postgres.WithMarks(away, here))
	_, err := f.Epoch(t.Context())
	require.Error(t, err)
	here.value = `{"epoch":3,"lsn":"0/1"}`
	assert.Equal(t, saga.Epoch(4), epochOf(t, f.DB))
	require.NoError(t, f.AdvanceMark(t.Context()))
	assert.Contains(t, here.value, `"epoch":4`)
	here.err = errors.New("away too")
	require.Error(t, f.AdvanceMark(t.Context()))
}
