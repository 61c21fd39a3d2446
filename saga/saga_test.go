package saga_test

import (
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"regexp"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/capsaga/capsaga/saga"
)

func TestVersionOrder(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		epoch := rapid.Uint16Range(1, uint16(saga.MaxEpoch))
		lsn := rapid.Uint64Range(0, uint64(saga.MaxLSN))
		e1, l1, e2, l2 := epoch.Draw(t, "e1"), lsn.Draw(t, "l1"), epoch.Draw(t, "e2"), lsn.Draw(t, "l2")
		v1, err := saga.NewVersion(saga.Epoch(e1), saga.LSN(l1))
		require.NoError(t, err)
		v2, err := saga.NewVersion(saga.Epoch(e2), saga.LSN(l2))
		require.NoError(t, err)
		later := e1 > e2 || e1 == e2 && l1 > l2
		assert.Equal(t, later, v1 > v2)
		assert.Equal(t, later, v1.Padded() > v2.Padded(), "the text form keeps the order")
		assert.Equal(t, saga.Epoch(e1), v1.Epoch())
		assert.Equal(t, saga.LSN(l1), v1.LSN())
		back, err := saga.ParseVersion(v1.Padded())
		require.NoError(t, err)
		assert.Equal(t, v1, back)
	})
}

func TestVersionLimits(t *testing.T) {
	_, err := saga.NewVersion(0, 1)
	require.Error(t, err)
	_, err = saga.NewVersion(saga.MaxEpoch+1, 1)
	require.Error(t, err)
	_, err = saga.NewVersion(1, saga.MaxLSN+1)
	require.Error(t, err)
	largest, err := saga.NewVersion(saga.MaxEpoch, saga.MaxLSN)
	require.NoError(t, err)
	assert.Equal(t, "9223372036854775807", largest.String(), "63 bits, no more")
	body, err := json.Marshal(map[string]any{"v": largest})
	require.NoError(t, err)
	assert.JSONEq(t, `{"v":"9223372036854775807"}`, string(body))
}

func TestKeysAreInjective(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		// PostgreSQL's text holds every character but NUL.
		columns := rapid.SliceOfN(rapid.StringOf(rapid.Rune().Filter(func(r rune) bool { return r != 0 })), 1, 4)
		a, b := columns.Draw(t, "a"), columns.Draw(t, "b")
		back, err := saga.DecodeKey(saga.EncodeKey(a))
		require.NoError(t, err)
		assert.Equal(t, a, back)
		if fmt.Sprintf("%q", a) != fmt.Sprintf("%q", b) {
			assert.NotEqual(t, saga.EncodeKey(a), saga.EncodeKey(b))
		}
	})
	assert.Equal(t, "42", saga.EncodeKey([]string{"42"}))
	assert.Equal(t, "a%3Ab:c", saga.EncodeKey([]string{"a:b", "c"}))
	assert.Equal(t, "%00", saga.EncodeKey([]string{""}), "an id cannot be empty")
}

func TestTopics(t *testing.T) {
	seen := map[string]saga.Table{}
	for _, c := range []struct {
		table saga.Table
		want  string
	}{
		{saga.Table{Schema: "public", Name: "products"}, "p.public.products"},
		{saga.Table{Schema: "public", Name: "my_table-2"}, "p.public.my_table-2"},
		{saga.Table{Schema: "a.b", Name: "c"}, "p.a_x2Eb.c"},
		{saga.Table{Schema: "a", Name: "b.c"}, "p.a.b_x2Ec"},
		{saga.Table{Schema: "a", Name: "b_x2Ec"}, "p.a.b_x5Fx2Ec"},
		{saga.Table{Schema: "a", Name: "b_xyz"}, "p.a.b_xyz"},
		{saga.Table{Schema: "a", Name: "é"}, "p.a._xC3_xA9"},
	} {
		got, err := saga.Prefix("p").Topic(c.table)
		require.NoError(t, err)
		assert.Equal(t, c.want, got)
		assert.NotContains(t, seen, got)
		seen[got] = c.table
	}
	_, err := saga.Prefix("p").Topic(saga.Table{Schema: "public", Name: strings.Repeat("é", 60)})
	require.Error(t, err)
}

func TestPrefix(t *testing.T) {
	for _, bad := range []string{"Capsaga", "1a", "a-b", "a.b", strings.Repeat("a", 33)} {
		_, err := saga.ParsePrefix(bad)
		require.Error(t, err, bad)
	}
	p, err := saga.ParsePrefix("")
	require.NoError(t, err)
	assert.Equal(t, saga.DefaultPrefix, p)
}

