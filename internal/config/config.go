// Package config turns environment variables into one Config that the mains
// share: the CLI and the worker read the same variables in the same way. It
// checks all of them at once and names each variable that is wrong and what it
// wants; it connects to nothing. No value that may hold a password is ever part
// of an error, of String or of a log line.
package config

import (
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/url"
	"os"
	"strconv"
	"strings"

	"github.com/jackc/pgx/v5/pgxpool"
	goredis "github.com/redis/go-redis/v9"
	"go.temporal.io/sdk/client"

	"github.com/capsaga/capsaga/internal/elastic"
	"github.com/capsaga/capsaga/internal/kafka"
	"github.com/capsaga/capsaga/saga"
)

// The variables. Temporal's own (TEMPORAL_ADDRESS, TEMPORAL_NAMESPACE,
// TEMPORAL_PROFILE, TEMPORAL_API_KEY, TEMPORAL_TLS_…) are read as its CLI reads
// them.
const (
	PostgresURL         = "CAPSAGA_POSTGRES_URL"
	RedisURL            = "CAPSAGA_REDIS_URL"
	KafkaBrokers        = "CAPSAGA_KAFKA_BROKERS"
	KafkaTLS            = "CAPSAGA_KAFKA_TLS"
	KafkaCA             = "CAPSAGA_KAFKA_CA"
	KafkaSASLMechanism  = "CAPSAGA_KAFKA_SASL_MECHANISM"
	KafkaSASLUsername   = "CAPSAGA_KAFKA_SASL_USERNAME"
	KafkaSASLPassword   = "CAPSAGA_KAFKA_SASL_PASSWORD" //nolint:gosec // a variable's name
	ElasticsearchURL    = "CAPSAGA_ELASTICSEARCH_URL"
	ElasticsearchAPIKey = "CAPSAGA_ELASTICSEARCH_API_KEY" //nolint:gosec // a variable's name
	ElasticsearchCA     = "CAPSAGA_ELASTICSEARCH_CA"
	Catalog             = "CAPSAGA_CATALOG"
	Prefix              = "CAPSAGA_PREFIX"
	DeploymentName      = "CAPSAGA_DEPLOYMENT"
	BuildID             = "CAPSAGA_BUILD_ID"
	TemporalUIURL       = "CAPSAGA_TEMPORAL_UI_URL"
	TemporalAddress     = "TEMPORAL_ADDRESS"
	TemporalNamespace   = "TEMPORAL_NAMESPACE"
)

// The defaults are the local stack's, at its default port base.
const (
	DefaultPostgresURL      = "postgres://capsaga@127.0.0.1:15432/capsaga?sslmode=disable"
	DefaultRedisURL         = "redis://127.0.0.1:15379/0"
	DefaultKafkaBrokers     = "127.0.0.1:15092"
	DefaultElasticsearchURL = "http://127.0.0.1:15200"
	DefaultTemporalAddress  = "127.0.0.1:15233"
	DefaultCatalog          = "capsaga.yaml"
)

// Config says where the systems are.
type Config struct {
	PostgresURL   string
	RedisURL      string
	Kafka         kafka.Config
	Elasticsearch elastic.Config
	// Temporal is ready for client.Dial or client.NewLazyClient; HostPort and
	// Namespace are never empty.
	Temporal client.Options
	// TemporalUIURL is the base of links into the Temporal UI, without a slash at
	// its end; empty when it is not set and cannot be told from the address.
	TemporalUIURL string
	// CatalogPath is the catalog's file.
	CatalogPath string
	Prefix      saga.Prefix
	Deployment  Deployment
}

// Deployment names the worker's version to Temporal.
type Deployment struct {
	Name    string // default: the prefix
	BuildID string // empty: the worker has no version
}

