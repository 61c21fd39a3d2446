// Package backfill brings the rows that a table already has to its sinks, beside
// live changes and in order with them.
//
// A backfill walks the table in the order of the entity's key. Each chunk is one
// transaction, which locks the rows of a range of keys, puts them into the WAL as a
// logical message, and moves the cursor in capsaga.backfill:
//
//	requested --(older transactions have ended; message begin)--> running
//	running   --(a chunk: lock rows, message rows, cursor)-------> running
//	running   --(no row is left; message end)--------------------> done
//	requested, running --(refused; told to)----------------------> failed, cancelled
//
// # Why this is in order
//
// A row that is locked FOR SHARE is as its last writer committed it, and its next
// writer waits until the chunk has committed. So the chunk's commit lies between the
// two in the WAL, and the streams, which read the WAL, apply the row as of there: it
// never goes before an older change or after a newer one. A row that was deleted
// before it could be locked is not in the chunk, and one that leaves the range, or
// comes into it, does so by a change that the streams see.
//
// Rows that the first chunks could not see yet are changes that the streams see,
// too, as long as those changes were published from their beginning on: so a
// backfill begins when all transactions have ended that were open when it was
// requested, and is requested only after the publication and the slot are there. It
// ends at the key that was the greatest when it began, as what comes behind that
// later is in the stream.
//
// # What holds after a crash
//
// A chunk's message and its cursor are one transaction, so a backfill goes on where
// it stood, whoever runs it, and repeats nothing. Of all workers one runs a backfill,
// by an advisory lock that ends with its session; a second one that ran it as well
// would only wait for the same row.
//
// # What it asks of others
//
// Writers of the rows of a chunk wait for it, which is some milliseconds. It holds
// locks for less than half of deadlock_timeout, so that nobody who waits for it is
// taken for part of a deadlock; where somebody holds a row for longer, it tries
// again with fewer rows, and says what it waits for. It stands still while a stream
// that it feeds is far behind, since PostgreSQL keeps the WAL for that stream.
//
// It alters nothing of the user's tables.
package backfill
