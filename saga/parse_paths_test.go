package saga

import (
	"bytes"
	"encoding/json"
	"fmt"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"
)

// samePaths holds the fast paths of parsing and digesting against the slow ones,
// and reports whether the fast path took the write.
func samePaths(t require.TestingT, text []byte) bool {
	before := bytes.Clone(text)
	slow, err := slowParseWrite(text)
	fast, ok := scanWrite(text)
	require.Equal(t, before, text, "nobody writes into the caller's text")
	if ok {
		require.NoError(t, err, "the fast path takes what the slow one refuses: %q", text)
		require.Equal(t, slow, fast, "%q", text)
	}
	if err == nil {
		sameDigests(t, slow)
	}
	return ok
}

// sameDigests does so for any write, also one that ParseWrite would refuse.
func sameDigests(t require.TestingT, w *Write) {
	require.Equal(t, string(w.slowCanonical()), string(w.canonical()), "%+v", w)
	require.Equal(t, digestOf(w.slowCanonical()), w.Digest(), "%+v", w)
}

// oddWrites are texts at the borders of what is a write.
var oddWrites = func() []string {
	const mutation = `{"saga_id":"a","mutations":[{"entity":"e","op":"upsert","row":{"id":%s}}]}`
	texts := []string{
		``, ` `, `{}`, `[]`, `null`, `"a"`, `{"saga_id":"a"}`, `{"saga_id":"a"} x`, `{"saga_id":"a"}}`, "\ufeff{}", "{}\u00a0", "\t{\"saga_id\" :\r\n\"a\" } ",
		`{"saga_id":1}`, `{"saga_id":null}`, `{"Saga_id":"a"}`, `{"saga\u005fid":"\u00e9\/\b\f\n\r\t\\\""}`, `{"saga_id":"a","saga\u005fid":"b"}`, `{"saga_id":"a",}`, `{,"saga_id":"a"}`,
		`{"saga_id" "a"}`, `{"saga_id":"a" "x":1}`, `{"saga_id":"a\x"}`, `{"saga_id":"a`, `{"saga_id":"a\`, `{"saga_id":"a\"`, "{\"saga_id\":\"\x01\"}", "{\"saga_id\":\"\x7f\"}", "{\"saga_id\":\"\xff\"}", "{\"saga_id\":\"\\\n\"}",
		`{"mutations":null}`, `{"mutations":[]}`, `{"mutations":[null]}`, `{"mutations":{}}`, `{"mutations":[{}]}`, `{"mutations":[{},]}`, `{"mutations":[,{}]}`, `{"mutations":[{} {}]}`, `{"mutations":[{"x":1}]}`,
		`{"mutations":[{"row":null,"key":{},"set":{"a":null},"add":[]}]}`, `{"mutations":[{"row":{"b":1,"a":2,"b":3}}]}`, `{"mutations":[{"row":{"b":1,"a":2,"\u0062":3}}]}`, `{"mutations":[{"row":{"":1}}]}`,
		`{"mutations":[{"expect":{}}]}`, `{"mutations":[{"expect":null}]}`, `{"mutations":[{"expect":{"exists":true,"etag":""}}]}`, `{"mutations":[{"expect":{"exists":null}}]}`, `{"mutations":[{"expect":{"exists":falsey}}]}`, `{"mutations":[{"expect":{"exists":"true"}}]}`,
		`{"mutations":[{"expect":{"where":[]}}]}`, `{"mutations":[{"expect":{"where":[["a","=",1],["b","<>",null]]}}]}`, `{"mutations":[{"expect":{"where":[["a","="]]}}]}`, `{"mutations":[{"expect":{"where":[["a","=",1,2]]}}]}`, `{"mutations":[{"expect":{"where":[null,[],["a",null,1]]}}]}`,
		`{"consistency":"cp","policy":{"on_reject":"skip","park_after":"1h2m3s"}}`, `{"policy":null}`, `{"policy":{"park_after":5}}`, `{"policy":{"park_after":"soon"}}`, `{"policy":{"park_after":"-1s"}}`, `{"policy":{"x":1}}`,
		`{"before_steps":[{"name":"a","task_queue":"q","activity":"A","input":{"z":1, "a":[]},"compensation":"B","timeout":"1s"}],"after_steps":[]}`, `{"after_steps":[{"input":null}]}`, `{"after_steps":[{"timeout":""}]}`,
		`{"stream":{"sink":"redis","entity":"e","key":"1","version":"0012","op":"upsert"}}`, `{"stream":{"version":"-1"}}`, `{"stream":{"version":1}}`, `{"stream":null}`, `{"stream":{}}`,
	}
	for _, value := range []string{
		`0`, `-0`, `01`, `1.`, `.5`, `1.50`, `1e400`, `1E+2`, `1e`, `1e-`, `-`, `+1`, `1x`, `0x1`, `NaN`, `true`, `false`, `null`, `nul`, `truE`, `truefalse`, `'a'`,
		`""`, `"é"`, `"\u00e9<>&\u2028\u2029"`, "\"\u2028\u2027\u2029\u202a\u3000\"", "\"\xe2\x80\"", `"\u00e"`, `"\u00E9\u0000\u001f"`, `"\ud83d\ude00"`, `"\ud83d"`, `"\ude00\ud83d"`, `"\ud83dx"`, `"\ud83d\u0041"`, `"\\ud83d"`, `"\ufffd"`,
		`{}`, `[]`, `[ ]`, `{ }`, `[1,]`, `[1 , 2]`, `{"b":1,"a":2}`, `{"b":{"y":1,"x":[{"d":1,"c":2}]},"a":"b","<":1,"\u003d":2}`, `{"a":1,"a":2}`, `{"b":1,"a":2,"\u0062":3}`, `{"a":}`, `{"a"}`, `{1:2}`, `[}`, `{]`, `[[[`,
		strings.Repeat("[", 95) + strings.Repeat("]", 95), strings.Repeat("[", 96) + strings.Repeat("]", 96), strings.Repeat("[", 97) + strings.Repeat("]", 97), strings.Repeat(`{"a":`, 96) + "1" + strings.Repeat("}", 96), strings.Repeat(`{"a":`, 97) + "1" + strings.Repeat("}", 97),
	} {
		texts = append(texts, fmt.Sprintf(mutation, value), fmt.Sprintf(`{"mutations":[{"expect":{"where":[["a","=",%s]]}}]}`, value))
	}
	return texts
}()

func TestPathsAgreeOnOddWrites(t *testing.T) {
	for _, text := range oddWrites {
		samePaths(t, []byte(text))
	}
	for size, text := range benchWrites() {
		assert.True(t, samePaths(t, text), "the fast path is for a write of %s", size)
	}
}

// TestDigestsNeverChange has digests that were taken when the ledger's format was
// settled.
func TestDigestsNeverChange(t *testing.T) {
	for text, want := range map[string]string{
		`{"saga_id":"a","mutations":[{"entity":"products","op":"upsert","row":{"id":1,"title":"a <b> & \u2028é","doc":{"b":[1,2.50,{}],"a":null}}}]}`:                                                                                                                                 "a6043ca8f4127b6d5894c3ff487e856c32382621e0c4346546fb11c7e2558644",
		`{"saga_id":"a","consistency":"cp","policy":{"on_reject":"skip","park_after":"90s"},"mutations":[{"entity":"products","op":"patch","key":{"id":"x"},"set":{"a":1},"add":{"n":-1},"expect":{"etag":"7","exists":true,"where":[["n",">=",1]]}}]}`:                               "ea09a56c25754f17c3b4ef7164fad0bfa82d4489cb5897cdbffb3e0d381630f5",
		`{"saga_id":"a","mutations":[{"entity":"e","op":"delete","key":{"id":1}}],"before_steps":[{"name":"pay","task_queue":"q","activity":"Pay","compensation":"Refund","input":{"b":1,"a":2},"timeout":"5s"}],"after_steps":[{"name":"mail","task_queue":"q","activity":"Mail"}]}`: "252aacd5b7281ea416f9254f604c4c322442c1112233f0d8fdccf869955cfec9",
		`{"saga_id":"a","stream":{"sink":"redis","entity":"products","key":"42","version":"9007199254740993","op":"delete"}}`:                                                                                                                                                         "a0e14a85efa7f3096db58e36229a083462efb6c558f6804927371dc4546c0b13",
	} {
		w, err := ParseWrite([]byte(text))
		require.NoError(t, err)
		assert.Equal(t, want, w.Digest(), text)
		assert.Equal(t, want, digestOf(w.slowCanonical()), text)
	}
}

// TestPathsAgree draws writes that are nearly right, and changes some bytes of
// half of them.
func TestPathsAgree(t *testing.T) {
	taken := 0
	rapid.Check(t, func(t *rapid.T) {
		text := []byte(drawWrite(t))
		for range rapid.IntRange(-3, 3).Draw(t, "changes") {
			at := rapid.IntRange(0, len(text)-1).Draw(t, "at")
			text[at] = rapid.SampledFrom([]byte("{}[]\",:\\u0nt1.- \x00\xe2")).Draw(t, "byte")
		}
		if samePaths(t, text) {
			taken++
		}
	})
	assert.Positive(t, taken)
}

// TestDigestsAgree draws writes as programs make them, whose values no parser has
// seen.
func TestDigestsAgree(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		name := rapid.OneOf(rapid.String(), rapid.StringMatching(`[a-c<>&]{0,2}`), rapid.Map(rapid.SliceOfN(rapid.Byte(), 0, 4), func(b []byte) string { return string(b) }))
		value := rapid.Custom(func(t *rapid.T) json.RawMessage {
			if rapid.IntRange(0, 30).Draw(t, "odd") == 0 {
				return rapid.SampledFrom([]json.RawMessage{nil, {}, []byte("x"), []byte(`"` + "\xff" + `"`), []byte(`"\ud800"`), []byte(`{"a":1,"a":2}`), []byte(" 1 "), []byte("1 2")}).Draw(t, "value")
			}
			return json.RawMessage(drawJSON(t, 3))
		})
		columns := rapid.Custom(func(t *rapid.T) Columns { return rapid.MapOfN(name, value, -1, 4).Draw(t, "columns") })
		task := rapid.Custom(func(t *rapid.T) Task {
			return Task{Name: name.Draw(t, "name"), Activity: name.Draw(t, "activity"), Compensation: name.Draw(t, "compensation"), Input: value.Draw(t, "input"), Timeout: Duration(rapid.Int64().Draw(t, "timeout"))}
		})
		w := &Write{
			Consistency: Consistency(name.Draw(t, "consistency")),
			Policy:      Policy{OnReject: OnReject(name.Draw(t, "on_reject")), ParkAfter: Duration(rapid.Int64().Draw(t, "park_after"))},
			BeforeSteps: rapid.SliceOfN(task, -1, 2).Draw(t, "before"),
			AfterSteps:  rapid.SliceOfN(task, -1, 2).Draw(t, "after"),
		}
		if rapid.Bool().Draw(t, "stream") {
			w.Stream = &StreamChange{Entity: name.Draw(t, "entity"), Key: name.Draw(t, "key"), Version: Version(rapid.Int64().Draw(t, "version"))}
		}
		if rapid.Bool().Draw(t, "empty") {
			w.Mutations = []Mutation{}
		}
		for range rapid.IntRange(0, 3).Draw(t, "mutations") {
			m := Mutation{Entity: name.Draw(t, "entity"), Op: Op(name.Draw(t, "op")), Row: columns.Draw(t, "row"), Key: columns.Draw(t, "key"), Set: columns.Draw(t, "set"), Add: columns.Draw(t, "add")}
			if rapid.Bool().Draw(t, "expect") {
				m.Expect = &Expect{ETag: name.Draw(t, "etag"), Exists: rapid.Ptr(rapid.Bool(), true).Draw(t, "exists")}
				for range rapid.IntRange(0, 2).Draw(t, "where") {
					m.Expect.Where = append(m.Expect.Where, Condition{name.Draw(t, "column"), name.Draw(t, "operator"), value.Draw(t, "value")})
				}
			}
			w.Mutations = append(w.Mutations, m)
		}
		sameDigests(t, w)
	})
}