// FromEnv reads an environment of the form of os.Environ. Its error joins one
// line for each variable that is wrong.
func FromEnv(environ []string) (Config, error) {
	r := &reader{values: map[string]string{}, environ: environ}
	for _, variable := range environ {
		name, value, _ := strings.Cut(variable, "=")
		r.values[name] = value
	}
	c := Config{
		PostgresURL:   r.postgresURL(),
		RedisURL:      r.redisURL(),
		Kafka:         r.kafka(),
		Elasticsearch: r.elasticsearch(),
		Temporal:      r.temporal(),
		CatalogPath:   r.get(Catalog, DefaultCatalog),
		Prefix:        r.prefix(),
	}
	c.TemporalUIURL = r.temporalUI(c.Temporal.HostPort)
	c.Deployment = r.deployment(c.Prefix)
	return c, errors.Join(r.problems...)
}

// reader collects what is wrong while it reads.
type reader struct {
	values   map[string]string
	environ  []string
	problems []error
}

func (r *reader) refuse(variable, format string, args ...any) {
	r.problems = append(r.problems, fmt.Errorf("%s: %s", variable, fmt.Sprintf(format, args...)))
}

// get returns a variable's value; an empty variable counts as unset.
func (r *reader) get(name, otherwise string) string {
	if value := strings.TrimSpace(r.values[name]); value != "" {
		return value
	}
	return otherwise
}

func (r *reader) postgresURL() string {
	text := r.get(PostgresURL, DefaultPostgresURL)
	// The driver's error may quote the string, and with it the password.
	if _, err := pgxpool.ParseConfig(text); err != nil {
		r.refuse(PostgresURL, "not a PostgreSQL connection string: want postgres://user:password@host:port/database, with special characters of the password percent-encoded")
	}
	return text
}

func (r *reader) redisURL() string {
	text := r.get(RedisURL, DefaultRedisURL)
	if _, err := goredis.ParseURL(text); err != nil {
		r.refuse(RedisURL, "not a Redis address: want redis://[user:password@]host:port/database, rediss:// for TLS, with special characters of the password percent-encoded")
	}
	return text
}

func (r *reader) kafka() kafka.Config {
	c := kafka.Config{
		CAFile: r.file(KafkaCA),
		SASL: kafka.SASL{
			Mechanism: strings.ToUpper(r.get(KafkaSASLMechanism, "")),
			Username:  r.get(KafkaSASLUsername, ""),
			Password:  r.values[KafkaSASLPassword],
		},
	}
	for broker := range strings.SplitSeq(r.get(KafkaBrokers, DefaultKafkaBrokers), ",") {
		broker = strings.TrimSpace(broker)
		if !isHostPort(broker) {
			r.refuse(KafkaBrokers, "%q is no broker: want host:port, comma-separated", broker)
			continue
		}
		c.Brokers = append(c.Brokers, broker)
	}
	if text := r.get(KafkaTLS, ""); text != "" {
		var err error
		if c.TLS, err = strconv.ParseBool(text); err != nil {
			r.refuse(KafkaTLS, "%q: want true or false", text)
		}
	}
	r.checkSASL(c.SASL)
	return c
}

func (r *reader) checkSASL(s kafka.SASL) {
	switch s.Mechanism {
	case "PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512":
		if s.Username == "" {
			r.refuse(KafkaSASLUsername, "is not set, and %s needs a user", s.Mechanism)
		}
		if s.Password == "" {
			r.refuse(KafkaSASLPassword, "is not set, and %s needs a password", s.Mechanism)
		}
	case "":
		if s.Username != "" || s.Password != "" {
			r.refuse(KafkaSASLMechanism, "is not set, and a user or password is: want PLAIN, SCRAM-SHA-256 or SCRAM-SHA-512")
		}
	default:
		r.refuse(KafkaSASLMechanism, "%q: want PLAIN, SCRAM-SHA-256 or SCRAM-SHA-512", s.Mechanism)
	}
}

func (r *reader) elasticsearch() elastic.Config {
	return elastic.Config{
		URL:    r.httpURL(ElasticsearchURL, DefaultElasticsearchURL),
		APIKey: r.get(ElasticsearchAPIKey, ""),
		CAFile: r.file(ElasticsearchCA),
	}
}

