package stacktest

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"sync"
	"testing"
	"time"

	"github.com/capsaga/capsaga/saga"
)

// Own is servers that one test has for itself, to change their settings and to stop
// them: a PostgreSQL with its replica, or a Kafka.
type Own struct {
	t    testing.TB
	dir  string
	base int
}

// ownPorts is what lies between the tests' stack and a test's own.
const ownPorts = 500

// NewOwn starts a primary and its replica, and removes both when the test ends.
// Only one test of a package may have them at a time.
func NewOwn(t testing.TB) *Own {
	t.Helper()
	return newOwn(t, "postgres", "replica")
}

// NewOwnKafka starts a Kafka, and removes it when the test ends. Only one test at a
// time may have it.
func NewOwnKafka(t testing.TB) *Own {
	t.Helper()
	return newOwn(t, "kafka")
}

// KafkaBrokers returns where NewOwnKafka's answers.
func (o *Own) KafkaBrokers() []string { return []string{fmt.Sprintf("127.0.0.1:%d", o.base+92)} }

func newOwn(t testing.TB, servers ...string) *Own {
	t.Helper()
	// Not t.TempDir: the servers run as another user, who has to get there.
	dir, err := os.MkdirTemp("", "capsaga-own-")
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(dir, 0o755); err != nil { //nolint:gosec // for the servers' user
		t.Fatal(err)
	}
	o := &Own{t: t, dir: dir, base: PortBase(t) + ownPorts}
	t.Cleanup(func() {
		if out, err := o.run("down", "--wipe"); err != nil {
			t.Errorf("remove the test's own servers: %v\n%s", err, out)
		}
		_ = os.RemoveAll(dir)
	})
	for _, server := range servers {
		o.Do("start", server)
	}
	return o
}

// The ports of the two servers, counted from the base.
const (
	Primary = 432
	Replica = 433
)

// Stack returns a database of the test's own on a server, made if it is not there.
func (o *Own) Stack(server int) Stack {
	const name = "own"
	s := Stack{
		PostgresURL: fmt.Sprintf("postgres://capsaga@127.0.0.1:%d/%s?sslmode=disable", o.base+server, name),
		Database:    name, Prefix: saga.Prefix(name), PortBase: o.base,
	}
	if server == Primary {
		s.admin(o.t, "CREATE DATABASE "+name)
	}
	return s
}

// Do runs a verb of capsaga-local.
func (o *Own) Do(args ...string) {
	o.t.Helper()
	if out, err := o.run(args...); err != nil {
		o.t.Fatalf("capsaga-local %v: %v\n%s", args, err, out)
	}
}

var buildLocal = sync.OnceValues(func() (string, error) {
	_, file, _, _ := runtime.Caller(0)
	dir, err := os.MkdirTemp("", "capsaga-local-")
	if err != nil {
		return "", err
	}
	path := filepath.Join(dir, "capsaga-local")
	build := exec.Command("go", "build", "-buildvcs=false", "-o", path, "./deploy/local")
	build.Dir = filepath.Join(filepath.Dir(file), "..", "..")
	if out, err := build.CombinedOutput(); err != nil {
		return "", fmt.Errorf("build capsaga-local: %w\n%s", err, out)
	}
	return path, nil
})

func (o *Own) run(args ...string) ([]byte, error) {
	path, err := buildLocal()
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Minute)
	defer cancel()
	args = append([]string{"--dir", filepath.Join(o.dir, "stack"), "--port-base", fmt.Sprint(o.base)}, args...)
	return exec.CommandContext(ctx, path, args...).CombinedOutput() //nolint:gosec // our own program
}
