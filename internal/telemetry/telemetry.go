// Package telemetry is a worker's metrics in Prometheus' form: the Temporal
// SDK's own, each step's attempts, and the streams.
package telemetry

import (
	"context"
	"fmt"
	"net/http"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"
	otelprometheus "go.opentelemetry.io/otel/exporters/prometheus"
	"go.opentelemetry.io/otel/sdk/metric"
	"go.temporal.io/sdk/client"
	"go.temporal.io/sdk/contrib/opentelemetry"

	"github.com/capsaga/capsaga/internal/stream"
	"github.com/capsaga/capsaga/saga"
)

// Telemetry holds the metrics of one worker.
type Telemetry struct {
	registry *prometheus.Registry
	meters   *metric.MeterProvider
	steps    *prometheus.HistogramVec
}

// New returns metrics of their own registry, so that several workers may live in
// one process.
func New() (*Telemetry, error) {
	t := &Telemetry{
		registry: prometheus.NewRegistry(),
		steps: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name:    "capsaga_step_attempt_seconds",
			Help:    "Duration of one attempt of a saga's step. class is empty on success.",
			Buckets: prometheus.ExponentialBuckets(0.0005, 2, 16),
		}, []string{"step", "pace", "class"}),
	}
	exporter, err := otelprometheus.New(otelprometheus.WithRegisterer(t.registry), otelprometheus.WithoutScopeInfo(), otelprometheus.WithoutTargetInfo())
	if err != nil {
		return nil, fmt.Errorf("set up the metrics: %w", err)
	}
	t.meters = metric.NewMeterProvider(metric.WithReader(exporter))
	t.registry.MustRegister(t.steps, collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	return t, nil
}

// SDK returns what the Temporal SDK reports its metrics to.
func (t *Telemetry) SDK() client.MetricsHandler {
	return opentelemetry.NewMetricsHandler(opentelemetry.MetricsHandlerOptions{
		Meter: t.meters.Meter("temporal-sdk-go"), UseMonotonicCounters: true,
	})
}

// StepAttempt counts an attempt of a step. It makes Telemetry the observer of
// the activities.
func (t *Telemetry) StepAttempt(step saga.StepName, local bool, took time.Duration, class saga.Class) {
	pace := "patient"
	if local {
		pace = "quick"
	}
	t.steps.WithLabelValues(string(step), pace, string(class)).Observe(took.Seconds())
}

// Handler serves the metrics.
func (t *Telemetry) Handler() http.Handler {
	return promhttp.HandlerFor(t.registry, promhttp.HandlerOpts{})
}

// Slots adds the figures of the slots, which every worker can tell.
func (t *Telemetry) Slots(status func(context.Context) ([]stream.Info, error)) {
	t.registry.MustRegister(&slotCollector{status: status})
}

// Stream adds the figures of a reader.
func (t *Telemetry) Stream(name string, stats *stream.Stats) {
	labels := prometheus.Labels{"stream": name}
	for _, g := range []struct {
		name, help string
		read       func() float64
	}{
		{"capsaga_stream_holding", "1 while this worker holds the stream.", func() float64 { return oneIf(stats.Holding.Load()) }},
		{"capsaga_stream_alarmed", "1 while the stream stands still and waits for an operator.", func() float64 { return oneIf(stats.Alarmed.Load()) }},
		{"capsaga_stream_generation", "Generation of this worker's last hold of the stream.", func() float64 { return float64(stats.Generation.Load()) }},
		{"capsaga_stream_in_flight_records", "Records handed over and not yet acknowledged.", func() float64 { return float64(stats.InFlight.Load()) }},
		{"capsaga_stream_stalled_seconds", "How long nothing of the oldest transaction was acknowledged.", func() float64 { return time.Duration(stats.Stalled.Load()).Seconds() }},
	} {
		t.registry.MustRegister(prometheus.NewGaugeFunc(prometheus.GaugeOpts{Name: g.name, Help: g.help, ConstLabels: labels}, g.read))
	}
	for _, c := range []struct {
		name, help string
		read       func() int64
	}{
		{"capsaga_stream_transactions_total", "Transactions handed over by this worker.", stats.Transactions.Load},
		{"capsaga_stream_changes_total", "Changes handed over by this worker.", stats.Changes.Load},
		{"capsaga_stream_losses_total", "Holds of the stream that ended against this worker's will.", stats.Losses.Load},
		{"capsaga_stream_gaps_total", "Holds of the stream that began with missed changes, whose backfill was still to be requested.", stats.Gaps.Load},
		{"capsaga_stream_alarms_total", "Holds of the stream that ended because something was refused for good.", stats.Alarms.Load},
	} {
		t.registry.MustRegister(prometheus.NewCounterFunc(prometheus.CounterOpts{Name: c.name, Help: c.help, ConstLabels: labels},
			func() float64 { return float64(c.read()) }))
	}
}

