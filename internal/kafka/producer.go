package kafka

import (
	"context"
	"math"
	"sync"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"
)

// Record is one record to write. A nil Value is a tombstone.
type Record struct {
	Topic     string
	Partition int32
	Key       []byte
	Value     []byte
	Headers   []Header
}

// Header is one header of a record.
type Header = kgo.RecordHeader

// Size is what the record takes in a batch, about: its bytes and the most that
// framing adds.
func (r *Record) Size() int {
	size := batchOverhead + len(r.Key) + len(r.Value)
	for i := range r.Headers {
		size += len(r.Headers[i].Key) + len(r.Headers[i].Value) + headerOverhead
	}
	return size
}

const (
	batchOverhead  = 61 + 25 // the batch's own head and the record's varints
	headerOverhead = 10
)

// Outcome is told what becomes of a producer's records, from one goroutine.
type Outcome struct {
	// Acknowledged is told that all in-sync replicas have the next n records, in the
	// order in which they were produced.
	Acknowledged func(n int)
	// Failed is told of one record that can never be written. It is called at most
	// once and last: of the records that are not acknowledged by then, any may have
	// been written, but none behind one of the same partition that was not.
	Failed func(r Record, err error)
}

// Producer writes records for one holder of a stream, in rounds: what was produced
// while a round is on its way is the next one.
//
// A round ends before the next begins, which is what keeps the order after a
// refusal. The driver would go on with what is behind a refused record as soon as
// it has told of the refusal, under a new producer epoch, and whoever begins again
// at the refused record would write it behind what came later. Within a round the
// brokers refuse what follows a gap in a partition's sequence.
type Producer struct {
	admin   *Client
	outcome Outcome
	ctx     context.Context //nolint:containedctx // the producer's own life, which Abort ends
	stop    context.CancelFunc
	done    chan struct{}

	mu      sync.Mutex
	changed sync.Cond // the queue has a first record, has room again, or is closed
	queue   []kgo.Record
	bytes   int               // of the queue
	batches map[partition]int // and of its records for each partition
	closed  bool
	client  *kgo.Client
	limits  map[string]int // batch limits per topic
	last    error          // of the connections, nil when they are well
	failed  Record         // of the round on its way
	failure error

	// run's goroutine alone uses these.
	round  []kgo.Record // on its way
	sentAt time.Time
}

// partition is one of a topic.
type partition struct {
	topic string
	id    int32
}

const (
	// unknownTopicTries bounds how often a topic may be reported unknown before its
	// records fail. Topics are created before they are used, so this is one that
	// was deleted.
	unknownTopicTries = 10
	// roundBytes and roundRecords bound a round.
	roundBytes   = 2 << 20
	roundRecords = 4096
	// renewAfter is the idle time after which a new producer id is taken: brokers
	// forget the sequence of an idle one (producer.id.expiration.ms, a day), and then
	// would take a record that follows a refused one.
	renewAfter = time.Hour
)

// NewProducer returns a producer with an id of its own.
func (c *Client) NewProducer(outcome Outcome) (*Producer, error) {
	p := &Producer{admin: c, outcome: outcome, limits: map[string]int{}, batches: map[partition]int{}, done: make(chan struct{}), sentAt: time.Now()}
	p.changed.L = &p.mu
	var err error
	if p.client, err = p.connect(); err != nil {
		return nil, err
	}
	p.ctx, p.stop = context.WithCancel(context.Background())
	go p.run()
	return p, nil
}

func (p *Producer) connect() (*kgo.Client, error) {
	opts, err := p.admin.config.options()
	if err != nil {
		return nil, err
	}
	client, err := kgo.NewClient(append(opts,
		kgo.RequiredAcks(kgo.AllISRAcks()),
		kgo.RecordPartitioner(kgo.ManualPartitioner()),
		kgo.ManualFlushing(),
		kgo.ProducerBatchCompression(kgo.Lz4Compression(), kgo.NoCompression()),
		kgo.MaxBufferedRecords(math.MaxInt32), // a round is bounded here
		kgo.ProducerBatchMaxBytesFn(p.batchLimit),
		kgo.UnknownTopicRetries(unknownTopicTries),
		// After data loss the sequence is broken for good: fail everything,
		// and let the next producer begin from what is confirmed.
		kgo.StopProducerOnDataLossDetected(),
		kgo.WithHooks(&connectionHook{p}),
	)...)
	if err != nil {
		return nil, invalid("configure the producer: " + err.Error())
	}
	return client, nil
}

// Prepare sets the greatest size of a batch to a topic, before the first record to
// it. After that it may lower it, and not raise it: the driver goes by the first. A
// record of more than the topic's MaxBytes is not to be produced.
func (p *Producer) Prepare(topic Topic) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.limits[topic.Name] = topic.MaxBytes
}

