package main

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"
	sdkclient "go.temporal.io/sdk/client"

	"github.com/capsaga/capsaga/internal/config"
	"github.com/capsaga/capsaga/internal/elastic"
	"github.com/capsaga/capsaga/internal/redis"
	"github.com/capsaga/capsaga/saga"
	"github.com/capsaga/capsaga/saga/client"
)

// film is the product that the demo sells a copy of.
const film = "1"

// follow sells one copy of a film and looks at each system as the write arrives
// there.
func (d *demo) follow(ctx context.Context) error {
	c, err := config.FromEnv(d.env)
	if err != nil {
		return err
	}
	temporal, err := sdkclient.Dial(c.Temporal)
	if err != nil {
		return fmt.Errorf("temporal at %s: %w", c.Temporal.HostPort, err)
	}
	defer temporal.Close()
	sagas, err := client.New(client.Options{Temporal: temporal, Prefix: c.Prefix})
	if err != nil {
		return err
	}
	records, err := newRecords(c)
	if err != nil {
		return err
	}
	defer records.Close()

	w := saga.Write{
		SagaID: fmt.Sprintf("demo-%d", time.Now().UnixMilli()),
		Mutations: []saga.Mutation{{
			Entity: "products", Op: saga.Patch, Key: saga.Columns{"id": json.RawMessage(film)},
			Add:    saga.Columns{"stock": json.RawMessage("-1")},
			Expect: &saga.Expect{Where: []saga.Condition{{Column: "stock", Operator: ">=", Value: json.RawMessage("1")}}},
		}},
	}
	body, err := json.Marshal(w)
	if err != nil {
		return err
	}
	fmt.Fprintf(d.out, "  the write      %s\n", body)
	began := time.Now()
	committed, err := sagas.Write(ctx, w, client.WaitCommitted)
	if err != nil {
		return err
	}
	d.say(began, "postgres", "%s, version %s, etag %s", committed.Status, committed.Version, committed.ETags[0].ETag)
	visible, err := sagas.Wait(ctx, w.SagaID, client.WaitVisible)
	if err != nil {
		return err
	}
	d.say(began, "all sinks", "%s", visible.Status)
	for _, step := range visible.Steps {
		fmt.Fprintf(d.out, "    %-13s %-9s %d attempt(s), %s\n", step.Name, step.State, step.Attempts, time.Duration(step.Duration).Round(10*time.Microsecond))
	}
	if err := d.look(ctx, c, records, w.SagaID); err != nil {
		return err
	}
	fmt.Fprintln(d.out)
	return d.command(ctx, "bin/capsaga", "show", w.SagaID)
}

func (d *demo) say(began time.Time, where, format string, args ...any) {
	fmt.Fprintf(d.out, "  +%-8s %-13s %s\n", time.Since(began).Round(100*time.Microsecond), where, fmt.Sprintf(format, args...))
}

// look reads the row back from each system.
func (d *demo) look(ctx context.Context, c config.Config, records *kgo.Client, sagaID string) error {
	copies, closeCopies, err := openCopies(c)
	if err != nil {
		return err
	}
	defer closeCopies()
	event, err := eventOf(ctx, records, sagaID)
	if err != nil {
		return err
	}
	fmt.Fprintln(d.out, "\n  and read back:")
	if err := d.command(ctx, "bin/capsaga", "get", "products", film, "-o", "json"); err != nil {
		return err
	}
	for name, get := range copies {
		doc, found, err := get(ctx, "products", film)
		if err != nil || !found {
			return fmt.Errorf("%s: found %t: %w", name, found, err)
		}
		fmt.Fprintf(d.out, "  %-13s version %s %s\n", name, doc.Version, doc.Row)
	}
	fmt.Fprintf(d.out, "  %-13s topic %s partition %d offset %d key %s\n", "kafka", event.Topic, event.Partition, event.Offset, event.Key)
	for _, h := range event.Headers {
		fmt.Fprintf(d.out, "  %-13s %s: %s\n", "", h.Key, h.Value)
	}
	fmt.Fprintf(d.out, "  %-13s %s\n", "", event.Value)
	return nil
}

// get reads a row's copy from a sink.
type get func(ctx context.Context, entity, key string) (doc saga.Document, found bool, err error)

// openCopies returns what reads the copies in Redis and Elasticsearch, by the sinks'
// names.
func openCopies(c config.Config) (copies map[string]get, closeCopies func(), err error) {
	cache, err := redis.Open(c.RedisURL, c.Prefix)
	if err != nil {
		return nil, nil, err
	}
	index, err := elastic.Open(c.Elasticsearch, c.Prefix)
	if err != nil {
		_ = cache.Close()
		return nil, nil, err
	}
	closeCopies = func() {
		_ = cache.Close()
		_ = index.Close()
	}
	return map[string]get{"redis": cache.Get, "elasticsearch": index.Get}, closeCopies, nil
}

// newRecords reads the products' topic from its end on.
func newRecords(c config.Config) (*kgo.Client, error) {
	topic, err := c.Prefix.Topic(saga.Table{Schema: "public", Name: "products"})
	if err != nil {
		return nil, err
	}
	// The last minute, since the consumer may learn of the end only after the write.
	return kgo.NewClient(kgo.SeedBrokers(c.Kafka.Brokers...), kgo.ConsumeTopics(topic),
		kgo.ConsumeResetOffset(kgo.NewOffset().AfterMilli(time.Now().Add(-time.Minute).UnixMilli())))
}

func eventOf(ctx context.Context, records *kgo.Client, sagaID string) (*kgo.Record, error) {
	ctx, cancel := context.WithTimeout(ctx, 20*time.Second)
	defer cancel()
	for {
		fetches := records.PollFetches(ctx)
		if err := fetches.Err0(); err != nil {
			return nil, fmt.Errorf("read the event of saga %s back from kafka: %w", sagaID, err)
		}
		for record := range fetches.RecordsAll() {
			for _, h := range record.Headers {
				if h.Key == saga.HeaderSagaID && string(h.Value) == sagaID {
					return record, nil
				}
			}
		}
	}
}

// search finds a film whose title is misspelt. A document shows in a search
// within the index's refresh interval, a second.
func (d *demo) search(ctx context.Context) error {
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-time.After(1500 * time.Millisecond):
	}
	return d.commandTo(ctx, os.Stdout, "bin/capsaga", "search", "products", "misissippi mermaid")
}
