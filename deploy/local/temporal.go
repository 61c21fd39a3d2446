package main

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"go.temporal.io/api/workflowservice/v1"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
)

const (
	temporalPort      = 233
	temporalUIPort    = 234
	temporalNamespace = "default"
)

// temporalDynamicConfig lifts limits that suit a laptop's first workflow, not a
// load test. Without the first, a workflow that is not started eagerly waits
// some 50 ms for the server's own next poll.
var temporalDynamicConfig = []string{
	"history.transferProcessorMaxPollRPS=1000",
	"history.timerProcessorMaxPollRPS=1000",
	"frontend.rps=20000",
	"frontend.namespaceRPS=20000",
	"frontend.namespaceRPS.visibility=500",
	"history.rps=50000",
	"matching.rps=50000",
	// Else the server reads them from its database for each start of a workflow.
	"system.forceSearchAttributesCacheRefreshOnRead=false",
}

func (s *stack) temporal() *server {
	return &server{
		name:    "temporal",
		ports:   []port{{"gRPC", temporalPort}, {"UI", temporalUIPort}},
		install: s.installTemporal,
		prepare: s.prepareTemporal,
		probe:   s.probeTemporal,
		stop:    syscall.SIGTERM,
	}
}

// temporalModule splits the lock's line into the module, its version and the
// folder of the cache that the program is built into.
func (s *stack) temporalModule() (a artifact, module, binary string, err error) {
	set, err := lockedSet("temporal")
	if err != nil {
		return artifact{}, "", "", err
	}
	path, version, _ := strings.Cut(set[0].coordinate, ":")
	return set[0], path + "@" + version, filepath.Join(s.cache.dir, "temporal-"+version, "temporal"), nil
}

// installTemporal builds Temporal's CLI, which holds the server and the UI, from
// source: no registry has it as a binary. The module's own go.sum pins all that
// it is built from, the lock pins the module.
func (s *stack) installTemporal(ctx context.Context) error {
	locked, module, binary, err := s.temporalModule()
	if err != nil {
		return err
	}
	if _, err := os.Stat(binary); err == nil {
		return nil
	}
	goTool, err := exec.LookPath("go")
	if err != nil {
		return errors.New("building Temporal needs the go command; install Go from https://go.dev/dl and add it to PATH")
	}
	work, err := os.MkdirTemp(s.cache.dir, "temporal-build")
	if err != nil {
		return err
	}
	defer func() { _ = os.RemoveAll(work) }()
	goCommand := func(args ...string) *exec.Cmd {
		cmd := exec.CommandContext(ctx, goTool, args...) //nolint:gosec // the go command of PATH
		cmd.Dir = work
		// The user's GOFLAGS (-mod=vendor, say) and workspace are not for this build.
		cmd.Env = append(os.Environ(), "GOBIN="+work, "GOFLAGS=", "GOWORK=off", "CGO_ENABLED=0", "GOOS=", "GOARCH=")
		return cmd
	}

	s.report.line("building %s (once; takes minutes)", module)
	output, err := goCommand("mod", "download", "-json", module).Output()
	if err != nil {
		return fmt.Errorf("go mod download %s: %w\n%s", module, err, lastLines(string(output), 10))
	}
	var download struct{ Sum, Zip string }
	if err := json.Unmarshal(output, &download); err != nil {
		return fmt.Errorf("go mod download %s: %w", module, err)
	}
	if download.Sum != locked.sum {
		_ = os.Remove(download.Zip)
		return &checksumError{file: download.Zip, coordinate: module, want: locked.sum, got: download.Sum}
	}
	path, version, _ := strings.Cut(module, "@")
	if err := s.watchBuild(goCommand("install", "-v", "-trimpath", "-ldflags=-s -w", path+"/cmd/temporal@"+version)); err != nil {
		return err
	}
	if err := os.Chmod(filepath.Join(work, "temporal"), 0o755); err != nil { //nolint:gosec // the servers' user runs it
		return err
	}
	if err := makeDir(filepath.Dir(binary)); err != nil {
		return err
	}
	return os.Rename(filepath.Join(work, "temporal"), binary)
}

// watchBuild runs go install -v, which names each package as it is done, and
// reports their number now and then.
func (s *stack) watchBuild(cmd *exec.Cmd) error {
	stderr, err := cmd.StderrPipe()
	if err != nil {
		return err
	}
	if err := cmd.Start(); err != nil {
		return err
	}
	began, printed, packages := time.Now(), time.Now(), 0
	var last []string
	for lines := bufio.NewScanner(stderr); lines.Scan(); {
		packages++
		last = append(last, lines.Text())
		if len(last) > 10 {
			last = last[1:]
		}
		if time.Since(printed) > 10*time.Second {
			printed = time.Now()
			s.report.line("building Temporal: %d packages, %s", packages, time.Since(began).Round(time.Second))
		}
	}
	if err := cmd.Wait(); err != nil {
		return fmt.Errorf("build Temporal: %w\n%s", err, strings.Join(last, "\n"))
	}
	s.report.line("built Temporal in %s", time.Since(began).Round(time.Second))
	return nil
}

// prepareTemporal keeps the server's state in a file, so that sagas survive down
// and up. Search attributes are left to "capsaga catalog apply".
func (s *stack) prepareTemporal(context.Context) (command, error) {
	_, _, binary, err := s.temporalModule()
	if err != nil {
		return command{}, err
	}
	data := s.path("temporal")
	if err := s.serverDir(data, 0o755); err != nil {
		return command{}, err
	}
	args := []string{
		"server", "start-dev", "--ip", "127.0.0.1", "--namespace", temporalNamespace, "--log-level", "warn",
		"--port", strconv.Itoa(s.portBase + temporalPort), "--ui-port", strconv.Itoa(s.portBase + temporalUIPort),
		"--db-filename", filepath.Join(data, "temporal.db"),
		"--sqlite-pragma", "journal_mode=wal",
		// The one connection stands still during a checkpoint's syncs, some tens of
		// milliseconds every few sagas. A kill of the server loses nothing without
		// them; a power cut may, which a development stack can bear.
		"--sqlite-pragma", "synchronous=off", "--sqlite-pragma", "wal_autocheckpoint=20000", "--sqlite-pragma", "cache_size=-65536",
	}
	for _, value := range temporalDynamicConfig {
		args = append(args, "--dynamic-config-value", value)
	}
	// What passes through it is much for its small heap, so that by default it is being
	// collected all the time.
	return command{path: binary, args: args, dir: data, env: []string{"GOGC=400", "GOMEMLIMIT=1GiB"}}, nil
}

// probeTemporal asks for the namespace: the port answers before it is there.
func (s *stack) probeTemporal(ctx context.Context) error {
	conn, err := grpc.NewClient(s.address(temporalPort), grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		return err
	}
	defer func() { _ = conn.Close() }()
	_, err = workflowservice.NewWorkflowServiceClient(conn).DescribeNamespace(ctx, &workflowservice.DescribeNamespaceRequest{Namespace: temporalNamespace})
	return err
}
