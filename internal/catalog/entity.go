package catalog

import (
	"slices"
	"strings"
	"time"

	"go.yaml.in/yaml/v3"

	"github.com/capsaga/capsaga/saga"
)

func (d *decoder) catalog(root *yaml.Node) *saga.Catalog {
	top := field{Node: root}
	c := &saga.Catalog{Entities: map[string]*saga.Entity{}, DecimalHandlingMode: saga.DecimalString, TimePrecisionMode: saga.TimeAdaptive}
	fields := d.fields(top, "version", "kafka_tables", "kafka", "ledger", "streams", "entities")
	if v, ok := fields["version"]; !ok {
		d.problemAt(root.Line, "version", "missing: want version: 1")
	} else if v.Kind != yaml.ScalarNode || v.ShortTag() != "!!int" || v.Value != "1" {
		d.problem(v, "want 1, the only version there is, got %s", kindOf(v.Node))
	}
	listed := fields["kafka_tables"]
	if listed.Node != nil {
		c.KafkaTables = d.kafkaTables(listed)
	}
	if kafka, ok := fields["kafka"]; ok {
		d.events(kafka, c)
	}
	c.LedgerRetention = saga.DefaultLedgerRetention
	if ledger, ok := fields["ledger"]; ok {
		d.ledger(ledger, c)
	}
	if streams, ok := fields["streams"]; ok {
		if failover, ok := d.fields(streams, "failover")["failover"]; ok {
			c.Streams.Failover = d.boolean(failover)
		}
	}
	entities, ok := fields["entities"]
	if !ok {
		d.problemAt(root.Line, "entities", "missing: name at least one entity")
		return c
	}
	d.entities(entities, c)
	return c
}

// events reads what all of Kafka's events have in common.
func (d *decoder) events(f field, c *saga.Catalog) {
	fields := d.fields(f, "transaction_metadata", "decimal_handling_mode", "time_precision_mode")
	if metadata, ok := fields["transaction_metadata"]; ok {
		c.TransactionMetadata = d.boolean(metadata)
	}
	if mode, ok := fields["decimal_handling_mode"]; ok {
		c.DecimalHandlingMode = saga.DecimalMode(d.choice(mode, decimalModes))
	}
	if mode, ok := fields["time_precision_mode"]; ok {
		c.TimePrecisionMode = saga.TimeMode(d.choice(mode, timeModes))
	}
}

// choice returns one of the names; another is a problem.
func (d *decoder) choice(f field, names []string) string {
	text, ok := d.text(f)
	if ok && !slices.Contains(names, text) {
		d.problem(f, "%q: want %s", text, oneOf(names))
	}
	return text
}

func (d *decoder) ledger(f field, c *saga.Catalog) {
	if retention, ok := d.fields(f, "retention")["retention"]; ok {
		if v := d.duration(retention, minRetention); v > 0 {
			c.LedgerRetention = v
		}
	}
}

// kafkaTables returns nil for all tables.
func (d *decoder) kafkaTables(f field) []saga.Table {
	if f.Kind == yaml.ScalarNode {
		if f.ShortTag() != "!!str" || f.Value != "all" {
			d.problem(f, "want all, or a list of schema.table, got %s", kindOf(f.Node))
		}
		return nil
	}
	tables := []saga.Table{}
	for _, item := range d.items(f) {
		table, ok := d.table(item)
		switch {
		case ok && slices.Contains(tables, table):
			d.problem(item, "%s is listed twice", table)
		case ok:
			tables = append(tables, table)
		}
	}
	return tables
}

func (d *decoder) entities(f field, c *saga.Catalog) {
	members := d.members(f)
	if len(members) == 0 && (f.Kind == yaml.MappingNode || f.ShortTag() == "!!null") {
		d.problem(f, "empty: name at least one entity")
	}
	tables := map[saga.Table]string{}
	for _, m := range members {
		e := d.entity(m)
		if e.Name == "" {
			continue
		}
		c.Entities[e.Name] = e
		if e.Table == (saga.Table{}) {
			continue
		}
		line := d.lines[m.path+".table"]
		if other, taken := tables[e.Table]; taken {
			d.problemAt(line, m.path+".table", "%s is the table of entity %s already: a row has one entity, so that its sinks are clear", e.Table, other)
		}
		tables[e.Table] = e.Name
		if e.Kafka != nil && c.KafkaTables != nil && !slices.Contains(c.KafkaTables, e.Table) {
			d.problemAt(d.lines[m.path+".sinks.kafka"], m.path+".sinks.kafka", "%s is not in kafka_tables (line %d), so nothing of it would be published: add it there", e.Table, d.lines["kafka_tables"])
		}
	}
}

