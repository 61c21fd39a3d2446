package main

import (
	"bytes"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

func TestPortTakenNamesPortServerAndRemedy(t *testing.T) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	defer func() { _ = listener.Close() }()
	number := listener.Addr().(*net.TCPAddr).Port

	s := &stack{portBase: number - redisPort}
	err = s.portsFree(t.Context(), s.redis())
	require.ErrorContains(t, err, "port "+strconv.Itoa(number))
	assert.ErrorContains(t, err, "client port of redis")
	assert.ErrorContains(t, err, "--port-base")
}

func TestEnv(t *testing.T) {
	command := rootCommand()
	output := &bytes.Buffer{}
	command.SetOut(output)
	command.SetArgs([]string{"--dir", t.TempDir(), "--port-base", "17000", "env"})
	require.NoError(t, command.Execute())
	assert.Equal(t, `export CAPSAGA_POSTGRES_URL='postgres://capsaga@127.0.0.1:17432/capsaga?sslmode=disable'
export CAPSAGA_POSTGRES_REPLICA_URL='postgres://capsaga@127.0.0.1:17433/capsaga?sslmode=disable'
export CAPSAGA_REDIS_URL='redis://127.0.0.1:17379/0'
export CAPSAGA_KAFKA_BROKERS='127.0.0.1:17092'
export CAPSAGA_ELASTICSEARCH_URL='http://127.0.0.1:17200'
export TEMPORAL_ADDRESS='127.0.0.1:17233'
export TEMPORAL_NAMESPACE='default'
export CAPSAGA_TEMPORAL_UI_URL='http://127.0.0.1:17234'
`, output.String())
}

// passableDir is a folder that root's servers may use as it is; t.TempDir is not.
func passableDir(t *testing.T) string {
	t.Helper()
	root, err := os.MkdirTemp("/tmp", "capsaga")
	require.NoError(t, err)
	t.Cleanup(func() { _ = os.RemoveAll(root) })
	require.NoError(t, os.Chmod(root, 0o755))
	return filepath.Join(root, "checkout", ".capsaga", "local")
}

func TestPortBaseIsRemembered(t *testing.T) {
	dir := passableDir(t)
	s, err := openStack(dir, 0)
	require.NoError(t, err)
	assert.Equal(t, defaultPortBase, s.portBase)

	s, err = openStack(dir, 17000)
	require.NoError(t, err)
	require.NoError(t, s.savePortBase())
	s, err = openStack(dir, 0)
	require.NoError(t, err)
	assert.Equal(t, 17000, s.portBase)

	// A running server holds on to its base.
	self := lookProcess(os.Getpid())
	require.NoError(t, (&process{PID: self.pid, Started: self.started}).write(s.recordFile("redis")))
	s, err = openStack(dir, 18000)
	require.NoError(t, err)
	require.ErrorContains(t, s.savePortBase(), "runs with port base 17000, not 18000")

	_, err = openStack(dir, 65500)
	assert.ErrorContains(t, err, "port base 65500")
}

func TestReachableDir(t *testing.T) {
	servers := &account{name: "nobody"}
	dir := passableDir(t)
	root := filepath.Dir(filepath.Dir(filepath.Dir(dir)))
	require.NoError(t, os.Chmod(root, 0o700))
	moved, err := reachableDir(dir, servers)
	require.NoError(t, err)
	assert.Regexp(t, `^/var/lib/capsaga/checkout-local-[0-9a-f]{8}$`, moved)
	again, err := reachableDir(dir, servers)
	require.NoError(t, err)
	assert.Equal(t, moved, again)
	same, err := reachableDir(dir, nil)
	require.NoError(t, err)
	assert.Equal(t, dir, same, "an ordinary user's servers run as that user")

	require.NoError(t, os.Chmod(root, 0o755))
	same, err = reachableDir(dir, servers)
	require.NoError(t, err)
	assert.Equal(t, dir, same)
}

func TestUnknownServerIsUsageError(t *testing.T) {
	command := rootCommand()
	command.SetArgs([]string{"--dir", t.TempDir(), "kill", "mysql"})
	err := command.Execute()
	var usage usageError
	require.ErrorAs(t, err, &usage)
	require.ErrorContains(t, err, "postgres, replica, redis")

	command = rootCommand()
	command.SetArgs([]string{"kil"})
	require.ErrorAs(t, command.Execute(), &usage)
}

func TestParseJava(t *testing.T) {
	settings := "Property settings:\n    java.home = /opt/jdk 21\n    java.specification.version = 21\nopenjdk version \"21\"\n"
	assert.Equal(t, &jdk{home: "/opt/jdk 21", version: 21}, parseJava(settings))
	assert.Equal(t, 8, parseJava("    java.home = /opt/jdk8\n    java.specification.version = 1.8\n").version)
	assert.Nil(t, parseJava("no java"))
}
