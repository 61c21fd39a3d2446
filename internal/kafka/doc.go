// Package kafka is the adapter of Kafka: connections, topics, and the one
// producer that a stream publishes through.
//
// A Producer is idempotent and waits for all in-sync replicas. It retries for
// ever while brokers are away, and keeps the order of each partition: at most
// five requests are in flight, each carries sequence numbers, and when one
// record of a partition fails for good all later ones of that partition fail
// with it. It is made for one holder of a stream and dies with it: what it had
// buffered is aborted, and the next holder begins with a producer id of its own.
//
// The package knows nothing of PostgreSQL or of what the records mean.
package kafka
