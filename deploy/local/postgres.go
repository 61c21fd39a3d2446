package main

import (
	"archive/tar"
	"archive/zip"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/ulikunitz/xz"
)

const (
	postgresPort = 432
	replicaPort  = 433
	// replicaName is the replica's application_name, by which
	// synchronous_standby_names knows it, and its physical slot.
	replicaName = "replica"
)

// postgresConf is both servers' configuration. It is a file and no command line,
// so that ALTER SYSTEM (postgresql.auto.conf, read later) can change each value.
//
// A commit is local by default although a synchronous standby is named: then a
// stopped replica hurts only those transactions that ask for more.
const postgresConf = `# Written by capsaga-local at each start; use ALTER SYSTEM for changes.
listen_addresses = '127.0.0.1'
port = %d
unix_socket_directories = ''
timezone = 'UTC'
log_timezone = 'UTC'
log_line_prefix = '%%m [%%p] %%q%%a %%x '
max_connections = 300
shared_buffers = 256MB
max_wal_size = 2GB
wal_level = logical
max_wal_senders = 100
max_replication_slots = 100
synchronous_commit = local
# The user is named capsaga: with the default path its new tables would land in Capsaga's own schema.
search_path = 'public'
synchronous_standby_names = '%s'
hot_standby = on
hot_standby_feedback = on
track_commit_timestamp = on
`

// replicaConf makes the replica follow; the dbname and sync_replication_slots
// let it keep copies of logical slots that were made with failover = true. It
// looks often for a primary that was away, as fault tests wait for it.
const replicaConf = `primary_conninfo = 'host=127.0.0.1 port=%d user=capsaga dbname=capsaga application_name=%s'
primary_slot_name = '%s'
sync_replication_slots = on
wal_retrieve_retry_interval = 200ms
`

func (s *stack) postgres() *server {
	return &server{
		name:    "postgres",
		ports:   []port{{"SQL", postgresPort}},
		sets:    []string{"postgres-" + platform()},
		install: s.installPostgres,
		prepare: s.preparePrimary,
		probe: func(ctx context.Context) error {
			_, err := s.query(ctx, postgresPort, "SELECT 1")
			return err
		},
		stop: syscall.SIGINT, // fast shutdown: ends the sessions, writes a checkpoint
	}
}

func (s *stack) replica() *server {
	return &server{
		name:    "replica",
		ports:   []port{{"SQL", replicaPort}},
		after:   "postgres",
		sets:    []string{"postgres-" + platform()},
		install: s.installPostgres,
		prepare: s.prepareReplica,
		probe:   s.probeReplica,
		stop:    syscall.SIGINT,
	}
}

// probeReplica also waits until the replica follows, where there is a primary to
// follow: before, a commit that waits for the replica would hang.
func (s *stack) probeReplica(ctx context.Context) error {
	answer, err := s.query(ctx, replicaPort,
		"SELECT NOT pg_is_in_recovery() OR EXISTS (SELECT FROM pg_stat_wal_receiver WHERE status = 'streaming')")
	if err != nil || answer.rows[0][0] == "t" {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, time.Second)
	defer cancel()
	if _, err := s.query(ctx, postgresPort, "SELECT 1"); err == nil {
		return errors.New("the replica does not stream from the primary yet")
	}
	return nil
}

func (s *stack) postgresURL(offset int) string {
	return "postgres://capsaga@" + s.address(offset) + "/capsaga?sslmode=disable"
}

// postgresHome is the folder that the binaries are unpacked to. It bears the
// archive's checksum, so that another version gets another folder.
func (s *stack) postgresHome() (string, artifact, error) {
	set, err := lockedSet("postgres-" + platform())
	if err != nil {
		return "", artifact{}, err
	}
	version := set[0].coordinate[strings.LastIndex(set[0].coordinate, ":")+1:]
	return filepath.Join(s.cache.dir, "postgres-"+version+"-"+set[0].sum[:8]), set[0], nil
}

