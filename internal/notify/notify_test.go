package notify_test

import (
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/capsaga/capsaga/internal/notify"
	"github.com/capsaga/capsaga/saga"
)

func TestPublishReachesTheSagasWaitersOnly(t *testing.T) {
	t.Parallel()
	hub := notify.NewHub()
	first, cancelFirst := hub.Subscribe("a")
	second, cancelSecond := hub.Subscribe("a")
	other, cancelOther := hub.Subscribe("b")
	defer cancelSecond()
	defer cancelOther()

	hub.Publish(saga.Outcome{SagaID: "a", Status: saga.Committed})
	require.Equal(t, saga.Committed, (<-first).Status)
	require.Equal(t, saga.Committed, (<-second).Status)
	require.Empty(t, other)

	cancelFirst()
	hub.Publish(saga.Outcome{SagaID: "a", Status: saga.Completed})
	require.Empty(t, first)
	require.Equal(t, saga.Completed, (<-second).Status)
}

func TestPublishNeverBlocks(t *testing.T) {
	t.Parallel()
	hub := notify.NewHub()
	_, cancel := hub.Subscribe("a")
	defer cancel()
	for range 100 {
		hub.Publish(saga.Outcome{SagaID: "a"})
	}
}

func TestNilHubHasNoWaiters(t *testing.T) {
	t.Parallel()
	var hub *notify.Hub
	outcomes, cancel := hub.Subscribe("a")
	defer cancel()
	hub.Publish(saga.Outcome{SagaID: "a"})
	require.Empty(t, outcomes)
}
