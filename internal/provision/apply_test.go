package provision_test

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/url"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pglogrepl"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"go.temporal.io/api/enums/v1"
	"go.temporal.io/api/operatorservice/v1"
	"go.temporal.io/sdk/client"
	"go.temporal.io/sdk/temporal"

	"github.com/capsaga/capsaga/internal/attribute"
	"github.com/capsaga/capsaga/internal/catalog"
	"github.com/capsaga/capsaga/internal/kafka"
	"github.com/capsaga/capsaga/internal/provision"
	"github.com/capsaga/capsaga/internal/stacktest"
	"github.com/capsaga/capsaga/saga"
)

func actions(changes []provision.Change) map[provision.Action]int {
	counts := map[provision.Action]int{}
	for _, c := range changes {
		counts[c.Action]++
	}
	return counts
}

func TestApplyTwiceIsOnce(t *testing.T) {
	t.Parallel()
	c := newCorner(t, "")
	namespace := c.newNamespace()
	first := c.apply(shop)
	assert.Equal(t, map[provision.Action]int{provision.Created: len(first)}, actions(first), "%v", first)
	assert.Equal(t, shopState, c.state())

	// The search attributes are usable at once.
	scoped, err := client.NewClientFromExisting(c.client, client.Options{Namespace: namespace})
	require.NoError(t, err)
	w := saga.Write{SagaID: "s", Mutations: []saga.Mutation{{Entity: "products"}}}
	_, err = scoped.ExecuteWorkflow(t.Context(), client.StartWorkflowOptions{
		TaskQueue: string(c.Prefix), WorkflowExecutionTimeout: time.Minute,
		TypedSearchAttributes: temporal.NewSearchAttributes(attribute.Start(&w)...),
	}, saga.WorkflowSaga)
	require.NoError(t, err)

	second := c.apply(shop)
	assert.Equal(t, map[provision.Action]int{provision.Unchanged: len(first)}, actions(second), "%v", second)
	assert.Equal(t, shopState, c.state())
	for i := range first {
		assert.Equal(t, first[i].Name, second[i].Name)
	}
}

// A run that ends between two steps is made good by the next.
func TestApplyAfterCrash(t *testing.T) {
	t.Parallel()
	whole := len(newCorner(t, "default").apply(shop))
	for step := 1; step <= whole; step++ {
		t.Run(fmt.Sprintf("between %d and %d", step, step+1), func(t *testing.T) {
			t.Parallel()
			c := newCorner(t, "default")
			ctx, crash := context.WithCancel(t.Context())
			defer crash()
			done := 0
			changes, err := provision.Apply(ctx, c.deps, parse(t, shop), provision.Options{Progress: func(provision.Change) {
				if done++; done == step {
					crash()
				}
			}})
			require.Error(t, err)
			assert.GreaterOrEqual(t, len(changes), step)
			c.apply(shop)
			assert.Equal(t, shopState, c.state())
		})
	}
}

// So is one that ends in the middle of a step, with its effect done.
func TestApplyAfterLostAnswer(t *testing.T) {
	t.Parallel()
	for call := 1; ; call++ {
		c := newCorner(t, "default")
		l := &lossy{Kafka: c.deps.Kafka, Elasticsearch: c.deps.Elasticsearch, left: call}
		deps := c.deps
		deps.Kafka, deps.Elasticsearch = l, l
		_, err := provision.Apply(t.Context(), deps, parse(t, shop), provision.Options{})
		if l.left > 0 {
			require.NoError(t, err)
			assert.Equal(t, 9, call, "six topics, one setting, one index were each lost once")
			return
		}
		require.ErrorIs(t, err, errLost)
		c.apply(shop)
		assert.Equal(t, shopState, c.state(), "answer %d lost", call)
	}
}