func oneIf(b bool) float64 {
	if b {
		return 1
	}
	return 0
}

// slotCollector asks PostgreSQL for the slots at each scrape. While it does not
// answer there are no samples, which an alert on absence finds.
type slotCollector struct {
	status func(context.Context) ([]stream.Info, error)
}

const scrapeTimeout = 2 * time.Second

// slotMetrics are the figures of one slot.
var slotMetrics = []struct {
	desc *prometheus.Desc
	read func(stream.Info) float64
}{
	{slotDesc("lag_bytes", "WAL that the stream has not confirmed, in bytes."), func(i stream.Info) float64 { return float64(i.LagBytes) }},
	{slotDesc("lag_seconds", "Age of what the stream has not confirmed, in seconds."), func(i stream.Info) float64 { return i.LagSeconds }},
	{slotDesc("active", "1 while some worker holds the stream."), func(i stream.Info) float64 { return oneIf(i.Active) }},
	{slotDesc("exists", "0 while the stream's slot is gone."), func(i stream.Info) float64 { return oneIf(i.Exists) }},
	{slotDesc("retained_bytes", "WAL that the server keeps for the stream's slot, in bytes."), func(i stream.Info) float64 { return float64(i.RetainedBytes) }},
	{slotDesc("failover", "1 if standbys are to keep a copy of the stream's slot."), func(i stream.Info) float64 { return oneIf(i.Failover) }},
	{slotDesc("gap_open", "1 while changes were missed and their backfill is not requested yet."), func(i stream.Info) float64 { return oneIf(i.Gap != nil && i.Gap.Open) }},
	{slotDesc("diverted_topics", "Topics that refuse records, which are parked until someone drains them."), func(i stream.Info) float64 { return float64(len(i.Alarms)) }},
	{slotDesc("decoded_bytes_total", "What the server has decoded for the stream's slot, in bytes."), func(i stream.Info) float64 { return float64(i.DecodedBytes) }},
}

func slotDesc(name, help string) *prometheus.Desc {
	return prometheus.NewDesc("capsaga_stream_"+name, help, []string{"stream"}, nil)
}

var (
	gapAt     = slotDesc("gap_timestamp_seconds", "When the stream's last gap was found; absent: there was none.")
	safeBytes = slotDesc("safe_wal_bytes", "WAL that may be written before the stream's slot is lost; absent: there is no limit.")
	walStatus = prometheus.NewDesc("capsaga_stream_wal_status", "1 for what PostgreSQL says of the WAL that the stream's slot needs.", []string{"stream", "status"}, nil)
)

// walStatuses are PostgreSQL's; each has a sample, so that an alert sees it end.
var walStatuses = []string{"reserved", "extended", "unreserved", "lost"}

// Describe implements prometheus.Collector.
func (c *slotCollector) Describe(descs chan<- *prometheus.Desc) {
	for _, m := range slotMetrics {
		descs <- m.desc
	}
	descs <- gapAt
	descs <- safeBytes
	descs <- walStatus
}

// Collect implements prometheus.Collector.
func (c *slotCollector) Collect(metrics chan<- prometheus.Metric) {
	ctx, cancel := context.WithTimeout(context.Background(), scrapeTimeout)
	defer cancel()
	infos, err := c.status(ctx)
	if err != nil {
		return
	}
	gauge := func(desc *prometheus.Desc, value float64, labels ...string) {
		metrics <- prometheus.MustNewConstMetric(desc, prometheus.GaugeValue, value, labels...)
	}
	for _, info := range infos {
		for _, m := range slotMetrics {
			gauge(m.desc, m.read(info), info.Name)
		}
		for _, status := range walStatuses {
			gauge(walStatus, oneIf(info.WALStatus == status), info.Name, status)
		}
		if info.Gap != nil {
			gauge(gapAt, float64(info.Gap.At.UnixMilli())/1000, info.Name)
		}
		if info.SafeBytes != nil {
			gauge(safeBytes, float64(*info.SafeBytes), info.Name)
		}
	}
}
