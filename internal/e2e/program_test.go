package e2e

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// root is the checkout's.
const root = "../.."

// binaries is where the programs under test are built.
var binaries string

func TestMain(m *testing.M) {
	if calls := os.Getenv(serviceCalls); calls != "" {
		fmt.Fprintln(os.Stderr, service(calls))
		os.Exit(1)
	}
	var err error
	if binaries, err = os.MkdirTemp("", "capsaga-e2e-"); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	status := m.Run()
	_ = os.RemoveAll(binaries)
	os.Exit(status)
}

// The programs, by their folders; each is built when a test first needs it.
const (
	programWorker = "worker/capsaga-worker"
	programCLI    = "starter"
	programStack  = "deploy/local"
)

var builds = map[string]func() (string, error){
	programWorker: builder(programWorker, "capsaga-worker"),
	programCLI:    builder(programCLI, "capsaga"),
	programStack:  builder(programStack, "capsaga-local"),
}

func builder(folder, name string) func() (string, error) {
	return sync.OnceValues(func() (string, error) {
		path := filepath.Join(binaries, name)
		build := exec.Command("go", "build", "-buildvcs=false", "-o", path, "./"+folder)
		build.Dir = root
		if out, err := build.CombinedOutput(); err != nil {
			return "", fmt.Errorf("build %s: %w\n%s", folder, err, out)
		}
		return path, nil
	})
}

// program returns the path of a program, built from the checkout.
func program(t testing.TB, folder string) string {
	t.Helper()
	path, err := builds[folder]()
	require.NoError(t, err)
	return path
}

// The servers of the stack.
const (
	postgresServer      = "postgres"
	replicaServer       = "replica"
	redisServer         = "redis"
	kafkaServer         = "kafka"
	elasticsearchServer = "elasticsearch"
	temporalServer      = "temporal"
)

// servers commands the stack's servers, and starts all of them again when the
// test ends, however it ends. Made after the test's world, it does so before the
// world is taken down.
type servers struct {
	t testing.TB
}

func newServers(t testing.TB) servers {
	s := servers{t}
	t.Cleanup(func() {
		if out, err := s.run("up"); err != nil {
			t.Errorf("bring the servers up again: %v\n%s", err, out)
		}
	})
	return s
}

// do runs a verb of capsaga-local on a server; start returns when it answers.
func (s servers) do(verb, server string) {
	s.t.Helper()
	out, err := s.run(verb, server)
	require.NoError(s.t, err, "%s %s: %s", verb, server, out)
}

func (s servers) run(args ...string) ([]byte, error) {
	path, err := builds[programStack]()
	if err != nil {
		return nil, err
	}
	folder := os.Getenv("CAPSAGA_TEST_STACK_DIR")
	if folder == "" {
		folder = filepath.Join(root, ".capsaga", "test")
	}
	if folder, err = filepath.Abs(folder); err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Minute)
	defer cancel()
	command := exec.CommandContext(ctx, path, append([]string{"--dir", folder}, args...)...)
	command.Dir = root
	return command.CombinedOutput()
}