func TestParseWriteRefuses(t *testing.T) {
	for line, says := range map[string]string{
		``:   "ends before",
		`{`:  "ends before",
		`[]`: "want a JSON object",
		`{"saga_id":"a","mutations":[{"entity":"e","op":"delete","key":{"id":1}}]} x`:          "more text",
		`{"saga_id":"a","saga_id":"b","mutations":[]}`:                                         "twice",
		`{"saga_id":"a","mutations":[{"entity":"e","op":"insert","row":{"j":{"a":1,"a":2}}}]}`: "twice",
		`{"saga_id":"a","colour":1,"mutations":[]}`:                                            "unknown field colour",
		`{"Saga_ID":"a","mutations":[]}`:                                                       "unknown field Saga_ID",
		`{"saga_id":"a","mutations":[{"entity":"e","op":"delete","keys":{"id":1}}]}`:           "mutations[0].keys",
		`{"saga_id":"a","policy":{"on_error":"park"},"mutations":[]}`:                          "policy.on_error",
		`{"mutations":[]}`:               "saga_id is missing",
		`{"saga_id":"a"}`:                "mutations is empty",
		`{"saga_id":"a","mutations":[]}`: "mutations is empty",
		`{"saga_id":7,"mutations":[]}`:   "saga_id",
		`{"saga_id":"a","mutations":[{"entity":"e","op":"drop","key":{"id":1}}]}`:                                                  `op "drop"`,
		`{"saga_id":"a","mutations":[{"entity":"E;","op":"delete","key":{"id":1}}]}`:                                               "entity",
		`{"saga_id":"a","mutations":[{"entity":"e","op":"delete"}]}`:                                                               "key is missing",
		`{"saga_id":"a","mutations":[{"entity":"e","op":"insert"}]}`:                                                               "row is missing",
		`{"saga_id":"a","mutations":[{"entity":"e","op":"patch","key":{"id":1}}]}`:                                                 "set or add",
		`{"saga_id":"a","mutations":[{"entity":"e","op":"add","key":{"id":1},"set":{"a":1}}]}`:                                     "set does not go",
		`{"saga_id":"a","mutations":[{"entity":"e","op":"patch","key":{"id":1},"set":{"a":1},"add":{"a":1}}]}`:                     "both",
		`{"saga_id":"a","mutations":[{"entity":"e","op":"patch","key":{"id":1},"set":{"a":1},"expect":{"where":[["a","~",1]]}}]}`:  "where[0]",
		`{"saga_id":"a","mutations":[{"entity":"e","op":"patch","key":{"id":1},"set":{"a":1},"expect":{"where":[["a",1]]}}]}`:      "want [column",
		`{"saga_id":"a","consistency":"acid","mutations":[{"entity":"e","op":"delete","key":{"id":1}}]}`:                           "consistency",
		`{"saga_id":"a","policy":{"park_after":"soon"},"mutations":[{"entity":"e","op":"delete","key":{"id":1}}]}`:                 "soon",
		"{\"saga_id\":\"\xff\",\"mutations\":[]}":                                                                                  "UTF-8",
		`{"saga_id":"` + strings.Repeat("a", 201) + `","mutations":[{"entity":"e","op":"delete","key":{"id":1}}]}`:                 "201 bytes",
		`{"saga_id":"a","mutations":` + strings.Repeat("[", 10000) + strings.Repeat("]", 10000) + `}`:                              "nested deeper",
		`{"saga_id":"a","mutations":[{"entity":"e","op":"insert","row":{"t":"` + strings.Repeat("x", saga.MaxWriteBytes) + `"}}]}`: "split it",
	} {
		_, err := saga.ParseWrite([]byte(line))
		var e *saga.Error
		if assert.ErrorAs(t, err, &e, "%.80s", line) {
			assert.Equal(t, saga.CodeInvalidWrite, e.Code)
			assert.Contains(t, e.Message, says)
			assert.Less(t, len(e.Message), 400)
		}
	}
}

func TestParseWriteKeepsNumbers(t *testing.T) {
	line := `{"saga_id":"a","mutations":[{"entity":"e","op":"upsert","row":{"id":9007199254740993,"x":1e400,"y":1.10}}],"policy":{"park_after":"5m"}}`
	w, err := saga.ParseWrite([]byte(line))
	require.NoError(t, err)
	assert.Equal(t, "1e400", string(w.Mutations[0].Row["x"]))
	body, err := json.Marshal(w)
	require.NoError(t, err)
	assert.Equal(t, strings.Replace(line, "5m", "5m0s", 1), string(body))
	assert.Contains(t, string(body), "9007199254740993")
	assert.Contains(t, string(body), "1.10")
}

