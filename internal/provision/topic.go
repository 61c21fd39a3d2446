package provision

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"github.com/capsaga/capsaga/internal/catalog"
	"github.com/capsaga/capsaga/internal/kafka"
	"github.com/capsaga/capsaga/saga"
)

// topicPlan is a topic that is needed, and what of it must hold if it is there
// already. A topic of a table that no entity names is its owner's to set.
type topicPlan struct {
	spec kafka.TopicSpec
	// entity is the name of the entity whose catalog entry says how the topic has
	// to be; empty: only that it is there.
	entity   string
	settings map[string]string
	there    bool
	alter    map[string]string // which settings differ
}

// planTopics finds out which topics are missing or differ, and refuses what
// cannot be changed without harm.
func (a *applier) planTopics(ctx context.Context) ([]topicPlan, error) {
	plans, err := a.wantedTopics(ctx)
	if err != nil {
		return nil, err
	}
	names := make([]string, len(plans))
	for i := range plans {
		names[i] = plans[i].spec.Name
	}
	states, err := a.deps.Kafka.DescribeTopics(ctx, names)
	if err != nil {
		return nil, err
	}
	for i := range plans {
		state, there := states[plans[i].spec.Name]
		if !there {
			continue
		}
		if err := plans[i].compare(state); err != nil {
			return nil, err
		}
	}
	return plans, nil
}

func (p *topicPlan) compare(state kafka.TopicState) error {
	p.there, p.alter = true, map[string]string{}
	if p.entity != "" && state.Partitions != p.spec.Partitions {
		return &saga.Error{
			Class: saga.Rejected, System: string(saga.Kafka), Code: saga.CodeRejected,
			Message: fmt.Sprintf("topic %s of entity %s has %d partitions and the catalog says %d: with another number, keys would move to other partitions and their records lose their order; "+
				"set partitions: %d, or drop the topic, apply again and backfill", p.spec.Name, p.entity, state.Partitions, p.spec.Partitions, state.Partitions),
		}
	}
	for key, want := range p.settings {
		if !sameList(state.Settings[key], want) {
			p.alter[key] = want
		}
	}
	return nil
}

// sameList compares settings such as compact,delete, whose order means nothing.
func sameList(a, b string) bool {
	split := func(s string) []string { return slices.Sorted(strings.SplitSeq(s, ",")) }
	return slices.Equal(split(a), split(b))
}

// wantedTopics lists the topics of kafkapub's tables, the one for records that
// another topic refuses, and the one of transactions where the catalog wants it.
func (a *applier) wantedTopics(ctx context.Context) ([]topicPlan, error) {
	relations, err := catalog.Relations(ctx, a.conn)
	if err != nil {
		return nil, err
	}
	entities := map[saga.Table]*saga.Entity{}
	replication := 1
	for _, e := range a.catalog.Entities {
		entities[e.Table] = e
		if e.Kafka != nil {
			replication = max(replication, e.Kafka.Replication)
		}
	}
	// Kept for ever: what is parked waits for an operator.
	plans := []topicPlan{{
		spec:     kafka.TopicSpec{Name: a.deps.Prefix.ParkedTopic(), Partitions: 1, Replication: replication, Cleanup: "delete"},
		settings: map[string]string{kafka.SettingCleanup: "delete", kafka.SettingRetention: "-1"},
	}}
	if a.catalog.TransactionMetadata {
		plans = append(plans, topicPlan{spec: kafka.TopicSpec{Name: a.deps.Prefix.TransactionTopic(), Partitions: 1, Replication: replication, Cleanup: "delete"}})
	}
	for i := range relations {
		r := &relations[i]
		if !r.Publishable() || r.IsPartition() || !a.publishes(r.Table) {
			continue
		}
		plan, err := a.tableTopic(r, entities[r.Table], replication)
		if err != nil {
			return nil, err
		}
		plans = append(plans, plan)
	}
	return plans, nil
}

func (a *applier) publishes(table saga.Table) bool {
	return a.catalog.KafkaTables == nil || slices.Contains(a.catalog.KafkaTables, table)
}

// tableTopic is a table's topic: as its entity says, else with one partition and
// as many replicas as the catalog gives its most replicated topic.
func (a *applier) tableTopic(r *catalog.Relation, e *saga.Entity, replication int) (topicPlan, error) {
	name, err := a.deps.Prefix.Topic(r.Table)
	if err != nil {
		return topicPlan{}, &saga.Error{Class: saga.Rejected, System: string(saga.Kafka), Code: saga.CodeRejected, Message: err.Error()}
	}
	plan := topicPlan{spec: kafka.TopicSpec{Name: name, Partitions: 1, Replication: replication, Cleanup: "compact"}, settings: map[string]string{}}
	if e != nil && e.Kafka != nil {
		plan.entity = e.Name
		plan.spec.Partitions, plan.spec.Replication = max(e.Kafka.Partitions, 1), max(e.Kafka.Replication, 1)
		if e.Kafka.Cleanup != "" {
			plan.spec.Cleanup = e.Kafka.Cleanup
		}
		plan.settings[kafka.SettingCleanup] = plan.spec.Cleanup
	}
	if !r.Keyed { // a compacted topic refuses records without a key
		plan.spec.Cleanup = "delete"
		plan.settings[kafka.SettingCleanup] = "delete"
	}
	return plan, nil
}

func (a *applier) applyTopics(ctx context.Context) error {
	for i := range a.topics {
		if err := a.applyTopic(ctx, &a.topics[i]); err != nil {
			return err
		}
		if ctx.Err() != nil {
			return nil // run says how far it came
		}
	}
	return nil
}

func (a *applier) applyTopic(ctx context.Context, p *topicPlan) error {
	change := Change{System: string(saga.Kafka), Kind: "topic", Name: p.spec.Name, Action: Unchanged}
	if !p.there {
		if p.entity != "" {
			if err := a.beginsEmpty(ctx, p.entity, saga.Kafka); err != nil {
				return err
			}
		}
		created, err := a.deps.Kafka.EnsureTopics(ctx, []kafka.TopicSpec{p.spec})
		if err != nil {
			return err
		}
		if len(created) > 0 {
			change.Action = Created
		}
		// A topic begins with the broker's retention.
		if retention, ok := p.settings[kafka.SettingRetention]; ok {
			p.alter = map[string]string{kafka.SettingRetention: retention}
		}
	}
	if len(p.alter) > 0 {
		if err := a.deps.Kafka.AlterTopic(ctx, p.spec.Name, p.alter); err != nil {
			return err
		}
		change.Detail = describeSettings(p.alter)
		if change.Action == Unchanged {
			change.Action = Changed
		}
	}
	a.done(change)
	return nil
}

func describeSettings(settings map[string]string) string {
	var parts []string
	for key, value := range settings {
		parts = append(parts, key+"="+value)
	}
	slices.Sort(parts)
	return strings.Join(parts, ", ")
}
