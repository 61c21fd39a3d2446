package main

import (
	"archive/zip"
	"bufio"
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"
)

const redisPort = 379

// redisConf keeps an append-only file and no snapshots: after a kill at most the
// last second of writes is gone.
const redisConf = `# Written by capsaga-local at each start.
bind 127.0.0.1
port %d
daemonize no
dir "%s"
appendonly yes
appendfsync everysec
save ""
`

func (s *stack) redis() *server {
	return &server{
		name:    "redis",
		ports:   []port{{"client", redisPort}},
		sets:    redisSets(),
		install: s.installRedis,
		prepare: s.prepareRedis,
		probe:   s.probeRedis,
		stop:    syscall.SIGTERM,
	}
}

// redisSets is empty where the system has a Redis, or root can install Debian's:
// the archive's is older and only the second choice.
func redisSets() []string {
	if _, err := exec.LookPath("redis-server"); err == nil || canInstallPackages() {
		return nil
	}
	return []string{"redis"}
}

func (s *stack) installRedis(ctx context.Context) error {
	if _, err := exec.LookPath("redis-server"); err == nil {
		return nil
	}
	if canInstallPackages() {
		if err := s.installPackage(ctx, "redis-server"); err != nil {
			return err
		}
		// The package starts a Redis of its own on port 6379 where systemd runs.
		if _, err := os.Stat("/run/systemd/system"); err == nil {
			_ = exec.CommandContext(ctx, "systemctl", "disable", "--now", "redis-server").Run()
		}
		return nil
	}
	return s.unpackRedis()
}

// unpackedRedis is where the archive's server is unpacked to.
func (s *stack) unpackedRedis() string {
	return filepath.Join(s.cache.dir, "redis-6.2", "redis-server")
}

func (s *stack) unpackRedis() error {
	target := s.unpackedRedis()
	if _, err := os.Stat(target); err == nil {
		return nil
	}
	set, err := lockedSet("redis")
	if err != nil {
		return err
	}
	files, err := zip.OpenReader(s.cache.file(set[0]))
	if err != nil {
		return err
	}
	defer func() { _ = files.Close() }()
	i := slices.IndexFunc(files.File, func(file *zip.File) bool {
		return strings.HasPrefix(file.Name, "redis-server-") && strings.HasSuffix(file.Name, "-"+platform())
	})
	if i < 0 {
		return fmt.Errorf("no redis-server in PATH and none for %s on Maven Central; install Redis 6.2 or later", platform())
	}
	content, err := files.File[i].Open()
	if err != nil {
		return err
	}
	defer func() { _ = content.Close() }()
	if err := makeDir(filepath.Dir(target)); err != nil {
		return err
	}
	if err := writeAll(target+".new", content, 0o755); err != nil {
		return err
	}
	return os.Rename(target+".new", target)
}

func (s *stack) prepareRedis(context.Context) (command, error) {
	binary, err := exec.LookPath("redis-server")
	if err != nil {
		binary = s.unpackedRedis()
	}
	data := s.path("redis", "data")
	if err := s.serverDir(data, 0o700); err != nil {
		return command{}, err
	}
	conf := s.path("redis", "redis.conf")
	if err := s.serverFile(conf, fmt.Sprintf(redisConf, s.portBase+redisPort, data)); err != nil {
		return command{}, err
	}
	return command{path: binary, args: []string{conf}, dir: data}, nil
}

// probeRedis also waits until the append-only file is loaded.
func (s *stack) probeRedis(ctx context.Context) error {
	conn, err := (&net.Dialer{}).DialContext(ctx, "tcp", s.address(redisPort))
	if err != nil {
		return err
	}
	defer func() { _ = conn.Close() }()
	if err := conn.SetDeadline(time.Now().Add(2 * time.Second)); err != nil {
		return err
	}
	if _, err := conn.Write([]byte("PING\r\n")); err != nil {
		return err
	}
	answer, err := bufio.NewReader(conn).ReadString('\n')
	if err != nil {
		return err
	}
	if strings.TrimSpace(answer) != "+PONG" {
		return errors.New("redis answered " + strings.TrimSpace(answer))
	}
	return nil
}
