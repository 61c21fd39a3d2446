package elastic_test

import (
	"encoding/pem"
	"fmt"
	"io"
	"log"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/capsaga/capsaga/internal/elastic"
	"github.com/capsaga/capsaga/saga"
)

func TestCredentials(t *testing.T) {
	t.Parallel()
	seen := make(chan string, 2)
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("X-Elastic-Product", "Elasticsearch")
		seen <- r.Header.Get("Authorization")
	}))
	defer server.Close()
	withUser := strings.Replace(server.URL, "//", "//elastic:p%40ss@", 1)
	for _, config := range []elastic.Config{{URL: withUser}, {URL: withUser, APIKey: "a2V5"}} {
		store, err := elastic.Open(config, "p")
		require.NoError(t, err)
		require.NoError(t, store.Ping(t.Context()))
	}
	assert.Equal(t, "Basic ZWxhc3RpYzpwQHNz", <-seen)
	assert.Equal(t, "APIKey a2V5", <-seen)
}

func TestOpenHidesThePassword(t *testing.T) {
	t.Parallel()
	for _, url := range []string{
		"http://elastic:hunter2@host:port", "http://elastic:hunter2%zz@host", "http://elastic:hunter2/x@host",
		"elastic:hunter2@host", "hunter2", "", "redis://:hunter2@host",
	} {
		_, err := elastic.Open(elastic.Config{URL: url}, "p")
		require.Error(t, err, url)
		assert.Equal(t, saga.Rejected, saga.ClassOf(err))
		assert.NotContains(t, fmt.Sprintf("%v %+v", err, err), "hunter2")
	}
}

func TestAuthorities(t *testing.T) {
	t.Parallel()
	server := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("X-Elastic-Product", "Elasticsearch")
	}))
	server.Config.ErrorLog = log.New(io.Discard, "", 0) // it reports the client that does not trust it
	server.StartTLS()
	defer server.Close()
	folder := t.TempDir()
	good, empty := filepath.Join(folder, "ca.pem"), filepath.Join(folder, "empty.pem")
	require.NoError(t, os.WriteFile(good, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: server.Certificate().Raw}), 0o600))
	require.NoError(t, os.WriteFile(empty, nil, 0o600))

	store, err := elastic.Open(elastic.Config{URL: server.URL, CAFile: good}, "p")
	require.NoError(t, err)
	require.NoError(t, store.Ping(t.Context()))

	store, err = elastic.Open(elastic.Config{URL: server.URL}, "p")
	require.NoError(t, err)
	err = store.Ping(t.Context())
	assert.Equal(t, saga.Unavailable, saga.ClassOf(err))
	assert.ErrorContains(t, err, "certificate")

	for _, file := range []string{empty, filepath.Join(folder, "missing.pem")} {
		_, err = elastic.Open(elastic.Config{URL: server.URL, CAFile: file}, "p")
		assert.ErrorContains(t, err, file)
	}
}
