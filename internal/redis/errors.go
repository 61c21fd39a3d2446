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

// A reply that only time, or whoever runs the server, can change is
// "unavailable": the same request will pass then. So is a login that fails. It
// says nothing about the row, it hits every row at once, and a password that is
// being changed would else park, skip or even undo all writes of that minute, as
// the policy wants it for a rejection. What the user may not do, once logged in,
// is a rejection: someone has decided so.
var replies = map[string]reply{
	"LOADING":     {saga.Unavailable, "the server is loading its data; it answers when that is done"},
	"READONLY":    {saga.Unavailable, "the server is a replica; writes go on when the address leads to the master again"},
	"OOM":         {saga.Unavailable, "the server's memory is full; raise maxmemory or remove keys"},
	"MISCONF":     {saga.Unavailable, "the server cannot save to its disk; check its log"},
	"MOVED":       {saga.Unavailable, "the key is on another node of a cluster; the address must lead to one server that holds all keys"},
	"ASK":         {saga.Unavailable, "the key is moving to another node of a cluster; the address must lead to one server that holds all keys"},
	"REDIRECT":    {saga.Unavailable, "the server hands over to another; writes go on when the address leads to that one"},
	"CLUSTERDOWN": {saga.Unavailable, "the cluster is down"},
	"MASTERDOWN":  {saga.Unavailable, "the replica has lost its master"},
	"TRYAGAIN":    {saga.Unavailable, "the cluster is moving the keys"},
	"BUSY":        {saga.Unavailable, "another script blocks the server"},
	"UNKILLABLE":  {saga.Unavailable, "another script blocks the server and has written already; wait for it, or restart the server"},
	"UNBLOCKED":   {saga.Unavailable, "the server became a replica while the request waited"},
	"NOREPLICAS":  {saga.Unavailable, "too few replicas are in sync for a write"},
	"NOSCRIPT":    {saga.Unavailable, "the server dropped the script while it was in use"},
	"EXECABORT":   {saga.Unavailable, "the server discarded the transaction; its log says why"},
	"NOAUTH":      {saga.Unavailable, "the server wants a password; put it into the address"},
	"WRONGPASS":   {saga.Unavailable, "the user or the password is wrong; mend the address or the user"},
	"NOPROTO":     {saga.Unavailable, "the server, or a proxy before it, is older than Redis 6"},
	"DENIED":      {saga.Unavailable, "the server is in protected mode; give it a password or an address to listen on"},
	"NOPERM":      {saga.Rejected, "the user needs eval, evalsha, hmget, hset, hdel, persist, pexpire, unlink, del, exists, scan, time, get, set and ping on the prefix's keys"},
	"WRONGTYPE":   {saga.Rejected, "the key holds something else than a row; delete it, or use another prefix"},
	"CROSSSLOT":   {saga.Rejected, "the server is a node of a cluster; the address must lead to one server that holds all keys"},
}

// generic is the same for replies without a word of their own, which begin with
// ERR; the first that fits counts.
var generic = []struct {
	begins string
	reply
}{
	{"ERR max number of clients", reply{saga.Unavailable, "the server has no connection left; raise maxclients"}},
	{"ERR AUTH", reply{saga.Unavailable, "the server's password and the address's do not fit together"}},
	{"ERR invalid password", reply{saga.Unavailable, "the password is wrong; mend the address"}},
	{"ERR unknown command", reply{saga.Rejected, "the server, or a proxy before it, lacks a command that Capsaga needs; use Redis 6.2 or later without renamed commands"}},
	{"ERR DB index is out of range", reply{saga.Rejected, "the server has no such database; mend the number at the address's end"}},
}

// anyOther covers syntax errors and errors in the script: they come back each time.
var anyOther = reply{saga.Rejected, "see the server's log"}

// scriptError finds the reply that a script stopped at. Redis before 7 wraps
// it: "ERR Error running script (call to f_…): @user_script:17: -OOM command …", and
// "@user_script: 17: -OOM command …" where the script caught it.
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
	for _, g := range generic {
		if strings.HasPrefix(message, g.begins) {
			return g.reply
		}
	}
	word, _, _ := strings.Cut(message, " ")
	if m := scriptError.FindStringSubmatch(message); (word == "ERR" || word == "@user_script:") && m != nil {
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
