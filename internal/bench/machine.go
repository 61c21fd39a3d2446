package bench

import (
	"context"
	"net/http"
	"os"
	"runtime"
	"runtime/debug"
	"strconv"
	"strings"

	"go.temporal.io/api/workflowservice/v1"
)

// Machine is where a run took place, and with what.
type Machine struct {
	CPU      string            `json:"cpu,omitempty"`
	Cores    int               `json:"cores"`
	MemoryMB int               `json:"memory_mb,omitempty"`
	Platform string            `json:"platform"`
	Kernel   string            `json:"kernel,omitempty"`
	Go       string            `json:"go"`
	Revision string            `json:"revision,omitempty"`
	Modified bool              `json:"modified,omitempty"` // built from a changed checkout
	Versions map[string]string `json:"versions"`           // of the servers, where they tell
}

func readMachine(ctx context.Context, i *instance) Machine {
	m := Machine{
		Cores: runtime.NumCPU(), Platform: runtime.GOOS + "/" + runtime.GOARCH, Go: runtime.Version(),
		CPU: fieldOf("/proc/cpuinfo", "model name"), Versions: map[string]string{},
	}
	if words := strings.Fields(fieldOf("/proc/meminfo", "MemTotal")); len(words) > 0 {
		kb, _ := strconv.Atoi(words[0])
		m.MemoryMB = kb / 1024
	}
	if release, err := os.ReadFile("/proc/sys/kernel/osrelease"); err == nil {
		m.Kernel = strings.TrimSpace(string(release))
	}
	if info, ok := debug.ReadBuildInfo(); ok {
		for _, setting := range info.Settings {
			switch setting.Key {
			case "vcs.revision":
				m.Revision = setting.Value
			case "vcs.modified":
				m.Modified = setting.Value == "true"
			}
		}
	}
	i.readVersions(ctx, m.Versions)
	return m
}

// fieldOf returns the first value of a name in a file of "name: value" lines.
func fieldOf(path, name string) string {
	content, err := os.ReadFile(path)
	if err != nil {
		return ""
	}
	for line := range strings.Lines(string(content)) {
		if is, value, _ := strings.Cut(line, ":"); strings.TrimSpace(is) == name {
			return strings.TrimSpace(value)
		}
	}
	return ""
}

// readVersions asks the servers. One that does not tell is left out: a version is
// no reason to fail.
func (i *instance) readVersions(ctx context.Context, versions map[string]string) {
	note := func(system, version string, err error) {
		if err == nil && version != "" {
			versions[system] = version
		}
	}
	var postgres string
	err := i.systems.pool.QueryRow(ctx, "SHOW server_version").Scan(&postgres)
	note("postgresql", postgres, err)

	info, err := i.systems.redis.InfoMap(ctx, "server").Result()
	note("redis", info["Server"]["redis_version"], err)

	if brokers, err := i.systems.admin.ApiVersions(ctx); err == nil {
		for _, broker := range brokers {
			note("kafka", broker.VersionGuess(), broker.Err) // brokers do not tell it
		}
	}

	var nodes struct {
		Nodes map[string]struct {
			Version string `json:"version"`
		} `json:"nodes"`
	}
	err = i.systems.elasticsearch(ctx, http.MethodGet, "/_nodes/_local?filter_path=nodes.*.version", nil, &nodes)
	for _, node := range nodes.Nodes {
		note("elasticsearch", node.Version, err)
	}

	temporal, err := i.temporal.WorkflowService().GetSystemInfo(ctx, &workflowservice.GetSystemInfoRequest{})
	note("temporal", temporal.GetServerVersion(), err)
}
