package main

import (
	"encoding/json"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	commonpb "go.temporal.io/api/common/v1"
	enumspb "go.temporal.io/api/enums/v1"
	failurepb "go.temporal.io/api/failure/v1"
	workflowpb "go.temporal.io/api/workflow/v1"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/capsaga/capsaga/internal/config"
	"github.com/capsaga/capsaga/internal/listing"
	"github.com/capsaga/capsaga/saga"
)

var night = time.Date(2026, 1, 2, 3, 4, 5, 0, time.Local)

func showOf(t *testing.T, s shown) string {
	t.Helper()
	s.Next = nextCommands(&s)
	a, out := newApp(asTable)
	require.NoError(t, a.writeShown(s, config.Config{Prefix: "capsaga"}, night))
	var lines []string
	for line := range strings.Lines(out.String()) {
		lines = append(lines, strings.TrimRight(line, " \n"))
	}
	return strings.Join(lines, "\n") + "\n"
}

func parked() shown {
	refused := &saga.ErrorInfo{Code: saga.CodeRejected, Class: saga.Rejected, System: "elasticsearch", Message: "field price_cents refuses the text"}
	return shown{
		Outcome: saga.Outcome{
			SagaID: "order-1", Status: saga.Parked, Version: 7, Confirmed: saga.ConfirmedLocally, Error: refused,
			ETags: []saga.ETag{{Entity: "products", Key: "42", ETag: "1-777"}, {Entity: "products", Key: "43"}},
			Steps: []saga.Step{
				{Name: saga.StepCommit, State: saga.StepDone, StartedAt: night.Add(-time.Hour), Attempts: 1, Duration: saga.Duration(3456 * time.Microsecond)},
				{Name: saga.StepRedis, State: saga.StepRetrying, StartedAt: night.Add(-time.Hour), Attempts: 12, Duration: saga.Duration(15 * time.Minute), Error: &saga.ErrorInfo{Code: saga.CodeUnavailable, Class: saga.Unavailable, Message: "connection refused"}},
				{Name: saga.StepElasticsearch, State: saga.StepParked, StartedAt: night.Add(-24 * time.Hour), Attempts: 1, Error: refused},
			},
		},
		WorkflowID: "saga/order-1", URL: "http://127.0.0.1:15234/x", Workflow: listing.Running,
	}
}

func TestAParkedSaga(t *testing.T) {
	s := parked()
	s.Pending = attempts([]*workflowpb.PendingActivityInfo{{
		ActivityType: &commonpb.ActivityType{Name: "UpdateRedis"}, State: enumspb.PENDING_ACTIVITY_STATE_SCHEDULED, Attempt: 13,
		NextAttemptScheduleTime: timestamppb.New(night.Add(12 * time.Second)), LastAttemptCompleteTime: timestamppb.New(night.Add(-3 * time.Second)),
		LastFailure: &failurepb.Failure{Message: "redis at 10.0.0.7 refuses connections"},
	}})
	assign(s.Pending, &s.Outcome)
	golden(t, showOf(t, s),
		"saga         order-1",
		"status       parked",
		"version      7",
		"confirmed    local",
		"row          products/42, etag 1-777",
		"row          products/43, deleted",
		"workflow     saga/order-1",
		"Temporal UI  http://127.0.0.1:15234/x",
		"",
		"STEP           STATE     BEGAN                ATTEMPTS  DURATION  LAST ERROR",
		"commit         done      02:04:05             1         3.5ms     -",
		"redis          retrying  02:04:05             12        15m0s     unavailable",
		"elasticsearch  parked    2026-01-01 03:04:05  1         -         rejected",
		"",
		"redis, unavailable: connection refused",
		"",
		"elasticsearch, rejected: field price_cents refuses the text",
		"",
		"redis: attempt 13 begins in 12s; the last one failed 3s ago: redis at 10.0.0.7 refuses connections",
		"",
		"PostgreSQL has it; elasticsearch is refused for good until the cause is mended, and waits for you.",
		"",
		"capsaga replay order-1                     # when the cause is mended, try elasticsearch again",
		"capsaga skip order-1 --step elasticsearch  # to give elasticsearch up",
		"capsaga edit order-1 --set COLUMN=JSON     # to change the row, in PostgreSQL and all sinks",
		"capsaga compensate order-1                 # to undo the saga")

	a, out := newApp(asJSON)
	s.Next = nextCommands(&s)
	require.NoError(t, a.writeShown(s, config.Config{}, night))
	var got map[string]any
	require.NoError(t, json.Unmarshal(out.Bytes(), &got))
	for _, name := range []string{"saga_id", "status", "version", "steps", "workflow_id", "url", "workflow", "pending", "next"} {
		assert.Contains(t, got, name)
	}
}

