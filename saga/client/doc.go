// Package client is what services import to write sagas and to wait for them.
//
// A saga's id is the caller's idempotency key: writing the same content again,
// also after a crash of the caller, attaches to the saga or returns its recorded
// outcome. So the answer to every error of this package but a refusal is to call
// again with the same write.
//
// A Client that is given the worker's notifier runs its sagas in the caller's own
// process and learns of a commit at once. Else one round trip starts the saga and
// waits for it.
package client
