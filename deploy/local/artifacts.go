package main

import (
	"context"
	"crypto/sha256"
	_ "embed"
	"encoding/hex"
	"errors"
	"fmt"
	"hash"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"
)

//go:embed artifacts.lock
var lockText string

// mavenCentral is where artifacts come from unless CAPSAGA_MAVEN_URL names a
// mirror. A mirror need not be trusted: the lock's checksums decide.
const mavenCentral = "https://repo1.maven.org/maven2"

const parallelDownloads = 6

// artifact is a line of artifacts.lock.
type artifact struct {
	set        string // the server, or the server and platform, that it belongs to
	coordinate string // group:artifact:version[:classifier], or a Go module's path:version
	sum        string // SHA-256 in hex, or a Go module's h1 sum
	size       int64  // bytes; 0 for a Go module
}

// path is the artifact's place below a Maven repository's root, which is also
// its place in the cache.
func (a artifact) path() string {
	part := strings.Split(a.coordinate, ":")
	name := part[1] + "-" + part[2]
	if len(part) == 4 {
		name += "-" + part[3]
	}
	return strings.Join([]string{strings.ReplaceAll(part[0], ".", "/"), part[1], part[2], name + ".jar"}, "/")
}

// parseLock reads a lock file. The lock is part of the program, so an error here
// means that genlock or a merge broke it.
func parseLock(text string) ([]artifact, error) {
	var artifacts []artifact
	number := 0
	for line := range strings.Lines(text) {
		number++
		field := strings.Fields(line)
		if len(field) == 0 || strings.HasPrefix(field[0], "#") {
			continue
		}
		if len(field) != 4 {
			return nil, fmt.Errorf("artifacts.lock line %d: want set, coordinate, checksum and size, got %d fields", number, len(field))
		}
		size, err := strconv.ParseInt(field[3], 10, 64)
		if err != nil || size < 0 {
			return nil, fmt.Errorf("artifacts.lock line %d: size %q is not a number of bytes", number, field[3])
		}
		a := artifact{set: field[0], coordinate: field[1], sum: field[2], size: size}
		colons := strings.Count(a.coordinate, ":")
		if strings.HasPrefix(a.sum, "h1:") {
			if colons != 1 {
				return nil, fmt.Errorf("artifacts.lock line %d: %q is not module:version", number, a.coordinate)
			}
		} else {
			if raw, err := hex.DecodeString(a.sum); err != nil || len(raw) != sha256.Size {
				return nil, fmt.Errorf("artifacts.lock line %d: %q is not a SHA-256", number, a.sum)
			}
			if colons != 2 && colons != 3 {
				return nil, fmt.Errorf("artifacts.lock line %d: %q is not group:artifact:version[:classifier]", number, a.coordinate)
			}
		}
		artifacts = append(artifacts, a)
	}
	return artifacts, nil
}

// lockedSet returns the artifacts of one set of the program's own lock.
func lockedSet(name string) ([]artifact, error) {
	all, err := parseLock(lockText)
	if err != nil {
		return nil, err
	}
	var set []artifact
	for _, a := range all {
		if a.set == name {
			set = append(set, a)
		}
	}
	if len(set) == 0 {
		return nil, fmt.Errorf("artifacts.lock has no %s: this platform is not supported", name)
	}
	return set, nil
}

// cache is the folder of downloads and of what is unpacked or built from them.
// It is shared by all instances of a user and is safe to delete while none runs.
type cache struct {
	unpack  sync.Mutex
	dir     string
	baseURL string
	report  *reporter
}

// file is the artifact's place in the cache.
func (c *cache) file(a artifact) string {
	return filepath.Join(c.dir, "maven", filepath.FromSlash(a.path()))
}

// classPath joins the cache's files of artifacts for java -cp.
func (c *cache) classPath(artifacts []artifact) string {
	files := make([]string, len(artifacts))
	for i, a := range artifacts {
		files[i] = c.file(a)
	}
	return strings.Join(files, string(os.PathListSeparator))
}

// lock serializes work on the cache between processes.
func (c *cache) lock(ctx context.Context) (unlock func(), err error) {
	if err := makeDir(c.dir); err != nil {
		return nil, err
	}
	return lockFile(ctx, filepath.Join(c.dir, "lock"), func() {
		c.report.line("another capsaga-local is filling the cache %s: waiting for it", c.dir)
	})
}

// fetch makes sure that every artifact is in the cache with the locked content.
// A cached file with other content is deleted and downloaded anew.
func (c *cache) fetch(ctx context.Context, artifacts []artifact) error {
	missing, err := c.missing(ctx, artifacts)
	if err != nil || len(missing) == 0 {
		return err
	}
	var total int64
	for _, a := range missing {
		total += a.size
	}
	// What is unpacked from the downloads takes about three times their size.
	if err := needDisk(c.dir, 4*total, "the downloads"); err != nil {
		return err
	}
	progress := c.report.download(len(missing), total)
	defer progress.close()
	group, ctx := errgroup.WithContext(ctx)
	group.SetLimit(parallelDownloads)
	for _, a := range missing {
		group.Go(func() error { return c.download(ctx, a, progress) })
	}
	return group.Wait()
}

// missing verifies what is cached and returns what is not there or was spoilt.
func (c *cache) missing(ctx context.Context, artifacts []artifact) ([]artifact, error) {
	var (
		mu      sync.Mutex
		missing []artifact
	)
	group, ctx := errgroup.WithContext(ctx)
	group.SetLimit(2)
	for _, a := range artifacts {
		group.Go(func() error {
			if ctx.Err() != nil {
				return ctx.Err()
			}
			err := verify(c.file(a), a)
			var mismatch *checksumError
			switch {
			case err == nil:
				return nil
			case errors.As(err, &mismatch):
				c.report.line("%v; downloading it again", err)
			case !errors.Is(err, os.ErrNotExist):
				return err
			}
			mu.Lock()
			defer mu.Unlock()
			missing = append(missing, a)
			return nil
		})
	}
	return missing, group.Wait()
}

