package e2e

import (
	"context"
	"errors"
	"fmt"
	"net/url"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/capsaga/capsaga/internal/elastic"
	"github.com/capsaga/capsaga/internal/stacktest"
	"github.com/capsaga/capsaga/saga"
)

// Passwords in the addresses never show: not in the CLI's output, the worker's
// log, a process list, the workflow's history or the ledger. Redis refuses the
// password, so that its errors are looked at as well.
func TestPasswordsNeverShow(t *testing.T) {
	const password = "hunter2"
	w := newWorld(t)
	w.markEpoch()
	secret := func(address string) string {
		u, err := url.Parse(address)
		require.NoError(t, err)
		user := u.User.Username()
		if user == "" {
			user = "somebody"
		}
		u.User = url.UserPassword(user, password)
		return u.String()
	}
	environ := []string{
		"CAPSAGA_POSTGRES_URL=" + secret(w.stack.PostgresURL),
		"CAPSAGA_REDIS_URL=" + secret(w.stack.RedisURL),
		"CAPSAGA_ELASTICSEARCH_URL=" + secret(w.stack.ElasticsearchURL),
	}
	p := w.launchWorker(environ...)
	stacktest.Eventually(t, 60*time.Second, p.ready)
	texts := map[string]string{}
	run := func(input string, args ...string) result {
		r := runCLI(t, w.environ(environ...), input, args...)
		texts["capsaga "+strings.Join(args, " ")] = r.stdout + r.stderr
		return r
	}
	id := w.id("secret")
	r := run(fmt.Sprintf(`{"saga_id":%q,"mutations":[{"entity":"products","op":"insert","row":{"id":1,"title":"Lamp"}}]}`, id), "write", "-", "-o", "json", "--wait", "committed")
	require.Zero(t, r.status, r.stderr)
	var o saga.Outcome
	stacktest.Eventually(t, 30*time.Second, func() error {
		ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
		defer cancel()
		var err error
		if o, err = w.client.Status(ctx, id); err == nil && (o.Step(saga.StepRedis) == nil || o.Step(saga.StepRedis).Error == nil) {
			err = fmt.Errorf("redis has not refused the password: %+v", o)
		}
		return err
	})
	texts["status"] = fmt.Sprintf("%+v %+v", o, o.Step(saga.StepRedis).Error)
	require.Contains(t, texts["status"], "WRONGPASS")
	run("", "show", id)
	run("", "show", id, "-o", "json")
	run("", "get", "products", "1", "--from", "redis")
	run("", "get", "products", "1", "--from", "elasticsearch")
	run("", "streams")
	run("", "catalog", "apply")
	for _, variable := range environ {
		name, address, _ := strings.Cut(variable, "=")
		broken := strings.Replace(address, "127.0.0.1:", "127.0.0.1:no-port-", 1)
		r := runCLI(t, w.environ(name+"="+broken), "", "catalog", "apply")
		require.Equal(t, 1, r.status)
		require.Contains(t, r.stderr, name)
		texts["capsaga with a broken "+name] = r.stdout + r.stderr
		bad := w.launchWorker(name + "=" + broken)
		<-bad.exited
		require.Contains(t, bad.text(), name)
		texts["worker with a broken "+name] = bad.text()
	}
	// The history of attempts that failed is written when the activity ends.
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	described, err := w.temporal.DescribeWorkflowExecution(ctx, saga.WorkflowID(id), "")
	require.NoError(t, err)
	texts["description"] = described.String()
	texts["history"] = w.history(id)
	command, err := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", p.pid()))
	require.NoError(t, err)
	texts["process list"] = string(command)
	texts["ledger"] = value[string](w, "SELECT string_agg(s::text, '') FROM capsaga.saga s")
	p.terminate(30 * time.Second)
	texts["worker's log"] = p.text()
	for where, text := range texts {
		require.NotEmpty(t, text, where)
		require.NotContains(t, text, password, where)
	}
}

// markEpoch runs a worker until Elasticsearch has the WAL's mark: without one from
// somewhere, a worker that Redis refuses commits nothing.
func (w *world) markEpoch() {
	w.t.Helper()
	p := w.startWorker()
	search, err := elastic.Open(elastic.Config{URL: w.stack.ElasticsearchURL}, w.stack.Prefix)
	require.NoError(w.t, err)
	defer func() { _ = search.Close() }()
	stacktest.Eventually(w.t, 30*time.Second, func() error {
		ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
		defer cancel()
		_, found, err := search.Mark(ctx, "epoch")
		if err == nil && !found {
			err = errors.New("no worker has marked the epoch yet")
		}
		return err
	})
	p.terminate(30 * time.Second)
}
