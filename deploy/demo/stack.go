package main

import (
	"bytes"
	"context"
	_ "embed"
	"errors"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/jackc/pgx/v5"
)

//go:embed schema.sql
var schema string

const catalogPath = "deploy/demo/capsaga.yaml"

// stack brings the servers up and takes over their addresses.
func (d *demo) stack(ctx context.Context) error {
	if err := d.command(ctx, "bin/capsaga-local", "up"); err != nil {
		return err
	}
	out, err := exec.CommandContext(ctx, "bin/capsaga-local", "env").Output()
	if err != nil {
		return fmt.Errorf("bin/capsaga-local env: %w", err)
	}
	d.env = os.Environ()
	for line := range strings.Lines(string(out)) {
		assignment, ok := strings.CutPrefix(strings.TrimSpace(line), "export ")
		if ok {
			name, value, _ := strings.Cut(assignment, "=")
			d.env = append(d.env, name+"="+strings.Trim(value, `'"`))
		}
	}
	d.env = append(d.env, "CAPSAGA_CATALOG="+catalogPath)
	return nil
}

// get returns a variable; the last one of a name counts, as for a program.
func (d *demo) get(name string) string {
	value := ""
	for _, variable := range d.env {
		if v, ok := strings.CutPrefix(variable, name+"="); ok {
			value = v
		}
	}
	return value
}

// command runs a program as the reader could, and shows it.
func (d *demo) command(ctx context.Context, name string, args ...string) error {
	return d.commandTo(ctx, d.out, name, args...)
}

func (d *demo) commandTo(ctx context.Context, out *os.File, name string, args ...string) error {
	fmt.Fprintf(d.out, "$ %s %s\n", name, strings.Join(args, " "))
	c := exec.CommandContext(ctx, name, args...)
	c.Env, c.Stdout, c.Stderr = d.env, out, os.Stderr
	if err := c.Run(); err != nil {
		return fmt.Errorf("%s %s: %w", name, strings.Join(args, " "), err)
	}
	return nil
}

// catalog creates the tables, which are the service's own, and all that the
// catalog names.
func (d *demo) catalog(ctx context.Context) error {
	conn, err := pgx.Connect(ctx, d.get("CAPSAGA_POSTGRES_URL"))
	if err != nil {
		return fmt.Errorf("connect to postgres: %w", err)
	}
	defer func() { _ = conn.Close(context.WithoutCancel(ctx)) }()
	if _, err := conn.Exec(ctx, schema); err != nil {
		return fmt.Errorf("create the demo's tables: %w", err)
	}
	return d.command(ctx, "bin/capsaga", "catalog", "apply")
}

// worker starts one that outlives the demo, in place of an earlier demo's.
func (d *demo) worker(ctx context.Context) error {
	if err := stopWorker(ctx); err != nil {
		return err
	}
	if err := os.MkdirAll(folder, 0o755); err != nil {
		return err
	}
	log, err := os.Create(filepath.Join(folder, "worker.log"))
	if err != nil {
		return err
	}
	defer func() { _ = log.Close() }()
	fmt.Fprintf(d.out, "$ bin/capsaga-worker 2>%s &\n", log.Name())
	d.env = append(d.env, "CAPSAGA_HTTP_ADDRESS="+workerAddress)
	c := exec.CommandContext(context.WithoutCancel(ctx), "bin/capsaga-worker") // it stays when the demo ends
	c.Env, c.Stdout, c.Stderr = d.env, log, log
	c.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	if err := c.Start(); err != nil {
		return err
	}
	exited := make(chan error, 1)
	go func() { exited <- c.Wait() }()
	if err := os.WriteFile(pidFile(), []byte(strconv.Itoa(c.Process.Pid)), 0o644); err != nil {
		return err
	}
	return awaitWorker(ctx, exited, log.Name())
}

const workerAddress = "127.0.0.1:15190"

func awaitWorker(ctx context.Context, exited <-chan error, log string) error {
	deadline := time.After(time.Minute)
	for {
		request, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+workerAddress+"/readyz", nil)
		if err != nil {
			return err
		}
		response, err := http.DefaultClient.Do(request)
		if err == nil {
			_ = response.Body.Close()
			if response.StatusCode == http.StatusOK {
				return nil
			}
		}
		select {
		case err := <-exited:
			tail, _ := os.ReadFile(log)
			return fmt.Errorf("the worker ended: %w\n%s", err, bytes.TrimSpace(tail))
		case <-deadline:
			return fmt.Errorf("the worker is not ready after a minute: see %s", log)
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(100 * time.Millisecond):
		}
	}
}

func pidFile() string { return filepath.Join(folder, "worker.pid") }

// stopWorker ends the worker of an earlier demo, if it still runs. A process id
// may have gone to another program since, so the program's name is looked at.
func stopWorker(ctx context.Context) error {
	text, err := os.ReadFile(pidFile())
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	pid, err := strconv.Atoi(strings.TrimSpace(string(text)))
	if err != nil || !isWorker(ctx, pid) {
		return os.Remove(pidFile())
	}
	if err := syscall.Kill(pid, syscall.SIGTERM); err != nil {
		return fmt.Errorf("stop the worker of an earlier demo, process %d: %w", pid, err)
	}
	for deadline := time.Now().Add(time.Minute); isWorker(ctx, pid); {
		if time.Now().After(deadline) {
			return fmt.Errorf("the worker of an earlier demo, process %d, has not ended a minute after SIGTERM", pid)
		}
		time.Sleep(50 * time.Millisecond)
	}
	return os.Remove(pidFile())
}

func isWorker(ctx context.Context, pid int) bool {
	out, err := exec.CommandContext(ctx, "ps", "-o", "stat=,comm=", "-p", strconv.Itoa(pid)).Output()
	fields := strings.Fields(string(out))
	return err == nil && len(fields) == 2 && !strings.HasPrefix(fields[0], "Z") && strings.HasPrefix(fields[1], "capsaga-worke")
}