func TestApplyFollowsTheCatalog(t *testing.T) {
	t.Parallel()
	c := newCorner(t, "default")
	c.apply(shop)
	list := func(tables string) string {
		return strings.Replace(shop, "kafka_tables: all", "kafka_tables: "+tables, 1)
	}
	const odd = `'odd "schema".tab; le'`
	kafkapub := func() string { return strings.Split(c.state(), "\n")[1] }

	listed := list("[products, users, " + odd + "]")
	assert.Equal(t, 1, actions(c.apply(listed))[provision.Changed])
	assert.Equal(t, `kafkapub all=f t odd "schema".tab; le,public.products,public.users`, kafkapub())
	assert.Zero(t, actions(c.apply(listed))[provision.Changed])

	grown := list("[products, users, other, parts, " + odd + "]")
	c.apply(grown)
	assert.Equal(t, `kafkapub all=f t odd "schema".tab; le,public.other,public.parts,public.products,public.users`, kafkapub())

	// An entity gains a sink, another loses one, and a topic its policy.
	changed := strings.Replace(grown, "sinks: {redis: {}, kafka: {cleanup: delete}}", `sinks: {kafka: {cleanup: "compact,delete"}}`, 1)
	counts := actions(c.apply(changed))
	assert.Equal(t, 2, counts[provision.Changed], "redispub and the topic of users")
	assert.Contains(t, c.state(), "redispub all=f t odd \"schema\".tab; le,public.products\n")
	assert.Contains(t, c.state(), "public.users partitions=1 compact,delete")
	assert.Zero(t, actions(c.apply(changed))[provision.Changed])

	c.apply(shop)
	assert.Equal(t, shopState, c.state(), "and back")

	c.apply(cacheOnly)
	assert.Contains(t, c.state(), "espub all=f t \nkafkapub all=f t \nredispub all=f t public.users\n")
	assert.Zero(t, actions(c.apply(cacheOnly))[provision.Changed])
}

// A table that comes later has its topic before the next apply ends, and tables
// of others' making are put right.
func TestApplyMendsPublications(t *testing.T) {
	t.Parallel()
	c := newCorner(t, "default")
	c.sql(`CREATE PUBLICATION redispub FOR TABLE products (id) WHERE (id > 5) WITH (publish = 'insert')`)
	c.sql(`CREATE PUBLICATION espub FOR TABLES IN SCHEMA public`)
	c.apply(shop)
	assert.Equal(t, shopState, c.state())
	assert.Equal(t, "0", c.text("SELECT count(*)::text FROM pg_publication_rel WHERE prqual IS NOT NULL OR prattrs IS NOT NULL"))
	assert.Equal(t, "t", c.text("SELECT bool_and(pubinsert AND pubupdate AND pubdelete AND pubtruncate AND pubviaroot AND pubgencols = 's')::text::char FROM pg_publication"))

	c.sql("CREATE TABLE later (id bigint PRIMARY KEY); CREATE TABLE heap (id bigint); ALTER TABLE heap REPLICA IDENTITY FULL")
	assert.Equal(t, 2, actions(c.apply(shop))[provision.Created])
	assert.Contains(t, c.state(), "public.heap partitions=1 delete\npublic.later partitions=1 compact")
}

func TestApplyRefuses(t *testing.T) {
	t.Parallel()
	c := newCorner(t, "default")
	c.apply(shop)
	before := c.state()
	assert.Contains(t, c.refused(strings.Replace(shop, "partitions: 2", "partitions: 3", 1)),
		"topic "+string(c.Prefix)+".public.products of entity products has 2 partitions and the catalog says 3")
	assert.Contains(t, c.refused(strings.Replace(shop, "table: users", "table: usrs", 1)), "did you mean public.users?")

	file, err := catalog.Parse("shop.yaml", []byte(strings.Replace(shop, "table: users", "table: usrs", 1)))
	require.NoError(t, err)
	_, err = provision.Apply(t.Context(), c.deps, file.Catalog, provision.Options{File: file})
	assert.ErrorContains(t, err, "shop.yaml:13: entities.users.table")

	c.sql("CREATE TABLE keyless (id bigint)")
	assert.Contains(t, c.refused(shop), "public.keyless has no replica identity")
	assert.Equal(t, before, c.state(), "nothing is half done")
	_, err = provision.Apply(t.Context(), c.deps, parse(t, shop), provision.Options{AllowKeyless: true})
	require.NoError(t, err)
	assert.Contains(t, c.state(), "public.keyless partitions=1 delete")
	c.sql("DROP TABLE keyless")

	c.sql("DROP PUBLICATION kafkapub")
	assert.Contains(t, c.refused(shop), "publication kafkapub is not: a publication made now would not cover")
	slot := c.Prefix.Slot(saga.PublicationKafka)
	c.sql("SELECT pg_drop_replication_slot('" + slot + "')")
	c.sql("SELECT pg_create_physical_replication_slot('" + slot + "')")
	assert.Contains(t, c.refused(shop), "slot "+slot+" is a physical slot")
	c.sql("SELECT pg_drop_replication_slot('" + slot + "')")

	other := newCorner(t, "default")
	other.sql("SELECT pg_create_logical_replication_slot('" + slot + "', 'pgoutput')")
	assert.Contains(t, c.refused(shop), "slot "+slot+" belongs to database "+other.Database)
	other.sql("SELECT pg_drop_replication_slot('" + slot + "')")
	c.apply(shop)
}

