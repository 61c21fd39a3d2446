package workflows

import "time"

// A busy machine must not turn these tests' quick attempts into patient ones:
// they tell which is which. The real bounds are tested with saga/client.
func init() {
	quickCommit, quickSink, quickSinkAwaited = 10*time.Second, 10*time.Second, 10*time.Second
}
