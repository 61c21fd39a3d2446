package backfill_test

import (
	"fmt"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/capsaga/capsaga/internal/backfill"
	"github.com/capsaga/capsaga/saga"
)

func (w *world) find(id int64) backfill.Backfill {
	w.t.Helper()
	b, err := backfill.Find(w.t.Context(), w.db.Pool(), id)
	require.NoError(w.t, err)
	return *b
}

func TestRequestsMeet(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	e := entity("products", "id")
	e.Kafka, e.Elasticsearch = &saga.KafkaSink{}, &saga.ElasticsearchSink{}

	first := w.submit(backfill.Request{Entity: e, Sinks: []saga.Sink{saga.Redis, saga.Kafka}})
	require.Equal(t, backfill.Requested, first.State)
	require.Equal(t, first.ID, w.submit(backfill.Request{Entity: e, Sinks: []saga.Sink{saga.Redis}}).ID, "it is under way")
	other := w.submit(backfill.Request{Entity: e, Sinks: []saga.Sink{saga.Elasticsearch}, Index: "products-000002", Reason: backfill.Reindexed})
	require.NotEqual(t, first.ID, other.ID, "of other sinks")
	require.Equal(t, backfill.Requested, w.find(first.ID).State)

	gap := w.submit(backfill.Request{Entity: e, Sinks: []saga.Sink{saga.Redis}, Reason: backfill.Gap, Floor: 7})
	require.Equal(t, []saga.Sink{saga.Redis, saga.Kafka}, gap.Sinks, "it takes over the sinks of the one that it replaces")
	require.Equal(t, backfill.Cancelled, w.find(first.ID).State)
	require.Contains(t, w.find(first.ID).Error, fmt.Sprintf("backfill %d does it instead", gap.ID))
	require.Equal(t, backfill.Requested, w.find(other.ID).State)

	both := w.submit(backfill.Request{Entity: e})
	require.Equal(t, e.Sinks(), both.Sinks)
	require.EqualValues(t, 7, both.Floor, "what was open stays to be done")
	require.Equal(t, "products-000002", both.Index)
	require.Equal(t, backfill.Cancelled, w.find(gap.ID).State)

	cancelled, err := backfill.Cancel(t.Context(), w.db.Pool(), e.Name)
	require.NoError(t, err)
	require.Len(t, cancelled, 1)
	later := w.submit(backfill.Request{Entity: e, Sinks: []saga.Sink{saga.Redis}})
	require.EqualValues(t, 7, later.Floor, "a gap is closed by what is done, not by what was cancelled")
	require.Empty(t, later.Index, "redis has no index")
	w.exec("UPDATE capsaga.backfill SET state = 'done', finished_at = now() WHERE id = $1", later.ID)
	require.Zero(t, w.submit(backfill.Request{Entity: e, Sinks: []saga.Sink{saga.Redis}}).Floor)
	require.EqualValues(t, 7, w.submit(backfill.Request{Entity: e, Sinks: []saga.Sink{saga.Kafka}}).Floor)

	_, err = backfill.Submit(t.Context(), w.db.Pool(), backfill.Request{Entity: entity("users", "id"), Sinks: []saga.Sink{saga.Kafka}})
	require.ErrorContains(t, err, "entity users has no sink kafka: the catalog gives it redis")
}

// Whatever is new is requested once, in the transaction that notes it.
func TestProvisioned(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.exec("CREATE TABLE products (id int PRIMARY KEY, title text); CREATE TABLE goods (id int PRIMARY KEY)")
	e := entity("products", "id")
	provisioned := func(index string) *backfill.Backfill {
		b, err := backfill.Provisioned(t.Context(), w.db.Pool(), e, backfill.Made{Index: index})
		require.NoError(t, err)
		return b
	}
	b := provisioned("")
	require.Equal(t, []saga.Sink{saga.Redis}, b.Sinks)
	require.Equal(t, backfill.Added, b.Reason)
	require.Zero(t, b.Floor)
	require.Nil(t, provisioned(""), "twice is once")
	require.Equal(t, "id integer, title text", w.text("SELECT shape FROM capsaga.entity"))

	e.Elasticsearch = &saga.ElasticsearchSink{}
	require.Equal(t, []saga.Sink{saga.Elasticsearch}, provisioned("").Sinks)
	again := provisioned("products-000002")
	require.Equal(t, []saga.Sink{saga.Elasticsearch}, again.Sinks)
	require.Equal(t, "products-000002", again.Index)
	require.Nil(t, provisioned("products-000002"), "it is on its way")
	_, err := backfill.Cancel(t.Context(), w.db.Pool(), e.Name)
	require.NoError(t, err)
	require.Equal(t, backfill.Reindexed, provisioned("products-000002").Reason)
	had, err := backfill.BeginsEmpty(t.Context(), w.db.Pool(), e.Name, saga.Redis)
	require.NoError(t, err)
	require.True(t, had)
	b, err = backfill.Provisioned(t.Context(), w.db.Pool(), e, backfill.Made{Emptied: []saga.Sink{saga.Redis}})
	require.NoError(t, err)
	require.Equal(t, backfill.Emptied, b.Reason)
	require.Equal(t, []saga.Sink{saga.Redis}, b.Sinks)

	e.Elasticsearch = nil
	require.Nil(t, provisioned(""))
	e.Elasticsearch = &saga.ElasticsearchSink{}
	back := provisioned("")
	require.Equal(t, []saga.Sink{saga.Elasticsearch}, back.Sinks)
	require.NotZero(t, back.Floor, "what was deleted meanwhile is swept")

	e.Table.Name = "goods"
	moved := provisioned("")
	require.Equal(t, []saga.Sink{saga.Redis, saga.Elasticsearch}, moved.Sinks, "another table")
	require.NotZero(t, moved.Floor)
	w.exec("DROP TABLE goods; CREATE TABLE goods (id int PRIMARY KEY)")
	anew := provisioned("")
	require.Equal(t, []saga.Sink{saga.Redis, saga.Elasticsearch}, anew.Sinks, "another table of that name")
	require.NotZero(t, anew.Floor)
	require.NoError(t, backfill.Retain(t.Context(), w.db.Pool(), nil))
	require.Len(t, provisioned("").Sinks, 2, "the entity was gone from the catalog")
}