func (d *decoder) entity(f field) *saga.Entity {
	name := f.name
	e := &saga.Entity{Name: name}
	switch {
	case !saga.ValidEntityName(name):
		d.problemAt(d.lines[f.path], f.path, "%q: an entity's name is a lower-case letter, then a-z, 0-9 and _", name)
		e.Name = ""
	case len(name) > maxEntityName:
		d.problemAt(d.lines[f.path], f.path, "an entity's name has at most %d bytes", maxEntityName)
		e.Name = ""
	}
	fields := d.fields(f, "table", "key", "policy", "sinks")
	for _, required := range []string{"table", "key", "sinks"} {
		if _, ok := fields[required]; !ok {
			d.problemAt(d.lines[f.path], f.path+"."+required, "missing")
		}
	}
	if table, ok := fields["table"]; ok {
		e.Table, _ = d.table(table)
	}
	if key, ok := fields["key"]; ok {
		e.Key = d.key(key)
	}
	if policy, ok := fields["policy"]; ok {
		e.Policy = d.policy(policy)
	}
	e.Policy = e.Policy.Or(defaultPolicy)
	if sinks, ok := fields["sinks"]; ok {
		d.sinks(sinks, e)
	}
	return e
}

// defaultPolicy is that of an entity which does not say.
var defaultPolicy = saga.Policy{OnReject: saga.OnRejectPark, ParkAfter: saga.Duration(saga.DefaultParkAfter)}

// policy reads what is given; what is not is left for the next level to say.
func (d *decoder) policy(f field) (p saga.Policy) {
	fields := d.fields(f, "on_reject", "park_after")
	if reaction, ok := fields["on_reject"]; ok {
		p.OnReject = saga.OnReject(d.choice(reaction, reactions))
	}
	if after, ok := fields["park_after"]; ok {
		p.ParkAfter = saga.Duration(d.duration(after, minParkAfter))
	}
	return p
}

func (d *decoder) key(f field) []string {
	var key []string
	items := d.items(f)
	if f.Kind == yaml.SequenceNode && len(items) == 0 {
		d.problem(f, "empty: name the columns that identify a row")
	}
	for _, item := range items {
		column, ok := d.text(item)
		switch {
		case !ok:
		case column == "" || strings.ContainsRune(column, 0) || len(column) > maxIdentifier:
			d.problem(item, "%q: want the name of a column, 1 to %d bytes", column, maxIdentifier)
		case slices.Contains(key, column):
			d.problem(item, "column %s is named twice", column)
		default:
			key = append(key, column)
		}
	}
	return key
}

func (d *decoder) sinks(f field, e *saga.Entity) {
	problems := len(d.problems)
	fields := d.fields(f, "redis", "kafka", "elasticsearch")
	if len(fields) == 0 && len(d.problems) == problems {
		d.problem(f, "empty: name at least one of redis, kafka and elasticsearch")
	}
	if s, ok := fields["redis"]; ok {
		e.Redis = d.redis(s)
	}
	if s, ok := fields["kafka"]; ok {
		e.Kafka = d.kafka(s)
	}
	if s, ok := fields["elasticsearch"]; ok {
		e.Elasticsearch = d.elasticsearch(s)
	}
}

func (d *decoder) redis(f field) *saga.RedisSink {
	sink := &saga.RedisSink{TombstoneTTL: saga.DefaultTombstoneTTL}
	fields := d.fields(f, "ttl", "tombstone_ttl", "policy")
	if policy, ok := fields["policy"]; ok {
		sink.Policy = d.policy(policy)
	}
	if ttl, ok := fields["ttl"]; ok {
		sink.TTL = d.duration(ttl, time.Millisecond)
	}
	if ttl, ok := fields["tombstone_ttl"]; ok {
		if v := d.duration(ttl, minTombstoneTTL); v > 0 {
			sink.TombstoneTTL = v
		}
	}
	return sink
}

func (d *decoder) kafka(f field) *saga.KafkaSink {
	sink := &saga.KafkaSink{Partitions: 1, Replication: 1, Cleanup: cleanups[0]}
	fields := d.fields(f, "partitions", "replication", "cleanup", "policy")
	if policy, ok := fields["policy"]; ok {
		sink.Policy = d.policy(policy)
	}
	if n, ok := fields["partitions"]; ok {
		sink.Partitions = d.integer(n, 1, maxPartitions)
	}
	if n, ok := fields["replication"]; ok {
		sink.Replication = d.integer(n, 1, maxReplication)
	}
	if cleanup, ok := fields["cleanup"]; ok {
		if text, ok := d.text(cleanup); ok {
			sink.Cleanup = text
			if !slices.Contains(cleanups, text) {
				d.problem(cleanup, "%q: want compact, delete or \"compact,delete\"", text)
			}
		}
	}
	return sink
}

func (d *decoder) elasticsearch(f field) *saga.ElasticsearchSink {
	sink := &saga.ElasticsearchSink{}
	fields := d.fields(f, "mappings", "settings", "policy")
	if policy, ok := fields["policy"]; ok {
		sink.Policy = d.policy(policy)
	}
	if m, ok := fields["mappings"]; ok {
		sink.Mappings = d.object(m)
	}
	if s, ok := fields["settings"]; ok {
		sink.Settings = d.object(s)
	}
	return sink
}
