package e2e

import (
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/capsaga/capsaga/saga"
	"github.com/capsaga/capsaga/saga/client"
)

// The worker dies between every two steps of a compensation: what stands in its
// way holds it at the step that comes next. Each effect happens once all the same.
func TestKillBetweenTheStepsOfACompensation(t *testing.T) {
	paused := func(server string, step saga.StepName) func(w *world, s servers, id string) func() {
		return func(w *world, s servers, id string) func() {
			s.do("pause", server)
			w.cancel(id)
			w.awaitStep(id, step, saga.StepRetrying)
			return func() { s.do("resume", server) }
		}
	}
	locked := func(sql string) func(w *world, s servers, id string) func() {
		return func(w *world, _ servers, id string) func() {
			lock := w.hold(sql, id)
			w.cancel(id)
			w.awaitBlocked()
			return lock.release
		}
	}
	for name, stop := range map[string]func(w *world, s servers, id string) (goOn func()){
		"before the undo is known to be wanted": locked("SELECT 1 FROM capsaga.saga WHERE id = $1 FOR UPDATE"),
		"before the undo in PostgreSQL":         locked("SELECT 1 FROM products WHERE id = 1 AND $1 <> '' FOR UPDATE"),
		"before Redis":                          paused(redisServer, "undo-redis"),
		"before Kafka":                          paused(kafkaServer, "undo-kafka"),
		"before Elasticsearch":                  paused(elasticsearchServer, "undo-elasticsearch"),
		"before the end is recorded": func(w *world, s servers, id string) func() {
			s.do("pause", kafkaServer)
			w.cancel(id)
			w.awaitStep(id, "undo-kafka", saga.StepRetrying)
			w.awaitStep(id, "undo-elasticsearch", saga.StepDone)
			lock := w.hold("SELECT 1 FROM capsaga.saga WHERE id = $1 FOR UPDATE", id)
			s.do("resume", kafkaServer)
			w.awaitBlocked()
			return lock.release
		},
	} {
		t.Run(name, func(t *testing.T) {
			w := newClashingWorld(t)
			s := newServers(t)
			p := w.startWorker()
			w.stock(1, 2)
			before := w.inPostgres("products")
			id := w.id("undone")
			parked := w.write(client.WaitVisible, saga.Parked, saga.Write{SagaID: id, Mutations: []saga.Mutation{
				patch("products", 1, "title", "changed", "genre", "Drama"), add("products", 2, "stock", -1),
			}})
			goOn := stop(w, s, id)
			p.kill()
			goOn()
			w.startWorker()
			o := w.await(id)
			require.Equal(t, saga.Compensated, o.Status, "%+v", o)
			require.Greater(t, o.Version, parked.Version)
			requireSameRows(t, "PostgreSQL after the undo", before, w.inPostgres("products"))
			require.Equal(t, 1, value[int](w, "SELECT count(*) FROM capsaga.change"))
			require.Equal(t, 4, w.requireAgree()[id], "changes of the saga and its undo in Kafka")
		})
	}
}
