package kafka

import (
	"context"
	"errors"
	"strconv"
	"strings"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kerr"
)

// TopicSpec is a topic as it should be created. One that is there already is
// left as it is: its settings are its owner's.
type TopicSpec struct {
	Name        string
	Partitions  int    // default 1
	Replication int    // default 1
	Cleanup     string // cleanup.policy; default "compact"
	Retention   string // retention.ms; default the brokers'
}

func (s TopicSpec) withDefaults() TopicSpec {
	s.Partitions = max(s.Partitions, 1)
	s.Replication = max(s.Replication, 1)
	if s.Cleanup == "" {
		s.Cleanup = "compact"
	}
	return s
}

// EnsureTopics creates the topics that are missing, waits until their
// partitions have leaders, and returns the names of those that it created.
func (c *Client) EnsureTopics(ctx context.Context, specs []TopicSpec) ([]string, error) {
	var created []string
	for _, spec := range specs {
		is, err := c.ensureTopic(ctx, spec.withDefaults())
		if err != nil {
			return created, err
		}
		if is {
			created = append(created, spec.Name)
		}
	}
	return created, nil
}

func (c *Client) ensureTopic(ctx context.Context, spec TopicSpec) (created bool, err error) {
	action := "create topic " + spec.Name
	there, err := c.topicReady(ctx, spec.Name)
	if err != nil || there {
		return false, Classify("look up topic "+spec.Name, err)
	}
	configs := map[string]*string{SettingCleanup: &spec.Cleanup}
	if spec.Retention != "" {
		configs[SettingRetention] = &spec.Retention
	}
	response, err := c.admin.CreateTopic(ctx, int32(spec.Partitions), int16(spec.Replication), configs, spec.Name)
	if err == nil {
		err = response.Err
	}
	switch {
	case errors.Is(err, kerr.TopicAlreadyExists): // another worker was first
	case err != nil && response.ErrMessage != "":
		return false, Classify(action+": "+response.ErrMessage, err)
	case err != nil:
		return false, Classify(action, err)
	default:
		created = true
	}
	return created, Classify("wait for the leaders of topic "+spec.Name, c.awaitTopic(ctx, spec.Name))
}

// awaitTopic returns when every partition has a leader: a producer that is
// faster than the brokers' metadata counts the topic as unknown.
func (c *Client) awaitTopic(ctx context.Context, name string) error {
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for {
		ready, err := c.topicReady(ctx, name)
		if err != nil || ready {
			return err
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// TopicID returns the cluster's id of a topic, ready or not; empty when there is none.
func (c *Client) TopicID(ctx context.Context, name string) (string, error) {
	topic, err := c.lookUp(ctx, name)
	switch {
	case errors.Is(err, kerr.UnknownTopicOrPartition):
		return "", nil
	case err != nil && !errors.Is(err, kerr.LeaderNotAvailable):
		return "", Classify("look up topic "+name, err)
	}
	return topic.ID.String(), nil
}

// lookUp returns what the brokers say of a topic, with their error of it.
func (c *Client) lookUp(ctx context.Context, name string) (kadm.TopicDetail, error) {
	topics, err := c.admin.ListTopics(ctx, name)
	if err == nil {
		err = topics[name].Err
	}
	return topics[name], err
}

func (c *Client) topicReady(ctx context.Context, name string) (bool, error) {
	topics, err := c.admin.ListTopics(ctx, name)
	if err != nil {
		return false, err
	}
	topic, ok := topics[name]
	switch {
	case !ok, errors.Is(topic.Err, kerr.UnknownTopicOrPartition):
		return false, nil
	case errors.Is(topic.Err, kerr.LeaderNotAvailable):
		return false, nil
	case topic.Err != nil:
		return false, topic.Err
	}
	for _, partition := range topic.Partitions {
		if partition.Err != nil || partition.Leader < 0 {
			return false, nil
		}
	}
	return len(topic.Partitions) > 0, nil
}

// Topic describes a topic to its producer.
func (c *Client) Topic(ctx context.Context, name string) (Topic, error) {
	detail, err := c.lookUp(ctx, name)
	if err != nil {
		return Topic{}, Classify("look up topic "+name, err)
	}
	topic := Topic{Name: name, ID: detail.ID.String(), Partitions: len(detail.Partitions)}
	action := "read the settings of topic " + name
	configs, err := c.admin.DescribeTopicConfigs(ctx, name)
	if err != nil {
		return Topic{}, Classify(action, err)
	}
	config, err := configs.On(name, func(r *kadm.ResourceConfig) error { return r.Err })
	if err != nil {
		return Topic{}, Classify(action, err)
	}
	for _, setting := range config.Configs {
		switch {
		case setting.Value == nil:
		case setting.Key == "max.message.bytes":
			if topic.MaxBytes, err = strconv.Atoi(*setting.Value); err != nil {
				return Topic{}, Classify(action, err)
			}
		case setting.Key == SettingCleanup:
			topic.Compacted = strings.Contains(*setting.Value, "compact")
		}
	}
	if topic.MaxBytes == 0 || topic.Partitions == 0 {
		return Topic{}, Classify(action, errors.New("it has no max.message.bytes or no partitions"))
	}
	return topic, nil
}
