package kafka

import (
	"net"
	"strconv"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"
)

// connectionHook remembers what is wrong with the connections: the driver
// retries for ever and tells nobody why.
type connectionHook struct{ producer *Producer }

var (
	_ kgo.HookBrokerConnect = (*connectionHook)(nil)
	_ kgo.HookBrokerRead    = (*connectionHook)(nil)
)

// OnBrokerConnect keeps the error of a connection that failed.
func (h *connectionHook) OnBrokerConnect(meta kgo.BrokerMetadata, _ time.Duration, _ net.Conn, err error) {
	h.producer.connection(Classify("connect to "+net.JoinHostPort(meta.Host, strconv.Itoa(int(meta.Port))), err))
}

// OnBrokerRead keeps the error of an answer that did not come.
func (h *connectionHook) OnBrokerRead(meta kgo.BrokerMetadata, _ int16, _ int, _, _ time.Duration, err error) {
	h.producer.connection(Classify("read from "+net.JoinHostPort(meta.Host, strconv.Itoa(int(meta.Port))), err))
}
