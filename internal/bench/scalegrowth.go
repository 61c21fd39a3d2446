package bench

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"time"
)

// Growth is how a table came to its size: by batch sagas that wrote new rows.
type Growth struct {
	Rows            int     `json:"rows"` // new ones
	Seconds         float64 `json:"seconds"`
	WritesPerSecond float64 `json:"writes_per_second"`
	// Short is set when the time was over before the table had the size that was
	// asked for.
	Short bool `json:"short,omitempty"`
}

// measureGrowth lets a table grow, and at each size writes the same number of its
// rows anew, spread over all of it: so the size stays what it is, and a write finds
// its row anywhere. The table grows by sagas, too, so that the ledger and the sinks
// are as large as such a table's are.
func measureGrowth(ctx context.Context, s *scaling) ([]Point, error) {
	return s.withEmbedded(ctx, func(sh shape) (points []Point, err error) {
		t := &growing{scaling: s, shape: sh}
		for _, size := range s.options.Tables {
			s.repetition = 0
			s.tell("growing to " + thousands(int64(size)) + " rows")
			grown, err := t.grow(ctx, int64(size))
			if err != nil {
				return nil, err
			}
			measured, err := s.along([]int{int(s.next)}, func(int) (scaleSample, error) { return t.rewrite(ctx) })
			if err != nil {
				return nil, err
			}
			measured[0].Growth = grown
			points = append(points, measured[0])
			if grown.Short {
				break
			}
		}
		return points, nil
	})
}

// growing is a table whose ids are all those below the next free one.
type growing struct {
	*scaling
	shape      shape
	generation int
}

// grow writes new rows until the table has the size, or the time is over.
func (t *growing) grow(ctx context.Context, size int64) (*Growth, error) {
	if size <= t.next {
		return &Growth{}, nil
	}
	o := t.options
	from := &counter{rowRange: rowRange{first: t.next, last: size, step: 1, bytes: o.RowBytes}}
	l := load{callers: o.Callers, batch: batchRows(o.Batch, o.RowBytes), duration: o.GrowTime, worker: self()}
	m, err := measure(ctx, l, from, writeBatches(t.shape.client, t.instance.config.Prefix, t.shape.explain))
	if err != nil {
		return nil, fmt.Errorf("grow to %d rows: %w", size, err)
	}
	t.next = from.end()
	return &Growth{
		Rows: m.rows, Seconds: m.took.Round(time.Millisecond).Seconds(),
		WritesPerSecond: float64(m.rows) / m.took.Seconds(), Short: t.next < size,
	}, t.sizes(ctx)
}

// sizes checks that the table and the index have all rows. Those that are written
// anew are read back from all systems.
func (t *growing) sizes(ctx context.Context) error {
	var rows int64
	if err := t.instance.systems.pool.QueryRow(ctx, "SELECT count(*) FROM "+t.instance.sagas.table).Scan(&rows); err != nil {
		return fmt.Errorf("postgresql: %w", err)
	}
	var index struct {
		Count int64 `json:"count"`
	}
	path := "/" + t.instance.sagas.index
	err := errors.Join(
		t.instance.systems.elasticsearch(ctx, http.MethodPost, path+"/_refresh", nil, nil),
		t.instance.systems.elasticsearch(ctx, http.MethodGet, path+"/_count", nil, &index))
	if err == nil && (rows != t.next || index.Count != t.next) {
		err = fmt.Errorf("%d rows were written; the table has %d and the index %d", t.next, rows, index.Count)
	}
	return err
}

// rewrite writes rows anew, with other content and as other sagas.
func (t *growing) rewrite(ctx context.Context) (scaleSample, error) {
	t.generation++
	sh := t.shape
	sh.batch, sh.whole = t.options.Batch, true
	writes := min(int64(t.options.Writes), t.next)
	step := t.next / writes
	sh.rows = rowRange{
		last: writes * step, step: step, bytes: t.options.RowBytes + t.generation,
		again: fmt.Sprintf("-%d", t.generation),
	}
	return t.turn(ctx, sh)
}
