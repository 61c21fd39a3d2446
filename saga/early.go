package saga

// MemoEarly is the memo field of a saga that its client commits beside the start of
// its workflow: the token of that commit, which the ledger has in place of the run.
const MemoEarly = "early"

// EarlyToken returns the token of such a name.
func EarlyToken(name string) string { return "early/" + name }

// EarlyCommit is what a commit beside the start of a workflow came to. Its zero value
// says that this is not known, or that an earlier commit of the saga stands.
type EarlyCommit struct {
	Outcome *Outcome // this call has committed
	Refused bool     // nothing is committed, for good
}
