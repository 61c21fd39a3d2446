package config

import (
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/capsaga/capsaga/saga"
)

// noFile keeps a Temporal profile of the machine out of the tests.
const noFile = "TEMPORAL_CONFIG_FILE=/nonexistent/temporal.toml"

func TestDefaultsAreTheLocalStack(t *testing.T) {
	c, err := FromEnv([]string{noFile})
	require.NoError(t, err)
	assert.Equal(t, DefaultPostgresURL, c.PostgresURL)
	assert.Equal(t, DefaultRedisURL, c.RedisURL)
	assert.Equal(t, []string{"127.0.0.1:15092"}, c.Kafka.Brokers)
	assert.Equal(t, DefaultElasticsearchURL, c.Elasticsearch.URL)
	assert.Equal(t, "127.0.0.1:15233", c.Temporal.HostPort)
	assert.Equal(t, "default", c.Temporal.Namespace)
	assert.Equal(t, "http://127.0.0.1:15234", c.TemporalUIURL)
	assert.Equal(t, "capsaga.yaml", c.CatalogPath)
	assert.Equal(t, saga.DefaultPrefix, c.Prefix)
	assert.Empty(t, c.Deployment.BuildID, "workers have no version unless they are given one")
}

func TestDeployment(t *testing.T) {
	c, err := FromEnv([]string{noFile, "CAPSAGA_PREFIX=shop", "CAPSAGA_BUILD_ID=1.2.3+git:abc"})
	require.NoError(t, err)
	assert.Equal(t, Deployment{Name: "shop", BuildID: "1.2.3+git:abc"}, c.Deployment)
	c, err = FromEnv([]string{noFile, "CAPSAGA_DEPLOYMENT=web", "CAPSAGA_BUILD_ID=7"})
	require.NoError(t, err)
	assert.Equal(t, Deployment{Name: "web", BuildID: "7"}, c.Deployment)
	_, err = FromEnv([]string{noFile, "CAPSAGA_DEPLOYMENT=web"})
	require.ErrorContains(t, err, "CAPSAGA_BUILD_ID: is not set")
	_, err = FromEnv([]string{noFile, "CAPSAGA_DEPLOYMENT=web.v1", "CAPSAGA_BUILD_ID=7"})
	require.ErrorContains(t, err, "CAPSAGA_DEPLOYMENT")
}

func TestEveryVariableIsRead(t *testing.T) {
	ca := filepath.Join(t.TempDir(), "ca.pem")
	require.NoError(t, os.WriteFile(ca, nil, 0o600))
	c, err := FromEnv([]string{
		noFile,
		"CAPSAGA_POSTGRES_URL=postgres://app:s3cret@db:5432/shop",
		"CAPSAGA_REDIS_URL=rediss://:s3cret@cache:6379/2",
		"CAPSAGA_KAFKA_BROKERS=k1:9092, k2:9093",
		"CAPSAGA_KAFKA_TLS=true",
		"CAPSAGA_KAFKA_CA=" + ca,
		"CAPSAGA_KAFKA_SASL_MECHANISM=scram-sha-512",
		"CAPSAGA_KAFKA_SASL_USERNAME=app",
		"CAPSAGA_KAFKA_SASL_PASSWORD=s3cret",
		"CAPSAGA_ELASTICSEARCH_URL=https://app:s3cret@search:9200/",
		"CAPSAGA_ELASTICSEARCH_API_KEY=s3cret",
		"CAPSAGA_ELASTICSEARCH_CA=" + ca,
		"CAPSAGA_CATALOG=/etc/capsaga.yaml",
		"CAPSAGA_PREFIX=shop",
		"CAPSAGA_TEMPORAL_UI_URL=https://temporal.example.org/",
		"TEMPORAL_ADDRESS=temporal:7233",
		"TEMPORAL_NAMESPACE=shop",
		"TEMPORAL_API_KEY=s3cret",
	})
	require.NoError(t, err)
	assert.Equal(t, []string{"k1:9092", "k2:9093"}, c.Kafka.Brokers)
	assert.True(t, c.Kafka.TLS)
	assert.Equal(t, "SCRAM-SHA-512", c.Kafka.SASL.Mechanism)
	assert.Equal(t, "s3cret", c.Kafka.SASL.Password)
	assert.Equal(t, ca, c.Kafka.CAFile)
	assert.Equal(t, "https://app:s3cret@search:9200", c.Elasticsearch.URL)
	assert.Equal(t, "s3cret", c.Elasticsearch.APIKey)
	assert.Equal(t, "/etc/capsaga.yaml", c.CatalogPath)
	assert.Equal(t, saga.Prefix("shop"), c.Prefix)
	assert.Equal(t, "https://temporal.example.org", c.TemporalUIURL)
	assert.Equal(t, "temporal:7233", c.Temporal.HostPort)
	assert.Equal(t, "shop", c.Temporal.Namespace)
	assert.NotNil(t, c.Temporal.Credentials)

	var logged strings.Builder
	slog.New(slog.NewJSONHandler(&logged, nil)).Info("start", "config", c)
	for _, shown := range []string{c.String(), fmt.Sprintf("%v %+v %#v", c, c, c), logged.String()} {
		assert.NotContains(t, shown, "s3cret")
		assert.Contains(t, shown, "db:5432/shop")
	}
}

