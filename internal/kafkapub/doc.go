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
// topic with delete policy, since a compacted topic refuses them.
//
// # Headers
//
// event-id names a change for ever: after a crash a suffix of the records is
// repeated with the same ids, and a consumer that drops the ids it has seen sees
// each change once, in order. Its form is <epoch>:<commit LSN>:<index>, where a
// change has three indexes of its transaction, one for each record that it may
// need: its delete, the tombstone after it, and the row that it leaves. So a
// tombstone is not dropped as a repetition of its delete.
//
// version is the change's version in decimal, generation counts the stream's
// holders; saga-id, traceparent and tracestate are there when the change was a
// saga's, and undoes names the saga that the change takes back. A record of a smaller generation that follows one of a greater one was
// in a socket while the stream changed hands: it repeats what came before.
//
// # Values
//
// As Debezium with decimal.handling.mode=string, time.precision.mode=adaptive,
// binary.handling.mode=bytes (base64 in JSON), interval.handling.mode=numeric and
// schemas disabled; see encode.go for each type. No number passes through
// floating point on its way. Where Debezium differs, it is said there.
//
// In source, lsn is the commit position, not the row record's own: only commit
// positions rise per row. sequence is [commit position, index in transaction].
//
// # What stops it
//
// A TRUNCATE of a published table, another set of key columns, and a record that
// Kafka refuses for good stop the stream with an alarm; nothing at or after that
// transaction is confirmed, and nothing is skipped. Added, dropped and renamed
// columns and changed types take effect where they stand in the WAL.
package kafkapub
