package kafka

import (
	"context"
	"fmt"
	"math"
	"sync"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"
)

// Record is one record to write. A nil Value is a tombstone; a nil Key goes to
// any partition.
type Record struct {
	Topic   string
	Key     []byte
	Value   []byte
	Headers []Header
}

// Header is one header of a record.
type Header = kgo.RecordHeader

// Size is what the record takes in a batch, about: its bytes and the most that
// framing adds.
func (r Record) Size() int {
	size := batchOverhead + len(r.Key) + len(r.Value)
	for _, h := range r.Headers {
		size += len(h.Key) + len(h.Value) + headerOverhead
	}
	return size
}

const (
	batchOverhead  = 61 + 25 // the batch's own head and the record's varints
	headerOverhead = 10
)

// Producer writes records for one holder of a stream.
type Producer struct {
	client *kgo.Client
	admin  *Client

	mu     sync.Mutex
	limits map[string]int // max.message.bytes per topic
	last   error          // of the connections, nil when they are well
}

// unknownTopicTries bounds how often a topic may be reported unknown before its
// records fail. Topics are created before they are used, so this is one that
// was deleted.
const unknownTopicTries = 10

// maxBufferedRecords never blocks: the stream bounds what is in flight by bytes.
const maxBufferedRecords = math.MaxInt32

// NewProducer returns a producer with an id of its own.
func (c *Client) NewProducer() (*Producer, error) {
	opts, err := c.config.options()
	if err != nil {
		return nil, err
	}
	p := &Producer{admin: c, limits: map[string]int{}}
	opts = append(opts,
		kgo.RequiredAcks(kgo.AllISRAcks()),
		kgo.RecordPartitioner(kgo.StickyKeyPartitioner(nil)), // murmur2, as Java's default
		kgo.ProducerLinger(0),
		kgo.ProducerBatchCompression(kgo.Lz4Compression(), kgo.NoCompression()),
		kgo.MaxBufferedRecords(maxBufferedRecords),
		kgo.ProducerBatchMaxBytesFn(p.batchLimit),
		kgo.UnknownTopicRetries(unknownTopicTries),
		// After data loss the sequence is broken for good: fail everything,
		// and let the next producer begin from what is confirmed.
		kgo.StopProducerOnDataLossDetected(),
		kgo.WithHooks(&connectionHook{p}),
	)
	if p.client, err = kgo.NewClient(opts...); err != nil {
		return nil, invalid(fmt.Sprintf("configure the producer: %s", err))
	}
	return p, nil
}

// Prepare learns a topic's limit on the size of a record, by which Produce
// refuses at once what the broker would refuse later. Without it a record that
// follows a refused one could still be written, ahead of it.
func (p *Producer) Prepare(ctx context.Context, topic string) error {
	limit, err := p.admin.MaxMessageBytes(ctx, topic)
	if err != nil {
		return err
	}
	p.mu.Lock()
	p.limits[topic] = limit
	p.mu.Unlock()
	return nil
}

// defaultMaxMessageBytes is the brokers' default of max.message.bytes, less what
// a request adds.
const defaultMaxMessageBytes = 1_000_012

func (p *Producer) limit(topic string) int {
	p.mu.Lock()
	defer p.mu.Unlock()
	if limit, ok := p.limits[topic]; ok {
		return limit
	}
	return defaultMaxMessageBytes
}

// batchLimit is called once per partition; the driver takes 512 to 1 GiB.
func (p *Producer) batchLimit(topic string) int32 {
	return int32(min(max(p.limit(topic), 512), 1<<30))
}

// Produce writes a record and calls done once, from another goroutine, when all
// in-sync replicas have it or when it can never be written. It returns an error
// at once, and does not call done, for a record that is too large.
//
// The caller orders its calls: records of one partition are written in the order
// of the calls, and none after one that failed.
func (p *Producer) Produce(ctx context.Context, r Record, done func(error)) error {
	if size, limit := r.Size(), p.limit(r.Topic); size > limit {
		return tooLarge(r.Topic, size, limit)
	}
	record := &kgo.Record{Topic: r.Topic, Key: r.Key, Value: r.Value, Headers: r.Headers}
	p.client.Produce(ctx, record, func(_ *kgo.Record, err error) {
		if err != nil {
			err = Classify("write to topic "+r.Topic, err)
		}
		done(err)
	})
	return nil
}

// LastError returns what is wrong with the connections to the brokers, or nil.
func (p *Producer) LastError() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.last
}

func (p *Producer) connection(err error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.last = err
}

// abortWait is how long Abort waits for the answers to requests in flight.
const abortWait = time.Second

// Abort fails all that is buffered, waits a moment for the answers to what is in
// flight, and closes the producer. Nothing is sent after it returns.
func (p *Producer) Abort() {
	ctx, cancel := context.WithTimeout(context.Background(), abortWait)
	defer cancel()
	_ = p.client.AbortBufferedRecords(ctx) // Close fails what it had to leave
	p.client.Close()
}
