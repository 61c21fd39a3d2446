package catalog_test

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/capsaga/capsaga/internal/catalog"
	"github.com/capsaga/capsaga/internal/stacktest"
)

// What failover slots cost, and what they lack, is said; nothing of it is an error.
func TestValidateFailover(t *testing.T) {
	own := stacktest.NewOwn(t)
	conn := connect(t, own.Stack(stacktest.Primary).PostgresURL)
	run(t, conn, "CREATE TABLE good (id bigint PRIMARY KEY)")
	problems := func(failover bool) []string {
		file, err := catalog.Parse("c.yaml", fmt.Appendf(nil, "streams: {failover: %t}\n%s", failover, entity("good", "[id]")))
		require.NoError(t, err)
		found, err := catalog.Validate(t.Context(), conn, file, catalog.Options{})
		require.NoError(t, err)
		require.NoError(t, found.Err())
		var texts []string
		for _, p := range found {
			texts = append(texts, p.String())
		}
		return texts
	}
	named := func(slots string) {
		run(t, conn, "ALTER SYSTEM SET synchronized_standby_slots = '%s'", slots)
		run(t, conn, "SELECT pg_reload_conf()")
		stacktest.Eventually(t, 10*time.Second, func() error {
			var is string
			if err := conn.QueryRow(t.Context(), "SHOW synchronized_standby_slots").Scan(&is); err != nil || is != slots {
				return fmt.Errorf("%q: %w", is, err)
			}
			return nil
		})
	}
	assert.Empty(t, problems(false))
	stacktest.Eventually(t, 20*time.Second, func() error { // the standby's copier connects a little later
		if found := problems(true); len(found) != 1 {
			return fmt.Errorf("%q", found)
		}
		return nil
	})
	assert.Contains(t, problems(true)[0], "c.yaml:1: warning: streams.failover: synchronized_standby_slots is empty")
	named("replica")
	stacktest.Eventually(t, 30*time.Second, func() error { // so does its first feedback
		if found := problems(true); len(found) != 1 || !strings.Contains(found[0], "all streams wait while the standby of slot replica is away") {
			return fmt.Errorf("%q", found)
		}
		return nil
	})
	named("replica, nobody")
	assert.Len(t, problems(true), 2)
	assert.Contains(t, problems(true)[0], "names nobody, which is no physical slot")
	named("replica")
	own.Do("stop", "replica")
	found := problems(true)
	require.Len(t, found, 2)
	assert.Contains(t, found[0], "the standby of slot replica, which synchronized_standby_slots names, is away")
	assert.Contains(t, found[1], "no standby copies slots")
}
