package saga_test

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/capsaga/capsaga/saga"
)

const streamLine = `{"saga_id":"cdc-redis-products-42-700","stream":{"sink":"redis","entity":"products","key":"42","version":"700","op":"upsert"}}`

func TestWriteOfAStream(t *testing.T) {
	w, err := saga.ParseWrite([]byte(streamLine))
	require.NoError(t, err)
	r := saga.Refused{Sink: saga.Redis, Entity: &saga.Entity{Name: "products"}, Key: "42", Version: 700}
	assert.Equal(t, r.Write(), *w)
	body, err := json.Marshal(w)
	require.NoError(t, err)
	assert.JSONEq(t, streamLine, string(body))
	assert.Equal(t, "products/42 written by SQL, refused by redis", w.Summary())
	assert.Equal(t, []string{"products"}, w.Entities())
	assert.False(t, r.Owned().Gone())

	r.Deleted = true
	deleted := r.Write()
	assert.Equal(t, "products/42 deleted by SQL, refused by redis", deleted.Summary())
	assert.NotEqual(t, w.Digest(), deleted.Digest())
	assert.True(t, r.Owned().Gone())
}

func TestWriteOfAStreamIsStrict(t *testing.T) {
	for change, says := range map[string]string{
		`"colour":1`:          "unknown field stream.colour",
		`"sink":"kafka"`:      `sink "kafka"`,
		`"entity":"Products"`: "entity",
		`"key":""`:            "key is missing",
		`"key":"%z"`:          "decode key",
		`"version":"0"`:       "version 0",
		`"op":"insert"`:       `op "insert"`,
		`"version":7`:         "version",
	} {
		fields := map[string]json.RawMessage{}
		require.NoError(t, json.Unmarshal([]byte(`{"sink":"redis","entity":"products","key":"42","version":"700","op":"upsert"}`), &fields))
		require.NoError(t, json.Unmarshal([]byte("{"+change+"}"), &fields))
		stream, err := json.Marshal(fields)
		require.NoError(t, err)
		_, err = saga.ParseWrite(fmt.Appendf(nil, `{"saga_id":"a","stream":%s}`, stream))
		assert.ErrorContains(t, err, says)
	}
	for _, more := range []string{
		`"mutations":[{"entity":"e","op":"delete","key":{"id":1}}]`, `"consistency":"cp"`, `"policy":{"on_reject":"skip"}`,
		`"after_steps":[{"name":"mail","task_queue":"q","activity":"A"}]`,
	} {
		_, err := saga.ParseWrite([]byte(strings.TrimSuffix(streamLine, "}") + "," + more + "}"))
		assert.ErrorContains(t, err, "stream goes with saga_id alone", more)
	}
}

func TestCommandsForARefusedRow(t *testing.T) {
	change := &saga.StreamChange{Sink: saga.Redis, Entity: "products", Key: "42", Version: 700, Op: saga.Upsert}
	refused := &saga.ErrorInfo{Class: saga.Rejected, Message: "no"}
	var lines []string
	for _, c := range saga.Commands(&saga.Outcome{SagaID: "a", Status: saga.Parked, Version: 700, Stream: change, Steps: []saga.Step{
		{Name: saga.StepCommit, State: saga.StepDone}, {Name: saga.StepRedis, State: saga.StepParked, Error: refused},
	}}) {
		lines = append(lines, c.Line)
	}
	assert.Equal(t, []string{"capsaga replay a", "capsaga skip a --step redis", "capsaga edit a --set COLUMN=JSON", "capsaga show a"}, lines)
}

// Names of rows are as distinct as the rows, and fit.
func TestStreamRowsAreInjective(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		change := rapid.Custom(func(t *rapid.T) saga.StreamChange {
			return saga.StreamChange{
				Sink:    rapid.SampledFrom([]saga.Sink{saga.Redis, saga.Elasticsearch}).Draw(t, "sink"),
				Entity:  rapid.StringMatching(`[a-c][a-c0-1_]{0,2}`).Draw(t, "entity") + strings.Repeat("x", rapid.SampledFrom([]int{0, 0, 99, 200}).Draw(t, "long")),
				Key:     saga.EncodeKey(rapid.SliceOfN(rapid.StringMatching(`([a:@%-]|-1|-skipped){0,3}|[a-b]{150,170}`), 1, 2).Draw(t, "key")),
				Version: saga.Version(rapid.Int64Range(1, 3).Draw(t, "version")),
			}
		})
		a, b := change.Draw(t, "a"), change.Draw(t, "b")
		same := a.Sink == b.Sink && a.Entity == b.Entity && a.Key == b.Key
		require.Equal(t, same, a.Row() == b.Row())
		require.Equal(t, same && a.Version == b.Version, a.SagaID() == b.SagaID())
		require.NotEqual(t, a.SagaID(), b.SkippedSagaID())
		a.Version = 1<<63 - 1
		require.LessOrEqual(t, len(a.SagaID()), saga.MaxSagaIDBytes)
		require.LessOrEqual(t, len(a.SkippedSagaID()), saga.MaxSagaIDBytes)
	})
}
