// Package kafkapub publishes the transactions of publication kafkapub to Kafka,
// in the envelope that Debezium made common.
//
// # Records
//
// A row's change is one record on topic <prefix>.<schema>.<table>, keyed by the
// row's primary key (else its replica identity) as a JSON object, so that all
// changes of a row are in one partition, in commit order. A delete is followed
// by a tombstone (the key with no value), by which a compacted topic forgets the
// row. A change of the key is a delete of the old key, its tombstone, and a
// create of the new one. A table without a key has records without one, in a
// topic with delete policy, since a compacted topic refuses them; those of one
// transaction are in one partition. A backfill's rows are events of op r.
//
// # Headers
//
// event-id names a record for ever: after a crash a suffix of the records is
// repeated with the same ids, and a consumer that drops the ids it has seen sees
// each change once, in order. Its form is <epoch>:<commit LSN>:<index>, where a
// change has three indexes of its transaction, one for each record that it may
// need: its delete, the tombstone after it, and the row that it leaves. So a
// tombstone is not dropped as a repetition of its delete. What is in every
// partition has more behind the index: a TRUNCATE's <index>.<table>.<partition>,
// where table counts those that one statement emptied; what begins a topic anew
// before a change <index>.0.<partition>, and before a backfill
// backfill-<id>.<partition>. A transaction's begin and end have begin and end.
//
// version is the change's version in decimal, generation counts the stream's
// holders; saga-id, traceparent and tracestate are there when the change was a
// saga's, and undoes names the saga that the change takes back. A record of a
// smaller generation that follows one of a greater one was in a socket while the
// stream changed hands: it repeats what came before.
//
// # TRUNCATE
//
// The event has op t and neither before nor after, as Debezium's (whose default
// skipped.operations leaves it out). It is in every partition of the topic, in its
// place in each: a consumer forgets what it knows of the keys of that partition, and
// needs to know nothing of the others. In a topic with delete policy it has no key,
// as from Debezium; a compacted one refuses that, and there the key is
// {"__capsaga_truncate":"<schema>.<table>"}, which also makes compaction keep the
// last one of each partition, behind the rows that it makes void.
//
// # What does not fit: claim checks
//
// A record over the topic's max.message.bytes is published in its place, with its
// key, partition and headers, as a reference to the row: before and after have the
// key's columns alone (of a table without a key: what is short, and Debezium's
// placeholder for the rest), and the header claim-check says where the row is:
// {"schema","table","entity","key","version"}, see saga.ClaimCheck. PostgreSQL has
// the row at that version or a later one, or has deleted it, of which an event
// follows. Sizes are counted before compression, so that the same change is a claim
// check whenever it is read.
//
// The limit is learned at the first record of a session, and may move under it. When
// the brokers refuse a batch, the session ends and the next begins at what is
// confirmed with the limit as it is then; if they tell the same limit as before, with
// half of what they refused, and so on. So it ends after a few sessions, at the latest
// where nothing fits. A raised limit is noticed, at most every 10 s, when a record is
// over the old one.
//
// A producer that goes on behind a refused record breaks the order: what is refused
// comes again after what was written. kafka.Producer does not, and says how.
//
// # Topics that refuse: diversion
//
// Rights taken away, a name that Kafka does not allow, a topic that cannot be made, a
// compacted topic of a table without a key, a limit that even references exceed: what
// a topic refuses for good diverts it. Its records and all later ones go to
// <prefix>.parked, in order, with the header parked-topic; other topics flow on, and
// `capsaga streams` and the metric capsaga_stream_diverted_topics show the alarm.
// What is away is waited for and never diverts; what the cluster itself refuses (a
// login, the parked topic) stops the stream with an alarm.
//
// The diversion is a row of capsaga.topic, written before the first record is parked
// and by the present holder only (each statement checks the generation). Every
// session reads it before its first record. A session that has handed records to the
// topic does not divert it itself, as one of them may be refused after a later one was
// parked: it ends, and its successor, which has handed it none, does.
//
//	decided, crash before the row    refused again, decided again
//	row, crash before parking        the successor reads the row and parks
//	parked, crash before confirming  the successor parks the same events again
//	a zombie's decision              its statement finds another generation
//
// # Draining
//
// `capsaga streams drain` sets a mark in the row; the holder looks for it twice a
// second while topics are diverted. A producer of its own copies the topic's parked
// records to it, from the row's position, which it moves along; meanwhile the session
// goes on parking. When it has come to the end, the session stands still for as long
// as what it has parked is acknowledged and the rest is copied; then the row's
// diversion is taken back, and the next record goes to the topic itself.
//
// The order holds because the records of a topic are in the parked topic in commit
// order, none is written to the topic directly before the last one is acknowledged
// there, and none is parked once the row is lifted. A crash during the copy repeats
// what was copied since the position was noted; one after the copy and before the
// lift repeats what is not confirmed by way of the parked topic, one after the lift
// directly: in each case a suffix, with the same event-ids. The position at which a
// diversion begins is the parked topic's end, so that an earlier one's records do not
// come again. A TRUNCATE is parked once and is written to the partitions that there
// are when it comes back. What refuses still is said in the row, and the topic stays
// diverted.
//
// # Another key
//
// A table whose key has other columns begins its topic anew: an event as of a
// TRUNCATE, then records by the new key. The rows that are not written since are
// missing in the topic until they are backfilled, for which Refill asks. The key of
// the records that a topic has is in capsaga.topic; the same columns in another order
// change nothing. A topic that was deleted is made again and refilled the same way. A backfill after changes were missed also begins the topic anew.
//
// # Values
//
// As Debezium 3.7 through Kafka Connect's JSON converter with schemas.enable=false,
// to the byte but for what is said here: the fields in their order, the strings
// escaped and the numbers written as by Jackson, the key's columns in the order of
// the primary key. The catalog chooses three of the options that shape values, the
// others are fixed:
//
//	decimal.handling.mode               kafka: {decimal_handling_mode: string}, or precise, double
//	time.precision.mode                 kafka: {time_precision_mode: adaptive}, or
//	                                    adaptive_time_microseconds, connect, isostring,
//	                                    microseconds, nanoseconds, structured
//	provide.transaction.metadata        kafka: {transaction_metadata: false}, or true
//	binary.handling.mode=bytes          base64 in JSON
//	interval.handling.mode=numeric      microseconds
//	tombstones.on.delete=true
//	skipped.operations=none
//	unavailable.value.placeholder=__debezium_unavailable_value
//	topic.prefix                        CAPSAGA_PREFIX
//
// See encode.go for each type in each mode. No number passes through floating point
// on its way, but in mode double. Another mode holds from the first event that a
// worker with it publishes; older ones stay as they are. Keys that have columns of
// these types are other keys from then on: begin with an empty topic there.
//
// With transaction metadata the begin and end of each transaction that has events
// are on <prefix>.transaction, and transaction is filled in.
//
// Where Debezium differs:
//   - source.version is the envelope's own. source.lsn is the commit position, not the
//     row record's own: only commit positions rise per row. source.sequence is [commit
//     position, index in transaction]. r events have txId and lsn, as a chunk is a
//     transaction.
//   - A transaction's id is <txId>:<commit position> in its begin, its end and its
//     events; Debezium's has the position of the single message.
//   - before of a table without REPLICA IDENTITY FULL has the key's columns; Debezium adds
//     the others as null or, where they are NOT NULL, as their type's zero.
//   - In mode precise, NaN and infinite numerics are the strings of mode string; Debezium
//     stops. A negative scale counts as declared.
//   - In mode nanoseconds, timestamps before 1677 or after 2262 are PostgreSQL's text;
//     Debezium's are null, or it stops.
//   - An infinite date in days is the greatest or the least 32-bit integer; Debezium has
//     the days of a date in the year -5877611.
//   - 24:00:00 in UTC of timetz is 00:00:00Z, Debezium's 24:00:00Z.
//   - With REPLICA IDENTITY USING INDEX the key is that index's columns.
//   - Geometric types, hstore and composites are PostgreSQL's text, and types that
//     Debezium leaves out are text too.
//
// # What stops it
//
// What the cluster as a whole refuses, and what even the parked topic does not take;
// nothing at or after that transaction is confirmed, and nothing is skipped. Added,
// dropped and renamed columns and changed types take effect where they stand in the
// WAL.
//
// # Rights
//
// On topics that begin with the prefix: Create, Describe, DescribeConfigs, Write; Read
// on the parked topic; IdempotentWrite on the cluster, where brokers ask for it.
package kafkapub