// httpURL reads an address; the error does not quote it, as it may hold a
// password.
func (r *reader) httpURL(variable, otherwise string) string {
	text := r.get(variable, otherwise)
	if text == "" {
		return ""
	}
	u, err := url.Parse(text)
	if err != nil || u.Host == "" || u.Scheme != "http" && u.Scheme != "https" {
		r.refuse(variable, "not an address: want http(s)://[user:password@]host:port, with special characters of the password percent-encoded")
	}
	return strings.TrimRight(text, "/")
}

// file reads the name of a file that must be there.
func (r *reader) file(variable string) string {
	name := r.get(variable, "")
	if name == "" {
		return ""
	}
	if info, err := os.Stat(name); err != nil || info.IsDir() {
		r.refuse(variable, "%q is not a file that can be read: want a file of PEM certificates", name)
	}
	return name
}

func (r *reader) prefix() saga.Prefix {
	p, err := saga.ParsePrefix(r.get(Prefix, ""))
	if err != nil {
		r.refuse(Prefix, "%s", strings.TrimPrefix(err.Error(), "prefix "))
	}
	return p
}

// deployment reads the worker's version. Temporal joins the two names by a dot and
// takes neither dots nor colons in the first.
func (r *reader) deployment(prefix saga.Prefix) Deployment {
	d := Deployment{Name: r.get(DeploymentName, string(prefix)), BuildID: r.get(BuildID, "")}
	if d.BuildID == "" && d.Name != string(prefix) {
		r.refuse(BuildID, "is not set, and %s is: give both, or neither for a worker without a version", DeploymentName)
	}
	if strings.ContainsAny(d.Name, ".:") || strings.HasPrefix(d.Name, "__") {
		r.refuse(DeploymentName, "%q: want a name without dots and colons that does not begin with __", d.Name)
	}
	return d
}

// isHostPort accepts a host, also an IPv6 address in brackets, with a port
// number.
func isHostPort(text string) bool {
	host, port, err := net.SplitHostPort(text)
	if err != nil || host == "" {
		return false
	}
	n, err := strconv.ParseUint(port, 10, 16)
	return err == nil && n > 0
}

// String names the systems without any secret.
func (c Config) String() string {
	var parts []string
	for _, part := range c.public() {
		parts = append(parts, part[0]+"="+part[1])
	}
	return strings.Join(parts, " ")
}

// GoString keeps secrets out of %#v as well.
func (c Config) GoString() string { return "config.Config{" + c.String() + "}" }

// LogValue names the systems without any secret.
func (c Config) LogValue() slog.Value {
	var attrs []slog.Attr
	for _, part := range c.public() {
		attrs = append(attrs, slog.String(part[0], part[1]))
	}
	return slog.GroupValue(attrs...)
}

func (c Config) public() [][2]string {
	return [][2]string{
		{"postgres", postgresAddress(c.PostgresURL)},
		{"redis", redisAddress(c.RedisURL)},
		{"kafka", strings.Join(c.Kafka.Brokers, ",")},
		{"elasticsearch", hostOf(c.Elasticsearch.URL)},
		{"temporal", c.Temporal.HostPort},
		{"namespace", c.Temporal.Namespace},
		{"prefix", string(c.Prefix)},
		{"catalog", c.CatalogPath},
	}
}

func postgresAddress(text string) string {
	parsed, err := pgxpool.ParseConfig(text)
	if err != nil {
		return "unknown"
	}
	c := parsed.ConnConfig
	return net.JoinHostPort(c.Host, strconv.Itoa(int(c.Port))) + "/" + c.Database
}

func redisAddress(text string) string {
	options, err := goredis.ParseURL(text)
	if err != nil {
		return "unknown"
	}
	return options.Addr
}

func hostOf(text string) string {
	u, err := url.Parse(text)
	if err != nil || u.Host == "" {
		return "unknown"
	}
	return u.Host
}
