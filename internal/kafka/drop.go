package kafka

import (
	"context"
	"errors"

	"github.com/twmb/franz-go/pkg/kerr"
)

// DeleteTopic deletes a topic with all its records. It returns false for one that is
// not there.
func (c *Client) DeleteTopic(ctx context.Context, name string) (deleted bool, err error) {
	response, err := c.admin.DeleteTopic(ctx, name)
	if err == nil {
		err = response.Err
	}
	if errors.Is(err, kerr.UnknownTopicOrPartition) {
		return false, nil
	}
	return err == nil, Classify("delete topic "+name, err)
}
