// Package sinkpub brings the transactions of redispub and espub to Redis and
// Elasticsearch: it is what the streams of those publications do with a change.
//
// # What is applied
//
// A row's change is one document: the row as row_to_json would write it, or a
// tombstone, at the version of the transaction's commit. Documents gather while a
// request is under way and go together in the next one; of several changes of a
// row only the last is sent. Every one is a compare-and-set, so it does not matter
// in which order requests arrive, or how often. A change of the key is a delete
// and an insert.
//
// All rows of a transaction share its version. Where one does not fit into one
// request, its later parts are applied as "greater or equal", each after the ones
// before it.
//
// In a saga's transaction the rows that its closing message owns are left to the
// saga, which applies them itself; what triggers and cascades changed is applied
// like anything else. A saga's transaction that is too large to be held until its
// end is applied whole, which does no harm.
//
// # Rows that are read again
//
// A large value that an UPDATE left as it was is not in the WAL, the JSON of a
// composite is known to PostgreSQL alone, and a change that is older than half the
// life of a tombstone may be of a row whose deletion the sink has forgotten. Such
// rows are read from the primary by the rule of postgres.ReadRows, once the
// transaction of the change is visible there: a stream may hear of a commit first,
// and would read the row as it was. A row that somebody holds locked is applied as it was read at the version of the change
// that asked for it: whoever changed it since comes later in this stream, or
// applies it as a saga, at a greater version. A row that is gone has its deletion
// still to come.
//
// # TRUNCATE, backfills
//
// A TRUNCATE waits for what is under way and then sets the entity's floor in the
// store, below which nothing is applied any more. Rows that its own transaction
// wrote before it have the version of those that it writes after: where there are
// any, a backfill is asked for.
//
// A backfill's rows are applied like inserts. Its end may remove what the sink holds
// from before its floor, and may put a new index in the place of the present one;
// until that, changes go to both, and those of sagas to the new one. Where an index
// was replaced, sagas may have written to the one before: so from there on the
// stream applies what sagas own as well, until it has come to where the WAL was at
// that moment.
//
// # What holds after a crash
//
// A position is confirmed when all before it is applied, or parked. So a crash
// repeats a suffix, which changes nothing. A row that the sink refuses for good is
// handed to Config.Adopt, which makes a parked saga of it, durable before the
// position is confirmed; its neighbours are applied and the stream goes on. While
// the sink is away, or refuses whole requests, the stream waits and says why.
package sinkpub
