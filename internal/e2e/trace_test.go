package e2e

import (
	"testing"

	"github.com/stretchr/testify/require"
	"go.opentelemetry.io/otel/propagation"

	"github.com/capsaga/capsaga/saga"
	"github.com/capsaga/capsaga/saga/client"
)

// The caller's trace goes with the saga through Temporal and the WAL into Kafka.
func TestTraceContext(t *testing.T) {
	w := newWorld(t)
	w.startWorker()
	given := propagation.MapCarrier{
		saga.HeaderTraceParent: "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
		saga.HeaderTraceState:  "vendor=value",
	}
	outcome, err := w.client.Write(propagation.TraceContext{}.Extract(t.Context(), given), saga.Write{
		SagaID: w.id("traced"), Mutations: []saga.Mutation{upsert("products", "id", 1, "title", "traced")},
	}, client.WaitVisible)
	require.NoError(t, err)
	require.Equal(t, saga.Completed, outcome.Status)
	w.write(client.WaitVisible, saga.Completed, saga.Write{SagaID: w.id("plain"), Mutations: []saga.Mutation{
		upsert("products", "id", 2, "title", "not traced"),
	}})

	events := w.events("products")
	require.Len(t, events, 2)
	for _, e := range events {
		if e.sagaID() == w.id("traced") {
			require.Equal(t, given[saga.HeaderTraceParent], e.headers[saga.HeaderTraceParent])
			require.Equal(t, given[saga.HeaderTraceState], e.headers[saga.HeaderTraceState])
		} else {
			require.NotContains(t, e.headers, saga.HeaderTraceParent)
		}
	}
}
