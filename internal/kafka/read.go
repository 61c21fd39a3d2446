package kafka

import (
	"context"
	"fmt"

	"github.com/twmb/franz-go/pkg/kgo"
)

// EndOffset returns the offset that the next record of a topic of one partition
// will have.
func (c *Client) EndOffset(ctx context.Context, topic string) (int64, error) {
	action := "find the end of topic " + topic
	ends, err := c.admin.ListEndOffsets(ctx, topic)
	if err != nil {
		return 0, Classify(action, err)
	}
	end, ok := ends.Lookup(topic, 0)
	if !ok {
		return 0, Classify(action, fmt.Errorf("it has no partition 0"))
	}
	return end.Offset, Classify(action, end.Err)
}

// Read hands over the records of a topic of one partition from an offset up to
// where the topic ends now, which it returns.
func (c *Client) Read(ctx context.Context, topic string, from int64, take func(offset int64, r Record) error) (int64, error) {
	end, err := c.EndOffset(ctx, topic)
	if err != nil || from >= end {
		return max(from, end), err
	}
	return end, c.read(ctx, topic, from, end, take)
}

func (c *Client) read(ctx context.Context, topic string, from, end int64, take func(offset int64, r Record) error) error {
	action := "read topic " + topic
	opts, err := c.config.options()
	if err != nil {
		return err
	}
	client, err := kgo.NewClient(append(opts,
		kgo.ConsumePartitions(map[string]map[int32]kgo.Offset{topic: {0: kgo.NewOffset().At(from)}}),
		kgo.ConsumeResetOffset(kgo.NoResetOffset()),
		kgo.FetchMaxBytes(roundBytes),
	)...)
	if err != nil {
		return Classify(action, err)
	}
	defer client.Close()
	for at := from; at < end; {
		fetches := client.PollFetches(ctx)
		if err := fetches.Err(); err != nil {
			return Classify(action, err)
		}
		for _, r := range fetches.Records() {
			if at = r.Offset + 1; at > end {
				return nil
			}
			if err := take(r.Offset, Record{Topic: r.Topic, Partition: r.Partition, Key: r.Key, Value: r.Value, Headers: r.Headers}); err != nil {
				return err
			}
		}
	}
	return nil
}
