package kafka

import (
	"context"
	"errors"
	"fmt"
	"net"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/capsaga/capsaga/saga"
)

const system = "kafka"

// rejections are the broker's errors that no retry changes; someone has to
// change the cluster, the topic or the record. A login that fails is among them,
// other than in Redis and Elasticsearch: here the stream is what fails, which
// raises its alarm then, while the sagas only wait for it and none is rejected.
var rejections = []*kerr.Error{
	kerr.MessageTooLarge, kerr.RecordListTooLarge, kerr.InvalidRecord, kerr.InvalidTimestamp,
	kerr.TopicAuthorizationFailed, kerr.ClusterAuthorizationFailed, kerr.TransactionalIDAuthorizationFailed,
	kerr.SaslAuthenticationFailed, kerr.UnsupportedSaslMechanism, kerr.IllegalSaslState,
	kerr.InvalidTopicException, kerr.InvalidPartitions, kerr.InvalidReplicationFactor, kerr.InvalidReplicaAssignment,
	kerr.InvalidConfig, kerr.PolicyViolation, kerr.InvalidRequest, kerr.UnsupportedVersion,
	kerr.UnsupportedForMessageFormat, kerr.UnsupportedCompressionType, kerr.InvalidRequiredAcks,
	kerr.SecurityDisabled,
}

// ambiguities are the errors after which a record may have been written, or the
// broker and this producer disagree on what was. A new producer begins again from
// what is confirmed.
var ambiguities = []*kerr.Error{
	kerr.OutOfOrderSequenceNumber, kerr.UnknownProducerID, kerr.InvalidProducerEpoch,
	kerr.InvalidProducerIDMapping, kerr.ProducerFenced, kerr.DuplicateSequenceNumber,
	kerr.RequestTimedOut, kerr.NetworkException, kerr.NotEnoughReplicasAfterAppend,
}

// unsent are the driver's own errors that leave open what became of a record.
var unsent = []error{kgo.ErrRecordTimeout, kgo.ErrRecordRetries}

// All else is "unavailable": a leader that moves, a topic that is not there yet,
// too few replicas, a quota, a disk error, a connection that breaks. Whoever runs
// the cluster mends that, and the same record passes.

// Classify turns the driver's error of an action into a *saga.Error. One that is
// classified already passes.
func Classify(action string, err error) error {
	if err == nil {
		return nil
	}
	var known *saga.Error
	if errors.As(err, &known) {
		return err
	}
	e := &saga.Error{Class: saga.Unavailable, System: system, Code: saga.CodeUnavailable, Err: err}
	switch {
	case isOneOf(err, rejections):
		e.Class, e.Code = saga.Rejected, saga.CodeRejected
	case isOneOf(err, ambiguities), isOneOf(err, unsent):
		e.Class = saga.Ambiguous
	}
	e.Message = fmt.Sprintf("%s: %s", action, describe(err))
	return e
}

func isOneOf[E error](err error, list []E) bool {
	for _, known := range list {
		if errors.Is(err, known) {
			return true
		}
	}
	return false
}

func describe(err error) string {
	var broker *kerr.Error
	var network *net.OpError
	var hangup *kgo.ErrFirstReadEOF
	switch {
	case errors.As(err, &broker):
		return broker.Description + " (" + broker.Message + ")"
	case errors.Is(err, kgo.ErrClientClosed), errors.Is(err, kgo.ErrAborting):
		return "aborted, as the producer was closed"
	case errors.As(err, &hangup):
		return "the broker hangs up on a new connection: check CAPSAGA_KAFKA_TLS and CAPSAGA_KAFKA_SASL_MECHANISM"
	case errors.Is(err, context.DeadlineExceeded):
		return "no answer in time"
	case errors.Is(err, context.Canceled):
		return "cancelled"
	case errors.As(err, &network): // without the ports, which differ each time
		return network.Op + ": " + network.Err.Error() + adviceAway
	}
	return err.Error() + adviceAway
}

const adviceAway = ": check that the brokers run and that CAPSAGA_KAFKA_BROKERS is right"

// TooLarge reports whether a record or a batch was refused for its size.
func TooLarge(err error) bool {
	return errors.Is(err, kerr.MessageTooLarge) || errors.Is(err, kerr.RecordListTooLarge)
}

// refusals are those of the rejections that concern one topic. A replication factor
// that the brokers cannot serve is not among them: it may be that some are away.
var refusals = []*kerr.Error{
	kerr.TopicAuthorizationFailed, kerr.InvalidTopicException, kerr.InvalidRecord, kerr.InvalidTimestamp,
	kerr.MessageTooLarge, kerr.RecordListTooLarge, kerr.PolicyViolation, kerr.InvalidConfig, kerr.InvalidPartitions,
	kerr.UnsupportedForMessageFormat, kerr.UnsupportedCompressionType,
}

// TopicRefuses reports whether an error is a topic's own and lasts until someone
// changes the topic or its rights.
func TopicRefuses(err error) bool { return isOneOf(err, refusals) }
