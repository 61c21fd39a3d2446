package kafkapub

import "github.com/capsaga/capsaga/internal/kafka"

// arena holds what records are made of until they are acknowledged: many of them
// share one allocation, since a record alone would need five.
type arena struct {
	bytes   []byte
	headers []kafka.Header
}

const (
	arenaBytes   = 64 << 10
	arenaHeaders = 512
)

// copy returns a copy of b.
func (a *arena) copy(b []byte) []byte {
	if len(b) > cap(a.bytes)-len(a.bytes) {
		if len(b) > arenaBytes/4 {
			return append([]byte(nil), b...)
		}
		a.bytes = make([]byte, 0, arenaBytes)
	}
	at := len(a.bytes)
	a.bytes = append(a.bytes, b...)
	return a.bytes[at:len(a.bytes):len(a.bytes)]
}

// withID returns the common headers and that of an event's id.
func (a *arena) withID(common []kafka.Header, id kafka.Header) []kafka.Header {
	if len(common)+1 > cap(a.headers)-len(a.headers) {
		a.headers = make([]kafka.Header, 0, max(arenaHeaders, len(common)+1))
	}
	at := len(a.headers)
	a.headers = append(append(a.headers, common...), id)
	return a.headers[at:len(a.headers):len(a.headers)]
}
