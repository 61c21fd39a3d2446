// Package redis keeps the rows of entities in Redis, one hash a row, and
// changes them by compare-and-set on the version.
//
// # Layout
//
// The key is saga.Prefix.RedisKey. Its hash has these fields:
//
//	v    the version, 19 zero-padded digits
//	d    the row as JSON; absent in a tombstone
//	del  "1"; only in a tombstone
//	x    when the row expires, in milliseconds of Unix time; only where the row
//	     expires before the key does (see below)
//
// # What holds after a crash
//
// Apply is a Lua script that sets up to 128 documents, each whole or not at all,
// and doing it again, late or out of order, changes nothing: a document is set
// only if its version is newer than the held one. A script is short, so that
// Redis serves others between two, and what it refuses of one document leaves the
// others alone.
//
// # Floors
//
// The key <prefix>:_floor:<entity> holds a version, below which no document of the
// entity is applied: a TRUNCATE sets it, and so does a backfill that makes up for
// changes that were missed. The script that applies looks at it, so that no apply,
// from whichever process and however late, brings back what was removed. While an
// entity is being emptied, <prefix>:_emptying:<entity> says by whom, so that one who
// slept through the takeover of its stream removes nothing of what came after. Rows
// are found by SCAN, in short steps, beside everything that goes on.
//
// # How long a version is remembered
//
// A version that Redis forgets no longer stops an older apply. The caller's rule
// makes that sound: an apply older than half of the tombstones' life re-reads
// the row from PostgreSQL instead of sending what it holds. So every version has
// to be remembered for at least the tombstones' life after it was set, the
// version of a live row as much as that of a deleted one. A row whose time to
// live is longer simply expires with its key. A row whose time to live is
// shorter must not take its version along: otherwise a write that was retried
// for five minutes could, after a newer row with a time to live of one minute
// had expired, bring the older row back. There the key lives as long as a
// tombstone, x says when the row ends, and Get answers from then on that
// nothing is there. The price is memory: lower the entity's tombstone_ttl to
// give it back sooner. Redis's own clock decides, so the workers' clocks need
// not agree.
//
// A fill of an idle database may carry the very version that has expired, so
// an equal version brings an expired row back; it is the same row.
//
// Eviction forgets versions as well: a Redis that holds Capsaga's keys wants
// maxmemory-policy noeviction, and answers OOM when it is full, which sagas
// wait out.
//
// # What it does not do
//
// It does not retry, and it knows no Redis Cluster: a script takes many keys.
package redis
