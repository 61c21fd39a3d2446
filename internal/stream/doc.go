// Package stream reads a publication's logical replication slot and hands its
// transactions, in commit order, to a handler that publishes them.
//
// # Who holds the slot
//
// Every worker runs a Reader; PostgreSQL lets one of them hold the slot:
//
//	standby --(slot not active, START_REPLICATION)--> acquire --> hold
//	   ^                                                           |
//	   +------ silence of 2 s, error, refusal: drop the buffers ----+
//
// The holder asks the walsender for a reply every 500 ms, and leaves when it has
// heard nothing for 2 s; the walsender gives the slot up after 4 s without word
// from the holder; standbys look at the slot every 250 ms. So a dead holder is
// replaced within 5 s, and a live one that lost touch has stopped before.
//
// A silent walsender need not be lost: while it passes over a long transaction
// of tables that are not published it says nothing for 2 s at a time, and a
// holder that left would begin the same transaction again, for ever. So a holder
// that has nothing left to publish may ask the database over another connection
// whether the slot is still its own, and asks once more before it believes what
// the walsender says after such a silence. The same question stands in for the
// walsender's words where those wait behind data that there is no room for.
//
// # What holds after a crash
//
// A position is confirmed only when every record of every transaction before it
// is acknowledged. So a crash repeats a suffix of what was handed over; it skips
// nothing and reorders nothing. A holder that was suspended (SIGSTOP, a frozen
// virtual machine) may have bytes in a socket that the broker takes after its
// successor began: the successor's records have a greater generation.
//
// # Backfills
//
// The rows of a backfill come as a logical message of the transaction that locked
// them (saga.BackfillMessage). They are handed over as changes of that transaction,
// of Op Read, and count in its indices like any others; its begin and end are
// marks. Messages for other sinks are passed over.
//
// # How a slot that was made anew is told
//
// A slot is lost when it is dropped, when the server invalidates it, or with a
// primary whose standby had no copy of it. A new one of the same name begins where
// the WAL ends; what lies between is read by nobody. So the next holder must know
// its slot from any other, also when the last one had no time for a last word.
//
// It knows by the position. Positions in the WAL are even; a holder confirms one
// byte less than it has, so an odd position is a holder's and an even one is that of
// a slot that was made, or advanced by hand. This costs nothing and is exact; a bound
// written down ahead of what is confirmed would leave as much as it is ahead by to be
// missed unseen. Only at rest is the last byte confirmed too, so that whoever
// compares the slot with the end of the WAL finds them equal: capsaga.stream then
// says so first (postgres.DB.SettleStream), which is one write after a burst and none
// while the stream is busy. A server that shuts down waits for exactly the position
// that it has sent; it is told in an answer that leaves the slot as it is.
//
//	slot gone or invalidated → note why → (drop) → make it anew    any worker, or apply
//	acquire: not the slot that is known → write the gap down       nothing is confirmed yet
//	→ OnGap until it succeeds → close the gap                      beside the stream
//
// A crash between any two of these repeats from the note: the same gap, with the same
// floor, is handed to OnGap again. A slot whose position has gone back, as a synced
// copy's may have, only repeats. Another cluster's system identifier is a gap. A
// stream's first slot is none.
//
// A waiter for a position (Positions) is content with a new slot, which stands beyond
// what was missed: the rows come with the backfill, which is written down by then.
//
// # What it does not do
//
// It does not decode transactions in progress: an uncommitted row has no
// version. Transactions are handed over as they arrive, change by change, and
// what is not acknowledged is bounded, so a transaction of any size needs the
// same memory.
package stream
