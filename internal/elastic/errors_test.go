package elastic

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"io"
	"net"
	"os"
	"syscall"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/capsaga/capsaga/saga"
)

func TestClassifyStatus(t *testing.T) {
	t.Parallel()
	cases := []struct {
		name   string
		status int
		cause  string // JSON, or nothing
		class  saga.Class
		says   string
	}{
		{"field", 400, `{"type":"document_parsing_exception","reason":"failed to parse field [price] of type [long]","caused_by":{"type":"illegal_argument_exception","reason":"For input string: \"x\""}}`, saga.Rejected, `field [price] of type [long]: For input string: "x"`},
		{"field, before 8.8", 400, `{"type":"mapper_parsing_exception","reason":"failed to parse field [price]"}`, saga.Rejected, "field [price]"},
		{"strict mapping", 400, `{"type":"strict_dynamic_mapping_exception","reason":"introduction of [x] is not allowed"}`, saga.Rejected, "[x]"},
		{"too many fields", 400, `{"type":"illegal_argument_exception","reason":"Limit of total fields [1000] has been exceeded"}`, saga.Rejected, "total fields"},
		{"no alias", 404, `{"type":"index_not_found_exception","reason":"no such index [p-users]"}`, saga.Rejected, "catalog apply"},
		{"too many fields, in the document", 400, `{"type":"document_parsing_exception","reason":"[1:9] failed to parse: Limit of total fields [1000] has been exceeded while adding new fields [1]","caused_by":{"type":"illegal_argument_exception","reason":"Limit of total fields [1000] has been exceeded while adding new fields [1]"}}`, saga.Rejected, "total fields"},
		{"another illegal argument", 400, `{"type":"illegal_argument_exception","reason":"mapper [price] cannot be changed from type [long] to [text]"}`, saga.Rejected, "fix the row"},
		{"a shape", 400, `{"type":"document_parsing_exception","reason":"failed to parse field [area] of type [geo_shape]","caused_by":{"type":"illegal_argument_exception","reason":"invalid shape: Polygon self-intersection at lat=1.0 lon=1.0"}}`, saga.Rejected, "self-intersection"},
		{"a shape, before 8", 400, `{"type":"mapper_parsing_exception","reason":"failed to parse field [area] of type [geo_shape]","caused_by":{"type":"invalid_shape_exception","reason":"Self-intersection at or near point (1.0, 1.0)"}}`, saga.Rejected, "Self-intersection"},
		{"an immense term", 400, `{"type":"document_parsing_exception","reason":"Document contains at least one immense term in field=\"title\" (whose UTF8 encoding is longer than the max length 32766)","caused_by":{"type":"max_bytes_length_exceeded_exception","reason":"bytes can be at most 32766 in length; got 40000"}}`, saga.Rejected, "at most 32766"},
		{"an id that is too long", 400, `{"type":"action_request_validation_exception","reason":"Validation Failed: 1: id is too long, must be no longer than 512 bytes but was: 513;"}`, saga.Rejected, "512 bytes"},
		{"no write index", 400, `{"type":"illegal_argument_exception","reason":"no write index is defined for alias [p-users]. The write index may be explicitly disabled using is_write_index=false or the alias points to multiple indices without one being designated as a write index"}`, saga.Rejected, "mark one of them"},
		{"a pipeline that is gone", 400, `{"type":"illegal_argument_exception","reason":"pipeline with id [clean] does not exist"}`, saga.Rejected, "ingest pipeline"},
		{"a pipeline that refuses", 500, `{"type":"fail_processor_exception","reason":"no price"}`, saga.Rejected, "ingest pipeline"},
		{"a pipeline that breaks", 500, `{"type":"ingest_processor_exception","reason":"java.lang.IllegalArgumentException: field [x] not present as part of path [x]"}`, saga.Rejected, "ingest pipeline"},
		{"closed index", 400, `{"type":"index_closed_exception","reason":"closed","index":"p-users-000001"}`, saga.Unavailable, "open the index"},
		{"a cancelled task", 400, `{"type":"task_cancelled_exception","reason":"task cancelled [by user request]"}`, saga.Unavailable, "cancelled"},
		{"a node that is slow", 500, `{"type":"receive_timeout_transport_exception","reason":"[n1][127.0.0.1:9300][indices:data/write/bulk[s]] request_id [7] timed out after [60000ms]"}`, saga.Ambiguous, "may have been done"},
		{"queue full", 429, `{"type":"es_rejected_execution_exception","reason":"rejected execution"}`, saga.Unavailable, "overloaded"},
		{"breaker", 429, `{"type":"circuit_breaking_exception","reason":"[parent] Data too large"}`, saga.Unavailable, "overloaded"},
		{"breaker, permanent", 503, `{"type":"circuit_breaking_exception","reason":"[parent] Data too large"}`, saga.Unavailable, "overloaded"},
		{"disk full", 429, `{"type":"cluster_block_exception","reason":"index [p-users] blocked by: [TOO_MANY_REQUESTS/12/disk usage exceeded flood-stage watermark]"}`, saga.Unavailable, "disk"},
		{"read only", 403, `{"type":"cluster_block_exception","reason":"index [p-users] blocked by: [FORBIDDEN/8/index write (api)]"}`, saga.Unavailable, "block"},
		{"no primary shard", 503, `{"type":"unavailable_shards_exception","reason":"primary shard is not active"}`, saga.Unavailable, "primary shard"},
		{"no shard", 503, `{"type":"no_shard_available_action_exception","reason":""}`, saga.Unavailable, "no_shard"},
		{"no master", 503, `{"type":"master_not_discovered_exception","reason":null}`, saga.Unavailable, "master"},
		{"slow master", 503, `{"type":"process_cluster_event_timeout_exception","reason":"failed to process"}`, saga.Unavailable, "failed to process"},
		{"node closed", 500, `{"type":"node_closed_exception","reason":"node closed"}`, saga.Unavailable, "node closed"},
		{"node gone", 500, `{"type":"node_not_connected_exception","reason":"not connected"}`, saga.Unavailable, "not connected"},
		{"master steps down", 500, `{"type":"coordination_state_rejected_exception","reason":"term"}`, saga.Unavailable, "term"},
		{"lost majority", 503, `{"type":"failed_to_commit_cluster_state_exception","reason":"publish"}`, saga.Unavailable, "publish"},
		{"no login", 401, `{"type":"security_exception","reason":"missing authentication credentials"}`, saga.Unavailable, "API key"},
		{"a wrong password", 401, `{"type":"security_exception","reason":"unable to authenticate user [elastic] for REST request [/_bulk]"}`, saga.Unavailable, "password"},
		{"no privilege", 403, `{"type":"security_exception","reason":"action is unauthorized"}`, saga.Rejected, "privileges"},
		{"no licence", 403, `{"type":"security_exception","reason":"current license is non-compliant for [security]"}`, saga.Rejected, "license"},
		{"a proxy's login", 401, ``, saga.Unavailable, "Unauthorized"},
		{"a proxy that wants a login itself", 407, ``, saga.Unavailable, "password"},
		{"a proxy's refusal", 403, ``, saga.Rejected, "Forbidden"},
		{"too large", 413, ``, saga.Rejected, "http.max_content_length"},
		{"overloaded", 429, ``, saga.Unavailable, "overloaded"},
		{"unavailable", 503, `"text of a proxy"`, saga.Unavailable, "text of a proxy"},
		{"timeout", 408, ``, saga.Ambiguous, "may have been done"},
		{"bad gateway", 502, ``, saga.Ambiguous, "may have been done"},
		{"gateway timeout", 504, ``, saga.Ambiguous, "may have been done"},
		{"internal error", 500, `{"type":"null_pointer_exception","reason":"oops"}`, saga.Unavailable, "oops"},
		{"any other refusal", 400, `{"type":"action_request_validation_exception","reason":"id is too long"}`, saga.Rejected, "too long"},
		{"a redirect", 302, ``, saga.Unavailable, "what listens there"},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			var failure *cause
			if c.cause != "" {
				require.NoError(t, json.Unmarshal([]byte(c.cause), &failure))
			}
			e := classifyStatus("index 7 in p-users", c.status, failure)
			assert.Equal(t, c.class, e.Class)
			assert.Equal(t, "elasticsearch", e.System)
			assert.Equal(t, c.class == saga.Rejected, e.Code == saga.CodeRejected)
			assert.ErrorContains(t, e, "index 7 in p-users")
			assert.ErrorContains(t, e, c.says)
		})
	}
}

