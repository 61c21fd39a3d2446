package kafkapub_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"github.com/twmb/franz-go/pkg/kerr"

	"github.com/capsaga/capsaga/internal/kafka"
	"github.com/capsaga/capsaga/internal/kafkapub"
	"github.com/capsaga/capsaga/internal/stacktest"
	"github.com/capsaga/capsaga/internal/stream"
	"github.com/capsaga/capsaga/saga"
)

// refusing is a cluster that refuses some topics, as one that took the rights to
// them away.
type refusing struct {
	kafkapub.Topics
	mu     sync.Mutex
	topics map[string]bool
}

func (c *refusing) set(topic string, refuses bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.topics[topic] = refuses
}

func (c *refusing) check(topic string) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.topics[topic] {
		return kafka.Classify("write to topic "+topic, kerr.TopicAuthorizationFailed)
	}
	return nil
}

func (c *refusing) TopicID(ctx context.Context, name string) (string, error) {
	if err := c.check(name); err != nil {
		return "", err
	}
	return c.Topics.TopicID(ctx, name)
}

func (c *refusing) EnsureTopics(ctx context.Context, specs []kafka.TopicSpec) ([]string, error) {
	for _, spec := range specs {
		if err := c.check(spec.Name); err != nil {
			return nil, err
		}
	}
	return c.Topics.EnsureTopics(ctx, specs)
}

// refusingProducer fails at a record to a topic that refuses, and drops what comes
// later, as kafka.Producer does.
type refusingProducer struct {
	*kafka.Producer
	cluster *refusing
	outcome kafka.Outcome

	mu     sync.Mutex
	before int // records that the real one has and has not acknowledged
	failed func()
}

func (c *refusing) newProducer(client *kafka.Client) func(kafka.Outcome) (kafkapub.Producer, error) {
	return func(outcome kafka.Outcome) (kafkapub.Producer, error) {
		p := &refusingProducer{cluster: c, outcome: outcome}
		var err error
		p.Producer, err = client.NewProducer(kafka.Outcome{Acknowledged: p.acknowledged, Failed: outcome.Failed})
		return p, err
	}
}

func (p *refusingProducer) Produce(r kafka.Record) {
	if p.admits(r) {
		p.Producer.Produce(r) // without the lock: it waits for acknowledgements
	}
}

func (p *refusingProducer) admits(r kafka.Record) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.failed != nil {
		return false
	}
	err := p.cluster.check(r.Topic)
	if err == nil {
		p.before++
		return true
	}
	p.failed = func() { p.outcome.Failed(r, err) }
	if p.before == 0 {
		go p.failed()
	}
	return false
}

func (p *refusingProducer) acknowledged(n int) {
	p.outcome.Acknowledged(n)
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.before -= n; p.before == 0 && p.failed != nil {
		go p.failed()
	}
}

func (w *world) refusing() *refusing {
	return &refusing{Topics: w.kafka, topics: map[string]bool{}}
}

// behind makes a reader use a cluster that refuses.
func (w *world) behind(c *refusing) func(*stream.Config, *kafkapub.Config) {
	return func(s *stream.Config, k *kafkapub.Config) {
		k.Topics, k.NewProducer = c, c.newProducer(w.kafka)
		s.Handler = kafkapub.New(*k)
	}
}

// alarms returns what the stream's row says of diverted topics.
func (w *world) alarms() []string {
	w.t.Helper()
	infos, err := stream.Status(context.Background(), w.pool(), w.stack.Prefix)
	require.NoError(w.t, err)
	require.Len(w.t, infos, 1)
	require.Empty(w.t, infos[0].Error)
	return infos[0].Alarms
}

// drain asks for a topic's parked records and waits until they are back.
func (w *world) drain(table string) {
	w.t.Helper()
	require.NoError(w.t, kafkapub.RequestDrain(context.Background(), w.pool(), w.slot, []string{w.topic(table)}))
	stacktest.Eventually(w.t, 30*time.Second, func() error {
		diverted, err := kafkapub.Diversions(context.Background(), w.pool(), w.slot)
		if err == nil && len(diverted) > 0 {
			require.Empty(w.t, diverted[0].Refused)
			require.Equal(w.t, "public."+table, diverted[0].Table)
			err = errors.New("still diverted")
		}
		return err
	})
}

func (w *world) parked() []event { return w.events(string(w.stack.Prefix) + ".parked") }

func keysOf(events []event) []string {
	var keys []string
	for _, e := range events {
		keys = append(keys, e.Key)
	}
	return keys
}

