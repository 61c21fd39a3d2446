package kafka

import (
	"context"
	"crypto/rand"
	"net"
	"runtime"
	"strconv"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/capsaga/capsaga/internal/stacktest"
	"github.com/capsaga/capsaga/saga"
)

func open(t *testing.T) (*Client, string) {
	t.Helper()
	stack := stacktest.New(t)
	client, err := Open(Config{Brokers: stack.KafkaBrokers})
	require.NoError(t, err)
	t.Cleanup(client.Close)
	return client, string(stack.Prefix) + ".public.films"
}

func testContext(t *testing.T) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	t.Cleanup(cancel)
	return ctx
}

func TestEnsureTopicsTwiceIsTheSameAsOnce(t *testing.T) {
	t.Parallel()
	client, topic := open(t)
	ctx := testContext(t)
	specs := []TopicSpec{{Name: topic, Partitions: 3}, {Name: topic + "2", Cleanup: "delete"}}
	created, err := client.EnsureTopics(ctx, specs)
	require.NoError(t, err)
	require.Equal(t, []string{topic, topic + "2"}, created)
	created, err = client.EnsureTopics(ctx, specs)
	require.NoError(t, err)
	require.Empty(t, created)

	topics, err := client.admin.ListTopics(ctx, topic)
	require.NoError(t, err)
	require.Len(t, topics[topic].Partitions, 3)
	configs, err := client.admin.DescribeTopicConfigs(ctx, topic, topic+"2")
	require.NoError(t, err)
	policies := map[string]string{}
	for _, resource := range configs {
		for _, c := range resource.Configs {
			if c.Key == "cleanup.policy" {
				policies[resource.Name] = *c.Value
			}
		}
	}
	require.Equal(t, map[string]string{topic: "compact", topic + "2": "delete"}, policies)
}

func TestATopicThatCannotBeIsRejected(t *testing.T) {
	t.Parallel()
	client, topic := open(t)
	for _, spec := range []TopicSpec{
		{Name: "no/such name"},
		{Name: topic, Replication: 99},
		{Name: topic, Cleanup: "nonsense"},
	} {
		_, err := client.EnsureTopics(testContext(t), []TopicSpec{spec})
		require.Error(t, err)
		require.Equal(t, saga.Rejected, saga.ClassOf(err), err)
		require.Contains(t, err.Error(), spec.Name)
	}
}

func TestPingSaysWhichBrokerIsAway(t *testing.T) {
	t.Parallel()
	client, _ := open(t)
	require.NoError(t, client.Ping(testContext(t)))

	listener, err := (&net.ListenConfig{}).Listen(context.Background(), "tcp", "127.0.0.1:0")
	require.NoError(t, err)
	address := listener.Addr().String()
	require.NoError(t, listener.Close())
	away, err := Open(Config{Brokers: []string{address}})
	require.NoError(t, err)
	defer away.Close()
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Second)
	defer cancel()
	err = away.Ping(ctx)
	require.Error(t, err)
	require.Equal(t, saga.Unavailable, saga.ClassOf(err))
	require.Contains(t, err.Error(), address)
}

// outcome gathers what becomes of a producer's records.
type outcome struct {
	acknowledged chan int
	failed       chan error
}

func newOutcome() *outcome {
	return &outcome{acknowledged: make(chan int, 1_000_000), failed: make(chan error, 1)}
}

func (o *outcome) told() Outcome {
	return Outcome{Acknowledged: func(n int) { o.acknowledged <- n }, Failed: func(_ Record, err error) { o.failed <- err }}
}

// wait returns when n records are acknowledged, or with why they never are.
func (o *outcome) wait(n int) error {
	for n > 0 {
		select {
		case done := <-o.acknowledged:
			n -= done
		case err := <-o.failed:
			return err
		}
	}
	return nil
}