// refusedRow is the saga of a row that Elasticsearch refused.
func refusedRow() shown {
	s := parked()
	change := &saga.StreamChange{Sink: saga.Elasticsearch, Entity: "products", Key: "42", Version: 7, Op: saga.Upsert}
	s.SagaID, s.Stream, s.Confirmed = change.SagaID(), change, ""
	s.ETags = []saga.ETag{{Entity: "products", Key: "42", ETag: saga.ETagUnknown}}
	s.Steps = []saga.Step{{Name: saga.StepCommit, State: saga.StepDone}, {Name: saga.StepRedis, State: saga.StepDone}, s.Steps[2]}
	s.WorkflowID, s.URL = saga.WorkflowID(s.SagaID), ""
	return s
}

func TestARefusedRow(t *testing.T) {
	golden(t, showOf(t, refusedRow()),
		"saga         cdc-elasticsearch-products-42-7",
		"status       parked",
		"change       products/42 written by SQL, refused by elasticsearch",
		"version      7",
		"row          products/42",
		"workflow     saga/cdc-elasticsearch-products-42-7",
		"Temporal UI  set CAPSAGA_TEMPORAL_UI_URL for a link",
		"",
		"STEP           STATE   BEGAN                ATTEMPTS  DURATION  LAST ERROR",
		"commit         done    -                    0         -         -",
		"redis          done    -                    0         -         -",
		"elasticsearch  parked  2026-01-01 03:04:05  1         -         rejected",
		"",
		"elasticsearch, rejected: field price_cents refuses the text",
		"",
		"PostgreSQL has it; elasticsearch is refused for good until the cause is mended, and waits for you.",
		"",
		"capsaga replay cdc-elasticsearch-products-42-7                     # when the cause is mended, try elasticsearch again",
		"capsaga skip cdc-elasticsearch-products-42-7 --step elasticsearch  # to give elasticsearch up",
		"capsaga edit cdc-elasticsearch-products-42-7 --set COLUMN=JSON     # to change the row, in PostgreSQL and all sinks")

	s := refusedRow()
	s.Workflow = listing.NotStarted
	text := showOf(t, s)
	assert.Contains(t, text, "workflow     saga/cdc-elasticsearch-products-42-7, not started")
	assert.Contains(t, text, "has not been started yet: a worker does that")
	assert.Contains(t, text, "capsaga replay cdc-elasticsearch-products-42-7  # start it now")
	assert.NotContains(t, text, "capsaga skip")
}

func TestASagaThatWasStopped(t *testing.T) {
	for state, want := range map[listing.State]string{
		listing.Terminated: "stopped from outside (terminated), so nothing works on it",
		listing.Gone:       "Temporal does not know its workflow any more",
	} {
		s := parked()
		s.Workflow = state
		text := showOf(t, s)
		assert.Contains(t, text, "workflow     saga/order-1, "+string(state))
		assert.Contains(t, text, want)
		assert.Contains(t, text, "capsaga replay order-1  # start it again where it stood")
		assert.NotContains(t, text, "capsaga skip")
	}
	s := parked()
	s.Status, s.Workflow = saga.Completed, listing.Terminated
	assert.NotContains(t, showOf(t, s), "nothing works on it")
}

