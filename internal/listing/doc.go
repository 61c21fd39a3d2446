// Package listing finds sagas, newest first. The ledger in PostgreSQL knows all
// that have committed or were refused, for as long as it keeps them, whether
// Temporal still does or not. Temporal knows those that run, also before their
// commit. The two are merged: of a saga that both know, the ledger is believed.
//
// With one of the two away, the list has what the other knows, and says so.
//
// Pages are cut by time and saga id, so that they neither repeat nor miss a saga
// that stays in the selection, whatever comes and goes meanwhile.
package listing
