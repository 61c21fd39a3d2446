package elastic

import (
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"strings"

	"github.com/capsaga/capsaga/saga"
)

const (
	system        = "elasticsearch"
	indexNotFound = "index_not_found_exception"
)

// cause is an error as Elasticsearch words it, with what led to it.
type cause struct {
	Type     string `json:"type"`
	Reason   string `json:"reason"`
	CausedBy *cause `json:"caused_by"`
}

// UnmarshalJSON reads the object form, and the bare text that some older
// endpoints and proxies answer with.
func (c *cause) UnmarshalJSON(b []byte) error {
	type object cause
	if len(b) > 0 && b[0] == '"' {
		return json.Unmarshal(b, &c.Reason)
	}
	return json.Unmarshal(b, (*object)(c))
}

// text returns the reasons from the outermost to the innermost. The inner ones
// name the value, the outer ones the field.
func (c *cause) text() string {
	text := ""
	for ; c != nil; c = c.CausedBy {
		switch {
		case c.Reason == "" || strings.Contains(text, c.Reason):
		case text == "":
			text = c.Reason
		default:
			text += ": " + c.Reason
		}
	}
	return text
}

// answer says what an error means.
type answer struct {
	class  saga.Class
	advice string
}

const (
	fixRow     = "fix the row or the entity's mapping in the catalog"
	freeDisk   = "free disk space on the nodes, or take the block off the index"
	comesBack  = "the cluster is not able to take it now"
	overloaded = "the cluster is overloaded"
	noLogin    = "check the user, password or API key"
	noAccess   = "check the privileges of the user or API key on the prefix's indices"
	noPipeline = "fix the index's ingest pipeline, or take it off the index"
)

// types holds the errors whose status alone would mislead, and those for which
// there is something better to say.
var types = map[string]answer{
	"mapper_parsing_exception":                 {saga.Rejected, fixRow},
	"document_parsing_exception":               {saga.Rejected, fixRow},
	"strict_dynamic_mapping_exception":         {saga.Rejected, fixRow},
	"illegal_argument_exception":               {saga.Rejected, fixRow},
	indexNotFound:                              {saga.Rejected, "run capsaga catalog apply, which creates the index and its alias"},
	"security_exception":                       {saga.Rejected, noAccess},
	"fail_processor_exception":                 {saga.Rejected, noPipeline},
	"ingest_processor_exception":               {saga.Rejected, noPipeline},
	"cluster_block_exception":                  {saga.Unavailable, freeDisk},
	"index_closed_exception":                   {saga.Unavailable, "open the index"},
	"task_cancelled_exception":                 {saga.Unavailable, "someone cancelled the request in the cluster"},
	"es_rejected_execution_exception":          {saga.Unavailable, overloaded},
	"circuit_breaking_exception":               {saga.Unavailable, overloaded},
	"unavailable_shards_exception":             {saga.Unavailable, comesBack},
	"no_shard_available_action_exception":      {saga.Unavailable, comesBack},
	"master_not_discovered_exception":          {saga.Unavailable, comesBack},
	"process_cluster_event_timeout_exception":  {saga.Unavailable, comesBack},
	"node_closed_exception":                    {saga.Unavailable, comesBack},
	"node_not_connected_exception":             {saga.Unavailable, comesBack},
	"coordination_state_rejected_exception":    {saga.Unavailable, comesBack},
	"failed_to_commit_cluster_state_exception": {saga.Unavailable, comesBack},
	"receive_timeout_transport_exception":      {saga.Ambiguous, "a node did not answer another in time, so it may have been done"},
}

// particular holds what Elasticsearch says under a type that covers much else; the
// first whose reason has the words counts.
var particular = []struct {
	kind, words string
	answer
}{
	{"illegal_argument_exception", "no write index is defined", answer{saga.Rejected, "let the alias have one index, or mark one of them as its write index"}},
	{"illegal_argument_exception", "Limit of total fields", answer{saga.Rejected, "raise index.mapping.total_fields.limit, or keep the entity's mapping from growing with its rows"}},
	{"illegal_argument_exception", "pipeline with id", answer{saga.Rejected, noPipeline}},
}

