package bench

import (
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"sync"

	"github.com/capsaga/capsaga/internal/ndjson"
	"github.com/capsaga/capsaga/saga"
)

// counter makes rows as they are asked for.
type counter struct {
	mu       sync.Mutex
	at, last int64
	bytes    int // of a row
}

func (c *counter) next(n int) (w work, _ error) {
	c.mu.Lock()
	from := c.at
	c.at = min(c.at+int64(n), c.last)
	to := c.at
	c.mu.Unlock()
	w.rows = make([]row, 0, to-from)
	for id := from; id < to; id++ {
		w.rows = append(w.rows, newRow(id, c.bytes))
	}
	return w, nil
}

func (c *counter) end() int64 {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.at
}

// file is an NDJSON file of sagas in memory, which is written before the measurement
// begins and read during it.
type file struct {
	mu     sync.Mutex
	reader *ndjson.Reader
	at     int64
}

func newFile(prefix saga.Prefix, first, last int64, rowBytes int) (*file, error) {
	var text bytes.Buffer
	encoder := json.NewEncoder(&text)
	for id := first; id < last; id++ {
		if err := encoder.Encode(newRow(id, rowBytes).write(prefix)); err != nil {
			return nil, err
		}
	}
	return &file{reader: ndjson.NewReader(&text, saga.MaxWriteBytes), at: first}, nil
}

func (f *file) next(n int) (w work, err error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for range n {
		line, err := f.reader.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err == nil {
			err = line.Err
		}
		if err != nil {
			return w, err
		}
		w.lines = append(w.lines, line.Data)
	}
	f.at += int64(len(w.lines))
	return w, nil
}

func (f *file) end() int64 {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.at
}
