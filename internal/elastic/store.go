package elastic

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"time"

	"github.com/elastic/go-elasticsearch/v8"

	"github.com/capsaga/capsaga/saga"
)

const (
	defaultTimeout = 10 * time.Second
	dialTimeout    = time.Second
	idleConns      = 32
)

// Config says how to reach Elasticsearch.
type Config struct {
	// URL is http(s)://[user:password@]host:port.
	URL string
	// APIKey, base64 as Elasticsearch hands it out, replaces user and password.
	APIKey string
	// CAFile names a PEM file of the authorities to trust; empty: the system's.
	CAFile string
	// Timeout bounds the wait for an answer; default 10s.
	Timeout time.Duration
}

// Store reads and writes documents in one Elasticsearch, under one prefix. It is
// safe for concurrent use.
type Store struct {
	client    *elasticsearch.BaseClient
	transport *http.Transport
	prefix    saga.Prefix
	host      string // host:port, for errors
	timeout   time.Duration
	targets   targetCache
}

// Open prepares a store. It does not connect; Ping does.
func Open(config Config, prefix saga.Prefix) (*Store, error) {
	driver, err := NewDriver(config)
	if err != nil {
		return nil, err
	}
	s := &Store{client: driver.Client, transport: driver.Transport, prefix: prefix, host: driver.Host, timeout: config.Timeout}
	if s.timeout <= 0 {
		s.timeout = defaultTimeout
	}
	return s, nil
}

// Driver is a connection as a Store has it.
type Driver struct {
	Client    *elasticsearch.BaseClient
	Transport *http.Transport
	Host      string // host:port, for errors
}

// NewDriver returns a connection of one's own, beside which Capsaga's is measured.
func NewDriver(config Config) (*Driver, error) {
	address, err := url.Parse(config.URL)
	if err != nil || address.Host == "" || address.Scheme != "http" && address.Scheme != "https" {
		// The parser's error quotes the URL, and with it the password.
		return nil, rejected(saga.CodeRejected, "the address is not understood: want http(s)://[user:password@]host:port, "+
			"with special characters of the password percent-encoded; check CAPSAGA_ELASTICSEARCH_URL")
	}
	user := address.User
	address.User = nil // so that no later error can quote it
	password, _ := user.Password()
	d := &Driver{Host: address.Host}
	if d.Transport, err = newTransport(config.CAFile); err != nil {
		return nil, err
	}
	d.Client, err = elasticsearch.NewBaseClient(elasticsearch.Config{
		Addresses:         []string{address.String()},
		Username:          user.Username(),
		Password:          password,
		APIKey:            config.APIKey,
		Transport:         d.Transport,
		DisableRetry:      true, // the saga's step retries
		DisableMetaHeader: true,
	})
	if err != nil {
		return nil, rejected(saga.CodeRejected, "configure the client: "+err.Error())
	}
	return d, nil
}

func newTransport(caFile string) (*http.Transport, error) {
	security := &tls.Config{MinVersion: tls.VersionTLS12}
	if caFile != "" {
		pem, err := os.ReadFile(caFile)
		if err != nil {
			return nil, rejected(saga.CodeRejected, fmt.Sprintf("read the certificate authorities: %s; check CAPSAGA_ELASTICSEARCH_CA", err))
		}
		security.RootCAs = x509.NewCertPool()
		if !security.RootCAs.AppendCertsFromPEM(pem) {
			return nil, rejected(saga.CodeRejected, fmt.Sprintf("%s holds no PEM certificate; check CAPSAGA_ELASTICSEARCH_CA", caFile))
		}
	}
	dialer := &net.Dialer{Timeout: dialTimeout}
	return &http.Transport{
		TLSClientConfig:     security,
		Proxy:               http.ProxyFromEnvironment,
		DialContext:         dialer.DialContext,
		ForceAttemptHTTP2:   true,
		MaxIdleConnsPerHost: idleConns,
		IdleConnTimeout:     time.Minute,
		TLSHandshakeTimeout: 5 * time.Second,
	}, nil
}

// Close ends idle connections.
func (s *Store) Close() error {
	s.transport.CloseIdleConnections()
	return nil
}

// Ping asks the cluster for a sign of life. It does not judge the cluster's
// health, and an API key without cluster privileges is enough.
func (s *Store) Ping(ctx context.Context) error {
	what := "ping " + s.host
	status, body, err := s.send(ctx, http.MethodGet, "/_cluster/health?filter_path=status,error", nil)
	switch {
	case err != nil:
		return classifyRead(what, err)
	case status == http.StatusForbidden:
		return nil
	case status >= http.StatusMultipleChoices:
		return classifyBody(what, status, body)
	}
	return nil
}

// send does one request. Its error is the transport's; any status is an answer.
func (s *Store) send(ctx context.Context, method, path string, body []byte) (status int, answer []byte, err error) {
	ctx, cancel := context.WithTimeout(ctx, s.timeout)
	defer cancel()
	var reader io.Reader
	if body != nil {
		reader = bytes.NewReader(body)
	}
	request, err := http.NewRequestWithContext(ctx, method, path, reader)
	if err != nil {
		return 0, nil, err
	}
	request.Header.Set("Accept", "application/json")
	if body != nil {
		// NDJSON's own type is accepted for _bulk only, and JSON's everywhere.
		request.Header.Set("Content-Type", "application/json")
	}
	response, err := s.client.Perform(request)
	if err != nil {
		return 0, nil, err
	}
	defer func() { _ = response.Body.Close() }()
	answer, err = io.ReadAll(response.Body)
	return response.StatusCode, answer, err
}

// call does one request with a JSON body, whose answer is only its status. An
// error status is a *saga.Error.
func (s *Store) call(ctx context.Context, what, method, path string, in any) error {
	return s.request(ctx, classify, what, method, path, in, nil)
}

// query does a request that has no effect, and reads its JSON answer into out.
// Both in and out may be nil.
func (s *Store) query(ctx context.Context, what, method, path string, in, out any) error {
	return asRead(s.request(ctx, classifyRead, what, method, path, in, out))
}

// sendJSON is send with a body in JSON.
func (s *Store) sendJSON(ctx context.Context, method, path string, in any) (status int, answer []byte, err error) {
	body, err := json.Marshal(in)
	if err != nil {
		return 0, nil, err
	}
	return s.send(ctx, method, path, body)
}

func (s *Store) request(ctx context.Context, lost func(string, error) *saga.Error, what, method, path string, in, out any) error {
	var body []byte
	if in != nil {
		var err error
		if body, err = json.Marshal(in); err != nil {
			return rejected(saga.CodeInvalidValue, what+": "+err.Error())
		}
	}
	status, answer, err := s.send(ctx, method, path, body)
	if err != nil {
		return lost(what, err)
	}
	if status >= http.StatusMultipleChoices {
		return classifyBody(what, status, answer)
	}
	if out == nil {
		return nil
	}
	if err := json.Unmarshal(answer, out); err != nil {
		return garbled(what, err)
	}
	return nil
}

// exists reports whether there is something at a path.
func (s *Store) exists(ctx context.Context, what, path string) (bool, error) {
	status, body, err := s.send(ctx, http.MethodHead, path, nil)
	switch {
	case err != nil:
		return false, classifyRead(what, err)
	case status == http.StatusNotFound:
		return false, nil
	case status >= http.StatusMultipleChoices:
		return false, classifyBody(what, status, body)
	}
	return true, nil
}
