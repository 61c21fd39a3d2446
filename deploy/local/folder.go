package main

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"os/user"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// account is the user that servers run as when the stack is started by root:
// PostgreSQL refuses to run as root, and one rule for all servers is simpler.
type account struct {
	name     string
	uid, gid uint32
}

// serverAccount returns nil for an ordinary user, whose servers run as that user.
func serverAccount() (*account, error) {
	if os.Geteuid() != 0 {
		return nil, nil
	}
	const name = "nobody"
	u, err := user.Lookup(name)
	if err != nil {
		return nil, fmt.Errorf("find the user that servers run as: %w; create the user %s or run as an ordinary user", err, name)
	}
	uid, err := strconv.ParseUint(u.Uid, 10, 32)
	if err != nil {
		return nil, fmt.Errorf("user %s: uid %q: %w", name, u.Uid, err)
	}
	gid, err := strconv.ParseUint(u.Gid, 10, 32)
	if err != nil {
		return nil, fmt.Errorf("user %s: gid %q: %w", name, u.Gid, err)
	}
	return &account{name: name, uid: uint32(uid), gid: uint32(gid)}, nil
}

const modulePath = "github.com/capsaga/capsaga"

// defaultDir is .capsaga/local of the checkout that the working directory, or
// else this program, lies in.
func defaultDir() (string, error) {
	var starts []string
	if wd, err := os.Getwd(); err == nil {
		starts = append(starts, wd)
	}
	if exe, err := os.Executable(); err == nil {
		starts = append(starts, filepath.Dir(exe))
	}
	for _, start := range starts {
		for dir := start; ; dir = filepath.Dir(dir) {
			if mod, err := os.ReadFile(filepath.Join(dir, "go.mod")); err == nil && moduleOf(string(mod)) == modulePath {
				return filepath.Join(dir, ".capsaga", "local"), nil
			}
			if dir == filepath.Dir(dir) {
				break
			}
		}
	}
	return "", errors.New("not inside a checkout of capsaga: name the instance's folder with --dir")
}

func moduleOf(goMod string) string {
	for line := range strings.Lines(goMod) {
		if name, ok := strings.CutPrefix(strings.TrimSpace(line), "module "); ok {
			return strings.TrimSpace(name)
		}
	}
	return ""
}

// reachableDir returns dir, or, where the servers' user could not reach it (a
// checkout in /root, say), a folder below /var/lib/capsaga that depends on
// nothing but dir, so that every later command finds the same instance.
func reachableDir(dir string, servers *account) (string, error) {
	dir, err := filepath.Abs(dir)
	if err != nil {
		return "", err
	}
	if servers == nil || reachable(dir) {
		return dir, nil
	}
	sum := sha256.Sum256([]byte(dir))
	name := filepath.Base(filepath.Dir(filepath.Dir(dir))) + "-" + filepath.Base(dir) + "-" + hex.EncodeToString(sum[:4])
	return "/var/lib/capsaga/" + strings.TrimLeft(name, "/."), nil
}

// reachable tells whether any user may pass through every folder above dir that
// exists. The instance's own folder is left out: this program makes it.
func reachable(dir string) bool {
	for parent := filepath.Dir(dir); ; parent = filepath.Dir(parent) {
		info, err := os.Stat(parent)
		if err == nil && info.Mode().Perm()&0o001 == 0 {
			return false
		}
		if parent == filepath.Dir(parent) {
			return true
		}
	}
}

// cacheDir is outside the checkout, as downloads outlive it, and for root where
// the servers' user can read it.
func cacheDir() (string, error) {
	if dir := os.Getenv("CAPSAGA_CACHE"); dir != "" {
		return filepath.Abs(dir)
	}
	if os.Geteuid() == 0 {
		return "/var/cache/capsaga", nil
	}
	dir, err := os.UserCacheDir()
	if err != nil {
		return "", fmt.Errorf("find the cache folder: %w; set CAPSAGA_CACHE", err)
	}
	return filepath.Join(dir, "capsaga"), nil
}

// makeDir makes dir and its parents, passable for the servers' user whatever the
// umask is.
func makeDir(dir string) error {
	if _, err := os.Stat(dir); err == nil {
		return nil
	}
	if err := makeDir(filepath.Dir(dir)); err != nil {
		return err
	}
	if err := os.Mkdir(dir, 0o755); err != nil && !errors.Is(err, os.ErrExist) { //nolint:gosec // servers run as another user
		return err
	}
	return os.Chmod(dir, 0o755) //nolint:gosec // servers run as another user
}

// serverDir makes a folder that the servers' user owns.
func (s *stack) serverDir(dir string, mode os.FileMode) error {
	if err := makeDir(dir); err != nil {
		return err
	}
	if s.account != nil {
		if err := os.Chown(dir, int(s.account.uid), int(s.account.gid)); err != nil {
			return err
		}
	}
	return os.Chmod(dir, mode)
}

// serverFile writes a file that the servers' user owns.
func (s *stack) serverFile(path, content string) error {
	if err := writeFile(path, []byte(content)); err != nil {
		return err
	}
	if s.account != nil {
		return os.Chown(path, int(s.account.uid), int(s.account.gid))
	}
	return nil
}

// writeFile replaces a file in one step, so that a reader or a crash never sees
// half of it.
func writeFile(path string, content []byte) error {
	if err := makeDir(filepath.Dir(path)); err != nil {
		return err
	}
	temporary := fmt.Sprintf("%s.%d.new", path, os.Getpid())
	if err := os.WriteFile(temporary, content, 0o644); err != nil { //nolint:gosec // configuration without secrets
		return err
	}
	if err := os.Chmod(temporary, 0o644); err != nil { //nolint:gosec // as above, whatever the umask
		return err
	}
	return os.Rename(temporary, path)
}

// lockFile takes an exclusive lock that ends with the process at the latest.
// waiting is called once when someone else holds it.
func lockFile(ctx context.Context, path string, waiting func()) (unlock func(), err error) {
	for first := true; ; first = false {
		f, err := os.OpenFile(path, os.O_CREATE|os.O_RDWR, 0o644) //nolint:gosec // holds nothing
		if err != nil {
			return nil, err
		}
		err = unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB)
		if err == nil && sameFile(f, path) {
			return func() { _ = f.Close() }, nil
		}
		_ = f.Close()
		if err != nil && !errors.Is(err, unix.EWOULDBLOCK) {
			return nil, fmt.Errorf("lock %s: %w", path, err)
		}
		if first && err != nil {
			waiting()
		}
		select {
		case <-ctx.Done():
			return nil, ctx.Err()
		case <-time.After(50 * time.Millisecond):
		}
	}
}

// sameFile is false when "down --wipe" deleted the lock file while we waited.
func sameFile(f *os.File, path string) bool {
	held, err := f.Stat()
	if err != nil {
		return false
	}
	named, err := os.Stat(path)
	return err == nil && os.SameFile(held, named)
}

func lastLines(text string, n int) string {
	lines := strings.Split(strings.TrimRight(text, "\n"), "\n")
	return strings.Join(lines[max(0, len(lines)-n):], "\n")
}
