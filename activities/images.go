package activities

import (
	"container/list"
	"encoding/json"
	"sync"
	"time"

	"github.com/capsaga/capsaga/saga"
)

const (
	defaultImageBytes = 64 << 20
	// imageAge is how long rows are kept: a saga that has not reached its sinks by
	// then waits for one that is away.
	imageAge = time.Minute
	// rowOverhead is what a row costs beside its bytes, roughly.
	rowOverhead = 128
)

// images keeps rows in memory from their commit until their sinks have them, so
// that the fast path reads nothing twice. It is bounded in bytes and in age; what
// it has dropped is read again from PostgreSQL.
type images struct {
	mu       sync.Mutex
	maxBytes int
	bytes    int
	sagas    map[string]*list.Element
	order    *list.List // of image, oldest first
}

// image is the rows of one saga. Its zero value has none.
type image struct {
	sagaID  string
	version saga.Version
	at      time.Time // just before the commit began
	bytes   int
	rows    map[rowKey]json.RawMessage
}

type rowKey struct{ entity, key string }

func newImages(maxBytes int) *images {
	return &images{maxBytes: maxBytes, sagas: map[string]*list.Element{}, order: list.New()}
}

// put keeps the rows that carry their image.
func (c *images) put(sagaID string, version saga.Version, at time.Time, owned []saga.Owned) {
	img := image{sagaID: sagaID, version: version, at: at, rows: map[rowKey]json.RawMessage{}}
	for _, o := range owned {
		if o.Row == nil || o.Gone() {
			continue
		}
		img.rows[rowKey{o.Entity, o.Key}] = o.Row
		img.bytes += len(o.Row) + len(o.Entity) + len(o.Key) + rowOverhead
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.remove(sagaID)
	if len(img.rows) == 0 || img.bytes > c.maxBytes {
		return
	}
	c.sagas[sagaID] = c.order.PushBack(img)
	c.bytes += img.bytes
	for oldest := c.order.Front(); oldest != nil; oldest = c.order.Front() {
		old := oldest.Value.(image)
		if c.bytes <= c.maxBytes && at.Sub(old.at) <= imageAge {
			return
		}
		c.remove(old.sagaID)
	}
}

// get returns the saga's rows if they are of that version and not too old.
func (c *images) get(sagaID string, version saga.Version, now time.Time) image {
	c.mu.Lock()
	defer c.mu.Unlock()
	if element := c.sagas[sagaID]; element != nil {
		img := element.Value.(image)
		if img.version == version && now.Sub(img.at) <= imageAge {
			return img
		}
	}
	return image{}
}

// drop forgets a saga that has reached its sinks.
func (c *images) drop(sagaID string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.remove(sagaID)
}

func (c *images) remove(sagaID string) {
	if element := c.sagas[sagaID]; element != nil {
		c.bytes -= element.Value.(image).bytes
		c.order.Remove(element)
		delete(c.sagas, sagaID)
	}
}

// row returns the image of a row if it may still be sent: at most half as old as
// the sinks' memory of deleted rows, else a late apply could bring back a row
// whose tombstone is gone.
func (i image) row(e *saga.Entity, key string, now time.Time) json.RawMessage {
	if now.Sub(i.at) >= e.TombstoneLife()/2 {
		return nil
	}
	return i.rows[rowKey{e.Name, key}]
}
