package sinktest

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/capsaga/capsaga/saga"
)

// trickyKeys are keys of which a careless encoding makes one out of two, or an
// address of something else.
var trickyKeys = [][]string{
	{"a:b", "c"}, {"a", "b:c"}, {"a", "b", "c"}, {"a:b:c"}, {"a%3Ab", "c"}, {"a%3ab", "c"}, {"a%253Ab", "c"},
	{"", "x"}, {"x", ""}, {"x"}, {":x"}, {"x:"}, {"", ""}, {"", "", ""}, {":"},
	{"."}, {".."}, {"../things_more/x"}, {"/"}, {"x/y"}, {"_doc"}, {"_x"}, {"-"}, {"*"}, {"?"}, {"#"}, {"x?pretty"},
	{" "}, {"x "}, {" x"}, {"\t"}, {"\n"}, {"\r\n"}, {"\""}, {"\\"}, {"\\n"}, {"{}"}, {"'"}, {"%"}, {"%00"}, {"%%"}, {"+"},
	{"A"}, {"a"}, {"é"}, {"e\u0301"}, {"É"}, {"ß"}, {"ss"}, {"ﬀ"}, {"日本"}, {"😀"}, {"\u2028"}, {"\x7f"}, {"\ufeff"},
	{"1"}, {"01"}, {"1.0"}, {"1e0"}, {"null"}, {"true"}, {strings.Repeat("k", 512)}, {strings.Repeat("k", 511)},
}

func testKeys(t *testing.T, s *suite) {
	var docs []saga.Document
	seen := make(map[string]bool)
	for _, columns := range trickyKeys {
		key := saga.EncodeKey(columns)
		require.False(t, seen[key], "%q is encoded as another key is", columns)
		seen[key] = true
		for _, entity := range []string{Entity, OtherEntity} {
			docs = append(docs, saga.Document{
				Entity: entity, Key: key, Version: base + saga.Version(len(docs)), Row: row(fmt.Sprintf("%s %q", entity, columns)),
			})
		}
	}
	for i, changed := range s.apply(t, docs...) {
		assert.True(t, changed, "%s of %s was there already", docs[i].Key, docs[i].Entity)
	}
	for _, doc := range docs {
		s.requireHeld(t, doc)
	}
}

// trickyRows are rows whose numbers, texts and names a decoder would change.
var trickyRows = []string{
	`{"n":9007199254740993}`,
	`{"n":-9223372036854775808,"m":9223372036854775807,"k":18446744073709551616}`,
	`{"n":1.10,"m":1.0,"k":-0.0,"j":0.1000000000000000055511151231257827}`,
	`{"n":1e400,"m":-1E+400,"k":1e-400}`,
	`{"n":123456789012345678901234567890.123456789012345678901234567890}`,
	`{"name":"Ada \"the\" \\ first\n\r\t\b\f\/","empty":"","none":null,"yes":true}`,
	`{"name":"\u00e9\u2028\ud83d\ude00 \u0001","é 日本 😀":"é 日本 😀","html":"<a href='x'>&amp;</a>"}`,
	`{"a b":2,"a.b":3,"_Id":"x","source":{"_version":1},"v":"v","d":"d","del":"1"}`,
	`{"b":1,"a":2,"C":3,"list":[1,[2,{"x":[]}],{}],"doc":{"z":{"y":{}},"a":null}}`,
	`{}`,
	"{\"doc\":{\n  \"spread\" : [1,\r\n\t2]\n},\"n\": 1.10}",
	"\n{ \"n\" :\n1e400 }\n",
}

func testRows(t *testing.T, s *suite) {
	trickyRows := append([]string{`{"name":"` + strings.Repeat("long ", 100_000) + `"}`}, trickyRows...)
	docs := make([]saga.Document, len(trickyRows))
	for i, text := range trickyRows {
		docs[i] = saga.Document{Entity: Entity, Key: s.newKey(), Version: base, Row: json.RawMessage(text)}
	}
	for i, changed := range s.apply(t, docs...) {
		assert.True(t, changed, "row %.60s", trickyRows[i])
	}
	for _, doc := range docs {
		s.requireHeld(t, doc)
	}
}
