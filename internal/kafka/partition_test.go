package kafka

import (
	"testing"

	"github.com/stretchr/testify/require"
	"github.com/twmb/franz-go/pkg/kgo"
	"pgregory.net/rapid"
)

// Keys go where the driver's own partitioner, and with it Java's producer, puts
// them.
func TestPartitionIsJavasProperty(t *testing.T) {
	t.Parallel()
	theirs := kgo.StickyKeyPartitioner(nil).ForTopic("t")
	rapid.Check(t, func(t *rapid.T) {
		key := rapid.SliceOfN(rapid.Byte(), 0, 40).Draw(t, "key")
		topic := Topic{Partitions: rapid.IntRange(1, 500).Draw(t, "partitions")}
		record := &kgo.Record{Key: append([]byte{}, key...)}
		require.Equal(t, theirs.Partition(record, topic.Partitions), int(topic.Partition(key)))
	})
}
