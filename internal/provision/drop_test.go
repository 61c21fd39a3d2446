package provision_test

import (
	"context"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/capsaga/capsaga/internal/elastic"
	"github.com/capsaga/capsaga/internal/kafka"
	"github.com/capsaga/capsaga/internal/provision"
	"github.com/capsaga/capsaga/internal/redis"
	"github.com/capsaga/capsaga/saga"
)

// listed is the shop with a list of Kafka's tables.
var listed = strings.Replace(shop, "kafka_tables: all", "kafka_tables: [products, users, 'odd \"schema\".tab; le']", 1)

// withoutProducts is a catalog after products was taken out of it.
func withoutProducts(text string) string {
	text = strings.Replace(text, "[products, ", "[", 1)
	from, to := strings.Index(text, "  products:"), strings.Index(text, "  users:")
	return text[:from] + text[to:]
}

func (c *corner) dropDeps() provision.DropDeps {
	return provision.DropDeps{
		PostgresURL: c.PostgresURL, Prefix: c.Prefix,
		Redis: c.deps.Redis.(*redis.Store), Kafka: c.deps.Kafka.(*kafka.Client), Elasticsearch: c.deps.Elasticsearch.(*elastic.Store),
	}
}

// fill puts rows of the entities into the sinks.
func (c *corner) fill(entities ...string) {
	c.t.Helper()
	for _, entity := range entities {
		docs := []saga.Document{{Entity: entity, Key: "1", Version: 5, Row: []byte(`{"id":1}`)}, {Entity: entity, Key: "2", Version: 6}}
		_, err := c.deps.Redis.(*redis.Store).Apply(c.t.Context(), docs, func(string) (ttl, tombstoneTTL time.Duration) { return 0, time.Hour })
		require.NoError(c.t, err)
	}
}

func (c *corner) drop(text, entity string, o provision.DropOptions) []provision.Change {
	c.t.Helper()
	changes, err := provision.Drop(c.t.Context(), c.dropDeps(), parse(c.t, text), entity, o)
	require.NoError(c.t, err)
	return changes
}

// What apply made for an entity goes, wherever a run stops, and nothing else.
func TestDrop(t *testing.T) {
	t.Parallel()
	c := newCorner(t, "default")
	c.apply(listed)
	c.fill("products", "users")
	_, err := provision.Drop(t.Context(), c.dropDeps(), parse(t, listed), "products", provision.DropOptions{})
	require.ErrorContains(t, err, "entity products is in the catalog: take it out of the file, apply it, start all workers anew")
	without := withoutProducts(listed)
	before := c.state()

	would := c.drop(without, "products", provision.DropOptions{DryRun: true})
	assert.Equal(t, before, c.state(), "a dry run changes nothing")
	assert.Equal(t, 7, actions(would)[provision.Dropped], "%v", would)

	for step := 1; step < len(would); step++ {
		ctx, crash := context.WithCancel(t.Context())
		done := 0
		_, err := provision.Drop(ctx, c.dropDeps(), parse(t, without), "products", provision.DropOptions{Progress: func(provision.Change) {
			if done++; done == step {
				crash()
			}
		}})
		crash()
		require.Error(t, err)
	}
	last := c.drop(without, "products", provision.DropOptions{})
	assert.Equal(t, "entity", last[len(last)-1].Kind)
	state := c.state()
	assert.Contains(t, state, "espub all=f t \nkafkapub all=f t odd \"schema\".tab; le,public.users\nredispub all=f t odd \"schema\".tab; le,public.users\n")
	assert.NotContains(t, state, "public.products")
	assert.Contains(t, state, "alias 404")
	keys, err := c.deps.Redis.(*redis.Store).Count(t.Context(), "products")
	require.NoError(t, err)
	assert.Zero(t, keys)
	keys, err = c.deps.Redis.(*redis.Store).Count(t.Context(), "users")
	require.NoError(t, err)
	assert.Equal(t, 2, keys, "another entity's are left alone")
	assert.Equal(t, "0", c.text("SELECT count(*)::text FROM capsaga.entity WHERE entity = 'products'"))
	assert.Equal(t, "0", c.text("SELECT count(*)::text FROM capsaga.backfill WHERE entity = 'products'"))
	assert.Equal(t, "0", c.text("SELECT count(*)::text FROM products"), "the table stays")
	_, err = provision.Drop(t.Context(), c.dropDeps(), parse(t, without), "products", provision.DropOptions{})
	require.ErrorContains(t, err, "nothing is known of an entity products")

	c.apply(listed)
	assert.Equal(t, "{redis,kafka,elasticsearch}", c.text("SELECT sinks::text FROM capsaga.backfill WHERE entity = 'products' AND floor IS NULL"), "it counts as new")
}

// A topic that kafkapub still writes stays.
func TestDropKeepsATopicThatIsPublished(t *testing.T) {
	t.Parallel()
	c := newCorner(t, "default")
	c.apply(shop)
	changes := c.drop(withoutProducts(shop), "products", provision.DropOptions{})
	assert.Equal(t, "it stays, as kafka_tables: all publishes every table", change(t, changes, string(c.Prefix)+".public.products").Detail)
	assert.Contains(t, c.state(), "public.products partitions=2 compact")
	_, err := provision.Drop(t.Context(), c.dropDeps(), parse(t, shop), "nonesuch", provision.DropOptions{})
	require.ErrorContains(t, err, "nothing is known of an entity nonesuch")
}
