package bench

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"os"
	"strings"
	"time"
)

// removeTimeout bounds the removal, which is done also after an interrupt.
const removeTimeout = time.Minute

// remove takes away all that the instance has, and goes on where one system fails.
// Only the workflows stay, ended, for a day: see namespace. No worker of the instance may run any more.
func (i *instance) remove(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), removeTimeout)
	defer cancel()
	var errs []error
	note := func(what string, err error) {
		if err != nil {
			errs = append(errs, fmt.Errorf("remove the bench's %s: %w", what, err))
		}
	}
	if i.systems != nil {
		note("keys", i.removeKeys(ctx))
		note("topics", i.removeTopics(ctx))
		note("indices", i.removeIndices(ctx))
		i.systems.close()
	}
	note("database "+i.database, i.removeDatabase(ctx))
	note("workflows", i.endWorkflows(ctx))
	if i.folder != "" {
		note("catalog", os.RemoveAll(i.folder))
	}
	return errors.Join(errs...)
}

func (i *instance) removeKeys(ctx context.Context) error {
	// No character of a prefix means anything in a pattern.
	keys := i.systems.redis.Scan(ctx, 0, string(i.config.Prefix)+"*", 1000).Iterator()
	pipe := i.systems.redis.Pipeline()
	for keys.Next(ctx) {
		pipe.Unlink(ctx, keys.Val())
		if pipe.Len() >= 1000 {
			if _, err := pipe.Exec(ctx); err != nil {
				return err
			}
		}
	}
	if err := keys.Err(); err != nil {
		return err
	}
	_, err := pipe.Exec(ctx)
	return err
}

func (i *instance) removeTopics(ctx context.Context) error {
	topics, err := i.systems.admin.ListTopics(ctx)
	if err != nil {
		return err
	}
	var ours []string
	for name := range topics {
		if strings.HasPrefix(name, string(i.config.Prefix)+".") {
			ours = append(ours, name)
		}
	}
	if len(ours) == 0 {
		return nil
	}
	responses, err := i.systems.admin.DeleteTopics(ctx, ours...)
	if err != nil {
		return err
	}
	return responses.Error()
}

// removeIndices names each index: clusters may refuse to delete by a pattern.
func (i *instance) removeIndices(ctx context.Context) error {
	pattern := string(i.config.Prefix) + "-*"
	var indices map[string]any
	if err := i.systems.elasticsearch(ctx, http.MethodGet, "/"+pattern+"/_alias", nil, &indices); err != nil {
		return err
	}
	for name := range indices {
		if err := i.systems.elasticsearch(ctx, http.MethodDelete, "/"+name, nil, nil); err != nil {
			return err
		}
	}
	var templates struct {
		All []struct {
			Name string `json:"name"`
		} `json:"index_templates"`
	}
	err := i.systems.elasticsearch(ctx, http.MethodGet, "/_index_template/"+pattern, nil, &templates)
	for _, template := range templates.All {
		if err == nil {
			err = i.systems.elasticsearch(ctx, http.MethodDelete, "/_index_template/"+template.Name, nil, nil)
		}
	}
	if refused := (*refusal)(nil); errors.As(err, &refused) && refused.status == http.StatusNotFound {
		return nil
	}
	return err
}

// removeDatabase drops the slots first, which keep a database from going. A
// walsender may take a moment to notice that its reader is gone.
func (i *instance) removeDatabase(ctx context.Context) error {
	const (
		stop = `SELECT pg_terminate_backend(active_pid) FROM pg_replication_slots WHERE database = $1 AND active_pid IS NOT NULL`
		drop = `SELECT pg_drop_replication_slot(slot_name) FROM pg_replication_slots WHERE database = $1 AND active_pid IS NULL`
	)
	for {
		err := i.outside(ctx, stop, i.database)
		if err == nil {
			err = i.outside(ctx, drop, i.database)
		}
		if err == nil {
			err = i.outside(ctx, "DROP DATABASE IF EXISTS "+i.database+" WITH (FORCE)")
		}
		if err == nil {
			return nil
		}
		if !pause(ctx, 200*time.Millisecond) {
			return err
		}
	}
}

// pause waits, and returns false when the context ends before.
func pause(ctx context.Context, d time.Duration) bool {
	select {
	case <-ctx.Done():
		return false
	case <-time.After(d):
		return true
	}
}
