package attribute_test

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

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

func TestEntitiesOf(t *testing.T) {
	t.Parallel()
	w := saga.Write{Mutations: []saga.Mutation{{Entity: "users"}, {Entity: "products"}, {Entity: "users"}}}
	require.Equal(t, []string{"products", "users"}, attribute.EntitiesOf(&w))
}
