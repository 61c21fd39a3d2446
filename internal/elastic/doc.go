// Package elastic keeps the rows of entities in Elasticsearch, one document a
// row, and changes them with external versions. Reads go through the alias of the
// entity, writes to the index behind it.
//
// # What holds after a crash
//
// A document is indexed or deleted only with a version above the one that
// Elasticsearch holds, so doing it again, late or out of order, changes nothing;
// the version conflict that then comes back is a success. Elasticsearch
// remembers the version of a deleted document for index.gc_deletes, which
// EnsureIndex sets to saga.DefaultTombstoneTTL. An apply older than half of that
// re-reads its row first, which is the caller's rule.
//
// # Indices and their floors
//
// An index has a floor, in its _meta as {"capsaga":{"floor":"…"}}: a version below
// which nothing is applied to it. Truncate makes a new index with a higher floor,
// and the alias goes to it in the same moment in which the former index is removed.
// Rebuilding makes one with another mapping, which is filled beside the present one
// and then takes its place in the same way:
//
//	<prefix>-<entity>         alias        reads
//	<prefix>-<entity>-000007  its index    writes, from a process that has looked
//	<prefix>-<entity>-000008  being filled, with the alias <prefix>-<entity>-next
//
// Whoever writes has looked for the index and its floor at some time, and writes to
// it by its own name. Numbers only grow and the floor of an index does not change, so
// what it knows is either true or about an index that is gone. Then Elasticsearch
// says so, the index template of the entity forbids that a write creates it again,
// and the process looks again, floor and all. Thus no apply, from whichever process
// and however late, brings an older row into a newer index, and the processes need
// not agree on anything. What two of them do to the indices at once is settled by
// Elasticsearch: of two requests that remove the same index, the second does nothing.
//
// A crash between two steps leaves at most an index that nobody reads, which the
// next run uses or removes.
//
// # What it does not do
//
// It does not retry and never forces a refresh where rows are applied. It needs no
// endpoint outside the index, search, scroll and cluster health APIs: no scripts, no
// update or delete by query, no reindex, no GET /. It changes an index's mapping only
// by adding fields.
package elastic
