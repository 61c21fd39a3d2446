package main

import (
	"context"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"
	"golang.org/x/sync/errgroup"

	"github.com/capsaga/capsaga/internal/config"
	"github.com/capsaga/capsaga/saga"
)

// restocked is the product that plain SQL has one more of.
const restocked = "2"

// plainSQL changes a film as a program would that has never heard of sagas, and waits
// until Redis and Elasticsearch have the change.
func (d *demo) plainSQL(ctx context.Context) error {
	c, err := config.FromEnv(d.env)
	if err != nil {
		return err
	}
	copies, closeCopies, err := openCopies(c)
	if err != nil {
		return err
	}
	defer closeCopies()
	before, _, err := copies["redis"](ctx, "products", restocked)
	if err != nil {
		return err
	}
	const sql = "UPDATE products SET stock = stock + 1 WHERE id = " + restocked
	fmt.Fprintf(d.out, "  %s\n", sql)
	conn, err := pgx.Connect(ctx, c.PostgresURL)
	if err != nil {
		return err
	}
	defer func() { _ = conn.Close(ctx) }()
	if _, err := conn.Exec(ctx, sql); err != nil {
		return err
	}
	began := time.Now()
	sinks, waiting := errgroup.WithContext(ctx)
	for name, get := range copies {
		sinks.Go(func() error {
			row, err := newer(waiting, get, before.Version)
			if err == nil {
				d.say(began, name, "version %s %s", row.Version, row.Row)
			}
			return err
		})
	}
	if err := sinks.Wait(); err != nil {
		return err
	}
	return d.command(ctx, "bin/capsaga", "streams")
}

// newer waits for the film in a version above one.
func newer(ctx context.Context, get get, version saga.Version) (saga.Document, error) {
	ctx, cancel := context.WithTimeout(ctx, 20*time.Second)
	defer cancel()
	for {
		doc, _, err := get(ctx, "products", restocked)
		if err != nil || doc.Version > version {
			return doc, err
		}
		select {
		case <-ctx.Done():
			return doc, fmt.Errorf("product %s does not get past version %s: is the worker running? %w", restocked, version, ctx.Err())
		case <-time.After(time.Millisecond):
		}
	}
}
