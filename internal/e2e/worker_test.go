package e2e

import (
	"bytes"
	"encoding/json"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/capsaga/capsaga/internal/stacktest"
	"github.com/capsaga/capsaga/saga"
)

// worker is a running capsaga-worker.
type worker struct {
	t       testing.TB
	command *exec.Cmd
	log     string // the file
	exited  chan struct{}
	address string // of its HTTP
}

// startWorker starts a worker and returns when it is ready.
func (w *world) startWorker(environ ...string) *worker {
	w.t.Helper()
	p := w.launchWorker(environ...)
	stacktest.Eventually(w.t, 60*time.Second, p.ready)
	return p
}

// launchWorker starts a worker and does not wait for it.
func (w *world) launchWorker(environ ...string) *worker {
	w.t.Helper()
	return w.launchProgram(program(w.t, programWorker), environ...)
}

// launchProgram starts a worker of another build.
func (w *world) launchProgram(path string, environ ...string) *worker {
	w.t.Helper()
	log, err := os.Create(filepath.Join(w.t.TempDir(), "worker.log"))
	require.NoError(w.t, err)
	defer func() { _ = log.Close() }()
	p := &worker{t: w.t, log: log.Name(), exited: make(chan struct{})}
	p.command = exec.Command(path)
	p.command.Env = w.environ(append([]string{"CAPSAGA_HTTP_ADDRESS=127.0.0.1:0", "CAPSAGA_LOG=debug,json"}, environ...)...)
	p.command.Stdout, p.command.Stderr = log, log
	require.NoError(w.t, p.command.Start())
	go func() {
		_ = p.command.Wait()
		close(p.exited)
	}()
	w.t.Cleanup(func() {
		p.kill()
		if w.t.Failed() {
			w.t.Logf("the end of the log of worker %d:\n%s", p.command.Process.Pid, tail(p.text(), 60))
		}
	})
	return p
}

// ready returns nil when the worker says that it takes sagas, or holds or awaits
// the stream if that is its only role.
func (p *worker) ready() error {
	select {
	case <-p.exited:
		return fmt.Errorf("the worker has ended:\n%s", tail(p.text(), 10))
	default:
	}
	if p.address == "" {
		served := p.logged("serves health and metrics")
		if len(served) == 0 {
			return fmt.Errorf("the worker serves no HTTP yet:\n%s", tail(p.text(), 10))
		}
		p.address, _ = served[0]["address"].(string)
	}
	response, err := http.Get("http://" + p.address + "/readyz")
	if err != nil {
		return err
	}
	defer func() { _ = response.Body.Close() }()
	var body bytes.Buffer
	if _, err := body.ReadFrom(response.Body); err != nil {
		return err
	}
	if response.StatusCode != http.StatusOK {
		return fmt.Errorf("/readyz answers %d: %s", response.StatusCode, body.String())
	}
	return nil
}

func (p *worker) pid() int { return p.command.Process.Pid }

func (p *worker) signal(s syscall.Signal) {
	p.t.Helper()
	require.NoError(p.t, p.command.Process.Signal(s))
}

// kill ends the process as a crash would and returns when it is gone.
func (p *worker) kill() {
	_ = p.command.Process.Kill() // it may have ended
	<-p.exited
}

// terminate asks the worker to drain, and wants it to end well in time.
func (p *worker) terminate(within time.Duration) time.Duration {
	p.t.Helper()
	began := time.Now()
	p.signal(syscall.SIGTERM)
	select {
	case <-p.exited:
	case <-time.After(within):
		require.FailNow(p.t, "the worker drains for too long", "more than %s:\n%s", within, tail(p.text(), 30))
	}
	require.Zero(p.t, p.command.ProcessState.ExitCode(), tail(p.text(), 30))
	return time.Since(began)
}

// text returns the log so far.
func (p *worker) text() string {
	text, err := os.ReadFile(p.log)
	if err != nil {
		return err.Error()
	}
	return string(text)
}

// logged returns the log's entries with a message.
func (p *worker) logged(message string) []map[string]any {
	var entries []map[string]any
	for line := range strings.Lines(p.text()) {
		var entry map[string]any
		if json.Unmarshal([]byte(line), &entry) == nil && entry["msg"] == message {
			entries = append(entries, entry)
		}
	}
	return entries
}

func tail(text string, lines int) string {
	all := strings.Split(strings.TrimRight(text, "\n"), "\n")
	return strings.Join(all[max(0, len(all)-lines):], "\n")
}

// holder returns the worker that holds the stream to Kafka; it waits for one of them
// to.
func (w *world) holder(workers ...*worker) *worker {
	w.t.Helper()
	var holder *worker
	stacktest.Eventually(w.t, 10*time.Second, func() error {
		name := value[string](w, `SELECT coalesce((SELECT s.holder FROM capsaga.stream s
			JOIN pg_replication_slots r ON r.slot_name = s.slot WHERE r.active AND s.slot = $1), '')`, w.stack.Prefix.Slot(saga.PublicationKafka))
		for _, p := range workers {
			if strings.HasSuffix(name, fmt.Sprintf(":%d", p.pid())) {
				holder = p
				return nil
			}
		}
		return fmt.Errorf("the stream's holder is %q", name)
	})
	return holder
}

// awaitLog waits for an entry whose text has all the words.
func (p *worker) awaitLog(message string, words ...string) {
	p.t.Helper()
	stacktest.Eventually(p.t, 30*time.Second, func() error {
		for _, entry := range p.logged(message) {
			text := fmt.Sprint(entry)
			if !slices.ContainsFunc(words, func(word string) bool { return !strings.Contains(text, word) }) {
				return nil
			}
		}
		return fmt.Errorf("no log entry %q with %q:\n%s", message, words, tail(p.text(), 10))
	})
}