func TestApplySlotWaitsForTransactions(t *testing.T) {
	t.Parallel()
	c := newCorner(t, "default")
	blocker, err := pgx.Connect(t.Context(), c.PostgresURL)
	require.NoError(t, err)
	defer func() { _ = blocker.Close(context.Background()) }()
	_, err = blocker.Exec(t.Context(), "BEGIN; INSERT INTO other VALUES (1)")
	require.NoError(t, err)
	_, err = provision.Apply(t.Context(), c.deps, parse(t, shop), provision.Options{SlotTimeout: time.Second})
	require.Error(t, err)
	assert.Equal(t, saga.Unavailable, saga.ClassOf(err))
	assert.Contains(t, err.Error(), "waits for open transactions (the oldest is of process ")
	_, err = blocker.Exec(t.Context(), "ROLLBACK")
	require.NoError(t, err)
	c.apply(shop)
	assert.Equal(t, shopState, c.state())
}

func TestApplyAtOnce(t *testing.T) {
	t.Parallel()
	c := newCorner(t, "default")
	var wait sync.WaitGroup
	errs := make([]error, 3)
	for i := range errs {
		wait.Go(func() {
			_, errs[i] = provision.Apply(t.Context(), c.deps, parse(t, shop), provision.Options{})
		})
	}
	wait.Wait()
	for _, err := range errs {
		assert.NoError(t, err)
	}
	assert.Equal(t, shopState, c.state())
}

func TestApplyTemporal(t *testing.T) {
	t.Parallel()
	c := newCorner(t, "")
	c.deps.Namespace = "absent-" + c.Database
	assert.Contains(t, c.refused(shop), "temporal operator namespace create "+c.deps.Namespace)

	namespace := c.newNamespace()
	_, err := c.client.OperatorService().AddSearchAttributes(t.Context(), &operatorservice.AddSearchAttributesRequest{
		Namespace: namespace, SearchAttributes: map[string]enums.IndexedValueType{saga.AttributeStatus: enums.INDEXED_VALUE_TYPE_INT},
	})
	require.NoError(t, err)
	assert.Contains(t, c.refused(shop), "search attribute SagaStatus of namespace "+namespace+" is of type Int and Capsaga needs Keyword")
	assert.NotContains(t, c.state(), "kafkapub", "nothing is half done")
}

// Every server that is away is named, with its address and without a password.
func TestApplyServersAway(t *testing.T) {
	t.Parallel()
	c := newCorner(t, "default")
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	address := listener.Addr().String()
	require.NoError(t, listener.Close())
	deps := c.deps
	deps.PostgresURL = (&url.URL{Scheme: "postgres", User: url.UserPassword("u", "s3cret"), Host: address, Path: "/db"}).String()
	brokers, err := kafka.Open(kafka.Config{Brokers: []string{address}})
	require.NoError(t, err)
	defer brokers.Close()
	deps.Kafka = brokers
	away, err := client.NewLazyClient(client.Options{HostPort: address})
	require.NoError(t, err)
	defer away.Close()
	deps.Temporal, deps.TemporalAddress = away, address
	_, err = provision.Apply(t.Context(), deps, parse(t, shop), provision.Options{})
	require.Error(t, err)
	for _, system := range []string{"postgres: ", "kafka: ", "temporal: "} {
		assert.Contains(t, err.Error(), system)
	}
	for _, line := range strings.Split(err.Error(), "\n") {
		assert.Contains(t, line, address[strings.LastIndexByte(address, ':'):])
	}
	assert.NotContains(t, err.Error(), "s3cret")
}