func FuzzParseWrite(f *testing.F) {
	for _, text := range oddWrites {
		f.Add([]byte(text))
	}
	for size, text := range benchWrites() {
		if size != "100kB" {
			f.Add(text)
		}
	}
	f.Fuzz(func(t *testing.T, text []byte) {
		samePaths(t, text)
		// The same text as the value of a column that no parser has seen.
		sameDigests(t, &Write{Mutations: []Mutation{{Row: Columns{"a": text, string(text): []byte("1")}}}})
	})
}

// drawWrite draws a text that is mostly a write.
func drawWrite(t *rapid.T) string {
	space := rapid.SampledFrom([]string{"", "", "", " ", "\n\t"})
	object := func(members ...string) string {
		members = rapid.Permutation(members).Draw(t, "order")
		members = members[:rapid.IntRange(0, len(members)).Draw(t, "kept")]
		return "{" + space.Draw(t, "space") + strings.Join(members, space.Draw(t, "space")+",") + "}"
	}
	text := func() string { return drawText(t) }
	columns := func() string {
		var members []string
		for range rapid.IntRange(0, 4).Draw(t, "columns") {
			members = append(members, drawText(t)+":"+drawJSON(t, 3))
		}
		return object(members...)
	}
	task := func() string {
		return object(`"name":`+text(), `"task_queue":`+text(), `"activity":`+text(), `"input":`+drawJSON(t, 3), `"compensation":`+text(), `"timeout":"3s"`)
	}
	var mutations []string
	for range rapid.IntRange(0, 3).Draw(t, "mutations") {
		expect := object(`"etag":`+text(), `"exists":`+rapid.SampledFrom([]string{"true", "false", "null"}).Draw(t, "exists"), `"where":[[`+text()+`,`+space.Draw(t, "space")+text()+`,`+drawJSON(t, 2)+`]]`)
		mutations = append(mutations, object(`"entity":`+text(), `"op":`+text(), `"row":`+columns(), `"key":`+columns(), `"set":`+columns(), `"add":`+columns(), `"expect":`+expect))
	}
	return object(`"saga_id":`+text(), `"mutations":[`+strings.Join(mutations, ",")+`]`, `"consistency":`+text(),
		`"policy":`+object(`"on_reject":`+text(), `"park_after":"5m"`), `"before_steps":[`+task()+`]`, `"after_steps":[`+task()+`,`+task()+`]`,
		`"stream":`+object(`"sink":`+text(), `"entity":`+text(), `"key":`+text(), `"version":"17"`, `"op":`+text()))
}

