// Package postgres is the adapter of the committed step: it commits a saga's
// write exactly once, reads rows with a sound version, keeps the ledger, and
// decides the epoch.
//
// After a crash at any point a saga is either in the ledger with its result, in
// the same transaction as its rows, or nothing of it has happened. The package
// knows neither Temporal nor the other systems.
package postgres
