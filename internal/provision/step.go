package provision

import (
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/capsaga/capsaga/internal/postgres"
	"github.com/capsaga/capsaga/saga"
)

// run does the steps in their order, which doc.go explains.
func (a *applier) run(ctx context.Context) error {
	steps := []func(context.Context) error{
		a.lock, a.check, a.applySchema, a.applyTopics, a.applyIndices,
		a.applyAttributes, a.applyPublications, a.applySlots, a.applyBackfills,
	}
	for _, step := range steps {
		if err := step(ctx); err != nil {
			return err
		}
		if err := ctx.Err(); err != nil {
			return fmt.Errorf("apply the catalog: stopped after %d changes, run it again to go on: %w", len(a.changes), err)
		}
	}
	return nil
}

const lockKey = "hashtext('capsaga.apply')"

// lock keeps two runs apart. It asks again and again instead of waiting inside
// PostgreSQL, where its snapshot would hold up a migration of the other run.
func (a *applier) lock(ctx context.Context) error {
	tick := time.NewTicker(100 * time.Millisecond)
	defer tick.Stop()
	for {
		var locked bool
		if err := a.conn.QueryRow(ctx, "SELECT pg_try_advisory_lock("+lockKey+")").Scan(&locked); err != nil {
			return postgres.Classify("lock the catalog", err)
		}
		if locked {
			return nil
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return &saga.Error{
				Class: saga.Unavailable, System: "postgres", Code: saga.CodeUnavailable, Err: ctx.Err(),
				Message: "another catalog apply is running on this database: wait for it to end",
			}
		}
	}
}

// closeSession gives the lock back with the session, whatever became of ctx.
func (a *applier) closeSession(ctx context.Context) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 5*time.Second)
	defer cancel()
	_ = a.conn.Close(ctx)
}

func (a *applier) applySchema(ctx context.Context) error {
	var there bool
	err := a.conn.QueryRow(ctx, "SELECT EXISTS (SELECT FROM pg_namespace WHERE nspname = $1)", saga.Schema).Scan(&there)
	if err != nil {
		return postgres.Classify("look for schema "+saga.Schema, err)
	}
	ran, err := postgres.Migrate(ctx, a.deps.PostgresURL)
	if err != nil {
		return err
	}
	change := Change{System: "postgres", Kind: "schema", Name: saga.Schema, Action: Unchanged, Detail: strings.Join(ran, ", ")}
	switch {
	case !there:
		change.Action = Created
	case len(ran) > 0:
		change.Action = Changed
	}
	a.done(change)
	return nil
}

// indexChange tells from the words of EnsureIndex whether the index is new.
func indexChange(alias string, created []string) Change {
	c := Change{System: string(saga.Elasticsearch), Kind: "index", Name: alias, Action: Unchanged, Detail: strings.Join(created, ", ")}
	if len(created) > 0 {
		c.Action = Changed
	}
	for _, what := range created {
		if strings.HasPrefix(what, "index "+alias+"-") {
			c.Action = Created
		}
	}
	return c
}