func TestAnAttempt(t *testing.T) {
	for want, p := range map[string]attempt{
		"redis: attempt 2 is under way for 4s":          {Step: "redis", Attempt: 2, StartedAt: night.Add(-4 * time.Second)},
		"Ship: attempt 1 waits for a worker to take it": {Activity: "Ship", Attempt: 1},
		"kafka: attempt 9 is paused in Temporal: unpause the activity there; the last one failed: away": {
			Step: "kafka", Attempt: 9, Paused: true, LastFailure: "away",
		},
	} {
		assert.Equal(t, want, p.describe(night))
	}
}

func TestAttemptsFindTheirSteps(t *testing.T) {
	pending := []attempt{{Activity: "UpdateRedis"}, {Activity: "Ship"}, {Activity: "RecordOutcome"}, {Activity: "Undo"}}
	assign(pending, &saga.Outcome{Steps: []saga.Step{
		{Name: saga.StepCommit, State: saga.StepDone}, {Name: saga.StepRedis, State: saga.StepDone},
		{Name: saga.StepUndo, State: saga.StepRetrying}, {Name: saga.StepRedis.Undo(), State: saga.StepRunning},
		{Name: "ship", State: saga.StepRetrying},
	}})
	assert.Equal(t, saga.StepName("undo-redis"), pending[0].Step)
	assert.Equal(t, saga.StepName("ship"), pending[1].Step)
	assert.Equal(t, saga.StepUndo, pending[3].Step)
}

func TestConflicts(t *testing.T) {
	a, out := newApp(asTable)
	require.NoError(t, a.writeConflicts([]saga.Conflict{
		{
			Entity: "products", Key: "42", Reason: "the row was changed since",
			Theirs: json.RawMessage(`{"id":42,"title":"Lamp","price_cents":1500,"stock":7}`),
			Ours:   json.RawMessage(`[{"entity":"products","op":"patch","key":{"id":42},"set":{"price_cents":1000},"add":{"stock":-1}}]`),
			Before: json.RawMessage(`{"id":42,"title":"Lamp","price_cents":900,"stock":8}`),
		},
		{Entity: "users", Key: "7", Reason: "others refer to the row", Theirs: json.RawMessage(`{"id":7}`), Ours: json.RawMessage(`[{"entity":"users","op":"insert","row":{"id":7}}]`)},
	}))
	golden(t, out.String(),
		"",
		"conflict in products/42: the row was changed since",
		"COLUMN       THEIRS, NOW  OURS  BEFORE US",
		"price_cents  1500         1000  900",
		"stock        7            -1    8",
		"",
		"conflict in users/7: others refer to the row",
		"COLUMN  THEIRS, NOW  OURS  BEFORE US",
		"id      7            7     (no row)")
}

func TestWhatASagaWaitsFor(t *testing.T) {
	away := &saga.ErrorInfo{Class: saga.Unavailable, Code: saga.CodeUnavailable, Message: "away"}
	for want, o := range map[string]saga.Outcome{
		"PostgreSQL has it; redis waits for redis, and goes on by itself when that is back.": {
			Status: saga.Parked, Version: 1, Steps: []saga.Step{{Name: saga.StepRedis, State: saga.StepParked, Error: away}},
		},
		"PostgreSQL does not have it; reserve had no success, and waits for you: no gate watches a service.": {
			Status: saga.Parked, Steps: []saga.Step{{Name: "reserve", State: saga.StepParked, Error: away}},
		},
		"It is undone in PostgreSQL; undo-redis waits for redis, and goes on by itself when that is back.": {
			Status: saga.Parked, Version: 1,
			Steps: []saga.Step{{Name: saga.StepUndo, State: saga.StepDone}, {Name: saga.StepRedis.Undo(), State: saga.StepParked, Error: away}},
		},
		"It has not committed yet: reserve comes first. If that lasts: does a worker of its service run, on the task queue that the write names?": {
			Status: saga.Pending, Steps: []saga.Step{{Name: "reserve", State: saga.StepRunning}, {Name: saga.StepCommit, State: saga.StepPending}},
		},
	} {
		assert.Equal(t, want, explanation(&shown{Outcome: o, Workflow: listing.Running}, "capsaga"))
	}
}
