package workflows

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/capsaga/capsaga/saga"
)

func TestDetails(t *testing.T) {
	t.Parallel()
	away := &saga.ErrorInfo{Code: saga.CodeUnavailable, Class: saga.Unavailable, Message: "redis at 10.0.0.7:6379\nrefuses `connections` <b>|</b>"}
	o := saga.Outcome{
		SagaID: "order-1", Status: saga.Parked, Version: 9007199254741092, Confirmed: saga.ConfirmedLocally, Error: away,
		Steps: []saga.Step{
			{Name: saga.StepCommit, State: saga.StepDone, Attempts: 1, Duration: saga.Duration(3140 * time.Microsecond)},
			{Name: saga.StepRedis, State: saga.StepParked, Attempts: 32, Duration: saga.Duration(15 * time.Minute), Error: away},
			{Name: saga.StepKafka, State: saga.StepDone, Attempts: 1, Duration: saga.Duration(2 * time.Millisecond)},
		},
	}
	require.Equal(t, `**products/42 upsert → redis, kafka**

parked at version 9007199254741092, confirmed: local

| step | state | attempts | duration |
|---|---|---|---|
| commit | done | 1 | 3.1ms |
| redis | parked | 32 | 15m0s |
| kafka | done | 1 | 2ms |

**redis** is parked, unavailable: redis at 10.0.0.7:6379 refuses 'connections' &lt;b&gt;\|&lt;/b&gt;

What helps:

`+"- it goes on by itself when redis is back; to try now: `capsaga replay order-1`\n"+
		"- to give redis up: `capsaga skip order-1 --step redis`\n- to undo the saga: `capsaga compensate order-1`\n"+
		"- all of it: `capsaga show order-1`\n", details("products/42 upsert", &o))
}
