package kafka

import "encoding/binary"

// Topic is what a producer has to know of a topic.
type Topic struct {
	Name string
	// ID is the cluster's, which a topic that is deleted and made again has not.
	ID         string
	Partitions int
	// MaxBytes is the greatest size of a record and of a batch: max.message.bytes.
	MaxBytes int
	// Compacted says that the topic takes no record without a key.
	Compacted bool
}

// Partition returns the partition of a key: murmur2 as in Java's producer, so that
// a program of any language that writes to or reads from the topic by key agrees.
func (t *Topic) Partition(key []byte) int32 {
	if t.Partitions <= 1 {
		return 0
	}
	return int32(murmur2(key)&0x7fffffff) % int32(t.Partitions) //nolint:gosec // a count of partitions
}

// murmur2 is the hash of Java's producer, org.apache.kafka.common.utils.Utils.
func murmur2(data []byte) uint32 {
	const (
		seed uint32 = 0x9747b28c
		m    uint32 = 0x5bd1e995
		r           = 24
	)
	h := seed ^ uint32(len(data)) //nolint:gosec // a record's key
	for len(data) >= 4 {
		k := binary.LittleEndian.Uint32(data) * m
		k ^= k >> r
		h = h*m ^ k*m
		data = data[4:]
	}
	switch len(data) {
	case 3:
		h ^= uint32(data[2]) << 16
		fallthrough
	case 2:
		h ^= uint32(data[1]) << 8
		fallthrough
	case 1:
		h = (h ^ uint32(data[0])) * m
	}
	h = (h ^ h>>13) * m
	return h ^ h>>15
}
