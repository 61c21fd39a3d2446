package kafka

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"syscall"
	"testing"

	"github.com/stretchr/testify/require"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/capsaga/capsaga/saga"
)

// What brokers answer, by the code on the wire and its name in Kafka's protocol.
func TestClassifyBrokersErrors(t *testing.T) {
	t.Parallel()
	rows := []struct {
		code  int16
		name  string
		class saga.Class
	}{
		{10, "MESSAGE_TOO_LARGE", saga.Rejected},
		{17, "INVALID_TOPIC_EXCEPTION", saga.Rejected},
		{18, "RECORD_LIST_TOO_LARGE", saga.Rejected},
		{21, "INVALID_REQUIRED_ACKS", saga.Rejected},
		{29, "TOPIC_AUTHORIZATION_FAILED", saga.Rejected},
		{31, "CLUSTER_AUTHORIZATION_FAILED", saga.Rejected},
		{32, "INVALID_TIMESTAMP", saga.Rejected},
		{33, "UNSUPPORTED_SASL_MECHANISM", saga.Rejected},
		{34, "ILLEGAL_SASL_STATE", saga.Rejected},
		{35, "UNSUPPORTED_VERSION", saga.Rejected},
		{37, "INVALID_PARTITIONS", saga.Rejected},
		{38, "INVALID_REPLICATION_FACTOR", saga.Rejected},
		{39, "INVALID_REPLICA_ASSIGNMENT", saga.Rejected},
		{40, "INVALID_CONFIG", saga.Rejected},
		{42, "INVALID_REQUEST", saga.Rejected},
		{43, "UNSUPPORTED_FOR_MESSAGE_FORMAT", saga.Rejected},
		{44, "POLICY_VIOLATION", saga.Rejected},
		{53, "TRANSACTIONAL_ID_AUTHORIZATION_FAILED", saga.Rejected},
		{54, "SECURITY_DISABLED", saga.Rejected},
		{58, "SASL_AUTHENTICATION_FAILED", saga.Rejected},
		{76, "UNSUPPORTED_COMPRESSION_TYPE", saga.Rejected},
		{87, "INVALID_RECORD", saga.Rejected},

		{7, "REQUEST_TIMED_OUT", saga.Ambiguous},
		{13, "NETWORK_EXCEPTION", saga.Ambiguous},
		{20, "NOT_ENOUGH_REPLICAS_AFTER_APPEND", saga.Ambiguous},
		{45, "OUT_OF_ORDER_SEQUENCE_NUMBER", saga.Ambiguous},
		{46, "DUPLICATE_SEQUENCE_NUMBER", saga.Ambiguous},
		{47, "INVALID_PRODUCER_EPOCH", saga.Ambiguous},
		{49, "INVALID_PRODUCER_ID_MAPPING", saga.Ambiguous},
		{59, "UNKNOWN_PRODUCER_ID", saga.Ambiguous},
		{90, "PRODUCER_FENCED", saga.Ambiguous},

		{-1, "UNKNOWN_SERVER_ERROR", saga.Unavailable},
		{2, "CORRUPT_MESSAGE", saga.Unavailable},
		{3, "UNKNOWN_TOPIC_OR_PARTITION", saga.Unavailable},
		{5, "LEADER_NOT_AVAILABLE", saga.Unavailable},
		{6, "NOT_LEADER_FOR_PARTITION", saga.Unavailable},
		{8, "BROKER_NOT_AVAILABLE", saga.Unavailable},
		{9, "REPLICA_NOT_AVAILABLE", saga.Unavailable},
		{14, "COORDINATOR_LOAD_IN_PROGRESS", saga.Unavailable},
		{15, "COORDINATOR_NOT_AVAILABLE", saga.Unavailable},
		{16, "NOT_COORDINATOR", saga.Unavailable},
		{19, "NOT_ENOUGH_REPLICAS", saga.Unavailable},
		{41, "NOT_CONTROLLER", saga.Unavailable},
		{56, "KAFKA_STORAGE_ERROR", saga.Unavailable},
		{74, "FENCED_LEADER_EPOCH", saga.Unavailable},
		{75, "UNKNOWN_LEADER_EPOCH", saga.Unavailable},
		{89, "THROTTLING_QUOTA_EXCEEDED", saga.Unavailable},
		{100, "UNKNOWN_TOPIC_ID", saga.Unavailable},
		{103, "INCONSISTENT_TOPIC_ID", saga.Unavailable},
		{9999, "UNKNOWN_SERVER_ERROR", saga.Unavailable}, // of a later Kafka
	}
	seen := map[int16]bool{}
	for _, row := range rows {
		seen[row.code] = true
		t.Run(fmt.Sprint(row.code, " ", row.name), func(t *testing.T) {
			t.Parallel()
			checkClass(t, fmt.Errorf("produce: %w", kerr.ErrorForCode(row.code)), row.class, row.name)
		})
	}
	for _, entry := range append(append([]*kerr.Error{}, rejections...), ambiguities...) {
		require.True(t, seen[entry.Code], "%s has no row", entry.Message)
	}
}