// checksumError says that a file was not what the lock names. The file has been
// deleted, so that a second try starts clean.
type checksumError struct {
	file, coordinate, want, got string
}

func (e *checksumError) Error() string {
	return fmt.Sprintf("checksum mismatch: %s (%s) has SHA-256 %s, artifacts.lock says %s; the file was deleted", e.file, e.coordinate, e.got, e.want)
}

// verify checks a file's content against the lock and deletes it when it differs.
func verify(path string, a artifact) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer func() { _ = f.Close() }()
	sum := sha256.New()
	if _, err := io.Copy(sum, f); err != nil {
		return fmt.Errorf("read %s: %w", path, err)
	}
	return checkSum(path, a, sum)
}

func checkSum(path string, a artifact, sum hash.Hash) error {
	got := hex.EncodeToString(sum.Sum(nil))
	if got == a.sum {
		return nil
	}
	if err := os.Remove(path); err != nil {
		return fmt.Errorf("delete %s, whose checksum is wrong: %w", path, err)
	}
	return &checksumError{file: path, coordinate: a.coordinate, want: a.sum, got: got}
}

// download tries a few times, as one dropped connection among a hundred files
// should not fail an "up". A wrong checksum is not tried again: the same server
// would send the same bytes.
func (c *cache) download(ctx context.Context, a artifact, progress *downloadProgress) error {
	var err error
	for attempt := range 4 {
		if attempt > 0 {
			select {
			case <-time.After(time.Duration(attempt) * time.Second):
			case <-ctx.Done():
				return ctx.Err()
			}
		}
		err = c.downloadOnce(ctx, a, progress)
		var mismatch *checksumError
		var final *finalError
		if err == nil || errors.As(err, &mismatch) || errors.As(err, &final) || ctx.Err() != nil {
			break
		}
	}
	return err
}

// finalError is an answer that a second try would not change.
type finalError struct{ error }

// stalled is how long a download may go without a byte.
const stalled = 60 * time.Second

func (c *cache) downloadOnce(ctx context.Context, a artifact, progress *downloadProgress) (err error) {
	url := strings.TrimSuffix(c.baseURL, "/") + "/" + a.path()
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	watchdog := time.AfterFunc(stalled, func() { cancel(fmt.Errorf("no data for %s", stalled)) })
	defer watchdog.Stop()

	request, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return &finalError{fmt.Errorf("download %s: %w; check CAPSAGA_MAVEN_URL", a.coordinate, err)}
	}
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		return fmt.Errorf("download %s: %w; check the network, HTTPS_PROXY and CAPSAGA_MAVEN_URL", a.coordinate, err)
	}
	defer func() { _ = response.Body.Close() }()
	if response.StatusCode != http.StatusOK {
		err := fmt.Errorf("download %s: %s answered %s; check CAPSAGA_MAVEN_URL", a.coordinate, url, response.Status)
		if response.StatusCode/100 == 4 {
			return &finalError{err}
		}
		return err
	}

	path := c.file(a)
	if err := makeDir(filepath.Dir(path)); err != nil {
		return err
	}
	part, err := os.CreateTemp(filepath.Dir(path), filepath.Base(path)+".part")
	if err != nil {
		return fmt.Errorf("download %s: %w", a.coordinate, err)
	}
	defer func() { _ = os.Remove(part.Name()) }()
	defer func() { _ = part.Close() }()

	sum := sha256.New()
	written, err := io.Copy(io.MultiWriter(part, sum, progress), &watchedReader{response.Body, watchdog})
	if err != nil {
		progress.undo(written)
		if cause := context.Cause(ctx); cause != nil {
			err = cause
		}
		return fmt.Errorf("download %s from %s: %w", a.coordinate, url, err)
	}
	if err := checkSum(part.Name(), a, sum); err != nil {
		return fmt.Errorf("download from %s: %w", url, err)
	}
	// Root downloads for servers that run as another user.
	if err := part.Chmod(0o644); err != nil {
		return err
	}
	if err := part.Close(); err != nil {
		return fmt.Errorf("write %s: %w", part.Name(), err)
	}
	if err := os.Rename(part.Name(), path); err != nil {
		return err
	}
	progress.done()
	return nil
}

// watchedReader keeps the watchdog quiet while bytes arrive.
type watchedReader struct {
	io.Reader
	watchdog *time.Timer
}

func (r *watchedReader) Read(p []byte) (int, error) {
	n, err := r.Reader.Read(p)
	if n > 0 {
		r.watchdog.Reset(stalled)
	}
	return n, err
}

// needDisk fails early and clearly where a server would fail late and oddly.
func needDisk(dir string, bytes int64, what string) error {
	var stat unix.Statfs_t
	if err := unix.Statfs(dir, &stat); err != nil {
		return fmt.Errorf("look at the free space of %s: %w", dir, err)
	}
	free := int64(stat.Bavail) * int64(stat.Bsize) //nolint:unconvert // field types differ by platform; sizes are far below 2^63
	if free >= bytes {
		return nil
	}
	return fmt.Errorf("no disk space: %s has %d MB free and %s need %d MB; free some, or choose another disk with --dir or CAPSAGA_CACHE", dir, free>>20, what, bytes>>20)
}