func drawText(t *rapid.T) string {
	parts := rapid.SliceOfN(rapid.SampledFrom([]string{"a", "b", "C", "é", "\u2028", "\u2029", "😀", "<", "&", `\n`, `\"`, `\\`, `\/`, `\u0061`, `\u00e9`, `\u2028`, `\ud83d\ude00`, `\u001f`, "\x7f"}), 0, 4)
	return `"` + strings.Join(parts.Draw(t, "text"), "") + `"`
}

func drawJSON(t *rapid.T, depth int) string {
	kinds := 3
	if depth == 0 {
		kinds = 1
	}
	switch rapid.IntRange(0, kinds).Draw(t, "kind") {
	case 0:
		return rapid.SampledFrom([]string{"null", "true", "false", "0", "-1", "1.50", "1e400", "-0", "9007199254740993"}).Draw(t, "literal")
	case 1:
		return drawText(t)
	case 2:
		var elements []string
		for range rapid.IntRange(0, 3).Draw(t, "elements") {
			elements = append(elements, drawJSON(t, depth-1))
		}
		return "[" + strings.Join(elements, " ,") + "]"
	}
	var members []string
	for range rapid.IntRange(0, 4).Draw(t, "members") {
		members = append(members, drawText(t)+": "+drawJSON(t, depth-1))
	}
	return "{" + strings.Join(members, ",") + " }"
}
