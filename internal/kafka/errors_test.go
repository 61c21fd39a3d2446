package kafka

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/capsaga/capsaga/saga"
)

func TestClassify(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		err   error
		class saga.Class
		code  string
	}{
		{kerr.MessageTooLarge, saga.Rejected, saga.CodeRejected},
		{fmt.Errorf("%w (uncompressed_bytes=9)", kerr.MessageTooLarge), saga.Rejected, saga.CodeRejected},
		{kerr.RecordListTooLarge, saga.Rejected, saga.CodeRejected},
		{kerr.InvalidRecord, saga.Rejected, saga.CodeRejected},
		{kerr.InvalidTimestamp, saga.Rejected, saga.CodeRejected},
		{kerr.TopicAuthorizationFailed, saga.Rejected, saga.CodeRejected},
		{kerr.ClusterAuthorizationFailed, saga.Rejected, saga.CodeRejected},
		{kerr.TransactionalIDAuthorizationFailed, saga.Rejected, saga.CodeRejected},
		{kerr.SaslAuthenticationFailed, saga.Rejected, saga.CodeRejected},
		{kerr.UnsupportedSaslMechanism, saga.Rejected, saga.CodeRejected},
		{kerr.IllegalSaslState, saga.Rejected, saga.CodeRejected},
		{kerr.InvalidTopicException, saga.Rejected, saga.CodeRejected},
		{kerr.InvalidPartitions, saga.Rejected, saga.CodeRejected},
		{kerr.InvalidReplicationFactor, saga.Rejected, saga.CodeRejected},
		{kerr.InvalidConfig, saga.Rejected, saga.CodeRejected},
		{kerr.PolicyViolation, saga.Rejected, saga.CodeRejected},
		{kerr.InvalidRequest, saga.Rejected, saga.CodeRejected},
		{kerr.UnsupportedVersion, saga.Rejected, saga.CodeRejected},
		{kerr.UnsupportedForMessageFormat, saga.Rejected, saga.CodeRejected},
		{kerr.UnsupportedCompressionType, saga.Rejected, saga.CodeRejected},
		{kerr.InvalidRequiredAcks, saga.Rejected, saga.CodeRejected},
		{kerr.SecurityDisabled, saga.Rejected, saga.CodeRejected},
		{kerr.OutOfOrderSequenceNumber, saga.Ambiguous, saga.CodeUnavailable},
		{kerr.UnknownProducerID, saga.Ambiguous, saga.CodeUnavailable},
		{kerr.InvalidProducerEpoch, saga.Ambiguous, saga.CodeUnavailable},
		{kerr.InvalidProducerIDMapping, saga.Ambiguous, saga.CodeUnavailable},
		{kerr.ProducerFenced, saga.Ambiguous, saga.CodeUnavailable},
		{kerr.DuplicateSequenceNumber, saga.Ambiguous, saga.CodeUnavailable},
		{kerr.UnknownTopicOrPartition, saga.Unavailable, saga.CodeUnavailable},
		{kerr.NotEnoughReplicas, saga.Unavailable, saga.CodeUnavailable},
		{kerr.RequestTimedOut, saga.Unavailable, saga.CodeUnavailable},
		{kgo.ErrClientClosed, saga.Unavailable, saga.CodeUnavailable},
		{kgo.ErrAborting, saga.Unavailable, saga.CodeUnavailable},
		{io.EOF, saga.Unavailable, saga.CodeUnavailable},
		{context.DeadlineExceeded, saga.Unavailable, saga.CodeUnavailable},
		{context.Canceled, saga.Unavailable, saga.CodeUnavailable},
	} {
		t.Run(strings.ReplaceAll(c.err.Error(), "/", "_"), func(t *testing.T) {
			t.Parallel()
			err := Classify("write to topic films", c.err)
			var classified *saga.Error
			require.ErrorAs(t, err, &classified)
			require.Equal(t, c.class, classified.Class)
			require.Equal(t, c.code, classified.Code)
			require.Contains(t, classified.Message, "write to topic films")
			require.ErrorIs(t, err, c.err)
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
