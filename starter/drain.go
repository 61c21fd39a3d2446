package main

import (
	"context"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/capsaga/capsaga/internal/config"
	"github.com/capsaga/capsaga/internal/kafka"
	"github.com/capsaga/capsaga/internal/kafkapub"
	"github.com/capsaga/capsaga/internal/postgres"
	"github.com/capsaga/capsaga/saga"
)

func (a *app) drainCommand() *cobra.Command {
	var dryRun bool
	var timeout time.Duration
	cmd := &cobra.Command{
		Use: "drain [TOPIC...]", Short: "Bring back the records of topics that refused them",
		Long: `Bring the parked records of topics back, in order and ahead of any later record, and
end their diversion. Mend first what the topic refuses: its rights, its settings.
Without a topic, all that are diverted are drained. The worker that holds the stream
does it, and goes on without this command, which only asks and waits.`,
		RunE: func(cmd *cobra.Command, args []string) error {
			return a.drain(cmd.Context(), args, dryRun, timeout)
		},
	}
	cmd.Flags().BoolVar(&dryRun, "dry-run", false, "print what would be brought back, and do nothing")
	cmd.Flags().DurationVar(&timeout, "timeout", 5*time.Minute, "how long to wait for the records, which come without us")
	return cmd
}

func (a *app) drain(ctx context.Context, topics []string, dryRun bool, timeout time.Duration) error {
	c, err := a.config()
	if err != nil {
		return err
	}
	db, err := a.postgres(ctx, c)
	if err != nil {
		return err
	}
	slot := c.Prefix.Slot(saga.PublicationKafka)
	diverted, err := kafkapub.Diversions(ctx, db.Pool(), slot)
	if err != nil {
		return withSchemaHint(err)
	}
	chosen, err := chooseDiversions(diverted, topics)
	switch {
	case err != nil:
		return err
	case dryRun:
		return a.showDrain(ctx, c, chosen)
	case len(chosen) == 0:
		return a.writeDrained(nil)
	}
	names := make([]string, len(chosen))
	for i, d := range chosen {
		names[i] = d.Topic
	}
	if err := kafkapub.RequestDrain(ctx, db.Pool(), slot, names); err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	return a.writeDrained(awaitDrained(ctx, db.Pool(), slot, names))
}

// chooseDiversions returns those that are named, or all.
func chooseDiversions(diverted []kafkapub.Diversion, topics []string) ([]kafkapub.Diversion, error) {
	if len(topics) == 0 {
		return diverted, nil
	}
	var chosen []kafkapub.Diversion
	for _, topic := range topics {
		i := slices.IndexFunc(diverted, func(d kafkapub.Diversion) bool { return d.Topic == topic })
		if i < 0 {
			return nil, fmt.Errorf("topic %s is not diverted: `capsaga streams` shows those that are", topic)
		}
		chosen = append(chosen, diverted[i])
	}
	return chosen, nil
}

// drained is what became of a topic.
type drained struct {
	Topic  string `json:"topic"`
	Status string `json:"status"` // drained, refused or waiting
	Error  string `json:"error,omitempty"`
}

const drainPoll = 250 * time.Millisecond

// awaitDrained returns when each topic is drained or refused, or ctx ends.
func awaitDrained(ctx context.Context, db postgres.Querier, slot string, topics []string) []drained {
	tick := time.NewTicker(drainPoll)
	defer tick.Stop()
	results := make([]drained, len(topics))
	for i, topic := range topics {
		results[i] = drained{Topic: topic, Status: "waiting", Error: "not drained in time; the request stands: `capsaga streams` shows whether a worker holds the stream"}
	}
	for {
		left, err := kafkapub.Diversions(ctx, db, slot)
		if err == nil && updateDrained(results, left) == 0 {
			return results
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return results
		}
	}
}

// updateDrained returns how many still wait.
func updateDrained(results []drained, left []kafkapub.Diversion) (waiting int) {
	for n := range results {
		r := &results[n]
		i := slices.IndexFunc(left, func(d kafkapub.Diversion) bool { return d.Topic == r.Topic })
		switch {
		case i < 0:
			r.Status, r.Error = "drained", ""
		case left[i].Refused != "":
			r.Status, r.Error = "refused", left[i].Refused
		default:
			waiting++
		}
	}
	return waiting
}

func (a *app) writeDrained(results []drained) error {
	var failed []string
	for _, r := range results {
		if r.Error != "" {
			failed = append(failed, r.Topic)
		}
	}
	if err := a.printDrained(results); err != nil || len(failed) == 0 {
		return err
	}
	return &exitError{status: statusSome, err: fmt.Errorf("not drained: %s", strings.Join(failed, ", "))}
}

func (a *app) printDrained(results []drained) error {
	if a.output == asJSON {
		if results == nil {
			results = []drained{}
		}
		return writeJSON(a.stdout, results)
	}
	if len(results) == 0 {
		a.note("no topic is diverted: there is nothing to drain")
		return nil
	}
	t := newTable(a.stdout, "TOPIC", "STATUS", "ERROR")
	for _, r := range results {
		t.row(r.Topic, r.Status, dash(r.Error))
	}
	return t.flush()
}

// drainPlan is what --dry-run says of a topic.
type drainPlan struct {
	kafkapub.Diversion
	// AtMost is how many records of all topics were parked since.
	AtMost int64 `json:"at_most"`
}

func (a *app) showDrain(ctx context.Context, c config.Config, diverted []kafkapub.Diversion) error {
	client, err := kafka.Open(c.Kafka)
	if err != nil {
		return err
	}
	a.onClose(client.Close)
	plans := make([]drainPlan, len(diverted))
	if len(plans) > 0 {
		end, err := client.EndOffset(ctx, c.Prefix.ParkedTopic())
		if err != nil {
			return err
		}
		for i, d := range diverted {
			plans[i] = drainPlan{Diversion: d, AtMost: end - d.Position}
		}
	}
	if a.output == asJSON {
		return writeJSON(a.stdout, plans)
	}
	if len(plans) == 0 {
		a.note("no topic is diverted: there is nothing to drain")
		return nil
	}
	t := newTable(a.stdout, "TOPIC", "TABLE", "SINCE", "RECORDS AT MOST", "REASON")
	for _, p := range plans {
		t.row(p.Topic, dash(p.Table), p.Since.UTC().Format(time.RFC3339), strconv.FormatInt(p.AtMost, 10), p.Reason)
	}
	return t.flush()
}
