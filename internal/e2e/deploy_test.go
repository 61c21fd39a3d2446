package e2e

import (
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/capsaga/capsaga/saga"
	"github.com/capsaga/capsaga/saga/client"
)

// reorderedWorker builds a worker whose sinks stand in another order: what a later
// build may look like.
func reorderedWorker(t *testing.T) string {
	t.Helper()
	checkout, err := filepath.Abs(root)
	require.NoError(t, err)
	original := filepath.Join(checkout, "saga", "catalog.go")
	text, err := os.ReadFile(original)
	require.NoError(t, err)
	const now, then = "[]Sink{Redis, Kafka, Elasticsearch}", "[]Sink{Elasticsearch, Kafka, Redis}"
	require.Equal(t, 1, strings.Count(string(text), now), "the order of the sinks is not where this test looks for it")
	folder := t.TempDir()
	changed := filepath.Join(folder, "catalog.go")
	require.NoError(t, os.WriteFile(changed, []byte(strings.Replace(string(text), now, then, 1)), 0o600))
	overlay, err := json.Marshal(map[string]map[string]string{"Replace": {original: changed}})
	require.NoError(t, err)
	overlayFile := filepath.Join(folder, "overlay.json")
	require.NoError(t, os.WriteFile(overlayFile, overlay, 0o600))
	program := filepath.Join(folder, "capsaga-worker")
	command := exec.Command("go", "build", "-buildvcs=false", "-overlay", overlayFile, "-o", program, "./worker/capsaga-worker")
	command.Dir = checkout
	out, err := command.CombinedOutput()
	require.NoError(t, err, "%s", out)
	return program
}

// A build with its steps in another order takes over what the old one was doing:
// running, parked and compensating sagas all come to their end.
func TestNewBuildFinishesTheSagasOfTheOld(t *testing.T) {
	later := reorderedWorker(t)
	w := newClashingWorld(t)
	s := newServers(t)
	old := w.startWorker()
	w.stock(1, 2, 3, 4)
	parked, undone := w.id("parked"), w.id("undone")
	running := []string{w.id("running-redis"), w.id("running-search")}
	for i, id := range []string{parked, undone} {
		w.write(client.WaitVisible, saga.Parked, saga.Write{SagaID: id, Mutations: []saga.Mutation{patch("products", i+1, "title", "changed", "genre", "Drama")}})
	}
	s.do("pause", redisServer)
	w.cancel(undone)
	w.awaitStep(undone, "undo-redis", saga.StepRetrying)
	w.start(saga.Write{SagaID: running[0], Mutations: []saga.Mutation{patch("products", 3, "title", "changed")}})
	w.awaitStep(running[0], saga.StepRedis, saga.StepRetrying)
	s.do("pause", elasticsearchServer)
	w.start(saga.Write{SagaID: running[1], Mutations: []saga.Mutation{patch("products", 4, "title", "changed")}})
	w.awaitStep(running[1], saga.StepElasticsearch, saga.StepRetrying)

	old.terminate(30 * time.Second)
	w.launchProgram(later)
	s.do("resume", redisServer)
	s.do("resume", elasticsearchServer)
	for _, id := range running {
		require.Equal(t, saga.Completed, w.await(id).Status)
	}
	require.Equal(t, saga.Compensated, w.await(undone).Status)
	w.allowGenre()
	require.Equal(t, saga.Completed, w.replayed(parked).Status)
	w.write(client.WaitVisible, saga.Completed, saga.Write{SagaID: w.id("new"), Mutations: []saga.Mutation{patch("products", 4, "title", "by the new build")}})
	w.requireAgree()
}