func TestATopicWhoseRightsAreTakenAwayIsDivertedAndDrained(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	cluster := w.refusing()
	w.exec("CREATE TABLE products (id int PRIMARY KEY); CREATE TABLE other (id int PRIMARY KEY)")
	r := w.start(w.behind(cluster))
	w.exec("INSERT INTO products VALUES (1)")
	w.settle(r.positions)
	cluster.set(w.topic("products"), true)
	w.exec("INSERT INTO products VALUES (2), (3)")
	w.exec("INSERT INTO other VALUES (1)")
	w.exec("DELETE FROM products WHERE id = 2")
	w.settle(r.positions)
	require.Equal(t, []string{`{"id":1}`}, keysOf(w.events(w.topic("products"))))
	require.Equal(t, []string{`{"id":1}`}, keysOf(w.events(w.topic("other"))), "others flow on")
	parked := w.parked()
	require.Equal(t, []string{`{"id":2}`, `{"id":3}`, `{"id":2}`, `{"id":2}`}, keysOf(parked))
	for _, e := range parked {
		require.Equal(t, w.topic("products"), e.Headers[saga.HeaderParkedTopic])
		require.NotEmpty(t, e.Headers[saga.HeaderEventID])
	}
	require.True(t, parked[3].Tombstone)
	require.Len(t, w.alarms(), 1)
	require.Contains(t, w.alarms()[0], w.topic("products"))
	require.Contains(t, w.alarms()[0], "TOPIC_AUTHORIZATION_FAILED")
	require.Contains(t, w.alarms()[0], "streams drain")
	require.False(t, r.Stats().Alarmed.Load(), "the stream does not stand still")

	// A drain before the rights are back says why it cannot be.
	w.exec("UPDATE capsaga.topic SET drain_at = now()")
	stacktest.Eventually(t, 10*time.Second, func() error {
		var problem string
		err := w.pool().QueryRow(context.Background(), "SELECT coalesce(drain_error, '') FROM capsaga.topic WHERE topic = $1", w.topic("products")).Scan(&problem)
		if err == nil && !strings.Contains(problem, "TOPIC_AUTHORIZATION_FAILED") {
			err = fmt.Errorf("drain_error is %q", problem)
		}
		return err
	})

	cluster.set(w.topic("products"), false)
	w.drain("products")
	w.exec("INSERT INTO products VALUES (4)")
	w.settle(r.positions)
	events := w.events(w.topic("products"))
	require.Equal(t, []string{`{"id":1}`, `{"id":2}`, `{"id":3}`, `{"id":2}`, `{"id":2}`, `{"id":4}`}, keysOf(events))
	for i, e := range parked {
		back := events[1+i]
		require.Equal(t, e.Value, back.Value)
		require.Equal(t, e.Headers[saga.HeaderEventID], back.Headers[saga.HeaderEventID])
		require.NotContains(t, back.Headers, saga.HeaderParkedTopic)
	}
	require.Empty(t, w.alarms())
	require.Len(t, w.parked(), 4, "nothing is parked any more")
}

// TestATopicThatCannotBeMadeIsDiverted lets the deleted topic's creation fail at
// the broker itself: by a policy that the catalog asks for and the broker refuses.
func TestATopicThatCannotBeMadeIsDiverted(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.exec("CREATE TABLE products (id int PRIMARY KEY)")
	catalog := func(cleanup string) func(*stream.Config, *kafkapub.Config) {
		return func(_ *stream.Config, c *kafkapub.Config) {
			c.Catalog = &saga.Catalog{Entities: map[string]*saga.Entity{"products": {
				Name: "products", Table: saga.Table{Schema: "public", Name: "products"}, Key: []string{"id"}, Kafka: &saga.KafkaSink{Partitions: 2, Cleanup: cleanup},
			}}}
		}
	}
	r := w.start(catalog("compact"))
	w.exec("INSERT INTO products VALUES (1)")
	w.settle(r.positions)
	r.stop()
	r = w.start(catalog("nonsense"))
	w.deleteTopic("products")
	w.exec("INSERT INTO products SELECT generate_series(2, 9)")
	w.exec("TRUNCATE products")
	w.exec("INSERT INTO products VALUES (1)")
	w.settle(r.positions)
	require.Len(t, w.parked(), 10)
	r.stop()

	// Another worker knows of the diversion, and makes the topic when it is asked to.
	r = w.start(catalog("compact"))
	w.exec("INSERT INTO products VALUES (2)")
	w.settle(r.positions)
	require.Len(t, w.parked(), 11)
	w.drain("products")
	w.exec("INSERT INTO products VALUES (3)")
	w.settle(r.positions)
	events := w.events(w.topic("products"))
	require.Len(t, events, 8+2+3, "the TRUNCATE is in each of the two partitions")
	ids := map[string]bool{}
	rows := map[int32]map[string]bool{0: {}, 1: {}}
	for _, e := range events {
		ids[e.Headers[saga.HeaderEventID]] = true
		if e.decode(t)["op"] == "t" {
			require.True(t, saga.IsTruncateKey([]byte(e.Key)))
			clear(rows[e.Partition])
			continue
		}
		rows[e.Partition][e.Key] = true
	}
	require.Len(t, ids, len(events), "each has an id of its own")
	require.Equal(t, 3, len(rows[0])+len(rows[1]))
}

