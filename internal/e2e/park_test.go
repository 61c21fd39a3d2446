package e2e

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	enumspb "go.temporal.io/api/enums/v1"
	"go.temporal.io/api/workflowservice/v1"
	sdkclient "go.temporal.io/sdk/client"
	"google.golang.org/protobuf/encoding/protojson"

	"github.com/capsaga/capsaga/internal/stacktest"
	"github.com/capsaga/capsaga/saga"
)

// strictCatalog maps only some columns and refuses any other.
const strictCatalog = `version: 1
entities:
  products:
    table: public.products
    key: [id]
    sinks:
      redis: {}
      kafka: {}
      elasticsearch:
        mappings:
          dynamic: strict
          properties:
            id: {type: long}
            title: {type: text}
            stock: {type: long}
            price_cents: {type: long}
`

// What Elasticsearch refuses for good parks the saga, which the CLI explains and
// Temporal finds. The other sinks have the row, and when the cause is gone, a
// retry completes it.
func TestParkedSaga(t *testing.T) {
	catalog := filepath.Join(t.TempDir(), "capsaga.yaml")
	require.NoError(t, os.WriteFile(catalog, []byte(strictCatalog), 0o600))
	w := newWorldWith(t, catalog)
	w.startWorker()
	id := w.id("parked")
	r := w.capsaga(fmt.Sprintf(`{"saga_id":%q,"mutations":[{"entity":"products","op":"insert","row":{"id":1,"title":"Lamp","genre":"Drama"}}]}`, id), "write", "-", "-o", "json")
	require.Equal(t, 3, r.status, r.stderr)
	o := r.outcomes(t)[1]
	require.Equal(t, saga.Parked, o.Status)
	require.NotZero(t, o.Version)
	for step, state := range map[saga.StepName]saga.StepState{
		saga.StepCommit: saga.StepDone, saga.StepRedis: saga.StepDone, saga.StepKafka: saga.StepDone, saga.StepElasticsearch: saga.StepParked,
	} {
		require.Equal(t, state, o.Step(step).State, "%s: %+v", step, o)
	}
	r = w.capsaga("", "show", id, "-o", "json")
	require.Zero(t, r.status, r.stderr)
	var shown struct {
		saga.Outcome
		URL string `json:"url"`
	}
	require.NoError(t, json.Unmarshal([]byte(r.stdout), &shown))
	require.Equal(t, saga.Parked, shown.Status)
	require.NotNil(t, shown.Error)
	for _, word := range []string{"products/1", "strict"} {
		require.Contains(t, shown.Error.Message, word)
	}
	require.Contains(t, shown.URL, "/workflows/saga%2F"+id)
	require.Equal(t, w.inPostgres("products"), w.inRedis("products"))
	require.Len(t, w.events("products"), 1)
	w.awaitFound(id, saga.AttributeStatus+" = 'parked' AND "+saga.AttributeBlockedOn+" = 'elasticsearch' AND "+saga.AttributeErrorClass+" = 'rejected'")

	// Retried without a change it parks again; with one it completes.
	require.Equal(t, saga.Parked, w.retry(id).Status)
	w.elasticsearch(http.MethodPut, "/"+w.index("products")+"/_mapping", `{"dynamic": false}`)
	w.retry(id)
	o.Outcome = w.await(id)
	require.Equal(t, saga.Completed, o.Status, "%+v", o)
	w.awaitFound(id, saga.AttributeStatus+" = 'completed' AND "+saga.AttributeBlockedOn+" IS NULL")
	w.requireConverged(map[string]int{id: 1})
}

// awaitFound waits until a query over the search attributes finds the saga.
func (w *world) awaitFound(id, query string) {
	w.t.Helper()
	query = fmt.Sprintf("WorkflowId = '%s' AND %s", saga.WorkflowID(id), query)
	stacktest.Eventually(w.t, 30*time.Second, func() error {
		ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
		defer cancel()
		found, err := w.temporal.CountWorkflow(ctx, &workflowservice.CountWorkflowExecutionsRequest{Query: query})
		if err == nil && found.GetCount() != 1 {
			err = fmt.Errorf("%d workflows are found by %s", found.GetCount(), query)
		}
		return err
	})
}

// retry asks a parked saga to try again, as the UI can.
func (w *world) retry(id string) (o saga.Outcome) {
	w.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	handle, err := w.temporal.UpdateWorkflow(ctx, sdkclient.UpdateWorkflowOptions{
		WorkflowID: saga.WorkflowID(id), UpdateName: saga.UpdateRetry, WaitForStage: sdkclient.WorkflowUpdateStageCompleted,
	})
	require.NoError(w.t, err)
	require.NoError(w.t, handle.Get(ctx, &o))
	return o
}

// await returns the outcome that a saga's workflow ends with.
func (w *world) await(id string) (o saga.Outcome) {
	w.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 60*time.Second)
	defer cancel()
	require.NoError(w.t, w.temporal.GetWorkflow(ctx, saga.WorkflowID(id), "").Get(ctx, &o))
	return o
}

// history returns a workflow's history as JSON text, payloads decoded.
func (w *world) history(id string) string {
	w.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	var text strings.Builder
	events := w.temporal.GetWorkflowHistory(ctx, saga.WorkflowID(id), "", false, enumspb.HISTORY_EVENT_FILTER_TYPE_ALL_EVENT)
	for events.HasNext() {
		e, err := events.Next()
		require.NoError(w.t, err)
		// In JSON the payloads are base64; %v writes them as text.
		text.WriteString(protojson.Format(e) + "\n" + fmt.Sprint(e) + "\n")
	}
	return text.String()
}
