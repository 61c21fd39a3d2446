package activities

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/capsaga/capsaga/saga"
)

func TestImages(t *testing.T) {
	t.Parallel()
	products := &saga.Entity{Name: "products", Redis: &saga.RedisSink{}}
	row := json.RawMessage(`{"id":1}`)
	owned := []saga.Owned{{Entity: "products", Key: "1", ETag: "1-1", Row: row}, {Entity: "products", Key: "2"}}
	now := time.Now()
	c := newImages(1 << 20)
	c.put("a", 7, now, owned)
	require.Equal(t, row, c.get("a", 7, now).row(products, "1", now))
	require.Nil(t, c.get("a", 7, now).row(products, "2", now), "a deleted row has no image")
	require.Nil(t, c.get("a", 8, now).row(products, "1", now), "another version's image")
	require.Nil(t, c.get("b", 7, now).row(products, "1", now))
	require.Nil(t, c.get("a", 7, now.Add(imageAge+1)).row(products, "1", now), "too old")
	c.drop("a")
	require.Nil(t, c.get("a", 7, now).row(products, "1", now))
	require.Zero(t, c.bytes)
}

func TestImageIsNotSentAfterHalfATombstonesLife(t *testing.T) {
	t.Parallel()
	e := &saga.Entity{Name: "products", Redis: &saga.RedisSink{TombstoneTTL: 10 * time.Second}}
	row := json.RawMessage(`{"id":1}`)
	now := time.Now()
	c := newImages(1 << 20)
	c.put("a", 7, now, []saga.Owned{{Entity: "products", Key: "1", ETag: "1-1", Row: row}})
	late := now.Add(5 * time.Second)
	require.Equal(t, row, c.get("a", 7, late).row(e, "1", late.Add(-1)))
	require.Nil(t, c.get("a", 7, late).row(e, "1", late))
}

func TestImagesStayWithinTheirBytes(t *testing.T) {
	t.Parallel()
	products := &saga.Entity{Name: "products", Redis: &saga.RedisSink{}}
	now := time.Now()
	c := newImages(10_000)
	for i := range 100 {
		row := json.RawMessage(`"` + strings.Repeat("x", 1000) + `"`)
		c.put(fmt.Sprint(i), 7, now, []saga.Owned{{Entity: "products", Key: "1", ETag: "1-1", Row: row}})
		require.LessOrEqual(t, c.bytes, 10_000)
		require.Equal(t, len(c.sagas), c.order.Len())
	}
	require.NotNil(t, c.get("99", 7, now).row(products, "1", now))
	require.Nil(t, c.get("0", 7, now).row(products, "1", now), "the oldest go first")
	c.put("huge", 7, now, []saga.Owned{{Entity: "products", Key: "1", ETag: "1-1", Row: json.RawMessage(strings.Repeat("1", 20_000))}})
	require.Nil(t, c.get("huge", 7, now).row(products, "1", now))
	require.NotNil(t, c.get("99", 7, now).row(products, "1", now), "what cannot fit pushes nothing out")
	c.put("late", 7, now.Add(2*imageAge), []saga.Owned{{Entity: "products", Key: "1", ETag: "1-1", Row: json.RawMessage("1")}})
	require.Equal(t, 1, c.order.Len(), "old images go by age")
}
