package main

import (
	"context"
	"crypto/sha256"
	_ "embed"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"syscall"
)

const (
	elasticsearchPort          = 200
	elasticsearchTransportPort = 300
)

//go:embed launcher/Elasticsearch.java
var elasticsearchLauncher string

const elasticsearchYML = `# Written by capsaga-local at each start.
cluster.name: capsaga-local
node.name: local
network.host: 127.0.0.1
http.port: %d
transport.port: %d
discovery.type: single-node
path.data: %s
path.logs: %s
cluster.routing.allocation.disk.threshold_enabled: false
`

const elasticsearchLog4j = `status = error
appender.console.type = Console
appender.console.name = console
appender.console.layout.type = PatternLayout
appender.console.layout.pattern = %d{ISO8601} %-5p %c{1.} %m%n
rootLogger.level = info
rootLogger.appenderRef.console.ref = console
`

// netty4Descriptor stands for the one in the distribution. It names no module:
// the jars are loaded from the class path.
const netty4Descriptor = `name=transport-netty4
description=HTTP and transport over Netty
version=%[1]s
elasticsearch.version=%[1]s
java.version=17
classname=org.elasticsearch.transport.netty4.Netty4Plugin
`

func (s *stack) elasticsearch() *server {
	return &server{
		name:    "elasticsearch",
		ports:   []port{{"HTTP", elasticsearchPort}, {"transport", elasticsearchTransportPort}},
		sets:    []string{"elasticsearch", "elasticsearch-netty4"},
		install: s.installElasticsearch,
		prepare: s.prepareElasticsearch,
		probe:   s.probeElasticsearch,
		stop:    syscall.SIGTERM,
	}
}

// launcherDir holds the compiled launcher, per source and Java version.
func (s *stack) launcherDir(java *jdk) string {
	sum := sha256.Sum256([]byte(elasticsearchLauncher))
	return filepath.Join(s.cache.dir, fmt.Sprintf("elasticsearch-launcher-java%d-%s", java.version, hex.EncodeToString(sum[:4])))
}

func (s *stack) installElasticsearch(ctx context.Context) error {
	java, err := s.java()
	if err != nil {
		return err
	}
	if findZstd() == "" && canInstallPackages() {
		if err := s.installPackage(ctx, "libzstd1"); err != nil {
			s.report.line("%v; going on without libzstd", err)
		}
	}
	target := s.launcherDir(java)
	if _, err := os.Stat(target); err == nil {
		return nil
	}
	jars, err := lockedSet("elasticsearch")
	if err != nil {
		return err
	}
	// The servers' user compiles, in the instance's folder; the cache is ours.
	work, err := os.MkdirTemp(s.path("tmp"), "launcher")
	if err != nil {
		return err
	}
	defer func() { _ = os.RemoveAll(work) }()
	if err := s.serverDir(work, 0o755); err != nil {
		return err
	}
	source := filepath.Join(work, "Elasticsearch.java")
	if err := s.serverFile(source, elasticsearchLauncher); err != nil {
		return err
	}
	if err := s.run(ctx, command{path: java.javac(), args: []string{
		"-proc:none", "-nowarn", "-cp", s.cache.classPath(jars), "-d", filepath.Join(work, "classes"), source,
	}}); err != nil {
		return err
	}
	class, err := os.ReadFile(filepath.Join(work, "classes", "Elasticsearch.class"))
	if err != nil {
		return err
	}
	if err := os.RemoveAll(target + ".new"); err != nil {
		return err
	}
	if err := writeFile(filepath.Join(target+".new", "Elasticsearch.class"), class); err != nil {
		return err
	}
	return os.Rename(target+".new", target)
}

// findZstd returns the system's libzstd, which Elasticsearch compresses some
// stored fields with, or "". Without it the node starts and only indices with
// the codec best_compression fail.
func findZstd() string {
	for _, pattern := range []string{
		"/usr/lib/*-linux-gnu/libzstd.so.1", "/lib/*-linux-gnu/libzstd.so.1", "/usr/lib64/libzstd.so.1", "/usr/lib/libzstd.so.1",
		"/opt/homebrew/lib/libzstd.1.dylib", "/usr/local/lib/libzstd.1.dylib",
	} {
		if found, _ := filepath.Glob(pattern); len(found) > 0 {
			return found[0]
		}
	}
	return ""
}

