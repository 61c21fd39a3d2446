package kafka

import (
	"context"
	"fmt"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"
)

// LastKey returns the key of the newest record of a partition that is not empty;
// found is false when all are. The key is nil for a record without one.
func (c *Client) LastKey(ctx context.Context, topic string) (key []byte, found bool, err error) {
	action := "read the newest record of topic " + topic
	starts, err := c.admin.ListStartOffsets(ctx, topic)
	if err != nil {
		return nil, false, Classify(action, err)
	}
	ends, err := c.admin.ListEndOffsets(ctx, topic)
	if err != nil {
		return nil, false, Classify(action, err)
	}
	last := kadm.ListedOffset{}
	ends.Each(func(end kadm.ListedOffset) {
		start, ok := starts.Lookup(topic, end.Partition)
		switch {
		case end.Err != nil:
			err = end.Err
		case ok && start.Err != nil:
			err = start.Err
		case ok && start.Offset < end.Offset && end.Offset > last.Offset:
			last = end
		}
	})
	if err != nil || last.Offset == 0 {
		return nil, false, Classify(action, err)
	}
	key, err = c.readKey(ctx, last)
	return key, err == nil, Classify(action, err)
}

// readKey reads the record that stands before an end offset.
func (c *Client) readKey(ctx context.Context, end kadm.ListedOffset) ([]byte, error) {
	opts, err := c.config.options()
	if err != nil {
		return nil, err
	}
	at := map[string]map[int32]kgo.Offset{end.Topic: {end.Partition: kgo.NewOffset().At(end.Offset - 1)}}
	client, err := kgo.NewClient(append(opts, kgo.ConsumePartitions(at))...)
	if err != nil {
		return nil, err
	}
	defer client.Close()
	fetches := client.PollRecords(ctx, 1)
	if err := fetches.Err(); err != nil {
		return nil, err
	}
	for _, record := range fetches.Records() {
		return record.Key, nil
	}
	return nil, fmt.Errorf("no record before offset %d of partition %d", end.Offset, end.Partition)
}
