package redis

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"syscall"
	"testing"

	goredis "github.com/redis/go-redis/v9"
	"github.com/stretchr/testify/assert"

	"github.com/capsaga/capsaga/saga"
)

// replyError is an error reply as the driver hands it over.
type replyError string

func (e replyError) Error() string { return string(e) }
func (replyError) RedisError()     {}

func TestClassify(t *testing.T) {
	t.Parallel()
	dial := &net.OpError{Op: "dial", Net: "tcp", Err: os.NewSyscallError("connect", syscall.ECONNREFUSED)}
	cases := []struct {
		err   error
		class saga.Class
		says  string
	}{
		{replyError("LOADING Redis is loading the dataset in memory"), saga.Unavailable, "loading its data"},
		{replyError("READONLY You can't write against a read only replica."), saga.Unavailable, "replica"},
		{replyError("OOM command not allowed when used memory > 'maxmemory'."), saga.Unavailable, "maxmemory"},
		{replyError("@user_script: 28: -OOM command not allowed when used memory > 'maxmemory'."), saga.Unavailable, "raise maxmemory"},
		{replyError("ERR Error running script (call to f_1a): @user_script:28: -OOM command not allowed when used memory > 'maxmemory'. "), saga.Unavailable, "raise maxmemory"},
		{replyError("MISCONF Redis is configured to save RDB snapshots, but it's currently unable to persist to disk."), saga.Unavailable, "disk"},
		{replyError("MOVED 3999 127.0.0.1:6381"), saga.Unavailable, "another node"},
		{replyError("ASK 3999 127.0.0.1:6381"), saga.Unavailable, "moving"},
		{replyError("CLUSTERDOWN The cluster is down"), saga.Unavailable, "cluster is down"},
		{replyError("MASTERDOWN Link with MASTER is down and replica-serve-stale-data is set to 'no'."), saga.Unavailable, "lost its master"},
		{replyError("TRYAGAIN Multiple keys request during rehashing of slot"), saga.Unavailable, "moving the keys"},
		{replyError("BUSY Redis is busy running a script."), saga.Unavailable, "another script"},
		{replyError("NOREPLICAS Not enough good replicas to write."), saga.Unavailable, "too few replicas"},
		{replyError("NOSCRIPT No matching script. Please use EVAL."), saga.Unavailable, "dropped the script"},
		{replyError("ERR max number of clients reached"), saga.Unavailable, "maxclients"},
		{replyError("REDIRECT 127.0.0.1:6380"), saga.Unavailable, "hands over"},
		{replyError("UNKILLABLE Sorry the script already executed write commands against the dataset."), saga.Unavailable, "has written already"},
		{replyError("UNBLOCKED force unblock from blocking operation, instance state changed (master -> replica?)"), saga.Unavailable, "became a replica"},
		{replyError("EXECABORT Transaction discarded because of previous errors."), saga.Unavailable, "discarded"},
		{replyError("NOAUTH Authentication required."), saga.Unavailable, "wants a password"},
		{replyError("WRONGPASS invalid username-password pair or user is disabled."), saga.Unavailable, "wrong"},
		{replyError("ERR AUTH <password> called without any password configured for the default user. Are you sure your configuration is correct?"), saga.Unavailable, "do not fit"},
		{replyError("ERR invalid password"), saga.Unavailable, "password is wrong"},
		{replyError("NOPROTO unsupported protocol version"), saga.Unavailable, "older than Redis 6"},
		{replyError("DENIED Redis is running in protected mode"), saga.Unavailable, "protected mode"},
		{replyError("WRONGTYPE Operation against a key holding the wrong kind of value"), saga.Rejected, "delete it"},
		{replyError("ERR Error running script (call to f_1a): @user_script:15: WRONGTYPE Operation against a key holding the wrong kind of value"), saga.Rejected, "delete it"},
		{replyError("NOPERM this user has no permissions to run the 'evalsha' command"), saga.Rejected, "evalsha"},
		{replyError("ERR unknown command 'evalsha'"), saga.Rejected, "lacks a command"},
		{replyError("ERR DB index is out of range"), saga.Rejected, "no such database"},
		{replyError("ERR syntax error"), saga.Rejected, "log"},
		{replyError("ERR Error running script (call to f_1a): @user_script:9: Script attempted to access nonexistent global variable 'x'"), saga.Rejected, "log"},
		{replyError("CROSSSLOT Keys in request don't hash to the same slot"), saga.Rejected, "cluster"},
		{replyError("SOMETHINGNEW that nobody knows yet"), saga.Rejected, "log"},
		{fmt.Errorf("failed to initialize connection: %w", replyError("LOADING Redis is loading")), saga.Unavailable, "loading its data"},

		{dial, saga.Unavailable, "check that Redis runs"},
		{&tls.CertificateVerificationError{Err: x509.UnknownAuthorityError{}}, saga.Unavailable, "certificate"},
		{tls.RecordHeaderError{Msg: "first record does not look like a TLS handshake"}, saga.Unavailable, "TLS"},
		{tls.AlertError(42), saga.Unavailable, "certificate"},
		{goredis.ErrPoolTimeout, saga.Unavailable, "pool"},
		{goredis.ErrPoolExhausted, saga.Unavailable, "pool"},
		{goredis.ErrClosed, saga.Unavailable, "closed"},
		{&net.OpError{Op: "read", Net: "tcp", Err: os.ErrDeadlineExceeded}, saga.Ambiguous, "may have been done"},
		{&net.OpError{Op: "write", Net: "tcp", Err: syscall.EPIPE}, saga.Ambiguous, "may have been done"},
		{io.EOF, saga.Ambiguous, "may have been done"},
		{context.DeadlineExceeded, saga.Ambiguous, "may have been done"},
		{context.Canceled, saga.Ambiguous, "may have been done"},
		{errors.New("redis: can't parse reply"), saga.Ambiguous, "may have been done"},
	}
	for _, c := range cases {
		t.Run(c.err.Error(), func(t *testing.T) {
			t.Parallel()
			e := classify("set p:users:7", c.err)
			assert.Equal(t, c.class, e.Class)
			assert.Equal(t, "redis", e.System)
			assert.Equal(t, c.class == saga.Rejected, e.Code == saga.CodeRejected)
			assert.ErrorContains(t, e, "set p:users:7")
			assert.ErrorContains(t, e, c.says)
			assert.ErrorIs(t, e, c.err)

			read := classifyRead("get p:users:7", c.err)
			assert.NotEqual(t, saga.Ambiguous, read.Class)
		})
	}
}