func TestSurrogates(t *testing.T) {
	const line = `{"saga_id":"%s","mutations":[{"entity":"e","op":"delete","key":{"id":1}}]}`
	for _, good := range []string{`\ud83d\ude00`, `\\ud800`, `\u00e9`, `a\nb`, `\ud83d\ude00\ud83d\ude01`} {
		_, err := saga.ParseWrite(fmt.Appendf(nil, line, good))
		require.NoError(t, err, good)
	}
	for _, bad := range []string{`\ud800`, `\udc00`, `x\ud800\u0041`, `\ud83d\ud83d\ude00`, `\\\ud800`} {
		_, err := saga.ParseWrite(fmt.Appendf(nil, line, bad))
		require.ErrorContains(t, err, "surrogate", bad)
	}
}

func digest(t *testing.T, line string) string {
	t.Helper()
	w, err := saga.ParseWrite([]byte(line))
	require.NoError(t, err)
	return w.Digest()
}

func TestDigest(t *testing.T) {
	base := digest(t, `{"saga_id":"a","mutations":[{"entity":"e","op":"upsert","row":{"id":1,"j":{"b":1,"a":"é<"}}}]}`)
	assert.Equal(t, base, digest(t, `{"saga_id":"b","consistency":"ap","policy":{"park_after":"15m"},"mutations":[{"op":"upsert","entity":"e","row":{"j":{"a":"\u00e9\u003c","b":1},"id":1}}]}`),
		"the order of keys, escapes, defaults and the id make no other content")
	for _, other := range []string{
		`{"saga_id":"a","mutations":[{"entity":"e","op":"upsert","row":{"id":1.0,"j":{"b":1,"a":"é<"}}}]}`,
		`{"saga_id":"a","mutations":[{"entity":"e","op":"insert","row":{"id":1,"j":{"b":1,"a":"é<"}}}]}`,
		`{"saga_id":"a","consistency":"cp","mutations":[{"entity":"e","op":"upsert","row":{"id":1,"j":{"b":1,"a":"é<"}}}]}`,
	} {
		assert.NotEqual(t, base, digest(t, other))
	}
}

func TestToken(t *testing.T) {
	token := saga.NewToken(1<<60, []saga.Owned{{Entity: "products", Key: "42"}, {Entity: "users", Key: "a%3Ab"}})
	back, err := saga.ParseToken(token.String())
	require.NoError(t, err)
	assert.Equal(t, token, back)
	body, err := json.Marshal(token)
	require.NoError(t, err)
	assert.Equal(t, base64.RawURLEncoding.EncodeToString(body), token.String())
	for _, bad := range []string{"", "nonsense!", "bm9uc2Vuc2U"} {
		_, err := saga.ParseToken(bad)
		require.Error(t, err)
	}
}

func TestClassOf(t *testing.T) {
	assert.Equal(t, saga.Rejected, saga.ClassOf(fmt.Errorf("wrapped: %w", &saga.Error{Class: saga.Rejected})))
	assert.Equal(t, saga.Unavailable, saga.ClassOf(errors.New("what nobody knows")))
}

func TestWorkflowID(t *testing.T) {
	assert.Equal(t, "saga/order-1001 a/b:c", saga.WorkflowID("order-1001 a/b:c"))
	assert.Equal(t, "saga/%C3%BC%0A%25C3", saga.WorkflowID("ü\n%C3"))
}

func TestEntityNames(t *testing.T) {
	form := regexp.MustCompile(`^[a-z][a-z0-9_]*$`)
	rapid.Check(t, func(t *rapid.T) {
		name := rapid.OneOf(rapid.StringMatching(`[a-z0-9_A\n-]{0,4}`), rapid.String()).Draw(t, "name")
		assert.Equal(t, form.MatchString(name), saga.ValidEntityName(name), "%q", name)
	})
}

func TestSummary(t *testing.T) {
	for row, says := range map[string]string{
		`{"id":42}`: "e/42 upsert", `{"id":-1.50}`: "e/-1.50 upsert", `{"id":"a\u00e9"}`: "e/aé upsert", `{"id":true}`: "e/true upsert", `{"n":1}`: "e upsert", `{"id":null}`: "e/ upsert",
	} {
		w, err := saga.ParseWrite([]byte(`{"saga_id":"a","mutations":[{"entity":"e","op":"upsert","row":` + row + `}]}`))
		require.NoError(t, err)
		assert.Equal(t, says, w.Summary())
	}
}
