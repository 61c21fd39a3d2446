package attribute_test

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"go.temporal.io/sdk/temporal"

	"github.com/capsaga/capsaga/internal/attribute"
	"github.com/capsaga/capsaga/saga"
)

func owned(n int, key func(i int) string) []saga.Owned {
	rows := make([]saga.Owned, n)
	for i := range rows {
		rows[i] = saga.Owned{Entity: "products", Key: key(i)}
	}
	return rows
}

func TestKeysOf(t *testing.T) {
	t.Parallel()
	number := func(i int) string { return fmt.Sprint(i) }
	for _, test := range []struct {
		name string
		rows []saga.Owned
		want int
	}{
		{"none", nil, 0},
		{"a few", owned(3, number), 3},
		{"as many as fit", owned(146, func(i int) string { return fmt.Sprintf("%02d", i%100) }), 146},
		{"one too many", owned(147, func(i int) string { return fmt.Sprintf("%02d", i%100) }), 0},
		{"one that is too long", owned(1, func(int) string { return strings.Repeat("x", 2048) }), 0},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			keys := attribute.KeysOf(test.rows)
			require.Len(t, keys, test.want)
			encoded, err := json.Marshal(keys)
			require.NoError(t, err)
			require.LessOrEqual(t, len(encoded), 2048)
		})
	}
}

func TestStartOfASagaOfAStreamNamesItsRow(t *testing.T) {
	t.Parallel()
	w := saga.Write{SagaID: "cdc", Stream: &saga.StreamChange{Sink: saga.Redis, Entity: "products", Key: "42"}}
	attributes := temporal.NewSearchAttributes(attribute.Start(&w)...)
	entities, _ := attributes.GetKeywordList(attribute.Entities)
	require.Equal(t, []string{"products"}, entities)
	keys, _ := attributes.GetKeywordList(attribute.Keys)
	require.Equal(t, []string{"products/42"}, keys)

	w.Stream.Key = strings.Repeat("x", 2048)
	attributes = temporal.NewSearchAttributes(attribute.Start(&w)...)
	require.False(t, attributes.ContainsKey(attribute.Keys))
}
