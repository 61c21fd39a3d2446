package worker

import sdklog "go.temporal.io/sdk/log"

// attemptFailed is what the SDK logs as an error of each activity's attempt that
// did not succeed.
const attemptFailed = "Activity error."

// sagaLog is the SDK's log. An attempt that fails is what sagas are made for: it
// is in the metrics, in the Temporal UI and in `capsaga show`, and thousands of
// them while a sink is away would bury what somebody has to read.
type sagaLog struct{ sdklog.Logger }

// Error logs an error, and a failed attempt for those who look for it.
func (l sagaLog) Error(message string, keyvals ...any) {
	if message == attemptFailed {
		l.Debug(message, keyvals...)
		return
	}
	l.Logger.Error(message, keyvals...)
}