// checkClass checks what an error becomes.
func checkClass(t *testing.T, err error, class saga.Class, says string) {
	t.Helper()
	got := Classify("write to topic films", err)
	var classified *saga.Error
	require.ErrorAs(t, got, &classified)
	require.Equal(t, class, classified.Class)
	require.Equal(t, class == saga.Rejected, classified.Code == saga.CodeRejected)
	require.Contains(t, classified.Message, "write to topic films")
	require.Contains(t, classified.Message, says)
	require.ErrorIs(t, got, err)
}

// What the driver says by itself.
func TestClassifyDriversErrors(t *testing.T) {
	t.Parallel()
	for _, row := range []struct {
		name  string
		err   error
		class saga.Class
		says  string
	}{
		{"a record over the topic's limit", fmt.Errorf("%w (uncompressed_bytes=9)", kerr.MessageTooLarge), saga.Rejected, "MESSAGE_TOO_LARGE"},
		{"a record that waited too long", kgo.ErrRecordTimeout, saga.Ambiguous, "timed out"},
		{"a record that failed too often", kgo.ErrRecordRetries, saga.Ambiguous, "too many times"},
		{"the producer was closed", kgo.ErrClientClosed, saga.Unavailable, "closed"},
		{"the producer is being closed", kgo.ErrAborting, saga.Unavailable, "closed"},
		{"too much is buffered", kgo.ErrMaxBuffered, saga.Unavailable, "buffered"},
		{"a hang-up at the handshake", fmt.Errorf("dial: %w", &kgo.ErrFirstReadEOF{}), saga.Unavailable, "CAPSAGA_KAFKA_TLS"},
		{"a hang-up later", io.EOF, saga.Unavailable, "check that the brokers run"},
		{"nobody listens", &net.OpError{Op: "dial", Net: "tcp", Err: os.NewSyscallError("connect", syscall.ECONNREFUSED)}, saga.Unavailable, "refused"},
		{"an unknown host", &net.DNSError{Err: "no such host", Name: "kafka.example.org"}, saga.Unavailable, "no such host"},
		{"no answer", context.DeadlineExceeded, saga.Unavailable, "in time"},
		{"cancelled", context.Canceled, saga.Unavailable, "cancelled"},
	} {
		t.Run(row.name, func(t *testing.T) {
			t.Parallel()
			checkClass(t, row.err, row.class, row.says)
		})
	}
}

func TestClassifyPassesWhatItKnows(t *testing.T) {
	t.Parallel()
	require.NoError(t, Classify("ping", nil))
	known := &saga.Error{Class: saga.Rejected, System: "postgres"}
	wrapped := fmt.Errorf("around: %w", known)
	require.Equal(t, wrapped, Classify("ping", wrapped))
	require.False(t, errors.Is(Classify("ping", io.EOF), known))
}

func TestConfigRefusesWhatIsWrong(t *testing.T) {
	t.Parallel()
	for name, config := range map[string]Config{
		"no brokers":         {},
		"a broker's form":    {Brokers: []string{"localhost"}},
		"a mechanism":        {Brokers: []string{"localhost:9092"}, SASL: SASL{Mechanism: "MAGIC", Password: "secret"}},
		"a certificate file": {Brokers: []string{"localhost:9092"}, CAFile: "absent.pem"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			_, err := Open(config)
			require.Error(t, err)
			require.Equal(t, saga.Rejected, saga.ClassOf(err))
			require.NotContains(t, err.Error(), "secret")
		})
	}
}
