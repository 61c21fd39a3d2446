package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sync/errgroup"
)

const (
	defaultPortBase = 15000
	readyTimeout    = 2 * time.Minute
	stopTimeout     = 20 * time.Second
	killTimeout     = 10 * time.Second
	diskForServers  = 1 << 30
)

// port is a port of a server, by its distance from the port base.
type port struct {
	what   string
	offset int
}

// server is what the stack knows of a server; each has a file that builds one.
type server struct {
	name  string
	ports []port // the first is the one that clients use
	after string // the server that must be ready before this one is started

	// sets are the lock's sets that the server needs.
	sets []string
	// install makes the cache hold what the server runs, once sets are fetched.
	install func(context.Context) error
	// prepare makes the server's folder, if it isn't there, writes its
	// configuration and returns what to run.
	prepare func(context.Context) (command, error)
	// probe returns nil once the server answers clients.
	probe func(context.Context) error
	// stop asks the server to end in good order.
	stop syscall.Signal
}

// stack is one instance: a folder, a port base and six servers.
type stack struct {
	dir      string
	portBase int
	account  *account
	cache    *cache
	report   *reporter
	servers  []*server
	java     func() (*jdk, error)
	packages sync.Mutex
}

// instance is what stack.json keeps between commands.
type instance struct {
	PortBase int `json:"port_base"`
}

// openStack finds the instance in dir. A portBase of 0 means the one that the
// instance was started with.
func openStack(dir string, portBase int) (*stack, error) {
	account, err := serverAccount()
	if err != nil {
		return nil, err
	}
	if dir == "" {
		if dir, err = defaultDir(); err != nil {
			return nil, err
		}
	}
	reachable, err := reachableDir(dir, account)
	if err != nil {
		return nil, err
	}
	downloads, err := cacheDir()
	if err != nil {
		return nil, err
	}
	report := newReporter()
	baseURL := os.Getenv("CAPSAGA_MAVEN_URL")
	if baseURL == "" {
		baseURL = mavenCentral
	}
	s := &stack{dir: reachable, account: account, report: report, cache: &cache{dir: downloads, baseURL: baseURL, report: report}}
	s.java = sync.OnceValues(s.findJava)
	saved, err := s.instance()
	if err != nil {
		return nil, err
	}
	switch {
	case portBase != 0:
		s.portBase = portBase
	case saved != nil:
		s.portBase = saved.PortBase
	default:
		s.portBase = defaultPortBase
	}
	s.servers = []*server{
		s.postgres(), s.replica(), s.redis(), s.kafka(), s.elasticsearch(), s.temporal(),
	}
	if last := s.portBase + 433; s.portBase < 1024 || last > 65535 {
		return nil, fmt.Errorf("port base %d: want a number from 1024 to %d", s.portBase, 65535-433)
	}
	return s, nil
}

func (s *stack) path(elem ...string) string {
	return filepath.Join(append([]string{s.dir}, elem...)...)
}

func (s *stack) address(offset int) string {
	return net.JoinHostPort("127.0.0.1", strconv.Itoa(s.portBase+offset))
}

func (s *stack) logFile(name string) string    { return s.path("logs", name+".log") }
func (s *stack) recordFile(name string) string { return s.path("run", name+".json") }

