// Package workflows tells the story of a saga to Temporal.
//
//	Commit ──rejected──────────────────────────────► rejected
//	  │
//	  ├─► UpdateRedis ────────┐
//	  ├─► PublishKafka ───────┼─► RecordOutcome ───► completed
//	  └─► IndexElasticsearch ─┘
//	           │     ▲
//	           ▼     │ retry, or the sink is back
//	          parked ┘
//
// Each step runs quickly first, as a local activity inside the workflow task;
// what does not succeed at once goes on patiently as a regular activity that the
// Temporal UI shows with its attempts and its last failure.
//
// The saga of a row that a sink refused after plain SQL had committed it is the
// same story with a pivot that commits nothing (stream.go): of its sinks only the one
// that refused is not done. It completes when the ledger agrees that its row was not
// refused again meanwhile, and is not undone.
//
// A worker's crash loses nothing: what had no event in the history yet runs
// again, and all activities are idempotent. Termination from outside stops the
// story where it is; the ledger still knows the saga.
//
// The code is deterministic and reaches no driver, not even through others.
package workflows
