package main

import (
	"bytes"
	"context"
	"os"
	"path/filepath"
	"runtime/debug"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

const testCatalog = `version: 1
kafka_tables: all
entities:
  products:
    table: public.products
    key: [id]
    sinks: {redis: {}, kafka: {}}
  pairs:
    table: public.pairs
    key: [a, b]
    sinks: {kafka: {}}
`

// nowhere is an environment in which every system is away: whatever a test runs
// in it has opened nothing, or fails.
func nowhere(t *testing.T) []string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "capsaga.yaml")
	require.NoError(t, os.WriteFile(path, []byte(testCatalog), 0o600))
	return []string{
		"TEMPORAL_CONFIG_FILE=/nonexistent", "TEMPORAL_ADDRESS=127.0.0.1:1",
		"CAPSAGA_POSTGRES_URL=postgres://app:s3cret@127.0.0.1:1/shop", "CAPSAGA_REDIS_URL=redis://:s3cret@127.0.0.1:1/0",
		"CAPSAGA_KAFKA_BROKERS=127.0.0.1:1", "CAPSAGA_ELASTICSEARCH_URL=http://app:s3cret@127.0.0.1:1",
		"CAPSAGA_CATALOG=" + path,
	}
}

type result struct {
	status         int
	stdout, stderr string
}

func execute(t *testing.T, environ []string, stdin string, args ...string) result {
	t.Helper()
	var stdout, stderr bytes.Buffer
	a := &app{environ: environ, stdin: strings.NewReader(stdin), stdout: &stdout, stderr: &stderr}
	status := a.run(context.Background(), args)
	assert.NotContains(t, stdout.String()+stderr.String(), "s3cret")
	return result{status, stdout.String(), stderr.String()}
}

func TestWrongCommandLines(t *testing.T) {
	for line, want := range map[string]string{
		"frobnicate":                     `unknown command "frobnicate"`,
		"--frobnicate":                   "unknown flag",
		"version -o yaml":                `-o "yaml": want table or json`,
		"version now":                    "unknown command",
		"write":                          "accepts 1 arg",
		"write a b":                      "accepts 1 arg",
		"write - --wait soon":            "want committed or visible",
		"write - --timeout 0s":           "--timeout",
		"write - --timeout x":            "--timeout",
		"write - --concurrency 0":        "--concurrency",
		"write - --concurrency 100000":   "--concurrency",
		"write - --batch 0":              "--batch",
		"write - --batch 1001":           "--batch",
		"get products":                   "accepts 2 arg",
		"get products 1 --from kafka":    "want postgres, redis or elasticsearch",
		"get products 1 --consistency x": "not there yet",
		"get pairs 1":                    "a, b",
		`get pairs {"a":1}`:              "column b is missing",
		`get pairs {"a":1,"b":null}`:     "never null",
		`get pairs {"a":1,"b":2,"c":3}`:  "more than the key columns",
		"show":                           "accepts 1 arg",
		"catalog":                        "want validate, apply, show or drop",
		"catalog frobnicate":             "frobnicate",
		"search products x --size 0":     "--size",
		"search products x":              "does not go to elasticsearch",
		"list x":                         "unknown command",
		"list --status stuck":            "want one or more of pending, committed, parked",
		"list --entity Products":         "want an entity's name",
		"list --error-class bad":         "want unavailable, rejected or ambiguous",
		"list --since yesterday":         "want how long ago",
		"list --limit 0":                 "--limit",
		"replay":                         "which sagas? give ids",
		"replay x --status parked":       "not both",
		"replay --status completed":      "has ended",
		"replay x --timeout 0s":          "--timeout",
		"skip --stopped":                 "can only be replayed",
		"replay -":                       "standard input holds none",
		"edit x":                         "an edit needs --set COLUMN=JSON or --patch",
		"edit x --set title":             "want COLUMN=JSON",
		"edit x --set title=Lamp":        `a text is written 'title="Lamp"'`,
		"edit x --set a=1 --set a=2":     "column a is set twice",
		"edit x --set a=1 --patch []":    "do not go together",
		"edit x --row a/1 --patch []":    "--row goes with --set",
		"edit x --patch {}":              "want a JSON list of mutations",
		`edit x --patch [{"entity":1}]`:  "--patch",
		"edit - --patch -":               "standard input cannot be both",
		"history":                        "want verify or download",
		"history verify":                 "accepts 1 arg",
		"history download /tmp/x":        "which sagas?",
		"backfill":                       "name an entity, or say --all",
		"backfill a --all":               "want one of them",
		"backfill products --sinks disk": "want redis, kafka or elasticsearch",
		"backfill pairs --sinks redis":   "entity pairs does not go there, but to kafka",
		"backfill --list products":       "--list stands alone",
		"catalog drop":                   "accepts 1 arg",
		"backfill --cancel":              "name an entity",
		"reconcile":                      "not there yet",
		"cap --watch":                    "not there yet",
		"logs":                           "not there yet",
		"bench --only z":                 "no such contestant",
		"bench --repetitions -1":         "from 1 to 100",
		"bench --duration -1s":           "above zero",
		"bench --settle -1s":             "above zero",
		"bench now":                      "unknown command",
		"bench scale --only z":           "no such part",
		"bench scale --tables 10,1":      "sizes that grow",
		"bench scale --workers 0":        "from 1 to 32",
		"serve":                          "not there yet",
	} {
		t.Run(line, func(t *testing.T) {
			t.Parallel()
			r := execute(t, nowhere(t), "", strings.Fields(line)...)
			assert.Equal(t, statusUsage, r.status, r.stderr)
			assert.Contains(t, r.stderr, want)
			assert.Empty(t, r.stdout)
		})
	}
}

