package kafka

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"net"
	"os"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/sasl"
	"github.com/twmb/franz-go/pkg/sasl/plain"
	"github.com/twmb/franz-go/pkg/sasl/scram"

	"github.com/capsaga/capsaga/saga"
)

// Config says how to reach the brokers.
type Config struct {
	Brokers  []string // host:port each; at least one
	ClientID string   // default "capsaga"
	TLS      bool
	CAFile   string // PEM; empty means the system's authorities
	SASL     SASL
	// Dial connects to a broker in place of the network, for a tunnel or a test;
	// TLS and CAFile are then its own affair.
	Dial func(ctx context.Context, network, address string) (net.Conn, error)
}

// SASL is how the client proves who it is; the zero value means not at all.
type SASL struct {
	Mechanism string // PLAIN, SCRAM-SHA-256 or SCRAM-SHA-512
	Username  string
	Password  string
}

const (
	dialTimeout = 3 * time.Second
	// idleTimeout stays below the brokers' connections.max.idle.ms of 10
	// minutes: a connection that is kept saves the first event after a pause
	// the time of a new one.
	idleTimeout = 9 * time.Minute
)

// Options returns the driver's options for a connection of one's own, beside which
// Capsaga's are measured.
func (c Config) Options() ([]kgo.Opt, error) { return c.options() }

// options turns the configuration into those of the driver.
func (c Config) options() ([]kgo.Opt, error) {
	if len(c.Brokers) == 0 {
		return nil, invalid("no brokers: set CAPSAGA_KAFKA_BROKERS to host:port, comma-separated")
	}
	for _, broker := range c.Brokers {
		if _, _, err := net.SplitHostPort(broker); err != nil {
			return nil, invalid(fmt.Sprintf("broker %q: want host:port", broker))
		}
	}
	id := c.ClientID
	if id == "" {
		id = "capsaga"
	}
	opts := []kgo.Opt{
		kgo.SeedBrokers(c.Brokers...),
		kgo.ClientID(id),
		kgo.ConnIdleTimeout(idleTimeout),
		kgo.MetadataMinAge(100 * time.Millisecond), // a broker that is back is seen at once
		kgo.RetryBackoffFn(backoff),
		kgo.AlwaysRetryEOF(), // a broker that is just starting closes connections
	}
	switch {
	case c.Dial != nil:
		opts = append(opts, kgo.Dialer(c.Dial))
	case c.TLS || c.CAFile != "":
		config, err := c.tlsConfig()
		if err != nil {
			return nil, err
		}
		dialer := &tls.Dialer{NetDialer: &net.Dialer{Timeout: dialTimeout}, Config: config}
		opts = append(opts, kgo.Dialer(func(ctx context.Context, network, address string) (net.Conn, error) {
			return dialer.DialContext(ctx, network, address)
		}))
	default:
		opts = append(opts, kgo.DialTimeout(dialTimeout))
	}
	mechanism, err := c.SASL.mechanism()
	if err != nil {
		return nil, err
	}
	if mechanism != nil {
		opts = append(opts, kgo.SASL(mechanism))
	}
	return opts, nil
}

// backoff is the pause before a request is tried again: short at first, since a
// new leader is mostly there within a moment.
func backoff(tries int) time.Duration {
	return min(50*time.Millisecond<<min(tries, 5), time.Second)
}

func (c Config) tlsConfig() (*tls.Config, error) {
	config := &tls.Config{MinVersion: tls.VersionTLS12}
	if c.CAFile == "" {
		return config, nil
	}
	pem, err := os.ReadFile(c.CAFile)
	if err != nil {
		return nil, invalid(fmt.Sprintf("read the certificate authorities: %s", err))
	}
	config.RootCAs = x509.NewCertPool()
	if !config.RootCAs.AppendCertsFromPEM(pem) {
		return nil, invalid(fmt.Sprintf("%s holds no certificate in PEM form", c.CAFile))
	}
	return config, nil
}

func (s SASL) mechanism() (sasl.Mechanism, error) {
	switch s.Mechanism {
	case "":
		return nil, nil
	case "PLAIN":
		return plain.Auth{User: s.Username, Pass: s.Password}.AsMechanism(), nil
	case "SCRAM-SHA-256":
		return scram.Auth{User: s.Username, Pass: s.Password}.AsSha256Mechanism(), nil
	case "SCRAM-SHA-512":
		return scram.Auth{User: s.Username, Pass: s.Password}.AsSha512Mechanism(), nil
	}
	return nil, invalid(fmt.Sprintf("SASL mechanism %q: want PLAIN, SCRAM-SHA-256 or SCRAM-SHA-512", s.Mechanism))
}

func invalid(message string) *saga.Error {
	return &saga.Error{Class: saga.Rejected, System: system, Code: saga.CodeInvalidValue, Message: message}
}