func (s *stack) instance() (*instance, error) {
	content, err := os.ReadFile(s.path("stack.json"))
	if errors.Is(err, os.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	var saved instance
	if err := json.Unmarshal(content, &saved); err != nil || saved.PortBase == 0 {
		return nil, fmt.Errorf("%s is damaged; delete it and give --port-base", s.path("stack.json"))
	}
	return &saved, nil
}

// server finds a server by its name.
func (s *stack) server(name string) (*server, error) {
	for _, srv := range s.servers {
		if srv.name == name {
			return srv, nil
		}
	}
	return nil, usageError{fmt.Errorf("no server %q; want one of postgres, replica, redis, kafka, elasticsearch, temporal", name)}
}

// lock serializes commands that change the instance.
func (s *stack) lock(ctx context.Context) (unlock func(), err error) {
	if err := makeDir(s.dir); err != nil {
		return nil, err
	}
	return lockFile(ctx, s.path("lock"), func() {
		s.report.line("another capsaga-local works on %s: waiting for it", s.dir)
	})
}

// leader returns the server's process, nil when it does not run.
func (s *stack) leader(srv *server) (*process, error) {
	p, err := readProcess(s.recordFile(srv.name))
	if err != nil || p.info() == nil {
		return nil, err
	}
	return p, nil
}

// up starts the named servers and waits until each answers. What already runs is
// left as it is, except that a paused server is resumed.
func (s *stack) up(ctx context.Context, servers []*server) error {
	unlock, err := s.lock(ctx)
	if err != nil {
		return err
	}
	defer unlock()
	if err := s.savePortBase(); err != nil {
		return err
	}
	var absent []*server
	for _, srv := range servers {
		p, err := s.leader(srv)
		if err != nil {
			return err
		}
		if p == nil {
			absent = append(absent, srv)
		}
	}
	if len(absent) > 0 {
		if err := needDisk(s.dir, diskForServers, "the servers"); err != nil {
			return err
		}
		for _, srv := range absent {
			if err := s.portsFree(ctx, srv); err != nil {
				return err
			}
		}
		if err := s.serverDir(s.path("tmp"), 0o755); err != nil {
			return err
		}
		if err := s.installAll(ctx, absent); err != nil {
			return err
		}
	}
	return s.startAll(ctx, servers)
}

// savePortBase records the port base for later commands. While a server runs,
// the base cannot change: the others would no longer find it.
func (s *stack) savePortBase() error {
	saved, err := s.instance()
	if err != nil {
		return err
	}
	if saved != nil && saved.PortBase != s.portBase {
		for _, srv := range s.servers {
			if p, err := s.leader(srv); err != nil {
				return err
			} else if p != nil {
				return fmt.Errorf("the stack in %s runs with port base %d, not %d: run down first, or choose another --dir for a second stack", s.dir, saved.PortBase, s.portBase)
			}
		}
	}
	content, err := json.Marshal(instance{PortBase: s.portBase})
	if err != nil {
		return err
	}
	return writeFile(s.path("stack.json"), content)
}

// portsFree fails when a stranger listens where the server would.
func (s *stack) portsFree(ctx context.Context, srv *server) error {
	for _, p := range srv.ports {
		listener, err := s.listen(ctx, p)
		if errors.Is(err, syscall.EADDRINUSE) {
			number := s.portBase + p.offset
			return fmt.Errorf("port %d, the %s port of %s, is taken by another program: stop that program (ss -ltnp 'sport = :%d' names it), or give the stack other ports with --port-base", number, p.what, srv.name, number)
		}
		if err != nil {
			return fmt.Errorf("listen on %s for %s: %w", s.address(p.offset), srv.name, err)
		}
		_ = listener.Close()
	}
	return nil
}

// listen gives a port that is just being given up a moment.
func (s *stack) listen(ctx context.Context, p port) (net.Listener, error) {
	for deadline := time.Now().Add(time.Second); ; {
		listener, err := (&net.ListenConfig{}).Listen(ctx, "tcp", s.address(p.offset))
		if !errors.Is(err, syscall.EADDRINUSE) || time.Now().After(deadline) {
			return listener, err
		}
		time.Sleep(50 * time.Millisecond)
	}
}

// installAll fills the cache for the servers: one download of all their files,
// and, beside it, the build of those that are built.
func (s *stack) installAll(ctx context.Context, servers []*server) error {
	unlock, err := s.cache.lock(ctx)
	if err != nil {
		return err
	}
	defer unlock()
	var artifacts []artifact
	seen := map[string]bool{}
	for _, srv := range servers {
		for _, name := range srv.sets {
			set, err := lockedSet(name)
			if err != nil {
				return fmt.Errorf("%s: %w", srv.name, err)
			}
			for _, a := range set {
				if !seen[a.coordinate] {
					seen[a.coordinate] = true
					artifacts = append(artifacts, a)
				}
			}
		}
	}
	group, ctx := errgroup.WithContext(ctx)
	fetched := make(chan struct{})
	group.Go(func() error {
		if err := s.cache.fetch(ctx, artifacts); err != nil {
			return err
		}
		close(fetched)
		return nil
	})
	for _, srv := range servers {
		group.Go(func() error {
			if len(srv.sets) > 0 {
				select {
				case <-fetched:
				case <-ctx.Done():
					return ctx.Err()
				}
			}
			if err := srv.install(ctx); err != nil {
				return fmt.Errorf("install %s: %w", srv.name, err)
			}
			return nil
		})
	}
	return group.Wait()
}

// startAll starts the servers side by side, each after the one it needs. One
// that fails does not keep the others from starting.
func (s *stack) startAll(ctx context.Context, servers []*server) error {
	results := map[string]chan struct{}{}
	for _, srv := range servers {
		results[srv.name] = make(chan struct{})
	}
	errs := make([]error, len(servers))
	var wait sync.WaitGroup
	failed := func(name string) bool {
		for i, srv := range servers {
			if srv.name == name {
				return errs[i] != nil
			}
		}
		return false
	}
	for i, srv := range servers {
		wait.Go(func() {
			defer close(results[srv.name])
			if needed, ok := results[srv.after]; ok {
				<-needed
				if failed(srv.after) {
					errs[i] = fmt.Errorf("%s: not started, as %s is not up", srv.name, srv.after)
					return
				}
			}
			if err := s.start(ctx, srv); err != nil {
				errs[i] = fmt.Errorf("%s: %w", srv.name, err)
			}
		})
	}
	wait.Wait()
	return errors.Join(errs...)
}

// start starts a server, if it does not run, and waits until it answers.
func (s *stack) start(ctx context.Context, srv *server) error {
	began := time.Now()
	p, err := s.leader(srv)
	if err != nil {
		return err
	}
	var exit <-chan error
	verb := "already running"
	if p == nil {
		verb = "ready"
		c, err := srv.prepare(ctx)
		if err != nil {
			return fmt.Errorf("prepare: %w", err)
		}
		if p, exit, err = s.spawn(c, s.logFile(srv.name)); err != nil { //nolint:contextcheck // the server outlives this program
			return err
		}
		if err := p.write(s.recordFile(srv.name)); err != nil {
			return err
		}
	} else if p.info().stopped {
		verb = "resumed"
		if _, err := p.signalFamily(syscall.SIGCONT); err != nil {
			return err
		}
	}
	if err := s.waitReady(ctx, srv, p, exit); err != nil {
		return err
	}
	s.report.line("%-14s %-15s %s  (%.1f s)", srv.name, verb, s.address(srv.ports[0].offset), time.Since(began).Seconds())
	return nil
}

// waitReady probes the server until it answers, and gives up when its process
// ends or after readyTimeout.
func (s *stack) waitReady(ctx context.Context, srv *server, p *process, exit <-chan error) error {
	ctx, cancel := context.WithTimeout(ctx, readyTimeout)
	defer cancel()
	var last error
	for {
		probe, cancel := context.WithTimeout(ctx, 5*time.Second)
		err := srv.probe(probe)
		cancel()
		if err == nil {
			return nil
		}
		if ctx.Err() == nil {
			last = err
		}
		select {
		case err := <-exit:
			return fmt.Errorf("ended while starting: %w; the end of %s:\n%s", err, s.logFile(srv.name), tail(s.logFile(srv.name), 12))
		case <-ctx.Done():
			if errors.Is(ctx.Err(), context.Canceled) {
				return fmt.Errorf("interrupted while waiting for readiness: %w", ctx.Err())
			}
			return fmt.Errorf("not ready after %s: %w; the end of %s:\n%s", readyTimeout, last, s.logFile(srv.name), tail(s.logFile(srv.name), 12))
		case <-time.After(50 * time.Millisecond):
		}
		if exit == nil && p.info() == nil {
			return fmt.Errorf("ended while starting; the end of %s:\n%s", s.logFile(srv.name), tail(s.logFile(srv.name), 12))
		}
	}
}

// stop ends a server in good order, and by force when it takes too long.
func (s *stack) stop(ctx context.Context, srv *server) error {
	p, err := s.leader(srv)
	if err != nil {
		return err
	}
	if p == nil {
		s.report.line("%-14s not running", srv.name)
		return nil
	}
	// A paused process does not see a signal to stop.
	all, err := p.signalFamily(syscall.SIGCONT)
	if err != nil {
		return err
	}
	if err := syscall.Kill(p.PID, srv.stop); err != nil && !errors.Is(err, syscall.ESRCH) {
		return fmt.Errorf("stop %s: %w", srv.name, err)
	}
	verb := "stopped"
	if err := waitGone(ctx, all, stopTimeout); err != nil {
		if ctx.Err() != nil {
			return err
		}
		verb = fmt.Sprintf("did not stop within %s: killed", stopTimeout)
		if err := killAll(ctx, all); err != nil {
			return fmt.Errorf("stop %s: %w", srv.name, err)
		}
	}
	s.report.line("%-14s %s", srv.name, verb)
	return s.forget(srv)
}

// kill ends a server and all its processes at once, as a crash would.
func (s *stack) kill(ctx context.Context, srv *server) error {
	p, err := s.running(srv)
	if err != nil {
		return err
	}
	all, err := p.signalFamily(syscall.SIGKILL)
	if err != nil {
		return err
	}
	if err := waitGone(ctx, all, killTimeout); err != nil {
		return fmt.Errorf("kill %s: %w", srv.name, err)
	}
	s.report.line("%-14s killed", srv.name)
	return s.forget(srv)
}

func (s *stack) pause(_ context.Context, srv *server) error {
	p, err := s.running(srv)
	if err != nil {
		return err
	}
	if _, err := p.signalFamily(syscall.SIGSTOP); err != nil {
		return err
	}
	s.report.line("%-14s paused", srv.name)
	return nil
}

func (s *stack) resume(_ context.Context, srv *server) error {
	p, err := s.running(srv)
	if err != nil {
		return err
	}
	if _, err := p.signalFamily(syscall.SIGCONT); err != nil {
		return err
	}
	s.report.line("%-14s resumed", srv.name)
	return nil
}

// running is leader with an error where the server does not run.
func (s *stack) running(srv *server) (*process, error) {
	p, err := s.leader(srv)
	if err == nil && p == nil {
		err = fmt.Errorf("%s is not running in %s; start it with: capsaga-local start %s", srv.name, s.dir, srv.name)
	}
	return p, err
}

func (s *stack) forget(srv *server) error {
	if err := os.Remove(s.recordFile(srv.name)); err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	return nil
}

// down stops all servers. The replica goes before the primary, which would wait
// for it otherwise.
func (s *stack) down(ctx context.Context, wipe bool) error {
	if _, err := os.Stat(s.dir); errors.Is(err, os.ErrNotExist) {
		s.report.line("nothing runs in %s", s.dir)
		return nil
	}
	unlock, err := s.lock(ctx)
	if err != nil {
		return err
	}
	defer unlock()
	errs := make([]error, len(s.servers))
	stopped := map[string]chan struct{}{}
	for _, srv := range s.servers {
		stopped[srv.name] = make(chan struct{})
	}
	var wait sync.WaitGroup
	for i, srv := range s.servers {
		wait.Go(func() {
			defer close(stopped[srv.name])
			for _, other := range s.servers {
				if other.after == srv.name {
					<-stopped[other.name]
				}
			}
			errs[i] = s.stop(ctx, srv)
		})
	}
	wait.Wait()
	if err := errors.Join(errs...); err != nil || !wipe {
		return err
	}
	return s.wipe()
}

// wipe deletes what the stack made in its folder and nothing else, as --dir may
// name a folder that holds other things.
func (s *stack) wipe() error {
	names := []string{"logs", "run", "tmp", "stack.json"}
	for _, srv := range s.servers {
		names = append(names, srv.name)
	}
	for _, name := range append(names, "lock") {
		if err := os.RemoveAll(s.path(name)); err != nil {
			return fmt.Errorf("delete the data: %w", err)
		}
	}
	_ = os.Remove(s.dir) // stays when something else is in it
	s.report.line("deleted the data in %s", s.dir)
	return nil
}

// platform names this machine as the lock's sets do.
func platform() string { return runtime.GOOS + "-" + runtime.GOARCH }

// tail returns the last lines of a file, for error messages.
func tail(file string, n int) string {
	f, err := os.Open(file)
	if err != nil {
		return ""
	}
	defer func() { _ = f.Close() }()
	const window = 16 << 10
	if info, err := f.Stat(); err == nil && info.Size() > window {
		_, _ = f.Seek(-window, 2)
	}
	buffer := make([]byte, window)
	read, _ := f.Read(buffer)
	return lastLines(string(buffer[:read]), n)
}
