package kafkapub_test

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/capsaga/capsaga/internal/stacktest"
)

// TestRightsThatAreTakenAwayDivertATopic takes them away at a broker: the right to
// write, the right to know of the topic, and all of a topic that is deleted at the
// same time and so cannot be made again.
func TestRightsThatAreTakenAwayDivertATopic(t *testing.T) {
	t.Parallel()
	broker := stacktest.NewOwnKafka(t)
	for _, c := range []struct {
		name      string
		operation kadm.ACLOperation
		deleted   bool
	}{{"write", kadm.OpWrite, false}, {"describe", kadm.OpDescribe, false}, {"all of a deleted topic", kadm.OpAll, true}} {
		t.Run(c.name, func(t *testing.T) {
			stack := stacktest.New(t)
			stack.KafkaBrokers = broker.KafkaBrokers()
			w := newWorldOn(t, stack)
			w.exec("CREATE TABLE products (id int PRIMARY KEY); CREATE TABLE other (id int PRIMARY KEY)")
			r := w.start()
			w.exec("INSERT INTO products VALUES (1)")
			w.settle(r.positions)
			if c.deleted {
				w.deleteTopic("products")
			}
			rights := w.deny("products", c.operation)
			w.exec("INSERT INTO products VALUES (2)")
			w.exec("INSERT INTO other VALUES (1)")
			w.exec("INSERT INTO products VALUES (3)")
			w.settle(r.positions)
			require.Equal(t, []string{`{"id":2}`, `{"id":3}`}, keysOf(w.parked()))
			require.Len(t, w.events(w.topic("other")), 1, "others flow on")
			require.Contains(t, w.alarms()[0], "TOPIC_AUTHORIZATION_FAILED")
			rights()
			w.drain("products")
			w.exec("INSERT INTO products VALUES (4)")
			w.settle(r.positions)
			want := []string{`{"id":1}`, `{"id":2}`, `{"id":3}`, `{"id":4}`}
			if c.deleted {
				want = want[1:]
			}
			require.Equal(t, want, keysOf(w.events(w.topic("products"))))
		})
	}
}

// deny takes a right to a table's topic away, and returns what gives it back.
func (w *world) deny(table string, operation kadm.ACLOperation) (giveBack func()) {
	w.t.Helper()
	client, err := kgo.NewClient(kgo.SeedBrokers(w.stack.KafkaBrokers...))
	require.NoError(w.t, err)
	w.t.Cleanup(client.Close)
	admin := kadm.NewClient(client)
	acl := kadm.NewACLs().Topics(w.topic(table)).ResourcePatternType(kadm.ACLPatternLiteral).Operations(operation).Deny("User:*").DenyHosts("*")
	created, err := admin.CreateACLs(context.Background(), acl)
	require.NoError(w.t, err)
	for _, c := range created {
		require.NoError(w.t, c.Err)
	}
	w.awaitRight(table, false)
	return func() {
		_, err := admin.DeleteACLs(context.Background(), acl)
		require.NoError(w.t, err)
		w.awaitRight(table, true)
	}
}

// awaitRight waits until the broker knows: it is told of rights in its own time.
func (w *world) awaitRight(table string, want bool) {
	w.t.Helper()
	stacktest.Eventually(w.t, 10*time.Second, func() error {
		_, err := w.kafka.Topic(context.Background(), w.topic(table))
		if has := !errors.Is(err, kerr.TopicAuthorizationFailed); has != want {
			return errors.New("the broker does not know yet")
		}
		return nil
	})
}