// prepareElasticsearch lays out, from the jars, the parts of a distribution's
// folder that the node looks for.
func (s *stack) prepareElasticsearch(context.Context) (command, error) {
	java, err := s.java()
	if err != nil {
		return command{}, err
	}
	jars, err := lockedSet("elasticsearch")
	if err != nil {
		return command{}, err
	}
	home := s.path("elasticsearch")
	data, logs := filepath.Join(home, "data"), filepath.Join(home, "logs")
	for _, dir := range []string{home, data, logs, filepath.Join(home, "plugins"), filepath.Join(home, "config"), filepath.Join(home, "bin")} {
		if err := s.serverDir(dir, 0o755); err != nil {
			return command{}, err
		}
	}
	yml := fmt.Sprintf(elasticsearchYML, s.portBase+elasticsearchPort, s.portBase+elasticsearchTransportPort, data, logs)
	if err := s.serverFile(filepath.Join(home, "config", "elasticsearch.yml"), yml); err != nil {
		return command{}, err
	}
	if err := s.serverFile(filepath.Join(home, "config", "log4j2.properties"), elasticsearchLog4j); err != nil {
		return command{}, err
	}
	if err := s.linkNetty4(filepath.Join(home, "modules")); err != nil {
		return command{}, err
	}
	native, err := s.linkZstd(home)
	if err != nil {
		return command{}, err
	}
	return command{path: java.java(), dir: home, args: []string{
		"-Xms256m", "-Xmx768m", "-XX:+UseG1GC", "-XX:+ExitOnOutOfMemoryError", "-Djava.awt.headless=true",
		"-Dlog4j.shutdownHookEnabled=false", "-Dlog4j2.disable.jmx=true",
		"--add-opens=java.base/java.io=ALL-UNNAMED",
		"-Djava.io.tmpdir=" + s.path("tmp"), "-Djna.library.path=" + native, "-Des.nativelibs.path=" + native,
		"-Dorg.elasticsearch.nativeaccess.enableVectorLibrary=false", // that library is not on Maven Central
		"-cp", s.launcherDir(java) + string(os.PathListSeparator) + s.cache.classPath(jars), "Elasticsearch", home,
	}}, nil
}

// linkNetty4 makes the module that brings HTTP, anew at each start, as the cache
// or the version may have changed.
func (s *stack) linkNetty4(modules string) error {
	if err := os.RemoveAll(modules); err != nil {
		return err
	}
	dir := filepath.Join(modules, "transport-netty4")
	if err := makeDir(dir); err != nil {
		return err
	}
	jars, err := lockedSet("elasticsearch-netty4")
	if err != nil {
		return err
	}
	version := ""
	for _, jar := range jars {
		file := s.cache.file(jar)
		if err := os.Symlink(file, filepath.Join(dir, filepath.Base(file))); err != nil {
			return err
		}
		if rest, ok := strings.CutPrefix(jar.coordinate, "org.elasticsearch.plugin:transport-netty4:"); ok {
			version = rest
		}
	}
	return writeFile(filepath.Join(dir, "plugin-descriptor.properties"), fmt.Appendf(nil, netty4Descriptor, version))
}

// linkZstd puts the system's libzstd, under the name that the node looks for,
// into a folder that its Java, by JNA or from 21 on itself, is told to look in.
func (s *stack) linkZstd(home string) (dir string, err error) {
	dir = filepath.Join(home, "lib")
	if err := makeDir(dir); err != nil {
		return "", err
	}
	library := findZstd()
	if library == "" {
		s.report.line("%-14s starts without libzstd: indices with the codec best_compression will not work", "elasticsearch")
		return dir, nil
	}
	link := filepath.Join(dir, "libzstd"+strings.Replace(filepath.Ext(library), ".1", ".so", 1))
	if err := os.Remove(link); err != nil && !errors.Is(err, os.ErrNotExist) {
		return "", err
	}
	return dir, os.Symlink(library, link)
}

// probeElasticsearch waits until the node has a master and its indices are back.
// An index that is red although nothing is being recovered stays so; it is its
// owner's trouble and must not keep the server from being called up.
func (s *stack) probeElasticsearch(ctx context.Context) error {
	url := "http://" + s.address(elasticsearchPort) + "/_cluster/health?wait_for_status=yellow&timeout=3s"
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return err
	}
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		return err
	}
	defer func() { _ = response.Body.Close() }()
	if response.StatusCode == http.StatusOK {
		return nil
	}
	var health struct {
		Initializing int `json:"initializing_shards"`
		Unassigned   int `json:"unassigned_shards"`
		PendingTasks int `json:"number_of_pending_tasks"`
	}
	if err := json.NewDecoder(response.Body).Decode(&health); err != nil {
		return fmt.Errorf("elasticsearch answered %s: %w", response.Status, err)
	}
	if response.StatusCode == http.StatusRequestTimeout && health.Unassigned > 0 && health.Initializing+health.PendingTasks == 0 {
		return nil
	}
	return fmt.Errorf("elasticsearch answered %s", response.Status)
}
