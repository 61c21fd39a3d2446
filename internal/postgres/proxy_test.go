package postgres_test

import (
	"net"
	"net/url"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/stretchr/testify/require"
)

// cuttingProxy stands between a client and PostgreSQL and cuts their connection
// at a chosen exchange.
type cuttingProxy struct {
	listener net.Listener
	server   string

	mu          sync.Mutex
	left        int // exchanges until the cut; zero: none
	afterServer bool
	done        bool
}

func newCuttingProxy(t *testing.T, database string) *cuttingProxy {
	t.Helper()
	u, err := url.Parse(database)
	require.NoError(t, err)
	listener, err := new(net.ListenConfig).Listen(t.Context(), "tcp", "127.0.0.1:0")
	require.NoError(t, err)
	p := &cuttingProxy{listener: listener, server: u.Host}
	t.Cleanup(func() { _ = listener.Close() })
	go func() {
		for {
			client, err := listener.Accept()
			if err != nil {
				return
			}
			go p.serve(client)
		}
	}()
	return p
}

func (p *cuttingProxy) address() string { return p.listener.Addr().String() }

// cut ends the connection at the client's nth message from now: before the server
// gets it, or when the server has answered and the client does not know yet.
func (p *cuttingProxy) cut(n int, afterServer bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.left, p.afterServer = n, afterServer
}

func (p *cuttingProxy) hasCut() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.done
}

// message counts one of the client's messages, and says whether to cut now.
func (p *cuttingProxy) message() (before, after bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.left == 0 {
		return false, false
	}
	p.left--
	cut := p.left == 0
	p.done = p.done || cut
	return cut && !p.afterServer, cut && p.afterServer
}

// serve passes messages on.
func (p *cuttingProxy) serve(client net.Conn) {
	server, err := new(net.Dialer).Dial("tcp", p.server)
	if err != nil {
		_ = client.Close()
		return
	}
	var deaf atomic.Bool // the client is not to hear the next answer
	go func() {
		defer func() { _ = client.Close() }()
		buffer := make([]byte, 1<<16)
		for {
			n, err := server.Read(buffer)
			if err != nil || deaf.Load() {
				return
			}
			if _, err := client.Write(buffer[:n]); err != nil {
				return
			}
		}
	}()
	defer func() { _ = server.Close() }()
	buffer := make([]byte, 1<<16)
	for {
		n, err := client.Read(buffer)
		if err != nil {
			return
		}
		before, after := p.message()
		if before {
			_ = client.Close()
			return
		}
		if after {
			deaf.Store(true)
		}
		if _, err := server.Write(buffer[:n]); err != nil {
			return
		}
	}
}
