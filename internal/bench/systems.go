package bench

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"

	"github.com/jackc/pgx/v5/pgxpool"
	goredis "github.com/redis/go-redis/v9"
	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/capsaga/capsaga/internal/config"
	"github.com/capsaga/capsaga/internal/elastic"
)

// systems are connections to the four systems as a service without Capsaga would
// have them: pooled, with prepared statements, a producer that waits for all acks.
type systems struct {
	pool     *pgxpool.Pool
	redis    *goredis.Client
	producer *kgo.Client
	admin    *kadm.Client
	search   *elastic.Driver
	kafka    []kgo.Opt
}

// connections are as many as the most callers of a writer without sagas.
const connections = 32

func connect(ctx context.Context, c config.Config) (s *systems, err error) {
	s = &systems{}
	defer func() {
		if err != nil {
			s.close()
		}
	}()
	pool, err := pgxpool.ParseConfig(c.PostgresURL)
	if err != nil {
		return s, fmt.Errorf("postgresql: the address is not understood; check %s", config.PostgresURL)
	}
	pool.MaxConns = connections
	if s.pool, err = pgxpool.NewWithConfig(ctx, pool); err != nil {
		return s, fmt.Errorf("postgresql: %w", err)
	}
	options, err := goredis.ParseURL(c.RedisURL)
	if err != nil {
		return s, fmt.Errorf("redis: the address is not understood; check %s", config.RedisURL)
	}
	options.PoolSize = connections
	s.redis = goredis.NewClient(options)
	if s.kafka, err = c.Kafka.Options(); err != nil {
		return s, err
	}
	s.producer, err = kgo.NewClient(append(s.kafka,
		kgo.RequiredAcks(kgo.AllISRAcks()), kgo.ProducerLinger(0),
		kgo.ProducerBatchCompression(kgo.Lz4Compression(), kgo.NoCompression()))...)
	if err != nil {
		return s, fmt.Errorf("kafka: %w", err)
	}
	s.admin = kadm.NewClient(s.producer)
	s.search, err = elastic.NewDriver(c.Elasticsearch)
	return s, err
}

func (s *systems) close() {
	if s.pool != nil {
		s.pool.Close()
	}
	if s.redis != nil {
		_ = s.redis.Close()
	}
	if s.producer != nil {
		s.producer.Close()
	}
	if s.search != nil {
		s.search.Transport.CloseIdleConnections()
	}
}

// elasticsearch does one request and reads its answer into out, unless that is nil.
func (s *systems) elasticsearch(ctx context.Context, method, path string, body []byte, out any) error {
	request, err := http.NewRequestWithContext(ctx, method, path, bytes.NewReader(body))
	if err != nil {
		return err
	}
	request.Header.Set("Accept", "application/json")
	if len(body) > 0 {
		request.Header.Set("Content-Type", "application/json")
	}
	response, err := s.search.Client.Perform(request)
	if err != nil {
		return fmt.Errorf("elasticsearch: %w", err)
	}
	defer func() { _ = response.Body.Close() }()
	answer, err := io.ReadAll(response.Body) // also keeps the connection
	if err != nil {
		return fmt.Errorf("elasticsearch: %w", err)
	}
	if response.StatusCode >= http.StatusMultipleChoices {
		return &refusal{status: response.StatusCode, text: fmt.Sprintf("elasticsearch: %s %s: %d: %.300s", method, path, response.StatusCode, answer)}
	}
	if out == nil {
		return nil
	}
	if err := json.Unmarshal(answer, out); err != nil {
		return fmt.Errorf("elasticsearch: %s %s: %w", method, path, err)
	}
	return nil
}

// refusal is an answer of Elasticsearch that is an error.
type refusal struct {
	status int
	text   string
}

func (r *refusal) Error() string { return r.text }