func (s *stack) installPostgres(context.Context) error {
	s.cache.unpack.Lock() // the primary and the replica share the folder
	defer s.cache.unpack.Unlock()
	home, archive, err := s.postgresHome()
	if err != nil {
		return err
	}
	if _, err := os.Stat(home); err == nil {
		return nil
	}
	s.report.line("unpacking PostgreSQL to %s", home)
	temporary := home + ".new"
	if err := os.RemoveAll(temporary); err != nil {
		return err
	}
	if err := unpackPostgres(s.cache.file(archive), temporary); err != nil {
		return fmt.Errorf("unpack %s: %w", archive.coordinate, err)
	}
	return os.Rename(temporary, home)
}

// unpackPostgres unpacks the one .txz in the jar.
func unpackPostgres(jar, dir string) error {
	files, err := zip.OpenReader(jar)
	if err != nil {
		return err
	}
	defer func() { _ = files.Close() }()
	i := slices.IndexFunc(files.File, func(file *zip.File) bool { return strings.HasSuffix(file.Name, ".txz") })
	if i < 0 {
		return errors.New("no .txz in it")
	}
	compressed, err := files.File[i].Open()
	if err != nil {
		return err
	}
	defer func() { _ = compressed.Close() }()
	archive, err := xz.NewReader(compressed)
	if err != nil {
		return err
	}
	return untar(archive, dir)
}

func untar(archive io.Reader, dir string) error {
	for files := tar.NewReader(archive); ; {
		header, err := files.Next()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		name := path.Clean(header.Name)
		if !filepath.IsLocal(name) {
			return fmt.Errorf("%q leads out of the archive's folder", header.Name)
		}
		target := filepath.Join(dir, filepath.FromSlash(name))
		if err := makeDir(filepath.Dir(target)); err != nil {
			return err
		}
		switch header.Typeflag {
		case tar.TypeDir:
			err = makeDir(target)
		case tar.TypeSymlink:
			if !filepath.IsLocal(filepath.Join(filepath.Dir(name), header.Linkname)) { //nolint:gosec // this is the check
				return fmt.Errorf("link %q leads out of the archive's folder", header.Name)
			}
			err = os.Symlink(header.Linkname, target)
		case tar.TypeReg:
			err = writeAll(target, files, fs.FileMode(header.Mode&0o777))
		}
		if err != nil {
			return err
		}
	}
}

func writeAll(path string, content io.Reader, mode fs.FileMode) error {
	f, err := os.OpenFile(path, os.O_CREATE|os.O_WRONLY|os.O_TRUNC, mode)
	if err != nil {
		return err
	}
	if _, err := io.Copy(f, content); err != nil {
		_ = f.Close()
		return err
	}
	// The umask may have taken the bits that the servers' user needs.
	if err := f.Chmod(mode); err != nil {
		_ = f.Close()
		return err
	}
	return f.Close()
}

// preparePrimary makes the database cluster on the first start.
func (s *stack) preparePrimary(ctx context.Context) (command, error) {
	home, _, err := s.postgresHome()
	if err != nil {
		return command{}, err
	}
	data := s.path("postgres", "data")
	if _, err := os.Stat(data); errors.Is(err, os.ErrNotExist) {
		if err := s.initdb(ctx, home, data); err != nil {
			return command{}, err
		}
	}
	conf := fmt.Sprintf(postgresConf, s.portBase+postgresPort, replicaName)
	if err := s.serverFile(filepath.Join(data, "postgresql.conf"), conf); err != nil {
		return command{}, err
	}
	return s.postmaster("postgres", home)
}

