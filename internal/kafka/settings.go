package kafka

import (
	"context"
	"errors"
	"slices"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kerr"
)

// The settings of a topic that Capsaga looks at.
const (
	SettingCleanup   = "cleanup.policy"
	SettingRetention = "retention.ms"
)

// TopicState is a topic as it is.
type TopicState struct {
	Partitions int
	// Settings holds SettingCleanup and SettingRetention.
	Settings map[string]string
}

// DescribeTopics returns those of the topics that are there.
func (c *Client) DescribeTopics(ctx context.Context, names []string) (map[string]TopicState, error) {
	states := map[string]TopicState{}
	if len(names) == 0 {
		return states, nil // no names would mean all topics
	}
	const action = "look up topics"
	topics, err := c.admin.ListTopics(ctx, names...)
	if err != nil {
		return nil, Classify(action, err)
	}
	var there []string
	for name, topic := range topics {
		switch {
		case errors.Is(topic.Err, kerr.UnknownTopicOrPartition):
		case topic.Err != nil && !errors.Is(topic.Err, kerr.LeaderNotAvailable):
			return nil, Classify("look up topic "+name, topic.Err)
		default:
			there = append(there, name)
			states[name] = TopicState{Partitions: len(topic.Partitions), Settings: map[string]string{}}
		}
	}
	if len(there) == 0 {
		return states, nil
	}
	configs, err := c.admin.DescribeTopicConfigs(ctx, there...)
	if err != nil {
		return nil, Classify("read the settings of topics", err)
	}
	for _, config := range configs {
		if config.Err != nil {
			return nil, Classify("read the settings of topic "+config.Name, config.Err)
		}
		for _, setting := range config.Configs {
			if slices.Contains([]string{SettingCleanup, SettingRetention}, setting.Key) && setting.Value != nil {
				states[config.Name].Settings[setting.Key] = *setting.Value
			}
		}
	}
	return states, nil
}

// AlterTopic changes settings of a topic and leaves its others.
func (c *Client) AlterTopic(ctx context.Context, name string, settings map[string]string) error {
	action := "change the settings of topic " + name
	var changes []kadm.AlterConfig
	for key, value := range settings {
		changes = append(changes, kadm.AlterConfig{Op: kadm.SetConfig, Name: key, Value: &value})
	}
	responses, err := c.admin.AlterTopicConfigs(ctx, changes, name)
	if err != nil {
		return Classify(action, err)
	}
	for _, response := range responses {
		if response.Err != nil {
			return Classify(action+" "+response.ErrMessage, response.Err)
		}
	}
	return nil
}