func TestFailuresNameWhatAndWhere(t *testing.T) {
	folder := t.TempDir()
	for line, want := range map[string]string{
		"write -":                     "127.0.0.1:1",
		"write /nonexistent":          "read /nonexistent: no such file",
		"write " + folder:             "folder",
		"get nothing 1":               `unknown entity "nothing"`,
		"get products 1":              "127.0.0.1",
		"get products 1 --from redis": "127.0.0.1:1",
		"show x":                      "TEMPORAL_ADDRESS",
		"list":                        "127.0.0.1:1",
		"replay x":                    "TEMPORAL_ADDRESS",
		"replay x y":                  "TEMPORAL_ADDRESS",
		"replay x --dry-run":          "none of the sagas can be looked up",
		"skip --status parked --yes":  "TEMPORAL_ADDRESS",
		"history verify /nonexistent": "name a folder of histories",
		"history verify " + folder:    "has no *.json",
		"history download /tmp/x y":   "TEMPORAL_ADDRESS",
		"streams":                     "127.0.0.1",
		"catalog validate":            "127.0.0.1",
	} {
		t.Run(line, func(t *testing.T) {
			t.Parallel()
			r := execute(t, nowhere(t), "{}\n", strings.Fields(line)...)
			assert.Equal(t, statusFailed, r.status, r.stderr)
			assert.Contains(t, r.stderr+r.stdout, want)
		})
	}
}

func TestEveryWrongVariableIsALine(t *testing.T) {
	r := execute(t, append(nowhere(t), "CAPSAGA_PREFIX=X", "CAPSAGA_KAFKA_TLS=x"), "", "streams")
	assert.Equal(t, statusFailed, r.status)
	assert.Contains(t, r.stderr, "capsaga: CAPSAGA_PREFIX: ")
	assert.Contains(t, r.stderr, "capsaga: CAPSAGA_KAFKA_TLS: ")
}

func TestWhatNeedsNoSystem(t *testing.T) {
	r := execute(t, nil, "", "version")
	assert.Equal(t, statusDone, r.status, r.stderr)
	assert.Contains(t, r.stdout, "capsaga ")
	r = execute(t, nil, "", "version", "-o", "json")
	assert.Contains(t, r.stdout, `"go": "go1.`)
	r = execute(t, nil, "")
	assert.Equal(t, statusDone, r.status, r.stderr)
	assert.Contains(t, r.stdout, "Not there yet:")
	r = execute(t, nowhere(t), "", "catalog", "show")
	assert.Equal(t, statusDone, r.status, r.stderr)
	assert.Contains(t, r.stdout, "tombstone_ttl: 24h")
	r = execute(t, nowhere(t), "", "catalog", "show", "-o", "json")
	assert.Equal(t, statusDone, r.status, r.stderr)
	assert.Contains(t, r.stdout, `"public.products"`)
}

func TestBuildIsReadFromTheProgram(t *testing.T) {
	info := &debug.BuildInfo{Main: debug.Module{Version: "v1.2.3"}, Settings: []debug.BuildSetting{
		{Key: "vcs.revision", Value: "abc"}, {Key: "vcs.time", Value: "2026-01-02T03:04:05Z"}, {Key: "vcs.modified", Value: "true"},
	}}
	b := readBuild(info)
	assert.Equal(t, "v1.2.3", b.Version)
	assert.Equal(t, "abc", b.Revision)
	assert.True(t, b.Modified)
	assert.Equal(t, "unknown", readBuild(nil).Version)
}
