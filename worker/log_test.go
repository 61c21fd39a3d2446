package worker

import (
	"bytes"
	"log/slog"
	"testing"

	"github.com/stretchr/testify/require"
	sdklog "go.temporal.io/sdk/log"
)

func TestFailedAttemptsAreNoErrorsOfTheWorker(t *testing.T) {
	t.Parallel()
	var out bytes.Buffer
	log := sagaLog{sdklog.NewStructuredLogger(slog.New(slog.NewTextHandler(&out, nil)))}
	log.Error(attemptFailed, "ActivityType", "UpdateRedis")
	require.Empty(t, out.String())
	log.Error("Workflow panic", "WorkflowType", "capsaga.Saga")
	require.Contains(t, out.String(), "level=ERROR msg=\"Workflow panic\"")
}