// postmaster is the command for a server's data folder. PostgreSQL refuses to
// start while the process named in postmaster.pid exists. A killed one does, as a
// zombie, until the system's first process collects it, which some never do; and
// after a crash of the machine its pid may be another's. So the file of a
// postmaster that has ended is removed here.
func (s *stack) postmaster(name, home string) (command, error) {
	data := s.path(name, "data")
	file := filepath.Join(data, "postmaster.pid")
	content, err := os.ReadFile(file)
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return command{}, err
	}
	recorded, err := readProcess(s.recordFile(name))
	if err != nil {
		return command{}, err
	}
	first, _, _ := strings.Cut(string(content), "\n")
	if pid, err := strconv.Atoi(first); err == nil {
		ours := recorded != nil && recorded.PID == pid && recorded.info() == nil
		if ours || lookProcess(pid) == nil {
			if err := os.Remove(file); err != nil {
				return command{}, err
			}
		}
	}
	return command{path: filepath.Join(home, "bin", "postgres"), args: []string{"-D", data}}, nil
}

// initdb makes the cluster beside its place and moves it there when it is whole,
// so that an interrupted first start leaves nothing half made.
func (s *stack) initdb(ctx context.Context, home, data string) error {
	if err := s.serverDir(filepath.Dir(data), 0o755); err != nil {
		return err
	}
	temporary := data + ".new"
	if err := os.RemoveAll(temporary); err != nil {
		return err
	}
	if err := s.serverDir(temporary, 0o700); err != nil {
		return err
	}
	// The built-in locale is the same on every machine.
	if err := s.run(ctx, command{path: filepath.Join(home, "bin", "initdb"), args: []string{
		"-D", temporary, "-U", "capsaga", "--auth=trust", "--encoding=UTF8",
		"--locale=C", "--locale-provider=builtin", "--builtin-locale=C.UTF-8",
	}}); err != nil {
		return err
	}
	create := s.command(ctx, command{path: filepath.Join(home, "bin", "postgres"), args: []string{"--single", "-D", temporary, "postgres"}})
	create.Stdin = strings.NewReader("CREATE DATABASE capsaga;\n")
	if output, err := create.CombinedOutput(); err != nil {
		return fmt.Errorf("create database capsaga: %w\n%s", err, lastLines(string(output), 10))
	}
	return os.Rename(temporary, data)
}

// prepareReplica copies the primary on the first start. Later starts need no
// primary: the physical slot has kept what the replica missed.
func (s *stack) prepareReplica(ctx context.Context) (command, error) {
	home, _, err := s.postgresHome()
	if err != nil {
		return command{}, err
	}
	data := s.path("replica", "data")
	if _, err := os.Stat(data); errors.Is(err, os.ErrNotExist) {
		if err := s.copyPrimary(ctx, data); err != nil {
			return command{}, fmt.Errorf("copy the primary: %w", err)
		}
	}
	// A promoted replica names no standby, as it has none.
	conf := fmt.Sprintf(postgresConf, s.portBase+replicaPort, "") +
		fmt.Sprintf(replicaConf, s.portBase+postgresPort, replicaName, replicaName)
	if err := s.serverFile(filepath.Join(data, "postgresql.conf"), conf); err != nil {
		return command{}, err
	}
	return s.postmaster("replica", home)
}

// copyPrimary does what pg_basebackup does, which the binaries lack: the data
// folder is copied between pg_backup_start and pg_backup_stop, and the slot,
// made before, keeps the WAL that makes the copy whole.
func (s *stack) copyPrimary(ctx context.Context, data string) error {
	if err := s.serverDir(filepath.Dir(data), 0o755); err != nil {
		return err
	}
	temporary := data + ".new"
	if err := os.RemoveAll(temporary); err != nil {
		return err
	}
	conn, err := pgx.Connect(ctx, s.postgresURL(postgresPort))
	if err != nil {
		return fmt.Errorf("%w; the replica's first start needs the primary: capsaga-local start postgres", err)
	}
	defer func() { _ = conn.Close(context.WithoutCancel(ctx)) }()
	if _, err := conn.Exec(ctx, `SELECT pg_create_physical_replication_slot($1, true)
		WHERE NOT EXISTS (SELECT FROM pg_replication_slots WHERE slot_name = $1)`, replicaName); err != nil {
		return fmt.Errorf("create the slot: %w", err)
	}
	if _, err := conn.Exec(ctx, "SELECT pg_backup_start('replica', true)"); err != nil {
		return err
	}
	if err := s.copyCluster(s.path("postgres", "data"), temporary); err != nil {
		return err
	}
	var label string
	if err := conn.QueryRow(ctx, "SELECT labelfile FROM pg_backup_stop(false)").Scan(&label); err != nil {
		return err
	}
	for name, content := range map[string]string{"backup_label": label, "standby.signal": "", "postgresql.auto.conf": ""} {
		if err := s.serverFile(filepath.Join(temporary, name), content); err != nil {
			return err
		}
	}
	return os.Rename(temporary, data)
}

