package redis

import (
	"crypto/tls"
	"errors"
	"net"
	"regexp"
	"strings"

	goredis "github.com/redis/go-redis/v9"

	"github.com/capsaga/capsaga/saga"
)

const system = "redis"

// reply says what an error reply of Redis means, by its first word.
type reply struct {
	class  saga.Class
	advice string
}

var replies = map[string]reply{
	"LOADING":     {saga.Unavailable, "the server is loading its data; it answers when that is done"},
	"READONLY":    {saga.Unavailable, "the server is a replica; writes go on when the address leads to the master again"},
	"OOM":         {saga.Unavailable, "the server's memory is full; raise maxmemory or remove keys"},
	"MISCONF":     {saga.Unavailable, "the server cannot save to its disk; check its log"},
	"MOVED":       {saga.Unavailable, "the key is on another node of a cluster; the address must lead to one server that holds all keys"},
	"ASK":         {saga.Unavailable, "the key is moving to another node of a cluster; the address must lead to one server that holds all keys"},
	"CLUSTERDOWN": {saga.Unavailable, "the cluster is down"},
	"MASTERDOWN":  {saga.Unavailable, "the replica has lost its master"},
	"TRYAGAIN":    {saga.Unavailable, "the cluster is moving the keys"},
	"BUSY":        {saga.Unavailable, "another script blocks the server"},
	"NOREPLICAS":  {saga.Unavailable, "too few replicas are in sync for a write"},
	"NOSCRIPT":    {saga.Unavailable, "the server dropped the script while it was in use"},
	"WRONGTYPE":   {saga.Rejected, "the key holds something else than a row; delete it, or use another prefix"},
	"NOAUTH":      {saga.Rejected, "the server wants a password; put it into the address"},
	"WRONGPASS":   {saga.Rejected, "the user or the password is wrong"},
	"NOPERM":      {saga.Rejected, "the user needs eval, evalsha, hmget, hset, hdel, persist, pexpire, time, get, set and ping on the prefix's keys"},
	"DENIED":      {saga.Rejected, "the server is in protected mode; give it a password or an address to listen on"},
}

var (
	anyOther   = reply{saga.Rejected, "see the server's log"}
	maxClients = reply{saga.Unavailable, "the server has no connection left; raise maxclients"}
)

// scriptError finds the reply that a script stopped at. Redis before 7 wraps
// it: "ERR Error running script (call to f_…): @user_script:17: -OOM command …".
var scriptError = regexp.MustCompile(`@user_script:\s?\d+: -?([A-Z]+) `)

// scriptPlace is where in the script an error came up, which Redis adds to it.
var scriptPlace = regexp.MustCompile(` script: [0-9a-f]{40}, on @user_script:\d+\.$`)

// classify turns any error of the driver into a *saga.Error. What says what was
// being done and where.
func classify(what string, err error) *saga.Error {
	e := &saga.Error{Class: saga.Ambiguous, System: system, Code: saga.CodeUnavailable, Err: err}
	var answered goredis.Error
	switch {
	case errors.As(err, &answered):
		means := replyOf(answered.Error())
		said := scriptPlace.ReplaceAllString(answered.Error(), "")
		e.Class, e.Message = means.class, what+": "+said+": "+means.advice
	case neverSent(err):
		e.Class, e.Message = saga.Unavailable, what+": "+err.Error()+": check that Redis runs there and lets this host in"
	default:
		e.Message = what + ": no answer, it may have been done: " + err.Error()
	}
	if e.Class == saga.Rejected {
		e.Code = saga.CodeRejected
	}
	return e
}

// classifyRead is classify for what has no effect and so is never ambiguous.
func classifyRead(what string, err error) *saga.Error {
	e := classify(what, err)
	if e.Class == saga.Ambiguous {
		e.Class, e.Message = saga.Unavailable, what+": no answer: "+err.Error()
	}
	return e
}

func rejected(message string) *saga.Error {
	return &saga.Error{Class: saga.Rejected, System: system, Code: saga.CodeRejected, Message: message}
}

// isReply reports whether Redis itself answered with this error.
func isReply(err error) bool {
	var e goredis.Error
	return errors.As(err, &e)
}

func replyOf(message string) reply {
	if strings.HasPrefix(message, "ERR max number of clients") {
		return maxClients
	}
	word, _, _ := strings.Cut(message, " ")
	if m := scriptError.FindStringSubmatch(message); word == "ERR" && m != nil {
		word = m[1]
	}
	if means, ok := replies[word]; ok {
		return means
	}
	return anyOther
}

// neverSent reports whether the error came up before any byte of a command left.
func neverSent(err error) bool {
	var dial *net.OpError
	if errors.As(err, &dial) && dial.Op == "dial" {
		return true
	}
	var certificate *tls.CertificateVerificationError
	var record tls.RecordHeaderError
	var alert tls.AlertError
	return errors.As(err, &certificate) || errors.As(err, &record) || errors.As(err, &alert) ||
		errors.Is(err, goredis.ErrPoolTimeout) || errors.Is(err, goredis.ErrPoolExhausted) || errors.Is(err, goredis.ErrClosed)
}
