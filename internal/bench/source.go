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

// rowRange is every step-th row from first up to last, without it.
type rowRange struct {
	first, last, step int64
	bytes             int // of a row, as newRow takes it
	// again is in the ids of sagas that write rows once more.
	again string
}

// size is how many rows there are.
func (r rowRange) size() int { return int((r.last - r.first + r.step - 1) / r.step) }

// counter makes rows as they are asked for.
type counter struct {
	rowRange
	mu    sync.Mutex
	taken int64 // rows
}

func (c *counter) next(n int) (w work, _ error) {
	c.mu.Lock()
	from := c.taken
	c.taken = min(from+int64(n), int64(c.size()))
	to := c.taken
	c.mu.Unlock()
	w.rows = make([]row, 0, to-from)
	for at := from; at < to; at++ {
		w.rows = append(w.rows, newRow(c.first+at*c.step, c.bytes))
	}
	return w, nil
}

func (c *counter) end() int64 {
	c.mu.Lock()
	defer c.mu.Unlock()
	return min(c.first+c.taken*c.step, c.last)
}

// file is an NDJSON file of sagas in memory, which is written before the measurement
// begins and read during it.
type file struct {
	rowRange
	mu     sync.Mutex
	reader *ndjson.Reader
	taken  int64 // rows
}

func newFile(prefix saga.Prefix, rows rowRange) (*file, error) {
	var text bytes.Buffer
	encoder := json.NewEncoder(&text)
	for id := rows.first; id < rows.last; id += rows.step {
		write := newRow(id, rows.bytes).write(prefix)
		write.SagaID += rows.again
		if err := encoder.Encode(write); err != nil {
			return nil, err
		}
	}
	return &file{rowRange: rows, reader: ndjson.NewReader(&text, saga.MaxWriteBytes)}, nil
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
	f.taken += int64(len(w.lines))
	return w, nil
}

func (f *file) end() int64 {
	f.mu.Lock()
	defer f.mu.Unlock()
	return min(f.first+f.taken*f.step, f.last)
}