func TestParkedTopic(t *testing.T) {
	assert.Equal(t, "capsaga.parked", saga.DefaultPrefix.ParkedTopic())
}

// The rows that a table has go to each of its entity's sinks once.
func TestApplyRequestsBackfills(t *testing.T) {
	t.Parallel()
	c := newCorner(t, "default")
	requests := func() string {
		return c.text("SELECT coalesce(string_agg(format('%s %s %s', entity, sinks, state), ', ' ORDER BY id), '') FROM capsaga.backfill")
	}
	c.apply(shop)
	first := "odd {redis,kafka} requested, products {redis,kafka,elasticsearch} requested, users {redis,kafka} requested"
	assert.Equal(t, first, requests())
	c.apply(shop)
	assert.Equal(t, first, requests())
	changes := c.apply(strings.Replace(shop, "{redis: {}, kafka: {cleanup: delete}}", "{redis: {}, kafka: {cleanup: delete}, elasticsearch: {}}", 1))
	assert.Equal(t, first+", users {elasticsearch} requested", requests())
	assert.Equal(t, provision.Change{System: "postgres", Kind: "backfill", Name: "users", Action: provision.Created, Detail: "new in the catalog: rows go to elasticsearch"}, changes[len(changes)-1])
}

// change returns what was done about one thing.
func change(t *testing.T, changes []provision.Change, name string) provision.Change {
	t.Helper()
	for _, c := range changes {
		if c.Name == name {
			return c
		}
	}
	t.Fatalf("nothing was done about %s: %v", name, changes)
	return provision.Change{}
}

const cacheOnly = "version: 1\nkafka_tables: []\nentities:\n  users: {table: users, key: [id], sinks: {redis: {}}}\n"

// A slot that no entity needs goes, unless somebody still reads it; when it comes
// again, the stream is told what it missed.
func TestApplyDropsSlotsThatNobodyNeeds(t *testing.T) {
	t.Parallel()
	c := newCorner(t, "default")
	c.apply(shop)
	slot := c.Prefix.Slot(saga.PublicationElasticsearch)

	reader, err := pgconn.Connect(t.Context(), c.PostgresURL+"&replication=database")
	require.NoError(t, err)
	defer func() { _ = reader.Close(context.Background()) }()
	require.NoError(t, pglogrepl.StartReplication(t.Context(), reader, slot, 0, pglogrepl.StartReplicationOptions{
		PluginArgs: []string{"proto_version '1'", "publication_names 'espub'"},
	}))
	held := change(t, c.apply(cacheOnly), slot)
	assert.Equal(t, provision.Unchanged, held.Action)
	assert.Contains(t, held.Detail, "a worker holds it")
	require.NoError(t, reader.Close(t.Context()))
	stacktest.Eventually(t, 10*time.Second, func() error {
		if done := change(t, c.apply(cacheOnly), slot); done.Action != provision.Dropped {
			return fmt.Errorf("%+v", done)
		}
		return nil
	})
	assert.Contains(t, c.state(), "\n_kafkapub pgoutput,_redispub pgoutput\n")
	for _, done := range c.apply(cacheOnly) {
		assert.NotEqual(t, slot, done.Name, "there is nothing more to say of it")
	}

	again := change(t, c.apply(shop), slot)
	assert.Equal(t, provision.Created, again.Action)
	assert.Contains(t, again.Detail, "backfilled")
	assert.Equal(t, "no entity needed the stream for a while", c.text("SELECT lost FROM capsaga.stream WHERE slot = $1 AND retired_at IS NULL", slot))
}

