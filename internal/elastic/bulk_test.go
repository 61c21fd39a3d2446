package elastic

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"
)

func TestResults(t *testing.T) {
	t.Parallel()
	failed := &cause{Type: "document_parsing_exception", Reason: "no number", CausedBy: &cause{Type: "x", Reason: "y"}}
	cases := []struct {
		name, answer string
		plain        bool
		want         []itemResult
	}{
		{"one", `{"items":[{"index":{"status":201}}]}`, true, []itemResult{{Status: 201}}},
		{"of both kinds", `{"items":[{"index":{"status":200}},{"delete":{"status":404}}]}`, true, []itemResult{{Status: 200}, {Status: 404}}},
		{"an error", `{"items":[{"delete":{"status":200}},{"index":{"status":400,"error":{"type":"document_parsing_exception","reason":"no number","caused_by":{"type":"x","reason":"y"}}}}]}`,
			false, []itemResult{{Status: 200}, {Status: 400, Error: failed}}},
		{"spaces", `{ "items":[{"index":{"status":201}}]}`, false, []itemResult{{Status: 201}}},
		{"more behind it", `{"items":[{"index":{"status":201}}],"took":1}`, false, []itemResult{{Status: 201}}},
		{"a long status", `{"items":[{"index":{"status":2010}}]}`, false, []itemResult{{Status: 2010}}},
		{"none", `{"items":[]}`, false, []itemResult{}},
		{"nothing", `{}`, false, []itemResult{}},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			got, plain := plainResults([]byte(c.answer), 1)
			assert.Equal(t, c.plain, plain)
			if plain {
				assert.Equal(t, c.want, got)
			}
			got, err := readResults([]byte(c.answer))
			require.NoError(t, err)
			assert.Equal(t, c.want, got)
		})
	}
	for _, answer := range []string{``, `{"items":[{}]}`, `{"items":[{"update":{"status":200}}]}`, `{"items":[{"index":{"status":201}}`, `{"items":[{"index":{"status":"x"}}]}`} {
		_, plain := plainResults([]byte(answer), 1)
		assert.False(t, plain, answer)
		_, err := readResults([]byte(answer))
		assert.Error(t, err, answer)
	}
}

// TestPlainResultsAreTheSame cuts and changes answers: what the quick reader takes, it
// takes as the other does.
func TestPlainResultsAreTheSame(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		var items []string
		for range rapid.IntRange(1, 4).Draw(t, "items") {
			verb := rapid.SampledFrom([]string{"index", "delete"}).Draw(t, "verb")
			items = append(items, fmt.Sprintf(`{%q:{"status":%d}}`, verb, rapid.IntRange(100, 599).Draw(t, "status")))
		}
		answer := []byte(`{"items":[` + strings.Join(items, ",") + `]}`)
		if rapid.Bool().Draw(t, "broken") {
			at := rapid.IntRange(0, len(answer)-1).Draw(t, "at")
			answer[at] = rapid.SampledFrom([]byte(`{}[],:"x1 -+`)).Draw(t, "by")
		}
		got, plain := plainResults(answer, 1)
		want, err := readResults(answer)
		if plain {
			require.NoError(t, err, string(answer))
			require.Equal(t, want, got, string(answer))
		}
	})
}

func TestKeysAsJSON(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		text := rapid.String().Draw(t, "text")
		var got string
		require.NoError(t, json.Unmarshal(appendString(nil, text), &got))
		require.Equal(t, text, got)
	})
}