func TestProduceAndRead(t *testing.T) {
	t.Parallel()
	client, topic := open(t)
	ctx := testContext(t)
	_, err := client.EnsureTopics(ctx, []TopicSpec{{Name: topic, Partitions: 2}})
	require.NoError(t, err)
	o := newOutcome()
	producer, err := client.NewProducer(o.told())
	require.NoError(t, err)
	known, err := client.Topic(ctx, topic)
	require.NoError(t, err)
	producer.Prepare(known)
	id, err := client.TopicID(ctx, topic)
	require.NoError(t, err)
	require.NotEmpty(t, id)
	require.Equal(t, Topic{Name: topic, ID: id, Partitions: 2, MaxBytes: 1048588, Compacted: true}, known)
	none, err := client.TopicID(ctx, topic+".none")
	require.NoError(t, err)
	require.Empty(t, none)
	for range 3 {
		producer.Produce(Record{Topic: topic, Key: []byte(`{"id":1}`)})
	}
	require.NoError(t, o.wait(3))
	var keys []string
	end, err := client.Read(ctx, topic, 0, func(_ int64, r Record) error {
		keys = append(keys, string(r.Key))
		return nil
	})
	require.NoError(t, err)
	require.EqualValues(t, 3, end)
	require.Equal(t, []string{`{"id":1}`, `{"id":1}`, `{"id":1}`}, keys)
	producer.Abort()
	producer.Produce(Record{Topic: topic}) // is dropped, and does not wait
	require.Empty(t, o.acknowledged, "nothing is written after Abort")
	require.Empty(t, o.failed)
}

func TestATopicsRefusalIsToldFromOthers(t *testing.T) {
	t.Parallel()
	client, topic := open(t)
	ctx := testContext(t)
	_, err := client.EnsureTopics(ctx, []TopicSpec{{Name: topic}})
	require.NoError(t, err)
	o := newOutcome()
	producer, err := client.NewProducer(o.told())
	require.NoError(t, err)
	defer producer.Abort()
	producer.Produce(Record{Topic: topic, Value: []byte("no key")})
	err = o.wait(1)
	require.True(t, TopicRefuses(err), err)
	require.False(t, TooLarge(err))
	_, err = client.Topic(ctx, topic+"no")
	require.Equal(t, saga.Unavailable, saga.ClassOf(err))
	require.False(t, TopicRefuses(err))
}

// The broker's limit is lowered under a producer, so that now and then a batch is
// over it and the next one is not: no record that follows a refused one is written.
func TestNothingIsWrittenBehindARefusedRecord(t *testing.T) {
	t.Parallel()
	client, topic := open(t)
	ctx := testContext(t)
	_, err := client.EnsureTopics(ctx, []TopicSpec{{Name: topic, Cleanup: "delete"}})
	require.NoError(t, err)
	for try := range 20 {
		require.NoError(t, client.AlterTopic(ctx, topic, map[string]string{"max.message.bytes": "1000000"}))
		before, err := client.EndOffset(ctx, topic)
		require.NoError(t, err)
		o := newOutcome()
		producer, err := client.NewProducer(o.told())
		require.NoError(t, err)
		producer.Prepare(Topic{Name: topic, MaxBytes: 1_000_000})
		stop := make(chan struct{})
		produced := make(chan int, 1)
		go func() {
			n := 0
			for ; ; n++ {
				select {
				case <-stop:
					produced <- n
					return
				default:
				}
				size := 3000 // of random bytes, which compress to no less
				if n%50 > 0 {
					size = 10
				}
				value := make([]byte, size)
				_, _ = rand.Read(value)
				for next := time.Now().Add(5 * time.Microsecond); time.Now().Before(next); {
					runtime.Gosched() // so that few records are in a batch
				}
				producer.Produce(Record{Topic: topic, Key: strconv.AppendInt(nil, int64(n), 10), Value: value})
			}
		}()
		require.NoError(t, o.wait(200))
		require.NoError(t, client.AlterTopic(ctx, topic, map[string]string{"max.message.bytes": "2000"}))
		err = o.wait(1 << 40)
		close(stop)
		<-produced
		producer.Abort()
		require.True(t, TooLarge(err), err)

		next := 0
		_, err = client.Read(ctx, topic, before, func(_ int64, r Record) error {
			require.Equal(t, strconv.Itoa(next), string(r.Key), "try %d", try)
			next++
			return nil
		})
		require.NoError(t, err)
		require.Greater(t, next, 200)
	}
}
