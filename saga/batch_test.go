package saga_test

import (
	"encoding/json"
	"fmt"
	"testing"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/capsaga/capsaga/saga"
)

// What a batch tells in common is what each of its writes had come to, also behind
// JSON: deleted rows before and after others, several transactions, other versions.
func TestABatchTellsEachWrite(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		type write struct {
			version saga.Version
			owned   []saga.Owned
		}
		var table saga.BatchTable
		var writes []write
		for range rapid.IntRange(1, 8).Draw(t, "writes") {
			w := write{version: saga.Version(rapid.IntRange(1, 3).Draw(t, "version"))}
			for range rapid.IntRange(1, 3).Draw(t, "rows") {
				w.owned = append(w.owned, saga.Owned{
					Entity:  rapid.SampledFrom([]string{"items", "users"}).Draw(t, "entity"),
					Key:     fmt.Sprint(rapid.IntRange(1, 9).Draw(t, "key")),
					ETag:    rapid.SampledFrom([]string{"", "1-7", "1-8"}).Draw(t, "etag"),
					Version: saga.Version(rapid.IntRange(0, 1).Draw(t, "other version")),
				})
			}
			table.Add(w.version, saga.ConfirmedLocally, w.owned)
			writes = append(writes, w)
		}
		body, err := json.Marshal(saga.BatchOutcome{Status: saga.Completed, BatchTable: table})
		require.NoError(t, err)
		var told saga.BatchOutcome
		require.NoError(t, json.Unmarshal(body, &told))
		for i, w := range writes {
			require.Equal(t, w.version, told.Committed(i))
			require.Equal(t, w.owned, told.Owned(i))
			want := saga.Outcome{SagaID: "s", Status: saga.Completed, Content: "c", Confirmed: saga.ConfirmedLocally}
			want.Own(w.version, w.owned)
			require.Equal(t, want, told.Outcome(i, "s", "c"))
		}
	})
}
