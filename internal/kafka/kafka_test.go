package kafka

import (
	"context"
	"net"
	"strings"
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

func TestProduceAndLastKey(t *testing.T) {
	t.Parallel()
	client, topic := open(t)
	ctx := testContext(t)
	_, err := client.EnsureTopics(ctx, []TopicSpec{{Name: topic, Partitions: 2}})
	require.NoError(t, err)
	_, found, err := client.LastKey(ctx, topic)
	require.NoError(t, err)
	require.False(t, found)

	producer, err := client.NewProducer()
	require.NoError(t, err)
	require.NoError(t, producer.Prepare(ctx, topic))
	acknowledged := make(chan error, 1)
	require.NoError(t, producer.Produce(ctx, Record{Topic: topic, Key: []byte(`{"id":1}`)}, func(err error) { acknowledged <- err }))
	require.NoError(t, <-acknowledged)
	key, found, err := client.LastKey(ctx, topic)
	require.NoError(t, err)
	require.True(t, found)
	require.JSONEq(t, `{"id":1}`, string(key))

	large := Record{Topic: topic, Key: []byte("k"), Value: []byte(strings.Repeat("x", 1<<21))}
	err = producer.Produce(ctx, large, func(error) { t.Error("a record that is refused at once was answered") })
	require.Equal(t, saga.Rejected, saga.ClassOf(err))
	require.Contains(t, err.Error(), "max.message.bytes")

	producer.Abort()
	require.NoError(t, producer.Produce(ctx, Record{Topic: topic}, func(err error) { acknowledged <- err }))
	require.Error(t, <-acknowledged, "nothing is written after Abort")
}
