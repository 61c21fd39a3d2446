package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"time"
)

// processInfo is one row of the system's process table.
type processInfo struct {
	pid, parent, group int
	stopped            bool
	// started tells two processes that had the same pid apart: it is unique
	// among all processes of the machine that ever had this pid, reboots too.
	started string
}

// process is a server's leader as recorded in run/NAME.json. Its pid is never
// used without its start time: pids are recycled, and a signal to a stranger's
// process must not happen.
type process struct {
	PID     int    `json:"pid"`
	Started string `json:"started"`
}

// readProcess returns nil where no process is recorded.
func readProcess(file string) (*process, error) {
	content, err := os.ReadFile(file)
	if errors.Is(err, os.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	var p process
	if err := json.Unmarshal(content, &p); err != nil || p.PID <= 1 || p.Started == "" {
		return nil, fmt.Errorf("%s is damaged; look for the server with ps, stop it and delete the file", file)
	}
	return &p, nil
}

func (p *process) write(file string) error {
	content, err := json.Marshal(p)
	if err != nil {
		return err
	}
	return writeFile(file, content)
}

// info returns the leader's row, or nil when it has ended, also when its pid
// belongs to another process by now.
func (p *process) info() *processInfo {
	if p == nil {
		return nil
	}
	info := lookProcess(p.PID)
	if info == nil || info.started != p.Started {
		return nil
	}
	return info
}

// family returns the leader, if it lives, its descendants and what else is in
// its process group. PostgreSQL's children each lead a group of their own, so
// the group alone would miss them.
func (p *process) family() ([]processInfo, error) {
	if p.info() == nil {
		return nil, nil
	}
	table, err := processTable()
	if err != nil {
		return nil, err
	}
	return familyOf(p, table), nil
}

func familyOf(p *process, table []processInfo) []processInfo {
	members := map[int]bool{}
	var family []processInfo
	for grown := true; grown; {
		grown = false
		for _, info := range table {
			if members[info.pid] {
				continue
			}
			leader := info.pid == p.PID && info.started == p.Started
			if leader || info.group == p.PID || members[info.parent] {
				members[info.pid] = true
				family = append(family, info)
				grown = true
			}
		}
	}
	return family
}

// signalFamily signals the leader and all that belongs to it. It looks again
// until it finds nobody new, as the leader may fork until the signal reaches it.
// It returns everyone that was signalled.
func (p *process) signalFamily(signal syscall.Signal) ([]processInfo, error) {
	signalled := map[int]bool{}
	var all []processInfo
	for {
		family, err := p.family()
		if err != nil {
			return all, err
		}
		found := false
		for _, member := range family {
			if signalled[member.pid] {
				continue
			}
			found, signalled[member.pid] = true, true
			all = append(all, member)
			if err := syscall.Kill(member.pid, signal); err != nil && !errors.Is(err, syscall.ESRCH) {
				return all, fmt.Errorf("signal %s to process %d: %w; run as the user who started the stack", signal, member.pid, err)
			}
		}
		if !found {
			return all, nil
		}
	}
}

// killAll ends those of the processes that are left, the leader's orphans too.
func killAll(ctx context.Context, all []processInfo) error {
	for _, member := range all {
		if info := lookProcess(member.pid); info != nil && info.started == member.started {
			if err := syscall.Kill(member.pid, syscall.SIGKILL); err != nil && !errors.Is(err, syscall.ESRCH) {
				return fmt.Errorf("kill process %d: %w", member.pid, err)
			}
		}
	}
	return waitGone(ctx, all, killTimeout)
}

// waitGone waits until none of the processes is left.
func waitGone(ctx context.Context, all []processInfo, timeout time.Duration) error {
	deadline := time.Now().Add(timeout)
	for _, member := range all {
		for {
			info := lookProcess(member.pid)
			if info == nil || info.started != member.started {
				break
			}
			if time.Now().After(deadline) {
				return fmt.Errorf("process %d is still there after %s", member.pid, timeout)
			}
			select {
			case <-ctx.Done():
				return ctx.Err()
			case <-time.After(10 * time.Millisecond):
			}
		}
	}
	return nil
}

// command is what a server runs.
type command struct {
	path string
	args []string
	env  []string // added to a small environment of our own
	dir  string
}

// spawn starts a server in a session of its own, so that neither the end of this
// program nor a Ctrl-C in its terminal reaches it. The channel yields the
// server's exit, should it exit while this program still runs.
func (s *stack) spawn(c command, logFile string) (*process, <-chan error, error) {
	rotate(logFile)
	if err := makeDir(filepath.Dir(logFile)); err != nil {
		return nil, nil, err
	}
	output, err := os.OpenFile(logFile, os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o644) //nolint:gosec // any user may read the log
	if err != nil {
		return nil, nil, err
	}
	defer func() { _ = output.Close() }()

	cmd := s.command(context.Background(), c)
	cmd.Stdout, cmd.Stderr = output, output
	cmd.SysProcAttr.Setsid = true
	if err := cmd.Start(); err != nil {
		return nil, nil, fmt.Errorf("run %s: %w", c.path, err)
	}
	info := lookProcess(cmd.Process.Pid)
	exit := make(chan error, 1)
	go func() {
		err := cmd.Wait()
		if err == nil {
			err = errors.New("exit status 0")
		}
		exit <- err
	}()
	if info == nil {
		return nil, nil, fmt.Errorf("%s ended at once: %w; see %s", c.path, <-exit, logFile)
	}
	return &process{PID: info.pid, Started: info.started}, exit, nil
}

// run runs a preparing command to its end; its output is in the error.
func (s *stack) run(ctx context.Context, c command) error {
	cmd := s.command(ctx, c)
	output, err := cmd.CombinedOutput()
	if err != nil {
		return fmt.Errorf("%s: %w\n%s", filepath.Base(c.path), err, lastLines(string(output), 15))
	}
	return nil
}

// command gives a process the stack's user and a small, known environment.
func (s *stack) command(ctx context.Context, c command) *exec.Cmd {
	cmd := exec.CommandContext(ctx, c.path, c.args...) //nolint:gosec // the servers' own commands
	cmd.Dir = c.dir
	if cmd.Dir == "" {
		cmd.Dir = s.dir
	}
	cmd.Env = append([]string{
		"PATH=" + os.Getenv("PATH"), "HOME=" + s.path("tmp"), "TMPDIR=" + s.path("tmp"), "LANG=C.UTF-8", "LC_ALL=C.UTF-8", "TZ=UTC",
	}, c.env...)
	cmd.SysProcAttr = &syscall.SysProcAttr{}
	if s.account != nil {
		cmd.SysProcAttr.Credential = &syscall.Credential{Uid: s.account.uid, Gid: s.account.gid}
	}
	return cmd
}

const maxLog = 50 << 20

// rotate keeps one older log, so that a stack left running for weeks does not
// fill the disk.
func rotate(logFile string) {
	if info, err := os.Stat(logFile); err == nil && info.Size() > maxLog {
		_ = os.Rename(logFile, logFile+".1")
	}
}
