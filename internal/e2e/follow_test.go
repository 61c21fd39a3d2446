package e2e

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/capsaga/capsaga/internal/stacktest"
)

// follow returns the records that come to a table's topic from now on.
func (w *world) follow(table string) <-chan event {
	w.t.Helper()
	topic := w.topic(table)
	reader, err := kgo.NewClient(kgo.SeedBrokers(w.stack.KafkaBrokers...), kgo.ConsumeTopics(topic),
		kgo.ConsumeResetOffset(kgo.NewOffset().AtStart()), kgo.FetchMaxWait(20*time.Millisecond))
	require.NoError(w.t, err)
	ctx, cancel := context.WithCancel(context.Background())
	events := make(chan event, 1<<16)
	var done sync.WaitGroup
	done.Go(func() {
		defer close(events)
		for ctx.Err() == nil {
			fetches := reader.PollFetches(ctx)
			fetches.EachRecord(func(r *kgo.Record) { events <- newEvent(w.t, r) })
		}
	})
	w.t.Cleanup(func() {
		cancel()
		done.Wait()
		reader.Close()
	})
	return events
}

func (w *world) topicExists(table string) bool {
	w.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	broker, err := kgo.NewClient(kgo.SeedBrokers(w.stack.KafkaBrokers...))
	require.NoError(w.t, err)
	defer broker.Close()
	topics, err := kadm.NewClient(broker).ListTopics(ctx, w.topic(table))
	require.NoError(w.t, err)
	return topics.Has(w.topic(table)) && topics[w.topic(table)].Err == nil
}

// next returns the next record.
func next(t testing.TB, events <-chan event, within time.Duration) event {
	t.Helper()
	select {
	case e := <-events:
		return e
	case <-time.After(within):
		require.FailNow(t, "no record within "+within.String())
		return event{}
	}
}

// probe inserts rows by plain SQL at a steady pace and measures from each commit
// to its event's arrival.
type probe struct {
	w    *world
	stop func()

	mu        sync.Mutex
	committed map[int]time.Time
	lag       map[int]time.Duration
}

const probeEvery = 20 * time.Millisecond

// startProbe returns when the first event has arrived.
func (w *world) startProbe() *probe {
	w.t.Helper()
	w.exec("CREATE TABLE probe (id bigint PRIMARY KEY)")
	p := &probe{w: w, committed: map[int]time.Time{}, lag: map[int]time.Duration{}}
	ctx, cancel := context.WithCancel(context.Background())
	var writer sync.WaitGroup
	writer.Go(func() { p.write(ctx) })
	p.stop = func() {
		cancel()
		writer.Wait()
	}
	w.t.Cleanup(p.stop)
	stacktest.Eventually(w.t, 30*time.Second, func() error {
		if !w.topicExists("probe") {
			return errors.New("the stream has not made the probe's topic")
		}
		return nil
	})
	events := w.follow("probe")
	go func() {
		for e := range events {
			p.arrived(e)
		}
	}()
	following := time.Now()
	stacktest.Eventually(w.t, 30*time.Second, func() error { return p.flows(following) })
	return p
}

func (p *probe) write(ctx context.Context) {
	tick := time.NewTicker(probeEvery)
	defer tick.Stop()
	for n := 1; ctx.Err() == nil; n++ {
		if _, err := p.w.db.Exec(ctx, "INSERT INTO probe VALUES ($1)", n); err == nil {
			p.mu.Lock()
			p.committed[n] = time.Now()
			p.mu.Unlock()
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
		}
	}
}

func (p *probe) arrived(e event) {
	id, err := strconv.Atoi(string(e.envelope.After["id"]))
	now := time.Now()
	p.mu.Lock()
	defer p.mu.Unlock()
	if _, repeated := p.lag[id]; err == nil && !repeated {
		// An event may arrive before its commit has returned.
		p.lag[id] = max(0, now.Sub(p.committedAt(id, now)))
	}
}

func (p *probe) committedAt(id int, otherwise time.Time) time.Time {
	if at, ok := p.committed[id]; ok {
		return at
	}
	return otherwise
}

// flows returns nil when a row that was committed after a moment has arrived.
func (p *probe) flows(since time.Time) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	for id := range p.lag {
		if at, ok := p.committed[id]; ok && at.After(since) {
			return nil
		}
	}
	return fmt.Errorf("%d of %d probes have arrived, none of them committed since then", len(p.lag), len(p.committed))
}

// settle stops the probe, waits for what is under way and returns the lags since
// the row that was written at a moment, sorted.
func (p *probe) settle(since time.Time) []time.Duration {
	p.w.t.Helper()
	p.stop()
	stacktest.Eventually(p.w.t, 30*time.Second, func() error {
		p.mu.Lock()
		defer p.mu.Unlock()
		if len(p.lag) < len(p.committed) {
			return fmt.Errorf("%d of %d probes have arrived", len(p.lag), len(p.committed))
		}
		return nil
	})
	var lags []time.Duration
	for id, at := range p.committed {
		if !at.Before(since) {
			lags = append(lags, p.lag[id])
		}
	}
	slices.Sort(lags)
	require.NotEmpty(p.w.t, lags)
	return lags
}
