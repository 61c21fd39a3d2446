package e2e

import (
	"errors"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/capsaga/capsaga/internal/stacktest"
	"github.com/capsaga/capsaga/saga"
	"github.com/capsaga/capsaga/saga/client"
)

// Without its replica PostgreSQL keeps writes that want it waiting for a bounded
// time, says that they are committed, and delays no others.
func TestReplicaStopped(t *testing.T) {
	w := newWorld(t)
	servers := newServers(t)
	w.startWorker()
	write := func(id string, consistency saga.Consistency) (saga.Outcome, time.Duration) {
		t.Helper()
		began := time.Now()
		o := w.write(client.WaitCommitted, saga.Committed, saga.Write{SagaID: w.id("%s", id), Consistency: consistency, Mutations: []saga.Mutation{
			upsert("products", "id", 1, "title", id),
		}})
		return o, time.Since(began)
	}
	o, _ := write("cp", saga.CP)
	require.Equal(t, saga.ConfirmedByReplica, o.Confirmed)
	servers.do("stop", replicaServer)
	o, took := write("ap without", saga.AP)
	require.Equal(t, saga.ConfirmedLocally, o.Confirmed)
	require.Less(t, took, 5*time.Second, "a write waits for a replica that it does not want")
	o, took = write("cp without", saga.CP)
	require.Equal(t, saga.ConfirmedLocally, o.Confirmed)
	t.Logf("a cp write without the replica was answered after %s", took)
	require.Less(t, took, 20*time.Second)
	servers.do("start", replicaServer)
	o, _ = write("cp again", saga.CP)
	require.Equal(t, saga.ConfirmedByReplica, o.Confirmed)
	require.Equal(t, saga.Completed, w.await(w.id("cp without")).Status)
	for _, id := range []string{"cp", "ap without", "cp again"} {
		require.Equal(t, saga.Completed, w.await(w.id("%s", id)).Status)
	}
	w.requireConverged(map[string]int{w.id("cp"): 1, w.id("ap without"): 1, w.id("cp without"): 1, w.id("cp again"): 1})
}

// A server without a synchronous replica refuses such a write before it commits.
func TestNoReplicaConfigured(t *testing.T) {
	w := newWorld(t)
	w.startWorker()
	w.exec("ALTER SYSTEM SET synchronous_standby_names = ''")
	t.Cleanup(func() {
		w.exec("ALTER SYSTEM RESET synchronous_standby_names")
		w.exec("SELECT pg_reload_conf()")
		w.awaitReplicas(true)
	})
	w.exec("SELECT pg_reload_conf()")
	w.awaitReplicas(false)
	o := w.write(client.WaitCommitted, saga.RejectedEnd, saga.Write{SagaID: w.id("cp"), Consistency: saga.CP, Mutations: []saga.Mutation{
		upsert("products", "id", 1, "title", "Lamp"),
	}})
	require.Equal(t, saga.CodeNoReplica, o.Error.Code)
	require.Empty(t, w.inPostgres("products"))
}

func (w *world) awaitReplicas(configured bool) {
	w.t.Helper()
	stacktest.Eventually(w.t, 10*time.Second, func() error {
		// Each connection of the pool reads the configuration when it is next used.
		if names := value[string](w, "SELECT current_setting('synchronous_standby_names')"); (names != "") != configured {
			return errReload
		}
		return nil
	})
}

var errReload = errors.New("the server has not read its configuration again")
