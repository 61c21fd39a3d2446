package attack

import (
	"cmp"
	"context"
	"fmt"
	"math/rand/v2"
	"slices"

	"github.com/capsaga/capsaga/internal/postgres"
	"github.com/capsaga/capsaga/saga"
)

// apply is one compare-and-set on its way to a sink.
type apply struct {
	rowKey
	version saga.Version
	stamp   string // empty: the row is gone
	// age is which of the key's events the content is of, from 0.
	age  int
	fill bool
}

// sink is what every sink does: it takes what is newer and keeps tombstones.
type sink struct {
	rows map[rowKey]apply
	lost int // fills that replaced newer content
}

func (s *sink) apply(a apply) {
	held, ok := s.rows[a.rowKey]
	if ok && a.version <= held.version {
		return
	}
	if ok && a.fill && a.age < held.age {
		s.lost++
	}
	s.rows[a.rowKey] = a
}

// deliver applies everything, each after a delay of its own, so that it arrives
// late, repeated and out of order.
func (s *sink) deliver(random *rand.Rand, list []apply) {
	type delivery struct {
		apply
		due int64
	}
	var due []delivery
	for _, a := range list {
		for first := true; first || random.IntN(8) == 0; first = false {
			delay := random.Int64N(1 << (10 + random.IntN(18))) // bytes of WAL, up to 128 MiB
			due = append(due, delivery{a, int64(a.version) + delay})
		}
	}
	slices.SortStableFunc(due, func(a, b delivery) int { return cmp.Compare(a.due, b.due) })
	for _, d := range due {
		s.apply(d.apply)
	}
}

// stampedEvents finds the event that left a stamp.
type stampedEvents map[string]stampedEvent

type stampedEvent struct {
	event
	age int
}

func (h histories) stamped() stampedEvents {
	found := stampedEvents{}
	for _, events := range h {
		for age, e := range events {
			if !e.gone {
				found[e.stamp] = stampedEvent{e, age}
			}
		}
	}
	return found
}

// applies returns what reaches a sink without fills: the sagas' images at V, and
// the stream's rows at their commit position, those that a saga owns too, as in
// Kafka or after a crash.
func (h histories) applies() (list []apply) {
	for key, events := range h {
		for age, e := range events {
			a := apply{rowKey: key, version: e.commit, stamp: e.stamp, age: age}
			list = append(list, a)
			if e.own != 0 {
				a.version = e.own
				list = append(list, a)
			}
		}
	}
	return list
}

// fillApplies finds which event each fill's content is of, and counts the fills
// that are lost updates: whose content is older than an event that their
// version claims to cover.
func (h histories) fillApplies(fills []fill) (list []apply, lost int, problems []string) {
	events := h.stamped()
	for _, f := range fills {
		found, ok := events[f.stamp]
		if !ok || found.rowKey != f.rowKey {
			problems = append(problems, fmt.Sprintf("%v: a fill read stamp %s, which no committed transaction left there", f.rowKey, f.stamp))
			continue
		}
		list = append(list, apply{rowKey: f.rowKey, version: f.version, stamp: f.stamp, age: found.age, fill: true})
		later := h[f.rowKey][found.age+1:]
		if len(later) > 0 && later[0].low() <= f.version {
			lost++
		}
		// A saga's rows are seen once its commit is flushed, so that a read of them
		// has its version at least. Plain SQL may commit asynchronously: a read of
		// that has too low a version, which the stream makes good.
		if found.tx.end != nil && f.version < found.commit {
			problems = append(problems, fmt.Sprintf("%v: saga %s committed it at %s, and a fill read it at %s",
				f.rowKey, found.tx.end.SagaID, found.tx.commit, f.version.LSN()))
		}
	}
	return list, lost, problems
}

// checkETags compares the etags that were read with those that sagas reported of
// the same contents.
func checkETags(fills []fill, reports []sagaReport) (compared int, problems []string) {
	reported := map[string]string{}
	for _, r := range reports {
		for _, o := range r.owned {
			if o.Row != nil {
				reported[rowStamp(o.Row)] = o.ETag
			}
		}
	}
	for _, f := range fills {
		want, ok := reported[f.stamp]
		if !ok {
			continue
		}
		compared++
		if f.etag != want {
			problems = append(problems, fmt.Sprintf("%v: read with etag %s, and the saga that wrote it reported %s", f.rowKey, f.etag, want))
		}
	}
	return compared, problems
}

// differences compares the sink with PostgreSQL: an absent row is a tombstone,
// or a key that never had one.
func (s *sink) differences(ctx context.Context, q postgres.Querier) (problems []string, err error) {
	rows, err := q.Query(ctx, `
		SELECT 'item', id::text, stamp::text FROM item UNION ALL
		SELECT 'part', id::text, stamp::text FROM part UNION ALL
		SELECT 'tally', id::text, stamp::text FROM tally`)
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	want := map[rowKey]string{}
	for rows.Next() {
		var key rowKey
		var stamp string
		if err := rows.Scan(&key.table, &key.key, &stamp); err != nil {
			return nil, err
		}
		want[key] = stamp
		if _, ok := s.rows[key]; !ok {
			problems = append(problems, fmt.Sprintf("%v is not in the sink", key))
		}
	}
	for key, held := range s.rows {
		if held.stamp != want[key] {
			problems = append(problems, fmt.Sprintf("%v: the sink has stamp %q, PostgreSQL %q", key, held.stamp, want[key]))
		}
	}
	return problems, rows.Err()
}