func TestApplyMakesASlotAnew(t *testing.T) {
	t.Parallel()
	c := newCorner(t, "default")
	slot := c.Prefix.Slot(saga.PublicationRedis)
	assert.Empty(t, change(t, c.apply(shop), slot).Detail, "a first slot leaves no gap")
	c.sql("SELECT pg_drop_replication_slot('" + slot + "')")
	again := change(t, c.apply(shop), slot)
	assert.Equal(t, provision.Created, again.Action)
	assert.Contains(t, again.Detail, "it did not exist any more")
	assert.Equal(t, "it did not exist any more", c.text("SELECT lost FROM capsaga.stream WHERE slot = $1", slot))
}

// TestApplyFailoverSlots has a server of its own: the replica copies such slots, and a
// database that is dropped while one is being copied ends the replica.
func TestApplyFailoverSlots(t *testing.T) {
	t.Parallel()
	stack, own := stacktest.New(t), stacktest.NewOwn(t).Stack(stacktest.Primary)
	stack.PostgresURL, stack.Database = own.PostgresURL, own.Database
	c := newCornerOn(t, "default", stack)
	failover := func() string {
		return c.text("SELECT string_agg(failover::text, ',') FROM pg_replication_slots WHERE database = $1", c.Database)
	}
	withFailover := shop + "streams: {failover: true}\n"
	c.apply(withFailover)
	assert.Equal(t, "true,true,true", failover())
	assert.Zero(t, actions(c.apply(withFailover))[provision.Changed])
	slot := c.Prefix.Slot(saga.PublicationKafka)
	changed := change(t, c.apply(shop), slot)
	assert.Equal(t, provision.Changed, changed.Action)
	assert.Equal(t, "failover from true to false", changed.Detail)
	assert.Equal(t, "false,false,false", failover())
	c.apply(withFailover)
	assert.Equal(t, "true,true,true", failover())
}

// A mapping that the index cannot take is a new index, which a backfill fills; a
// topic that is gone is filled again.
func TestApplyRefills(t *testing.T) {
	t.Parallel()
	c := newCorner(t, "default")
	c.apply(shop)
	c.sql("UPDATE capsaga.backfill SET state = 'done', finished_at = now()")
	keyword := strings.Replace(shop, "title: {type: text}", "title: {type: keyword}", 1)
	c.apply(keyword)
	open := func() string {
		return c.text("SELECT coalesce(string_agg(format('%s %s %s %s', entity, sinks, reason, replace(index, $1, '')), ', ' ORDER BY id), '') FROM capsaga.backfill WHERE finished_at IS NULL", string(c.Prefix))
	}
	assert.Equal(t, "products {elasticsearch} new index -products-000002", open())
	c.apply(keyword)
	assert.Equal(t, "1", c.text("SELECT count(*)::text FROM capsaga.backfill WHERE finished_at IS NULL OR index IS NOT NULL"), "it is on its way")

	admin := c.kafkaAdmin()
	defer admin.Close()
	topic := string(c.Prefix) + ".public.users"
	_, err := admin.DeleteTopic(t.Context(), topic)
	require.NoError(t, err)
	stacktest.Eventually(t, 20*time.Second, func() error {
		topics, err := admin.ListTopics(t.Context())
		if err == nil && topics.Has(topic) {
			err = errors.New("it is still there")
		}
		return err
	})
	// A crash right behind the new topic does not lose that it is empty.
	ctx, crash := context.WithCancel(t.Context())
	_, err = provision.Apply(ctx, c.deps, parse(t, keyword), provision.Options{Progress: func(change provision.Change) {
		if change.Name == topic {
			crash()
		}
	}})
	crash()
	require.Error(t, err)
	c.apply(keyword)
	assert.Equal(t, "products {elasticsearch} new index -products-000002, users {kafka} new in the catalog ", open())

	// A table of the same name and columns that is another one.
	c.sql("UPDATE capsaga.backfill SET state = 'done', finished_at = now()")
	c.sql("DROP TABLE users; CREATE TABLE users (id bigint PRIMARY KEY, name text)")
	c.apply(keyword)
	assert.Equal(t, "users {redis,kafka} new in the catalog ", open())
}
