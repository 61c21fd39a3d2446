package e2e

import (
	"context"
	"encoding/json"
	"fmt"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/capsaga/capsaga/saga"
)

// event is a record of a topic.
type event struct {
	topic     string
	partition int32
	offset    int64
	key       string
	headers   map[string]string
	version   saga.Version
	tombstone bool
	envelope  envelope // empty for a tombstone
	written   time.Time
}

// envelope is what the tests read of Debezium's.
type envelope struct {
	Before map[string]json.RawMessage `json:"before"`
	After  map[string]json.RawMessage `json:"after"`
	Source struct {
		Connector string `json:"connector"`
		Name      string `json:"name"`
		DB        string `json:"db"`
		Schema    string `json:"schema"`
		Table     string `json:"table"`
		LSN       uint64 `json:"lsn"`
		TsMs      int64  `json:"ts_ms"`
	} `json:"source"`
	Op   string `json:"op"`
	TsMs int64  `json:"ts_ms"`
}

func (e event) id() string     { return e.headers[saga.HeaderEventID] }
func (e event) sagaID() string { return e.headers[saga.HeaderSagaID] }

// events reads a table's topic from its start to what is its end now; each
// partition's records are in order.
func (w *world) events(table string) []event {
	w.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 60*time.Second)
	defer cancel()
	topic := w.topic(table)
	reader, err := kgo.NewClient(kgo.SeedBrokers(w.stack.KafkaBrokers...), kgo.ConsumeTopics(topic),
		kgo.ConsumeResetOffset(kgo.NewOffset().AtStart()), kgo.FetchMaxWait(50*time.Millisecond))
	require.NoError(w.t, err)
	defer reader.Close()
	left := w.ends(ctx, reader, topic)
	var events []event
	for len(left) > 0 {
		fetches := reader.PollFetches(ctx)
		require.NoError(w.t, fetches.Err())
		fetches.EachRecord(func(r *kgo.Record) {
			events = append(events, newEvent(w.t, r))
			if r.Offset+1 >= left[r.Partition] {
				delete(left, r.Partition)
			}
		})
	}
	return events
}

// records counts what a table's topic has.
func (w *world) records(table string) (n int64) {
	w.t.Helper()
	client, err := kgo.NewClient(kgo.SeedBrokers(w.stack.KafkaBrokers...))
	require.NoError(w.t, err)
	defer client.Close()
	for _, end := range w.ends(context.Background(), client, w.topic(table)) {
		n += end
	}
	return n
}

// ends returns where each partition that is not empty ends.
func (w *world) ends(ctx context.Context, client *kgo.Client, topic string) map[int32]int64 {
	w.t.Helper()
	listed, err := kadm.NewClient(client).ListEndOffsets(ctx, topic)
	require.NoError(w.t, err)
	ends := map[int32]int64{}
	listed.Each(func(o kadm.ListedOffset) {
		require.NoError(w.t, o.Err)
		if o.Offset > 0 {
			ends[o.Partition] = o.Offset
		}
	})
	return ends
}

func newEvent(t testing.TB, r *kgo.Record) event {
	t.Helper()
	e := event{
		topic: r.Topic, partition: r.Partition, offset: r.Offset, key: string(r.Key),
		headers: map[string]string{}, tombstone: r.Value == nil, written: r.Timestamp,
	}
	for _, h := range r.Headers {
		e.headers[h.Key] = string(h.Value)
	}
	require.NotEmpty(t, e.id(), "a record without an event id: %s", r.Value)
	var err error
	e.version, err = saga.ParseVersion(e.headers[saga.HeaderVersion])
	require.NoError(t, err)
	if !e.tombstone {
		require.NoError(t, json.Unmarshal(r.Value, &e.envelope), "%s", r.Value)
	}
	return e
}

// distinct drops the events whose ids were seen before, as a consumer would.
func distinct(events []event) []event {
	seen := map[string]bool{}
	var kept []event
	for _, e := range events {
		if !seen[e.id()] {
			seen[e.id()] = true
			kept = append(kept, e)
		}
	}
	return kept
}

// requireInOrder wants that per key no version falls from one event to the next.
// The changes of one transaction share a version.
func requireInOrder(t testing.TB, events []event) {
	t.Helper()
	last := map[string]event{}
	for _, e := range events {
		before, seen := last[e.key]
		require.False(t, seen && e.version < before.version,
			"key %s: event %s of version %s (generation %s) comes after event %s of version %s (generation %s)",
			e.key, e.id(), e.version, e.headers[saga.HeaderGeneration], before.id(), before.version, before.headers[saga.HeaderGeneration])
		last[e.key] = e
	}
}

// replay returns the rows that a consumer of the events ends with, by id.
func replay(t testing.TB, events []event) map[string]row {
	t.Helper()
	rows := map[string]row{}
	for _, e := range events {
		var key map[string]json.RawMessage
		require.NoError(t, json.Unmarshal([]byte(e.key), &key), e.key)
		id := string(key["id"])
		switch {
		case e.tombstone, e.envelope.Op == "d":
			delete(rows, id)
		default:
			rows[id] = newRow(e.envelope.After)
		}
	}
	return rows
}

// changesBySaga counts the changes that carry each saga's id; tombstones follow
// a delete and are no change of their own.
func changesBySaga(events []event) map[string]int {
	counts := map[string]int{}
	for _, e := range events {
		if !e.tombstone {
			counts[e.sagaID()]++
		}
	}
	return counts
}

func (e event) String() string {
	return fmt.Sprintf("%s/%d@%d %s v%s %s", e.topic, e.partition, e.offset, e.id(), e.version, e.envelope.Op)
}