func TestAKeylessTablesCompactedTopicIsDiverted(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.exec("CREATE TABLE keyless (n int)")
	_, err := w.kafka.EnsureTopics(context.Background(), []kafka.TopicSpec{{Name: w.topic("keyless"), Cleanup: "compact"}})
	require.NoError(t, err)
	r := w.start()
	w.exec("INSERT INTO keyless VALUES (1)")
	w.exec("INSERT INTO keyless VALUES (2)")
	w.settle(r.positions)
	require.Empty(t, w.events(w.topic("keyless")))
	require.Len(t, w.parked(), 2)
	require.Contains(t, w.alarms()[0], "cleanup.policy")
	w.setTopic("keyless", "cleanup.policy", "delete")
	w.drain("keyless")
	w.exec("INSERT INTO keyless VALUES (3)")
	w.settle(r.positions)
	events := w.events(w.topic("keyless"))
	require.Len(t, events, 3)

	// The policy changes under the running stream: the broker itself refuses.
	w.setTopic("keyless", "cleanup.policy", "compact")
	w.exec("INSERT INTO keyless VALUES (4)")
	w.settle(r.positions)
	stacktest.Eventually(t, 10*time.Second, func() error {
		if len(w.parked()) == 2 && len(w.events(w.topic("keyless"))) == 3 {
			return errors.New("it is nowhere")
		}
		return nil
	})
	w.setTopic("keyless", "cleanup.policy", "delete")
	if len(w.alarms()) > 0 { // unless the broker was slow to learn of the policy
		w.drain("keyless")
	}
	require.Len(t, w.events(w.topic("keyless")), 4)
}

// TestOrderHoldsAcrossDiversionsAndCrashes counts rows up while the topic is taken
// away and given back, drained under load, and its holder is stopped or loses the
// stream at any moment.
func TestOrderHoldsAcrossDiversionsAndCrashes(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.makeCounters()
	cluster := w.refusing()
	ctx, cancel := context.WithCancel(context.Background())
	var group sync.WaitGroup
	for seed := range uint64(2) {
		group.Go(func() { w.count(ctx, seed) })
	}
	topic := w.topic("counters")
	r := w.start(w.behind(cluster))
	for range 4 {
		cluster.set(topic, true)
		w.awaitDiversion(true)
		w.restart(&r, cluster)
		cluster.set(topic, false)
		w.exec("UPDATE capsaga.topic SET drain_at = now() WHERE diverted_at IS NOT NULL")
		w.restart(&r, cluster) // in the middle of it, now and then
		w.awaitDiversion(false)
	}
	cancel()
	group.Wait()
	w.settle(r.positions)
	t.Logf("%d repeated, %d parked", w.requireCounted(), len(w.parked()))
}

// restart takes the walsender away from a reader at some moment soon, or stops it
// and starts another.
func (w *world) restart(r **running, cluster *refusing) {
	w.t.Helper()
	timer := time.NewTimer(time.Duration(rand.IntN(300)) * time.Millisecond)
	defer timer.Stop()
	<-timer.C
	if rand.IntN(2) == 0 {
		_, err := w.pool().Exec(context.Background(), "SELECT pg_terminate_backend(active_pid) FROM pg_replication_slots WHERE slot_name = $1 AND active", w.slot)
		require.NoError(w.t, err)
		return
	}
	(*r).stop()
	*r = w.start(w.behind(cluster))
}

func (w *world) awaitDiversion(want bool) {
	w.t.Helper()
	stacktest.Eventually(w.t, 30*time.Second, func() error {
		var diverted bool
		err := w.pool().QueryRow(context.Background(), "SELECT diverted_at IS NOT NULL FROM capsaga.topic WHERE topic = $1", w.topic("counters")).Scan(&diverted)
		if err == nil && diverted != want {
			err = fmt.Errorf("diverted: %v", diverted)
		}
		return err
	})
}

