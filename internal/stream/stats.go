package stream

import "sync/atomic"

// Stats are the figures of a reader, for metrics. All of them may be read at any
// time.
type Stats struct {
	Holding      atomic.Bool
	Generation   atomic.Int64
	Received     atomic.Uint64 // the last position received, an LSN
	Confirmed    atomic.Uint64 // the last position confirmed, an LSN
	Transactions atomic.Int64  // handed over whole
	Changes      atomic.Int64
	Records      atomic.Int64 // acknowledged
	InFlight     atomic.Int64 // records not yet acknowledged, as of the last half second
	// Stalled is for how long, in nanoseconds, nothing was acknowledged although
	// a transaction is waited for.
	Stalled atomic.Int64
	Losses  atomic.Int64 // holds that ended against our will
	// Gaps counts holds that began with a gap whose backfill was still to be asked for.
	Gaps atomic.Int64
	// Alarms counts holds that ended because something was refused for good.
	Alarms atomic.Int64
	// Alarmed says that the stream stands still and waits for an operator.
	Alarmed atomic.Bool
}
