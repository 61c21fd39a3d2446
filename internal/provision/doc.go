// Package provision creates what a catalog names: Capsaga's own schema, topics,
// indices, search attributes, publications and the streams' slots.
//
// It is idempotent, and after a crash between any two of its steps a second run
// ends in the same state:
//
//	check everything, change nothing
//	→ schema → topics → indices → search attributes → publications → slots → backfills
//
// The order is what a stream needs. It must find a topic when the first change
// arrives, and pgoutput looks a publication up as it was when the change was
// made, so a slot must not be older than its publication. A stream that no entity
// needs gets no slot, and loses the one it had: one that nobody reads keeps the WAL
// until the disk is full. A slot that was there before, and is gone or was
// invalidated, is made anew; the stream finds the gap and has it backfilled. When all
// of that is there, an entity's sinks are noted in capsaga.entity, and in the same
// transaction a backfill is requested for those that are new: workers bring the rows
// that the table has.
//
// It never alters a user's table, and it removes nothing else: what an older
// catalog named stays until its owner drops it, except the membership of a table in
// a publication.
package provision
