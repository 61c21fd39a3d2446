package kafka

import (
	"context"
	"fmt"
	"strings"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"
)

// Client is a connection to the cluster for all but producing.
type Client struct {
	config Config
	client *kgo.Client
	admin  *kadm.Client
}

// Open checks the configuration. It connects lazily; Ping tells whether the
// cluster is there.
func Open(config Config) (*Client, error) {
	opts, err := config.options()
	if err != nil {
		return nil, err
	}
	client, err := kgo.NewClient(opts...)
	if err != nil {
		return nil, invalid(fmt.Sprintf("configure the client: %s", err))
	}
	return &Client{config: config, client: client, admin: kadm.NewClient(client)}, nil
}

// Ping reports whether a broker answers.
func (c *Client) Ping(ctx context.Context) error {
	return Classify("ping "+c.Address(), c.client.Ping(ctx))
}

// Address names the brokers, for messages.
func (c *Client) Address() string { return strings.Join(c.config.Brokers, ",") }

// Close ends the connections. Producers have their own.
func (c *Client) Close() { c.client.Close() }
