// Package stacktest gives a test its own corner of the running local stack: a
// fresh database and a prefix of its own. A stack that is not there fails the
// test; it never skips it.
package stacktest

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"fmt"
	"os"
	"strconv"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/capsaga/capsaga/saga"
)

// Stack is where a test finds its servers.
type Stack struct {
	PostgresURL      string // of a database of the test's own
	Database         string
	RedisURL         string
	KafkaBrokers     []string
	ElasticsearchURL string
	TemporalAddress  string
	Prefix           saga.Prefix // of the test's own
	PortBase         int
}

// PortBase returns the port base of the stack under test:
// CAPSAGA_TEST_PORT_BASE, default 16000.
func PortBase(t testing.TB) int {
	t.Helper()
	text := os.Getenv("CAPSAGA_TEST_PORT_BASE")
	if text == "" {
		return 16000
	}
	base, err := strconv.Atoi(text)
	if err != nil {
		t.Fatalf("CAPSAGA_TEST_PORT_BASE=%q: want a number", text)
	}
	return base
}

// New returns a corner of the stack; the database goes when the test ends.
func New(t testing.TB) Stack {
	t.Helper()
	base := PortBase(t)
	var random [5]byte
	if _, err := rand.Read(random[:]); err != nil {
		t.Fatal(err)
	}
	name := "t" + hex.EncodeToString(random[:])
	s := Stack{
		PostgresURL:      fmt.Sprintf("postgres://capsaga@127.0.0.1:%d/%s?sslmode=disable", base+432, name),
		Database:         name,
		RedisURL:         fmt.Sprintf("redis://127.0.0.1:%d/0", base+379),
		KafkaBrokers:     []string{fmt.Sprintf("127.0.0.1:%d", base+92)},
		ElasticsearchURL: fmt.Sprintf("http://127.0.0.1:%d", base+200),
		TemporalAddress:  fmt.Sprintf("127.0.0.1:%d", base+233),
		Prefix:           saga.Prefix(name),
		PortBase:         base,
	}
	s.admin(t, "CREATE DATABASE "+name)
	t.Cleanup(func() { s.dropDatabase(t) })
	return s
}

// dropDatabase removes the database with the slots that keep it from going.
func (s Stack) dropDatabase(t testing.TB) {
	deadline := time.Now().Add(20 * time.Second)
	for {
		err := s.tryAdmin(
			"SELECT pg_terminate_backend(active_pid) FROM pg_replication_slots WHERE database = '"+s.Database+"' AND active_pid IS NOT NULL",
			"SELECT pg_drop_replication_slot(slot_name) FROM pg_replication_slots WHERE database = '"+s.Database+"' AND NOT active",
			"DROP DATABASE IF EXISTS "+s.Database+" WITH (FORCE)")
		if err == nil {
			return
		}
		if time.Now().After(deadline) {
			t.Errorf("drop the test's database %s: %v", s.Database, err)
			return
		}
		time.Sleep(100 * time.Millisecond)
	}
}

func (s Stack) admin(t testing.TB, sql string) {
	t.Helper()
	if err := s.tryAdmin(sql); err != nil {
		t.Fatalf("the test stack's PostgreSQL on port %d: %v (make test starts the stack)", s.PortBase+432, err)
	}
}

func (s Stack) tryAdmin(statements ...string) error {
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	conn, err := pgx.Connect(ctx, fmt.Sprintf("postgres://capsaga@127.0.0.1:%d/capsaga?sslmode=disable", s.PortBase+432))
	if err != nil {
		return err
	}
	defer func() { _ = conn.Close(ctx) }()
	for _, sql := range statements {
		if _, err := conn.Exec(ctx, sql); err != nil {
			return err
		}
	}
	return nil
}

// Eventually waits until check returns nil, and fails the test with its last
// error when the time is over.
func Eventually(t testing.TB, within time.Duration, check func() error) {
	t.Helper()
	deadline := time.Now().Add(within)
	for {
		err := check()
		if err == nil {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("not within %s: %v", within, err)
		}
		time.Sleep(10 * time.Millisecond)
	}
}
