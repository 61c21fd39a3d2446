package main

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

func TestParseLock(t *testing.T) {
	sum := strings.Repeat("ab", 32)
	artifacts, err := parseLock("# comment\n\nkafka org.x.y:a:1.0 " + sum + " 7\nkafka g:a:1.0:linux " + sum + " 8\ntemporal example.org/cli:v1 h1:abc= 0\n")
	require.NoError(t, err)
	require.Len(t, artifacts, 3)
	assert.Equal(t, "org/x/y/a/1.0/a-1.0.jar", artifacts[0].path())
	assert.Equal(t, int64(7), artifacts[0].size)
	assert.Equal(t, "g/a/1.0/a-1.0-linux.jar", artifacts[1].path())

	for name, line := range map[string]string{
		"3 fields":                 "kafka g:a:1.0 " + sum,
		"not a number of bytes":    "kafka g:a:1.0 " + sum + " many",
		"not a SHA-256":            "kafka g:a:1.0 abcd 7",
		"not group:artifact":       "kafka g:a " + sum + " 7",
		"is not module:version":    "temporal cli h1:abc= 0",
		"line 2: size":             "# one\nkafka g:a:1.0 " + sum + " -1",
		"want set, coordinate, ch": "kafka",
	} {
		_, err := parseLock(line)
		assert.ErrorContains(t, err, name, line)
	}
}

// Every platform that the code names must be in the lock.
func TestLockIsWhole(t *testing.T) {
	for _, name := range []string{
		"postgres-linux-amd64", "postgres-linux-arm64", "postgres-darwin-amd64", "postgres-darwin-arm64",
		"redis", "kafka", "elasticsearch", "elasticsearch-netty4", "temporal",
	} {
		set, err := lockedSet(name)
		require.NoError(t, err)
		assert.NotEmpty(t, set)
	}
	_, err := lockedSet("postgres-plan9-mips")
	assert.ErrorContains(t, err, "platform is not supported")
}

// testCache is a cache that downloads from a repository with one file.
func testCache(t *testing.T, content string) (c *cache, output *bytes.Buffer) {
	t.Helper()
	repository := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path != "/g/a/1/a-1.jar" {
			http.NotFound(w, r)
			return
		}
		_, _ = w.Write([]byte(content))
	}))
	t.Cleanup(repository.Close)
	output = &bytes.Buffer{}
	report := &reporter{out: output}
	return &cache{dir: t.TempDir(), baseURL: repository.URL, report: report}, output
}

func locked(content string) artifact {
	sum := sha256.Sum256([]byte(content))
	return artifact{set: "s", coordinate: "g:a:1", sum: hex.EncodeToString(sum[:]), size: int64(len(content))}
}

func TestFetchDownloadsOnce(t *testing.T) {
	c, output := testCache(t, "the jar")
	a := locked("the jar")
	require.NoError(t, c.fetch(t.Context(), []artifact{a}))
	content, err := os.ReadFile(c.file(a))
	require.NoError(t, err)
	assert.Equal(t, "the jar", string(content))
	assert.Contains(t, output.String(), "downloaded 1 of 1 files")

	c.baseURL = "http://127.0.0.1:1" // nothing may be asked of it again
	require.NoError(t, c.fetch(t.Context(), []artifact{a}))
}

func TestFetchRefusesWrongChecksum(t *testing.T) {
	c, _ := testCache(t, "something else")
	a := locked("the jar")
	err := c.fetch(t.Context(), []artifact{a})
	require.ErrorContains(t, err, "checksum mismatch")
	assert.ErrorContains(t, err, "a-1.jar")
	assert.ErrorContains(t, err, "the file was deleted")
	left, err := filepath.Glob(filepath.Join(filepath.Dir(c.file(a)), "*"))
	require.NoError(t, err)
	assert.Empty(t, left, "neither the file nor a part of it may stay")
}

func TestFetchReplacesSpoiltFile(t *testing.T) {
	c, output := testCache(t, "the jar")
	a := locked("the jar")
	require.NoError(t, writeFile(c.file(a), []byte("the jer")))
	require.NoError(t, c.fetch(t.Context(), []artifact{a}))
	assert.Contains(t, output.String(), c.file(a))
	assert.Contains(t, output.String(), "downloading it again")
	require.NoError(t, verify(c.file(a), a))
}

func TestFetchNamesWhatIsNotThere(t *testing.T) {
	c, _ := testCache(t, "")
	err := c.fetch(t.Context(), []artifact{{coordinate: "g:other:1", sum: locked("").sum, size: 1}})
	require.ErrorContains(t, err, "g:other:1")
	assert.ErrorContains(t, err, "404")
	assert.ErrorContains(t, err, "CAPSAGA_MAVEN_URL")
}

func TestNeedDiskSaysHowMuch(t *testing.T) {
	require.NoError(t, needDisk(t.TempDir(), 1, "the servers"))
	err := needDisk(t.TempDir(), 1<<60, "the servers")
	require.ErrorContains(t, err, "no disk space")
	assert.ErrorContains(t, err, "--dir or CAPSAGA_CACHE")
}

func TestLockFileAdmitsOne(t *testing.T) {
	path := filepath.Join(t.TempDir(), "lock")
	unlock, err := lockFile(t.Context(), path, func() { t.Error("waited for nobody") })
	require.NoError(t, err)

	waiting := make(chan struct{})
	var second sync.WaitGroup
	second.Go(func() {
		unlock, err := lockFile(t.Context(), path, func() { close(waiting) })
		if assert.NoError(t, err) {
			unlock()
		}
	})
	<-waiting
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	_, err = lockFile(ctx, path, func() {})
	require.ErrorIs(t, err, context.Canceled)
	unlock()
	second.Wait()
}
