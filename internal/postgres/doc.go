// Package postgres is the adapter of the committed step: it commits a saga's
// write exactly once, undoes and edits what it left, reads rows with a sound
// version, keeps the ledger, and decides the epoch.
//
// After a crash at any point a saga is either in the ledger with its result, in
// the same transaction as its rows, or nothing of it has happened. The same holds
// of each of its changes, an undo or an edit, in capsaga.change. The package knows
// neither Temporal nor the other systems.
//
// Each of these transactions goes the same way (transaction.go):
//
//	open    message capsaga-begin; take the saga's place in the ledger, or lock it
//	lock    the rows, in one order for all
//	change  the mutations (mutate.go), or what takes them back (undo.go)
//	re-read the rows that the saga owns, after deferred triggers and constraints
//	close   message capsaga-end, whose LSN is the version; the ledger; COMMIT
//
// # Refused rows
//
// What a sink refused of plain SQL's changes is entered into the ledger as parked
// sagas (adopt.go), in a transaction that commits before the sink's stream confirms
// its position. A row has one open saga, whose version is that of the latest
// refusal. An outcome of an earlier version is not recorded, so the saga does not
// end without the latest one. Such a saga never changes a row but by an edit.
//
// # Undo
//
// With each mutation the ledger keeps the row before it in text forms (image.go),
// so that it comes back to the last byte. A row that still has the etag that the
// saga, or its last edit, left goes back to those images. A row that others have
// changed since has what the saga added subtracted, if it did nothing else to it.
// All else is a conflict (conflict.go): nothing is changed, and an operator
// decides.
//
// An undo does not know of what triggers did to rows that the saga does not own,
// of columns that no longer exist, nor of rows that a delete's foreign keys took
// along: the last two are conflicts.
package postgres
