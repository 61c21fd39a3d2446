package main

import (
	"bytes"
	"encoding/json"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	sdkclient "go.temporal.io/sdk/client"

	"github.com/capsaga/capsaga/internal/config"
	"github.com/capsaga/capsaga/internal/elastic"
	"github.com/capsaga/capsaga/internal/stream"
	"github.com/capsaga/capsaga/saga"
)

// golden compares an answer with its lines.
func golden(t *testing.T, got string, want ...string) {
	t.Helper()
	assert.Equal(t, strings.Join(want, "\n")+"\n", got)
}

func newApp(output format) (*app, *bytes.Buffer) {
	var stdout bytes.Buffer
	return &app{stdout: &stdout, stderr: &bytes.Buffer{}, output: output}, &stdout
}

func TestARow(t *testing.T) {
	answer := rowAnswer{
		Entity: "products", Key: "42", Found: true, Version: 9007201764128496, ETag: "1-777", Source: "postgres",
		Row: json.RawMessage(`{"id":42,"title":"<b>\u001b[31m","price":12345678901234567890.50,"genre":null,"tags":["a"]}`),
	}
	a, out := newApp(asTable)
	require.NoError(t, a.writeRow(answer))
	golden(t, out.String(),
		"products/42 from postgres, version 9007201764128496, etag 1-777",
		"COLUMN  VALUE",
		"id      42",
		`title   <b>\x1b[31m`,
		"price   12345678901234567890.50",
		"genre   null",
		`tags    ["a"]`)

	a, out = newApp(asJSON)
	require.NoError(t, a.writeRow(answer))
	var got map[string]json.RawMessage
	require.NoError(t, json.Unmarshal(out.Bytes(), &got))
	assert.Equal(t, `"9007201764128496"`, string(got["version"]))
	assert.Contains(t, out.String(), "12345678901234567890.50")
	assert.Contains(t, out.String(), "<b>")
}

func TestAnAbsentRow(t *testing.T) {
	a, out := newApp(asJSON)
	err := a.writeRow(rowAnswer{Entity: "products", Key: "42", Version: 7, Source: "redis"})
	assert.EqualError(t, err, "redis has no products/42: it was deleted at version 7")
	assert.Contains(t, out.String(), `"found": false`)
	assert.Contains(t, out.String(), `"row": null`)
	a, out = newApp(asTable)
	require.Error(t, a.writeRow(rowAnswer{Entity: "products", Key: "42", Source: "redis"}))
	assert.Empty(t, out.String())
}

func TestKeys(t *testing.T) {
	one := &saga.Entity{Name: "one", Key: []string{"id"}}
	two := &saga.Entity{Name: "two", Key: []string{"shop", "sku"}}
	for _, test := range []struct {
		entity *saga.Entity
		text   string
		want   []string
	}{
		{one, "42", []string{"42"}},
		{one, `{"id":42}`, []string{"42"}},
		{one, `{"id":12345678901234567890.10}`, []string{"12345678901234567890.10"}},
		{one, `{"id":"a/b"}`, []string{"a/b"}},
		{one, `{"id":true}`, []string{"true"}},
		{one, "{not json", []string{"{not json"}},
		{one, "", []string{""}},
		{two, ` {"sku":7,"shop":"B:1"}`, []string{"B:1", "7"}},
	} {
		texts, err := parseKey(test.entity, test.text)
		require.NoError(t, err, test.text)
		assert.Equal(t, test.want, texts)
	}
}

func TestLinksEscapeTheWorkflow(t *testing.T) {
	c := config.Config{TemporalUIURL: "http://ui", Temporal: sdkclient.Options{Namespace: "a b"}}
	assert.Equal(t, "http://ui/namespaces/a%20b/workflows/saga%2Fx%3Fy/run/history", workflowURL(c, "saga/x?y", "run"))
	assert.Equal(t, "http://ui/namespaces/a%20b/workflows/saga%2Fx%3Fy", workflowURL(c, "saga/x?y", ""))
	assert.Empty(t, workflowURL(config.Config{}, "saga/x", "run"))
}

func TestStreamsTable(t *testing.T) {
	a, out := newApp(asTable)
	safe := int64(64 << 20)
	found := &stream.Past{To: 0x16B3748, At: time.Date(2026, 5, 1, 10, 0, 0, 0, time.UTC), Open: true}
	require.NoError(t, a.writeStreams([]stream.Info{
		{
			Name: "kafkapub", Slot: "capsaga_kafkapub", Exists: true, Holder: "host:1", Active: true, ConfirmedLSN: 0x16B3748, LagBytes: 1536, LagSeconds: 0.25,
			WALStatus: "extended", SafeBytes: &safe, RetainedBytes: 4096, Gap: found, Alarms: []string{"topic a.b is diverted"},
		},
		{Name: "espub", Slot: "capsaga_espub", Exists: true, WALStatus: "lost", SafeBytes: &safe, Error: "the slot was invalidated by the server"},
		{Name: "redispub", Slot: "capsaga_redispub", Error: "the slot is gone"},
	}))
	golden(t, out.String(),
		"NAME      SLOT              HOLDER  ACTIVE  CONFIRMED  LAG      BEHIND  WAL                       KEPT     GAP                          ERROR",
		"kafkapub  capsaga_kafkapub  host:1  true    0/16B3748  1.5 KiB  0.2s    extended, 64.0 MiB to go  4.0 KiB  2026-05-01 10:00:00Z (open)  1 told below",
		"espub     capsaga_espub     -       false   0/0        0 B      0.0s    lost                      0 B      -                            the slot was invalidated by the server",
		"redispub  capsaga_redispub  -       false   0/0        0 B      0.0s    gone                      0 B      -                            the slot is gone")
	a, out = newApp(asJSON)
	require.NoError(t, a.writeStreams(nil))
	golden(t, out.String(), "[]")
}

func TestFoundTable(t *testing.T) {
	found := elastic.Found{Total: 31, Hits: []elastic.Hit{{
		Key: "42", Score: 3.14159, Version: 7, Row: json.RawMessage(`{"id":42,"title":"The Abyss","director":"James Cameron","genre":"Action"}`),
		Highlights: map[string][]string{"title": {"The <em>Abyss</em>"}, "title.keyword": {"x"}},
	}}}
	a, out := newApp(asTable)
	require.NoError(t, a.writeFound("products", found))
	golden(t, out.String(),
		"KEY  SCORE  TEXT                       MATCH",
		"42   3.14   The Abyss · James Cameron  title: The *Abyss*")
	a, out = newApp(asJSON)
	require.NoError(t, a.writeFound("products", found))
	assert.Contains(t, out.String(), `"version": "7"`)
	assert.Contains(t, out.String(), "<em>Abyss</em>")
}

func TestPrintableTextSteersNoTerminal(t *testing.T) {
	assert.Equal(t, `a\x1b[2Jb\nc\u202e`, printable("a\x1b[2Jb\nc\u202e"))
	assert.Equal(t, "Müller 日本", printable("Müller 日本"))
	assert.Equal(t, "abc…", shorten("abcdefg", 4))
}
