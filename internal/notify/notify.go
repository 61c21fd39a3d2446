// Package notify tells callers in the worker's own process what became of their
// sagas, at once and without a server round trip. It holds nothing durable: who
// hears nothing (another process ran the saga, or this one restarted) asks
// Temporal instead. Only what a database has already recorded is published, so a
// notification is never taken back.
package notify

import (
	"sync"

	"github.com/capsaga/capsaga/saga"
)

// perWaiter is how many outcomes a waiter can be behind: a saga publishes twice,
// and a retried activity may publish again.
const perWaiter = 4

// Hub passes outcomes from activities to the waiters of the same process. A nil
// Hub has no waiters. It is safe for concurrent use.
type Hub struct {
	mu      sync.Mutex
	waiters map[string]map[chan saga.Outcome]struct{}
}

// NewHub returns a hub without waiters.
func NewHub() *Hub { return &Hub{waiters: map[string]map[chan saga.Outcome]struct{}{}} }

// Subscribe returns a channel of the saga's outcomes from now on, and what ends
// the subscription. Subscribe before the saga starts, else its outcome may pass
// unheard.
func (h *Hub) Subscribe(sagaID string) (outcomes <-chan saga.Outcome, cancel func()) {
	return h.SubscribeAll([]string{sagaID})
}

// SubscribeAll is Subscribe for several sagas, through one channel.
func (h *Hub) SubscribeAll(sagaIDs []string) (outcomes <-chan saga.Outcome, cancel func()) {
	ch := make(chan saga.Outcome, perWaiter*len(sagaIDs))
	if h == nil {
		return ch, func() {}
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	for _, id := range sagaIDs {
		if h.waiters[id] == nil {
			h.waiters[id] = map[chan saga.Outcome]struct{}{}
		}
		h.waiters[id][ch] = struct{}{}
	}
	return ch, func() { h.remove(sagaIDs, ch) }
}

func (h *Hub) remove(sagaIDs []string, ch chan saga.Outcome) {
	h.mu.Lock()
	defer h.mu.Unlock()
	for _, id := range sagaIDs {
		delete(h.waiters[id], ch)
		if len(h.waiters[id]) == 0 {
			delete(h.waiters, id)
		}
	}
}

// Waits reports whether anybody waits for the saga.
func (h *Hub) Waits(sagaID string) bool {
	if h == nil {
		return false
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	return len(h.waiters[sagaID]) > 0
}

// Publish hands the outcome to the saga's waiters. It never blocks: a waiter
// that does not read misses it, and asks Temporal.
func (h *Hub) Publish(o saga.Outcome) {
	if h == nil {
		return
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	for ch := range h.waiters[o.SagaID] {
		select {
		case ch <- o:
		default:
		}
	}
}
