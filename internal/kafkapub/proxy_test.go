package kafkapub_test

import (
	"context"
	"fmt"
	"net"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// proxy passes connections on to a server until it is told to stall: then it
// holds the bytes back, and both ends believe that the connection lives.
type proxy struct {
	listener net.Listener
	target   string

	mu      sync.Mutex
	stalled bool
	changed chan struct{}
	cut     bool
	open    map[net.Conn]struct{}
}

func newProxy(t testing.TB, target string) *proxy {
	t.Helper()
	listener, err := (&net.ListenConfig{}).Listen(context.Background(), "tcp", "127.0.0.1:0")
	require.NoError(t, err)
	p := &proxy{listener: listener, target: target, changed: make(chan struct{}), open: map[net.Conn]struct{}{}}
	t.Cleanup(func() { _ = listener.Close() })
	go p.accept()
	return p
}

// url returns the connection string with the proxy in the server's place.
func (p *proxy) url(postgresURL string) string {
	return strings.Replace(postgresURL, p.target, p.listener.Addr().String(), 1)
}

func (p *proxy) stall(stalled bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.stalled = stalled
	close(p.changed)
	p.changed = make(chan struct{})
}

// sever breaks all connections, and refuses new ones until it is undone.
func (p *proxy) sever(cut bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.cut = cut
	for conn := range p.open {
		_ = conn.Close()
		delete(p.open, conn)
	}
}

// keep remembers a connection, unless there is to be none.
func (p *proxy) keep(conn net.Conn) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.cut {
		return false
	}
	p.open[conn] = struct{}{}
	return true
}

func (p *proxy) accept() {
	for {
		client, err := p.listener.Accept()
		if err != nil {
			return
		}
		server, err := (&net.Dialer{Timeout: time.Second}).DialContext(context.Background(), "tcp", p.target)
		if err != nil || !p.keep(client) {
			_ = client.Close()
			if server != nil {
				_ = server.Close()
			}
			continue
		}
		go p.pass(client, server)
		go p.pass(server, client)
	}
}

func (p *proxy) pass(from, to net.Conn) {
	defer func() { _, _ = from.Close(), to.Close() }()
	buffer := make([]byte, 32<<10)
	for {
		n, err := from.Read(buffer)
		p.wait()
		if n > 0 {
			if _, err := to.Write(buffer[:n]); err != nil {
				return
			}
		}
		if err != nil {
			return
		}
	}
}

func (p *proxy) wait() {
	for {
		p.mu.Lock()
		stalled, changed := p.stalled, p.changed
		p.mu.Unlock()
		if !stalled {
			return
		}
		<-changed
	}
}

func postgresAddress(portBase int) string { return fmt.Sprintf("127.0.0.1:%d", portBase+432) }