func TestEachErrorNamesItsVariableAndNoSecret(t *testing.T) {
	profile := filepath.Join(t.TempDir(), "temporal.toml")
	require.NoError(t, os.WriteFile(profile, []byte("[profile.default]\napi_key = s3cret\n"), 0o600))
	for _, test := range []struct{ env, want string }{
		{"CAPSAGA_POSTGRES_URL=postgres://app:s3cret@db:port/shop", "CAPSAGA_POSTGRES_URL"},
		{"CAPSAGA_REDIS_URL=http://:s3cret@cache", "CAPSAGA_REDIS_URL"},
		{"CAPSAGA_KAFKA_BROKERS=k1", "CAPSAGA_KAFKA_BROKERS"},
		{"CAPSAGA_KAFKA_BROKERS=k1:9092,,k2:9092", "CAPSAGA_KAFKA_BROKERS"},
		{"CAPSAGA_KAFKA_BROKERS=k1:99999", "CAPSAGA_KAFKA_BROKERS"},
		{"CAPSAGA_KAFKA_TLS=maybe", "CAPSAGA_KAFKA_TLS"},
		{"CAPSAGA_KAFKA_CA=/nonexistent", "CAPSAGA_KAFKA_CA"},
		{"CAPSAGA_KAFKA_SASL_MECHANISM=GSSAPI", "CAPSAGA_KAFKA_SASL_MECHANISM"},
		{"CAPSAGA_KAFKA_SASL_PASSWORD=s3cret", "CAPSAGA_KAFKA_SASL_MECHANISM"},
		{"CAPSAGA_KAFKA_SASL_MECHANISM=PLAIN", "CAPSAGA_KAFKA_SASL_USERNAME"},
		{"CAPSAGA_ELASTICSEARCH_URL=app:s3cret@search:9200", "CAPSAGA_ELASTICSEARCH_URL"},
		{"CAPSAGA_ELASTICSEARCH_CA=/nonexistent", "CAPSAGA_ELASTICSEARCH_CA"},
		{"CAPSAGA_PREFIX=Shop", "CAPSAGA_PREFIX"},
		{"CAPSAGA_TEMPORAL_UI_URL=temporal", "CAPSAGA_TEMPORAL_UI_URL"},
		{"TEMPORAL_ADDRESS=temporal", "TEMPORAL_ADDRESS"},
		{"TEMPORAL_PROFILE=absent", "TEMPORAL_PROFILE"},
		{"TEMPORAL_CONFIG_FILE=" + profile, "TEMPORAL_CONFIG_FILE"},
	} {
		t.Run(test.env, func(t *testing.T) {
			_, err := FromEnv([]string{noFile, test.env})
			require.Error(t, err)
			assert.True(t, strings.HasPrefix(err.Error(), test.want) || strings.Contains(err.Error(), test.want+" "), err.Error())
			assert.NotContains(t, err.Error(), "s3cret")
		})
	}
}

func TestAllErrorsAreToldAtOnce(t *testing.T) {
	_, err := FromEnv([]string{noFile, "CAPSAGA_PREFIX=Shop", "CAPSAGA_KAFKA_TLS=maybe", "TEMPORAL_ADDRESS=x"})
	require.Error(t, err)
	for _, variable := range []string{Prefix, KafkaTLS, TemporalAddress} {
		assert.ErrorContains(t, err, variable)
	}
}

func TestUIAddressIsOnlyDerivedLocally(t *testing.T) {
	for address, want := range map[string]string{
		"localhost:7233":    "http://localhost:8233",
		"[::1]:15233":       "http://[::1]:15234",
		"temporal.prod:443": "",
	} {
		c, err := FromEnv([]string{noFile, "TEMPORAL_ADDRESS=" + address})
		require.NoError(t, err)
		assert.Equal(t, want, c.TemporalUIURL, address)
	}
}
