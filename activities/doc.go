// Package activities holds the effects of a saga, one per method of Saga. Each
// may run again at any time, also beside an older attempt that is still under
// way: Commit is made idempotent by the ledger's key, UpdateRedis and
// IndexElasticsearch by compare-and-set on the version, PublishKafka only waits,
// RecordOutcome overwrites with the same.
//
// After a crash nothing in this package's memory is missed: row images that were
// not sent yet are read again with a version of their own.
//
// The package knows no driver. What it needs is declared here as interfaces
// (ports.go) that the worker fills with adapters; failure.go turns an adapter's
// error class into Temporal's retryable or final.
package activities