// answerOf says what an error means. A login that fails is "unavailable", whatever
// its type: it says nothing about the row, it hits every row at once, and a
// password or key that is being changed would else park, skip or even undo all
// writes of that minute. What the user may not do, once logged in, is a rejection:
// someone has decided so.
func answerOf(status int, kind, reason string) answer {
	if status == http.StatusUnauthorized || status == http.StatusProxyAuthRequired {
		return answer{saga.Unavailable, noLogin}
	}
	for _, p := range particular {
		if p.kind == kind && strings.Contains(reason, p.words) {
			return p.answer
		}
	}
	if a, ok := types[kind]; ok {
		return a
	}
	switch {
	case status == http.StatusForbidden:
		return answer{saga.Rejected, noAccess}
	case status == http.StatusRequestEntityTooLarge:
		return answer{saga.Rejected, "the row is larger than the server, or a proxy before it, takes; raise http.max_content_length"}
	case status == http.StatusTooManyRequests:
		return answer{saga.Unavailable, overloaded}
	case status == http.StatusRequestTimeout || status == http.StatusBadGateway || status == http.StatusGatewayTimeout:
		return answer{saga.Ambiguous, "it may have been done"}
	case status >= http.StatusInternalServerError:
		return answer{saga.Unavailable, "see the log of the cluster's nodes"}
	case status >= http.StatusBadRequest:
		return answer{saga.Rejected, fixRow}
	}
	return answer{saga.Unavailable, "Elasticsearch does not answer like that; check what listens there"}
}

// classifyStatus turns an error that Elasticsearch answered with into a
// *saga.Error. What says what was being done, and to which index and key.
func classifyStatus(what string, status int, c *cause) *saga.Error {
	kind, reason := "", http.StatusText(status)
	if c != nil {
		kind = c.Type
		if text := c.text(); text != "" {
			reason = text
		}
	}
	a := answerOf(status, kind, reason)
	label := fmt.Sprintf("status %d", status)
	if kind != "" {
		label += " " + kind
	}
	return &saga.Error{
		Class: a.class, System: system, Code: codeOf(a.class),
		Message: fmt.Sprintf("%s: %s (%s): %s", what, reason, label, a.advice),
	}
}

// classifyBody is classifyStatus for the whole answer to a request.
func classifyBody(what string, status int, body []byte) *saga.Error {
	return classifyStatus(what, status, causeOf(body))
}

// causeOf returns the error that an answer holds, if it does.
func causeOf(body []byte) *cause {
	var answer struct {
		Error *cause `json:"error"`
	}
	_ = json.Unmarshal(body, &answer) // a proxy's page is not JSON: the status says enough
	return answer.Error
}

// classify turns an error of the transport into a *saga.Error.
func classify(what string, err error) *saga.Error {
	e := &saga.Error{Class: saga.Ambiguous, System: system, Code: saga.CodeUnavailable, Err: err}
	if neverSent(err) {
		e.Class = saga.Unavailable
		e.Message = what + ": " + err.Error() + ": check that Elasticsearch runs there and lets this host in"
	} else {
		e.Message = what + ": no answer, it may have been done: " + err.Error()
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

// asRead makes any other error of what has no effect unambiguous.
func asRead(err error) error {
	var e *saga.Error
	if errors.As(err, &e) && e.Class == saga.Ambiguous {
		e.Class = saga.Unavailable
	}
	return err
}

// garbled is the error for an answer that cannot be read.
func garbled(what string, err error) *saga.Error {
	return &saga.Error{
		Class: saga.Ambiguous, System: system, Code: saga.CodeUnavailable, Err: err,
		Message: fmt.Sprintf("%s: the answer is not what Elasticsearch sends: %s: check what listens there", what, err),
	}
}

func rejected(code, message string) *saga.Error {
	return &saga.Error{Class: saga.Rejected, System: system, Code: code, Message: message}
}

func codeOf(class saga.Class) string {
	if class == saga.Rejected {
		return saga.CodeRejected
	}
	return saga.CodeUnavailable
}

// neverSent reports whether the error came up before any byte of a request left.
func neverSent(err error) bool {
	var dial *net.OpError
	if errors.As(err, &dial) && dial.Op == "dial" {
		return true
	}
	var certificate *tls.CertificateVerificationError
	var record tls.RecordHeaderError
	var alert tls.AlertError
	return errors.As(err, &certificate) || errors.As(err, &record) || errors.As(err, &alert)
}
