package bench

import (
	"bytes"
	"context"
	"fmt"
	"net/http"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"
	"golang.org/x/sync/errgroup"
)

// plain writes to the four systems without a saga, to a table, a topic, keys and an
// index that are like the sagas' own.
type plain struct {
	*systems
	places places
}

// naive is what services do that write to four systems themselves: one after the
// other. A crash between two of them loses data, and nothing orders two writers.
func (p *plain) naive(ctx context.Context, w work) (s sample, err error) {
	r, began := w.rows[0], time.Now()
	_, err = p.pool.Exec(ctx, `INSERT INTO plain (id, title, price, payload) VALUES ($1, $2, $3, $4)
		ON CONFLICT (id) DO UPDATE SET title = excluded.title, price = excluded.price, payload = excluded.payload`,
		r.ID, r.Title, r.Price, r.Payload)
	if err != nil {
		return s, fmt.Errorf("postgresql: %w", err)
	}
	s.committed = time.Since(began)
	encoded := r.json()
	if err := p.redis.Set(ctx, p.places.redis+r.key(), encoded, 0).Err(); err != nil {
		return s, fmt.Errorf("redis: %w", err)
	}
	record := &kgo.Record{Topic: p.places.topic, Key: []byte(r.key()), Value: encoded}
	if err := p.producer.ProduceSync(ctx, record).FirstErr(); err != nil {
		return s, fmt.Errorf("kafka: %w", err)
	}
	err = p.elasticsearch(ctx, http.MethodPut, "/"+p.places.index+"/_doc/"+r.key()+"?filter_path=_id", encoded, nil)
	s.visible = time.Since(began)
	return s, err
}

// ceiling is the fastest way to bring rows to the four systems: one statement, and
// then one request to each of the others, side by side.
func (p *plain) ceiling(ctx context.Context, w work) (s sample, err error) {
	rows, began := w.rows, time.Now()
	if err := p.insertAll(ctx, rows); err != nil {
		return s, fmt.Errorf("postgresql: %w", err)
	}
	s.committed = time.Since(began)
	encoded := make([][]byte, len(rows))
	for i, r := range rows {
		encoded[i] = r.json()
	}
	var sinks errgroup.Group
	sinks.Go(func() error { return p.setAll(ctx, rows, encoded) })
	sinks.Go(func() error { return p.produceAll(ctx, rows, encoded) })
	sinks.Go(func() error { return p.indexAll(ctx, rows, encoded) })
	err = sinks.Wait()
	s.visible = time.Since(began)
	return s, err
}

// insertAll sends the columns as arrays, which PostgreSQL plans and runs faster than
// a pipeline of as many statements.
func (p *plain) insertAll(ctx context.Context, rows []row) error {
	ids, prices := make([]int64, len(rows)), make([]int64, len(rows))
	titles, payloads := make([]string, len(rows)), make([]string, len(rows))
	for i, r := range rows {
		ids[i], titles[i], prices[i], payloads[i] = r.ID, r.Title, r.Price, r.Payload
	}
	_, err := p.pool.Exec(ctx, `INSERT INTO plain (id, title, price, payload) SELECT * FROM unnest($1::bigint[], $2::text[], $3::bigint[], $4::text[])
		ON CONFLICT (id) DO UPDATE SET title = excluded.title, price = excluded.price, payload = excluded.payload`,
		ids, titles, prices, payloads)
	return err
}

func (p *plain) setAll(ctx context.Context, rows []row, encoded [][]byte) error {
	pipe := p.redis.Pipeline()
	for i, r := range rows {
		pipe.Set(ctx, p.places.redis+r.key(), encoded[i], 0)
	}
	if _, err := pipe.Exec(ctx); err != nil {
		return fmt.Errorf("redis: %w", err)
	}
	return nil
}

func (p *plain) produceAll(ctx context.Context, rows []row, encoded [][]byte) error {
	records := make([]*kgo.Record, len(rows))
	for i, r := range rows {
		records[i] = &kgo.Record{Topic: p.places.topic, Key: []byte(r.key()), Value: encoded[i]}
	}
	if err := p.producer.ProduceSync(ctx, records...).FirstErr(); err != nil {
		return fmt.Errorf("kafka: %w", err)
	}
	return nil
}

func (p *plain) indexAll(ctx context.Context, rows []row, encoded [][]byte) error {
	var body bytes.Buffer
	for i, r := range rows {
		fmt.Fprintf(&body, `{"index":{"_id":"%d"}}`+"\n%s\n", r.ID, encoded[i])
	}
	var answer struct {
		Errors bool `json:"errors"`
	}
	err := p.elasticsearch(ctx, http.MethodPost, "/"+p.places.index+"/_bulk?filter_path=errors", body.Bytes(), &answer)
	if err == nil && answer.Errors {
		err = fmt.Errorf("elasticsearch refused rows of a bulk request")
	}
	return err
}
