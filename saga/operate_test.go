package saga_test

import (
	"encoding/json"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/capsaga/capsaga/saga"
)

func TestBulkRequests(t *testing.T) {
	t.Parallel()
	parked := saga.Filter{Statuses: []saga.Status{saga.Parked}}
	patch := []saga.Mutation{{Entity: "products", Op: saga.Delete, Key: saga.Columns{"id": json.RawMessage("1")}}}
	set := saga.Columns{"title": json.RawMessage(`"x"`)}
	for _, test := range []struct {
		name    string
		request saga.BulkRequest
		want    string // part of the error
	}{
		{"replay by filter", saga.BulkRequest{Operation: saga.Operation{Action: saga.ActionReplay}, Filter: parked}, ""},
		{"replay of what stopped", saga.BulkRequest{Operation: saga.Operation{Action: saga.ActionReplay}, Filter: saga.Filter{Stopped: true}}, ""},
		{"skip by ids", saga.BulkRequest{Operation: saga.Operation{Action: saga.ActionSkip, Step: "redis", Reason: "x"}, IDs: []string{"a"}}, ""},
		{"edit", saga.BulkRequest{Operation: saga.Operation{Action: saga.ActionEdit, Set: set, Row: "products/1"}, IDs: []string{"a"}}, ""},
		{"no selection", saga.BulkRequest{Operation: saga.Operation{Action: saga.ActionReplay}}, "selects sagas by ids or by statuses"},
		{"all that ended too", saga.BulkRequest{Operation: saga.Operation{Action: saga.ActionReplay}, Filter: saga.Filter{Statuses: []saga.Status{saga.Parked, saga.Completed}}}, "have not ended"},
		{"no action", saga.BulkRequest{Filter: parked}, `action ""`},
		{"a step to replay", saga.BulkRequest{Operation: saga.Operation{Action: saga.ActionReplay, Step: "redis"}, Filter: parked}, "skip alone"},
		{"an empty edit", saga.BulkRequest{Operation: saga.Operation{Action: saga.ActionEdit}, Filter: parked}, "needs mutations"},
		{"two edits", saga.BulkRequest{Operation: saga.Operation{Action: saga.ActionEdit, Set: set, Mutations: patch}, Filter: parked}, "not both"},
		{"a wrong mutation", saga.BulkRequest{Operation: saga.Operation{Action: saga.ActionEdit, Mutations: []saga.Mutation{{Entity: "x", Op: "y"}}}, Filter: parked}, "mutations[0]"},
		{"an empty id", saga.BulkRequest{Operation: saga.Operation{Action: saga.ActionReplay}, IDs: []string{"a", ""}}, "ids[1]"},
		{"too large", saga.BulkRequest{Operation: saga.Operation{Action: saga.ActionReplay}, IDs: strings.Split(strings.Repeat(strings.Repeat("x", 199)+",", 6000), ",")[:6000]}, "at most 786432"},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			err := test.request.Validate()
			if test.want == "" {
				require.NoError(t, err)
				return
			}
			require.ErrorContains(t, err, test.want)
			var refused *saga.Error
			require.ErrorAs(t, err, &refused)
			require.Equal(t, saga.CodeInvalidWrite, refused.Code)
		})
	}
}

func TestRowPatch(t *testing.T) {
	t.Parallel()
	catalog := &saga.Catalog{Entities: map[string]*saga.Entity{
		"products": {Name: "products", Key: []string{"id"}}, "stock": {Name: "stock", Key: []string{"shop", "sku"}},
	}}
	set := saga.Columns{"title": json.RawMessage(`"x"`)}
	one := &saga.Outcome{SagaID: "one", ETags: []saga.ETag{{Entity: "stock", Key: "B%3A1:7"}}}
	m, err := catalog.RowPatch(one, "", set)
	require.NoError(t, err)
	require.Equal(t, saga.Mutation{Entity: "stock", Op: saga.Patch, Set: set, Key: saga.Columns{"shop": json.RawMessage(`"B:1"`), "sku": json.RawMessage(`"7"`)}}, m)

	two := &saga.Outcome{SagaID: "two", ETags: []saga.ETag{{Entity: "products", Key: "1"}, {Entity: "products", Key: "2"}}}
	m, err = catalog.RowPatch(two, "products/2", set)
	require.NoError(t, err)
	require.Equal(t, `"2"`, string(m.Key["id"]))
	_, err = catalog.RowPatch(two, "", set)
	require.ErrorContains(t, err, "owns 2 rows: say which, of products/1, products/2")
	_, err = catalog.RowPatch(two, "products/3", set)
	require.ErrorContains(t, err, "does not own products/3")
	_, err = catalog.RowPatch(&saga.Outcome{SagaID: "none"}, "", set)
	require.ErrorContains(t, err, "has not committed")
	_, err = catalog.RowPatch(&saga.Outcome{SagaID: "x", ETags: []saga.ETag{{Entity: "gone", Key: "1"}}}, "", set)
	require.ErrorContains(t, err, `unknown entity "gone"`)
}
