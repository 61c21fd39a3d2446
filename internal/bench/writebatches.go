package bench

import (
	"context"
	"time"

	"github.com/capsaga/capsaga/saga"
	"github.com/capsaga/capsaga/saga/client"
)

// writeBatches writes each call's rows as one batch, wherever the worker is, and
// waits until all are visible.
func writeBatches(c *client.Client, prefix saga.Prefix, explain func(error) error) writer {
	return func(ctx context.Context, w work) (s sample, err error) {
		began := time.Now()
		writes := make([]saga.Write, 0, w.size())
		for _, line := range w.lines {
			parsed, err := saga.ParseWrite(line)
			if err != nil {
				return s, err
			}
			writes = append(writes, *parsed)
		}
		for _, r := range w.rows {
			writes = append(writes, r.write(prefix))
		}
		for _, r := range c.WriteBatch(ctx, writes, client.WaitVisible) {
			if err := reached(r.Outcome, r.Err, saga.Completed); err != nil {
				return s, explain(err)
			}
		}
		s.visible = time.Since(began)
		return s, nil
	}
}

// wholeBatches lets a batch be as large as one workflow takes.
var wholeBatches = client.Group{MaxWrites: saga.MaxBatchWrites, MaxBytes: saga.MaxBatchBytes}
