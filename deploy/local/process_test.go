package main

import (
	"bytes"
	"context"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// A process that got a dead server's pid must look like no server at all.
func TestRecycledPidIsNobody(t *testing.T) {
	self := lookProcess(os.Getpid())
	require.NotNil(t, self)
	same := &process{PID: self.pid, Started: self.started}
	require.NotNil(t, same.info())

	recycled := &process{PID: self.pid, Started: self.started + "0"}
	assert.Nil(t, recycled.info())
	signalled, err := recycled.signalFamily(syscall.SIGKILL)
	require.NoError(t, err)
	assert.Empty(t, signalled)
}

func TestFamilyFindsChildrenWithGroupsOfTheirOwn(t *testing.T) {
	table := []processInfo{
		{pid: 30, parent: 20, group: 30, started: "c"}, // a grandchild, listed first
		{pid: 10, parent: 1, group: 10, started: "a"},
		{pid: 20, parent: 10, group: 20, started: "b"},
		{pid: 40, parent: 1, group: 10, started: "d"}, // its parent has ended
		{pid: 50, parent: 1, group: 50, started: "e"}, // a stranger
	}
	var pids []int
	for _, member := range familyOf(&process{PID: 10, Started: "a"}, table) {
		pids = append(pids, member.pid)
	}
	assert.ElementsMatch(t, []int{10, 20, 30, 40}, pids)
}

func TestReadProcess(t *testing.T) {
	file := filepath.Join(t.TempDir(), "run", "redis.json")
	p, err := readProcess(file)
	require.NoError(t, err)
	assert.Nil(t, p)
	assert.Nil(t, p.info())

	require.NoError(t, (&process{PID: 7, Started: "x"}).write(file))
	p, err = readProcess(file)
	require.NoError(t, err)
	assert.Equal(t, &process{PID: 7, Started: "x"}, p)

	require.NoError(t, os.WriteFile(file, []byte("{}"), 0o600))
	_, err = readProcess(file)
	assert.ErrorContains(t, err, "is damaged")
}

// testStack is a stack with one server: a shell with two children, one of which
// leads a session of its own as PostgreSQL's children do.
func testStack(t *testing.T, script string) (*stack, *server, *bytes.Buffer) {
	t.Helper()
	output := &bytes.Buffer{}
	report := &reporter{out: output}
	s := &stack{dir: t.TempDir(), portBase: 20000, report: report, cache: &cache{dir: t.TempDir(), report: report}}
	srv := &server{
		name:    "family",
		ports:   []port{{"test", 1}},
		install: func(context.Context) error { return nil },
		prepare: func(context.Context) (command, error) {
			return command{path: "/bin/sh", args: []string{"-c", script}}, nil
		},
		probe: func(context.Context) error {
			_, err := os.Stat(s.path("ready"))
			return err
		},
		stop: syscall.SIGTERM,
	}
	s.servers = []*server{srv}
	t.Cleanup(func() {
		if p, err := s.leader(srv); err == nil && p != nil {
			_, _ = p.signalFamily(syscall.SIGKILL)
		}
	})
	return s, srv, output
}

const familyScript = `sleep 600 & (setsid sleep 600; :) & touch ready; wait`

func TestFaultVerbs(t *testing.T) {
	s, srv, output := testStack(t, familyScript)
	require.NoError(t, s.up(t.Context(), s.servers))
	p, err := s.leader(srv)
	require.NoError(t, err)
	require.NotNil(t, p)
	require.Eventually(t, func() bool { return len(family(t, p)) >= 4 }, 10*time.Second, 10*time.Millisecond)

	require.NoError(t, s.pause(t.Context(), srv))
	for _, member := range family(t, p) {
		require.Eventually(t, func() bool { return lookProcess(member.pid).stopped }, 5*time.Second, time.Millisecond)
	}
	status, err := s.serverStatus(t.Context(), srv)
	require.NoError(t, err)
	assert.Equal(t, "paused", status.State)

	require.NoError(t, s.up(t.Context(), s.servers), "up resumes what is paused")
	assert.Contains(t, output.String(), "resumed")
	require.NoError(t, s.up(t.Context(), s.servers))
	assert.Contains(t, output.String(), "already running")
	again, err := s.leader(srv)
	require.NoError(t, err)
	assert.Equal(t, p, again, "a second up starts nothing")

	require.NoError(t, s.pause(t.Context(), srv))
	members := family(t, p)
	require.NoError(t, s.kill(t.Context(), srv))
	for _, member := range members {
		assert.Nil(t, lookProcess(member.pid), "kill leaves no child behind")
	}
	require.ErrorContains(t, s.kill(t.Context(), srv), "family is not running")
	status, err = s.serverStatus(t.Context(), srv)
	require.NoError(t, err)
	assert.Equal(t, "stopped", status.State)
}

func TestStatusTellsCrashFromStop(t *testing.T) {
	s, srv, _ := testStack(t, "touch ready; exec sleep 600")
	require.NoError(t, s.up(t.Context(), s.servers))
	p, err := s.leader(srv)
	require.NoError(t, err)
	require.NoError(t, syscall.Kill(p.PID, syscall.SIGKILL))
	require.Eventually(t, func() bool { return p.info() == nil }, 5*time.Second, time.Millisecond)
	status, err := s.serverStatus(t.Context(), srv)
	require.NoError(t, err)
	assert.Equal(t, "ended", status.State)
	require.NoError(t, s.up(t.Context(), s.servers), "up brings it back")
}

func TestStopTakesPausedServerDown(t *testing.T) {
	s, srv, _ := testStack(t, "touch ready; exec sleep 600")
	require.NoError(t, s.up(t.Context(), s.servers))
	require.NoError(t, s.pause(t.Context(), srv))
	require.NoError(t, s.stop(t.Context(), srv))
	p, err := s.leader(srv)
	require.NoError(t, err)
	assert.Nil(t, p)
}

func TestStartShowsLogOfServerThatEnds(t *testing.T) {
	s, _, _ := testStack(t, "echo out of cheese >&2; exit 3")
	err := s.up(t.Context(), s.servers)
	require.ErrorContains(t, err, "ended")
	if !strings.Contains(err.Error(), "ended at once") {
		assert.ErrorContains(t, err, "out of cheese")
	}
}

func TestWipeLeavesStrangersFiles(t *testing.T) {
	s, _, _ := testStack(t, "touch ready; exec sleep 600")
	require.NoError(t, s.up(t.Context(), s.servers))
	require.NoError(t, writeFile(s.path("mine"), nil))
	require.NoError(t, s.down(t.Context(), true))
	left, err := filepath.Glob(s.path("*"))
	require.NoError(t, err)
	assert.ElementsMatch(t, []string{s.path("mine"), s.path("ready")}, left)
}

func family(t *testing.T, p *process) []processInfo {
	t.Helper()
	family, err := p.family()
	require.NoError(t, err)
	return family
}
