package bench

import (
	"context"
	"errors"
)

// measureBatches goes along the size of a batch, with the worker in this process.
func measureBatches(ctx context.Context, s *scaling) ([]Point, error) {
	return s.withEmbedded(ctx, func(sh shape) ([]Point, error) {
		return s.along(s.options.Batches, func(batch int) (scaleSample, error) {
			sh.batch, sh.rows = batch, s.fresh(s.options.RowBytes)
			return s.turn(ctx, sh)
		})
	})
}

// measureRowSizes goes along the size of a row. Large rows make smaller batches.
func measureRowSizes(ctx context.Context, s *scaling) ([]Point, error) {
	return s.withEmbedded(ctx, func(sh shape) ([]Point, error) {
		return s.along(s.options.RowSizes, func(rowBytes int) (scaleSample, error) {
			sh.batch, sh.rows = s.options.Batch, s.fresh(rowBytes)
			return s.turn(ctx, sh)
		})
	})
}

// withEmbedded measures with a worker in this process.
func (s *scaling) withEmbedded(ctx context.Context, measure func(shape) ([]Point, error)) (points []Point, err error) {
	e, err := startEmbedded(ctx, s.instance)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, e.close()) }()
	c, err := e.batching()
	if err != nil {
		return nil, err
	}
	if err := s.instance.ready(ctx, c, s.next, s.options.RowBytes, e.log.explain); err != nil {
		return nil, err
	}
	s.next++
	return measure(shape{client: c, explain: e.log.explain})
}