func TestEveryTypeHasARow(t *testing.T) {
	t.Parallel()
	assert.Len(t, types, 22, "add a row to TestClassifyStatus, then count it here")
	assert.Len(t, particular, 3, "as well")
}

func TestClassifyTransport(t *testing.T) {
	t.Parallel()
	cases := []struct {
		err   error
		class saga.Class
	}{
		{&net.OpError{Op: "dial", Net: "tcp", Err: os.NewSyscallError("connect", syscall.ECONNREFUSED)}, saga.Unavailable},
		{&tls.CertificateVerificationError{Err: x509.UnknownAuthorityError{}}, saga.Unavailable},
		{tls.RecordHeaderError{Msg: "first record does not look like a TLS handshake"}, saga.Unavailable},
		{tls.AlertError(42), saga.Unavailable},
		{&net.OpError{Op: "read", Net: "tcp", Err: syscall.ECONNRESET}, saga.Ambiguous},
		{io.ErrUnexpectedEOF, saga.Ambiguous},
		{context.DeadlineExceeded, saga.Ambiguous},
		{errors.New("the client noticed that the server is not Elasticsearch"), saga.Ambiguous},
	}
	for _, c := range cases {
		t.Run(c.err.Error(), func(t *testing.T) {
			t.Parallel()
			e := classify("index 1 documents at h", c.err)
			assert.Equal(t, c.class, e.Class)
			assert.ErrorContains(t, e, "index 1 documents at h")
			assert.ErrorIs(t, e, c.err)
			assert.Equal(t, saga.Unavailable, classifyRead("get 1 from h", c.err).Class)
		})
	}
}

func TestWhatIsNotAnError(t *testing.T) {
	t.Parallel()
	s := &Store{prefix: "p"}
	doc := saga.Document{Entity: "users", Key: "7", Version: 1}
	conflict := &cause{Type: "version_conflict_engine_exception", Reason: "current version [5] is higher or equal"}
	assert.Equal(t, saga.Applied{}, s.result(doc, 409, conflict))
	assert.Equal(t, saga.Applied{Changed: true}, s.result(doc, 404, nil), "the row to delete is not there")
	assert.Equal(t, saga.Applied{Changed: true}, s.result(doc, 200, nil))
	assert.Equal(t, saga.Applied{Changed: true}, s.result(doc, 201, nil))
}
