package e2e

import (
	"context"
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/capsaga/capsaga/internal/stacktest"
	"github.com/capsaga/capsaga/saga"
)

// While Kafka is away under load, Redis and Elasticsearch keep up and the lag can
// be seen; when it is back the stream catches up and nothing is lost.
func TestKafkaAwayUnderLoad(t *testing.T) {
	w := connect(t, "testdata/items.yaml")
	w.exec("CREATE TABLE items (id bigint PRIMARY KEY, title text, n int, note text)")
	w.apply()
	servers := newServers(t)
	w.startWorker()
	w.settle(30 * time.Second)
	servers.do("stop", kafkaServer)

	away := ifSoaking(10*time.Minute, 20*time.Second)
	ctx, cancel := context.WithTimeout(context.Background(), away)
	defer cancel()
	var load sync.WaitGroup
	rows := 0
	load.Go(func() {
		tick := time.NewTicker(50 * time.Millisecond) // 2,000 rows a second
		defer tick.Stop()
		for ; ctx.Err() == nil; <-tick.C {
			if _, err := w.db.Exec(context.Background(), `INSERT INTO items SELECT $1::bigint + n, 'item ' || n, n, NULL FROM generate_series(0, 99) n
				ON CONFLICT (id) DO UPDATE SET n = items.n + 1`, rows%100_000); err != nil {
				t.Error(err)
				return
			}
			rows += 100
		}
	})
	// The others stay within seconds, and Kafka's lag is said while it lasts.
	for ctx.Err() == nil {
		lsn := w.flushed()
		stacktest.Eventually(t, 10*time.Second, func() error {
			for name, is := range w.streams() {
				if name != saga.PublicationKafka && is.ConfirmedLSN < lsn {
					return fmt.Errorf("stream %s has confirmed %s of %s", name, is.ConfirmedLSN, lsn)
				}
			}
			return nil
		})
		select {
		case <-ctx.Done():
		case <-time.After(time.Second):
		}
	}
	load.Wait()
	is := w.streams()[saga.PublicationKafka]
	require.Positive(t, is.LagBytes)
	require.Greater(t, is.LagSeconds, away.Seconds()/2)
	require.NotEmpty(t, is.Error)
	w.requireSinks("items", saga.Redis, saga.Elasticsearch)

	began := time.Now()
	servers.do("start", kafkaServer)
	up := time.Now()
	w.settle(5 * time.Minute)
	took := time.Since(up)
	t.Logf("%d changes in %s without Kafka; it took %s to start and the stream %s to catch up: %.0f rows/s",
		rows, away, up.Sub(began).Round(time.Millisecond), took.Round(time.Millisecond), float64(rows)/took.Seconds())
	w.requireSinks("items", saga.Kafka)
}