// notCopied are the parts of a data folder that belong to the running server;
// folders among them are made empty. See "Making a Base Backup" in PostgreSQL's
// manual.
var notCopied = map[string]bool{
	"pg_wal": true, "pg_replslot": true, "pg_dynshmem": true, "pg_notify": true, "pg_serial": true,
	"pg_snapshots": true, "pg_stat_tmp": true, "pg_subtrans": true,
	"postmaster.pid": true, "postmaster.opts": true, "postgresql.auto.conf": true,
}

func (s *stack) copyCluster(from, to string) error {
	return filepath.WalkDir(from, func(source string, entry fs.DirEntry, err error) error {
		if errors.Is(err, fs.ErrNotExist) {
			return nil // the running server deleted it
		}
		if err != nil {
			return err
		}
		name, err := filepath.Rel(from, source)
		if err != nil {
			return err
		}
		target := filepath.Join(to, name)
		if entry.IsDir() {
			if err := s.serverDir(target, 0o700); err != nil {
				return err
			}
			if notCopied[name] {
				return filepath.SkipDir
			}
			return nil
		}
		if notCopied[name] || !entry.Type().IsRegular() {
			return nil
		}
		return s.copyFile(source, target)
	})
}

func (s *stack) copyFile(source, target string) error {
	f, err := os.Open(source)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	defer func() { _ = f.Close() }()
	if err := writeAll(target, f, 0o600); err != nil {
		return err
	}
	if s.account != nil {
		return os.Chown(target, int(s.account.uid), int(s.account.gid))
	}
	return nil
}

// result is a query's answer as text.
type result struct {
	columns []string
	rows    [][]string
	tag     string
}

// query runs one statement, or several separated by semicolons, and returns the
// last one's rows.
func (s *stack) query(ctx context.Context, offset int, sql string) (*result, error) {
	conn, err := pgx.Connect(ctx, s.postgresURL(offset))
	if err != nil {
		return nil, err
	}
	defer func() { _ = conn.Close(context.WithoutCancel(ctx)) }()
	results, err := conn.PgConn().Exec(ctx, sql).ReadAll()
	if err != nil {
		return nil, err
	}
	answer := &result{}
	if len(results) == 0 {
		return answer, nil
	}
	last := results[len(results)-1]
	answer.tag = last.CommandTag.String()
	for _, field := range last.FieldDescriptions {
		answer.columns = append(answer.columns, field.Name)
	}
	for _, row := range last.Rows {
		var texts []string
		for _, value := range row {
			texts = append(texts, string(value))
		}
		answer.rows = append(answer.rows, texts)
	}
	return answer, nil
}

// promote makes the replica a primary and waits until it takes writes.
func (s *stack) promote(ctx context.Context) error {
	answer, err := s.query(ctx, replicaPort, "SELECT pg_promote(true, 60)")
	if err != nil {
		return fmt.Errorf("promote the replica: %w", err)
	}
	if answer.rows[0][0] != "t" {
		return fmt.Errorf("promote the replica: not done within 60 s; see %s", s.logFile("replica"))
	}
	s.report.line("%-14s promoted: %s takes writes", "replica", s.address(replicaPort))
	return nil
}