// defaultMaxMessageBytes is the brokers' default of max.message.bytes, less what
// a request adds.
const defaultMaxMessageBytes = 1_000_012

// batchLimit is called once per partition; the driver takes 512 to 1 GiB.
func (p *Producer) batchLimit(topic string) int32 {
	p.mu.Lock()
	defer p.mu.Unlock()
	limit, ok := p.limits[topic]
	if !ok {
		limit = defaultMaxMessageBytes
	}
	return int32(min(max(limit, 512), 1<<30))
}

// Produce takes a record into the next round, and waits while that is full. The
// caller orders its calls: records of one partition are written in the order of
// the calls, and none after one that failed. Once the producer failed or was
// aborted, records are dropped.
func (p *Producer) Produce(r Record) {
	size := r.Size()
	p.mu.Lock()
	defer p.mu.Unlock()
	to := partition{r.Topic, r.Partition}
	for !p.closed && len(p.queue) > 0 && !p.fits(to, size) {
		p.changed.Wait()
	}
	if p.closed {
		return
	}
	p.queue = append(p.queue, kgo.Record{Topic: r.Topic, Partition: r.Partition, Key: r.Key, Value: r.Value, Headers: r.Headers})
	p.bytes += size
	p.batches[to] += size
	if len(p.queue) == 1 {
		p.changed.Broadcast()
	}
}

// fits reports whether the round has room for a record. A round has one batch for a
// partition: were there a second, a broker that refuses the first could take it,
// since it does not check the sequence of a producer that is new to the partition.
func (p *Producer) fits(to partition, size int) bool {
	limit, ok := p.limits[to.topic]
	if !ok {
		limit = defaultMaxMessageBytes
	}
	held := p.batches[to]
	return p.bytes+size <= roundBytes && len(p.queue) < roundRecords && (held == 0 || held+size <= limit)
}

// run sends rounds until one fails or the producer is aborted.
func (p *Producer) run() {
	defer close(p.done)
	for p.next() {
		err := p.send()
		switch {
		case p.ctx.Err() != nil:
			return
		case err != nil:
			p.close()
			p.mu.Lock()
			failed := p.failed
			p.mu.Unlock()
			p.outcome.Failed(failed, err)
			return
		}
		p.outcome.Acknowledged(len(p.round))
	}
}

// next makes the queue the round; false says that there is none.
func (p *Producer) next() bool {
	clear(p.round) // for the collector
	p.mu.Lock()
	defer p.mu.Unlock()
	for !p.closed && len(p.queue) == 0 {
		p.changed.Wait()
	}
	if p.closed {
		return false
	}
	p.round, p.queue, p.bytes = p.queue, p.round[:0], 0
	clear(p.batches)
	p.changed.Broadcast()
	return true
}

// send returns when all records of the round are answered.
func (p *Producer) send() error {
	if err := p.renew(); err != nil {
		return err
	}
	for i := range p.round {
		p.client.Produce(p.ctx, &p.round[i], p.answered)
	}
	err := p.client.Flush(p.ctx)
	p.sentAt = time.Now()
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.failure != nil {
		return p.failure
	}
	return err
}

// answered keeps the first failure of a round. The driver calls it for every record
// before Flush returns.
func (p *Producer) answered(r *kgo.Record, err error) {
	if err == nil {
		return
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.failure == nil {
		p.failed = Record{Topic: r.Topic, Partition: r.Partition, Key: r.Key, Value: r.Value, Headers: r.Headers}
		p.failure = Classify("write to topic "+r.Topic, err)
	}
}

// renew takes a new producer id after a long silence.
func (p *Producer) renew() error {
	if time.Since(p.sentAt) < renewAfter {
		return nil
	}
	client, err := p.connect()
	if err != nil {
		return err
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	go p.client.Close()
	p.client = client
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

// close drops what is queued and lets go who waits.
func (p *Producer) close() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.closed, p.queue = true, nil
	p.changed.Broadcast()
}

// abortWait is how long Abort waits for the answers to requests in flight.
const abortWait = time.Second

// Abort fails all that is buffered, waits a moment for the answers to what is in
// flight, and closes the producer. Nothing is sent, and the outcome is told of
// nothing, after it returns.
func (p *Producer) Abort() {
	p.close()
	p.stop()
	ctx, cancel := context.WithTimeout(context.Background(), abortWait)
	defer cancel()
	p.mu.Lock()
	client := p.client
	p.mu.Unlock()
	_ = client.AbortBufferedRecords(ctx) // Close fails what it had to leave
	client.Close()
	<-p.done
}