func TestALargeRecordIsAClaimCheckInItsPlace(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.exec("CREATE TABLE products (id int, region text, note text, PRIMARY KEY (region, id)); CREATE TABLE keyless (n int, note text)")
	w.exec("ALTER TABLE keyless REPLICA IDENTITY FULL")
	r := w.start(func(_ *stream.Config, c *kafkapub.Config) {
		c.Catalog = &saga.Catalog{Entities: map[string]*saga.Entity{"products": {
			Name: "products", Table: saga.Table{Schema: "public", Name: "products"}, Key: []string{"id", "region"}, Kafka: &saga.KafkaSink{},
		}}}
	})
	large := strings.Repeat("large", 300_000)
	w.exec("INSERT INTO products VALUES (1, 'a:b', 'small')")
	w.exec("UPDATE products SET note = $1", large)
	w.exec("INSERT INTO products VALUES (2, 'c', 'small')")
	w.exec("INSERT INTO keyless VALUES (7, $1)", large)
	w.exec("UPDATE keyless SET n = 8")
	w.settle(r.positions)
	events := w.events(w.topic("products"))
	require.Len(t, events, 3)
	require.NotContains(t, events[0].Headers, saga.HeaderClaimCheck)
	require.Equal(t, `{"region":"a:b","id":1}`, events[1].Key)
	require.Contains(t, events[1].Value, `{"before":null,"after":{"region":"a:b","id":1},"source":`)
	require.Equal(t, fmt.Sprintf(`{"schema":"public","table":"products","entity":"products","key":"1:a%%3Ab","version":%q}`, events[1].Headers[saga.HeaderVersion]),
		events[1].Headers[saga.HeaderClaimCheck])
	require.Equal(t, `{"region":"c","id":2}`, events[2].Key)

	keyless := w.events(w.topic("keyless"))
	require.Len(t, keyless, 2)
	require.Contains(t, keyless[0].Value, `"after":{"n":7,"note":"__debezium_unavailable_value"}`)
	require.Contains(t, keyless[1].Value, `{"before":{"n":7,"note":"__debezium_unavailable_value"},"after":{"n":8,"note":"__debezium_unavailable_value"}`)
	var check saga.ClaimCheck
	require.NoError(t, json.Unmarshal([]byte(keyless[0].Headers[saga.HeaderClaimCheck]), &check))
	require.Equal(t, "null", string(check.Key))
	require.Empty(t, check.Entity)
	require.Empty(t, w.alarms())
}

// TestOrderHoldsWhileTheLimitMoves lowers and raises the topic's limit under load:
// each change is there once and in order, whole or as a claim check.
func TestOrderHoldsWhileTheLimitMoves(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.makeCounters()
	r := w.start()
	w.settle(r.positions)
	ctx, cancel := context.WithCancel(context.Background())
	var group sync.WaitGroup
	for seed := range uint64(2) {
		group.Go(func() { w.count(ctx, seed) })
	}
	for i := range 6 {
		// Half of it holds a reference still: a limit that is told late is halved.
		limit := 2000 + rand.IntN(600)
		if i%2 == 1 {
			limit = 1_000_000
		}
		w.setTopic("counters", "max.message.bytes", fmt.Sprint(limit))
		w.exec("ALTER TABLE counters ALTER padding SET STATISTICS " + fmt.Sprint(i)) // the table is described anew, and the topic looked at
		w.settle(r.positions)
	}
	cancel()
	group.Wait()
	w.settle(r.positions)
	require.Empty(t, w.alarms())
	claims := 0
	for _, e := range w.events(w.topic("counters")) {
		if e.Headers[saga.HeaderClaimCheck] != "" {
			claims++
		}
	}
	t.Logf("%d repeated, %d claim checks, %d losses", w.requireCounted(), claims, r.Stats().Losses.Load())
	require.NotZero(t, claims)
}

// TestARecordWhoseReferenceIsTooLargeIsParked has a key that no record fits.
func TestARecordWhoseReferenceIsTooLargeIsParked(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.exec("CREATE TABLE products (name text PRIMARY KEY)")
	r := w.start()
	w.exec("INSERT INTO products VALUES ('a')")
	w.settle(r.positions)
	w.setTopic("products", "max.message.bytes", "2000")
	w.exec("INSERT INTO products SELECT string_agg(md5(n::text), '') FROM generate_series(1, 80) n")
	w.exec("INSERT INTO products VALUES ('b')")
	w.settle(r.positions)
	require.Len(t, keysOf(w.events(w.topic("products"))), 1)
	require.Len(t, keysOf(w.parked()), 2)
	require.Contains(t, w.alarms()[0], "max.message.bytes")
	w.setTopic("products", "max.message.bytes", "1000000")
	w.drain("products")
	require.Len(t, w.events(w.topic("products")), 3)
}
