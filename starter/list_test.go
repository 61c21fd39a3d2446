package main

import (
	"encoding/json"
	"testing"
	"time"

	"github.com/spf13/pflag"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/capsaga/capsaga/internal/listing"
	"github.com/capsaga/capsaga/saga"
)

func TestAList(t *testing.T) {
	sagas := []listing.Saga{
		{
			SagaID: "order-2", Status: saga.Parked, BlockedOn: []string{"elasticsearch"}, Entities: []string{"products", "users"},
			CreatedAt: night.Add(-90 * time.Second), WorkflowID: "saga/order-2", Workflow: listing.Running,
			Error: &saga.ErrorInfo{Code: saga.CodeRejected, Class: saga.Rejected, Message: "field price_cents of products/42 refuses the text of order-2"},
		},
		{SagaID: "order-1\x1b[2J", Status: saga.Committed, CreatedAt: night.Add(-3 * time.Hour), WorkflowID: "saga/order-1", Workflow: listing.Terminated},
		{SagaID: "order-0", Status: saga.Completed, CreatedAt: night.AddDate(0, 0, -9), WorkflowID: "saga/order-0"},
	}
	a, out := newApp(asTable)
	require.NoError(t, a.writeList(sagas, night))
	golden(t, out.String(),
		"SAGA            STATUS     BLOCKED ON     ENTITIES        AGE  WORKFLOW    ERROR",
		"order-2         parked     elasticsearch  products,users  90s  running     rejected: field price_cents of products/42 refuses the text…",
		`order-1\x1b[2J  committed  -              -               3h   terminated  -`,
		"order-0         completed  -              -               9d   -           -")
	a, out = newApp(asJSON)
	require.NoError(t, a.writeList(sagas, night))
	var got []map[string]any
	require.NoError(t, json.Unmarshal(out.Bytes(), &got))
	assert.Equal(t, "terminated", got[1]["workflow"])
	assert.NotContains(t, got[2], "workflow")
	a, out = newApp(asJSON)
	require.NoError(t, a.writeList(nil, night))
	golden(t, out.String(), "[]")
}

func TestSelections(t *testing.T) {
	for _, test := range []struct {
		args  []string
		want  saga.Filter
		words []string
	}{
		{nil, saga.Filter{}, nil},
		{
			[]string{"--status", "parked,pending", "--status", "parked", "--since", "7d"},
			saga.Filter{Statuses: []saga.Status{saga.Parked, saga.Pending}, Since: night.AddDate(0, 0, -7)},
			[]string{"--status", "parked,pending", "--since", "7d"},
		},
		{
			[]string{"--blocked-on", "redis", "--entity", "products", "--error-class", "rejected", "--since", "90m", "--stopped"},
			saga.Filter{BlockedOn: "redis", Entity: "products", ErrorClass: saga.Rejected, Since: night.Add(-90 * time.Minute), Stopped: true},
			[]string{"--blocked-on", "redis", "--entity", "products", "--error-class", "rejected", "--since", "90m", "--stopped"},
		},
		{[]string{"--since", "2026-01-01"}, saga.Filter{Since: time.Date(2026, 1, 1, 0, 0, 0, 0, time.Local)}, []string{"--since", "2026-01-01"}},
	} {
		var s selection
		flags := pflag.NewFlagSet("test", pflag.ContinueOnError)
		s.register(flags)
		require.NoError(t, flags.Parse(test.args))
		f, err := s.filter(night)
		require.NoError(t, err)
		assert.Equal(t, test.want, f)
		assert.Equal(t, test.words, s.words())
		assert.Equal(t, len(test.args) > 0, s.given())
	}
}

func TestCommandsCanBeTypedBack(t *testing.T) {
	assert.Equal(t, `capsaga list --after '2026-01-02T03:04:05Z/it'\''s (1)' ''`, commandLine("list", "--after", "2026-01-02T03:04:05Z/it's (1)", ""))
	assert.Equal(t, "1,234,567 sagas", sagasOf(1234567))
	assert.Equal(t, "999 sagas", sagasOf(999))
	assert.Equal(t, "1 saga", sagasOf(1))
}
