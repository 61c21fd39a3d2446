package telemetry_test

import (
	"context"
	"net/http"
	"net/http/httptest"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/capsaga/capsaga/internal/stream"
	"github.com/capsaga/capsaga/internal/telemetry"
)

// A worker has three streams: each has its samples, told apart by a label.
func TestThreeStreamsInOneProcess(t *testing.T) {
	t.Parallel()
	metrics, err := telemetry.New()
	require.NoError(t, err)
	safe := int64(4096)
	metrics.Slots(func(context.Context) ([]stream.Info, error) {
		return []stream.Info{
			{Name: "redispub", Exists: true, Active: true, LagBytes: 7, LagSeconds: 1.5, WALStatus: "extended", SafeBytes: &safe, RetainedBytes: 99},
			{Name: "kafkapub", Exists: true, WALStatus: "lost", Gap: &stream.Past{At: time.Unix(1000, 0), Open: true}},
			{Name: "espub"},
		}, nil
	})
	for _, name := range []string{"redispub", "kafkapub", "espub"} {
		metrics.Stream(name, &stream.Stats{})
	}
	recorded := httptest.NewRecorder()
	metrics.Handler().ServeHTTP(recorded, httptest.NewRequest(http.MethodGet, "/metrics", nil))
	text := recorded.Body.String()
	for _, sample := range []string{
		`capsaga_stream_lag_bytes{stream="redispub"} 7`, `capsaga_stream_lag_seconds{stream="redispub"} 1.5`,
		`capsaga_stream_retained_bytes{stream="redispub"} 99`, `capsaga_stream_safe_wal_bytes{stream="redispub"} 4096`,
		`capsaga_stream_wal_status{status="extended",stream="redispub"} 1`, `capsaga_stream_wal_status{status="lost",stream="redispub"} 0`,
		`capsaga_stream_wal_status{status="lost",stream="kafkapub"} 1`, `capsaga_stream_gap_open{stream="kafkapub"} 1`,
		`capsaga_stream_gap_timestamp_seconds{stream="kafkapub"} 1000`, `capsaga_stream_exists{stream="espub"} 0`,
		`capsaga_stream_holding{stream="espub"} 0`, `capsaga_stream_gaps_total{stream="kafkapub"} 0`,
	} {
		assert.Contains(t, text, sample)
	}
	assert.NotContains(t, text, `capsaga_stream_gap_timestamp_seconds{stream="redispub"}`)
}
