// Package elastic keeps the rows of entities in Elasticsearch, one document a
// row, and changes them with external versions. All reads and writes go through
// the alias of the entity.
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
// # What it does not do
//
// It does not retry and never forces a refresh. It needs no endpoint outside
// the index, search and cluster health APIs: no scripts, no update or delete by
// query, no reindex, no GET /. It changes an index's mapping only by adding
// fields; anything else needs a new index.
package elastic
