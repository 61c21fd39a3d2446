package attack

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"strconv"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/capsaga/capsaga/internal/postgres"
	"github.com/capsaga/capsaga/saga"
)

// sagaReport is what Commit reported of a saga, for the rules to hold against
// the stream.
type sagaReport struct {
	id      string
	version saga.Version
	owned   []saga.Owned
}

// saga commits one write. As a caller would, it repeats a call that failed
// without an answer, under the same saga id.
func (w *worker) saga(ctx context.Context) error {
	w.serial++
	write := saga.Write{SagaID: fmt.Sprintf("%s-%d", w.name, w.serial), Mutations: pick(w, sagaChoices)(w)}
	if w.IntN(20) == 0 {
		write.Consistency = saga.CP // its rows stay locked while the replica is waited for
	}
	request := postgres.CommitRequest{Write: write, Catalog: w.catalog, WorkflowID: saga.WorkflowID(write.SagaID), RunID: "run"}
	result, err := w.commit(ctx, request)
	if err != nil {
		return fmt.Errorf("saga %s: %w", write.SagaID, err)
	}
	switch result.Status {
	case saga.RejectedEnd:
		w.counts.rejected.Add(1)
		if c := result.Error.Code; c != saga.CodeNotFound && c != saga.CodeConstraintViolation {
			return fmt.Errorf("saga %s: %s: %s", write.SagaID, c, result.Error.Message)
		}
		return nil
	case saga.Committed:
	default:
		return fmt.Errorf("saga %s: status %s", write.SagaID, result.Status)
	}
	w.counts.sagas.Add(1)
	w.mu.Lock()
	w.reports = append(w.reports, sagaReport{id: write.SagaID, version: result.Version, owned: result.Owned})
	w.mu.Unlock()
	if w.IntN(4) == 0 {
		if err := w.checkETags(ctx, result); err != nil {
			return fmt.Errorf("saga %s: %w", write.SagaID, err)
		}
	}
	return nil
}

// commit calls Commit, and now and then twice: at the same time, as a zombie
// attempt would, or afterwards, as when the first answer was lost. Both have to
// answer the same.
func (w *worker) commit(ctx context.Context, request postgres.CommitRequest) (*postgres.CommitResult, error) {
	repeat := w.IntN(30)
	var first, second *postgres.CommitResult
	group, both := errgroup.WithContext(ctx)
	group.Go(func() (err error) {
		first, err = w.patiently(both, request)
		return err
	})
	if repeat == 0 {
		group.Go(func() (err error) {
			second, err = w.patiently(both, request)
			return err
		})
	}
	err := group.Wait()
	if err == nil && repeat == 1 {
		second, err = w.patiently(ctx, request)
	}
	if err != nil || second == nil {
		return first, err
	}
	return first, sameAnswer(first, second)
}

func (w *worker) patiently(ctx context.Context, request postgres.CommitRequest) (*postgres.CommitResult, error) {
	deadline := time.Now().Add(20 * time.Second)
	for {
		result, err := w.db.Commit(ctx, request)
		if err == nil || saga.ClassOf(err) == saga.Rejected || time.Now().After(deadline) {
			return result, err
		}
		w.counts.retried.Add(1)
	}
}

func sameAnswer(a, b *postgres.CommitResult) error {
	same := slices.EqualFunc(a.Owned, b.Owned, func(x, y saga.Owned) bool {
		return x.Entity == y.Entity && x.Key == y.Key && x.ETag == y.ETag
	})
	if a.Status != b.Status || a.Version != b.Version || !same {
		return fmt.Errorf("two calls answer %s %s %v and %s %s %v", a.Status, a.Version, a.Owned, b.Status, b.Version, b.Owned)
	}
	return nil
}

// checkETags compares the reported etags with the rows' xmin, where the rows are
// still as the saga left them.
func (w *worker) checkETags(ctx context.Context, result *postgres.CommitResult) error {
	for _, o := range result.Owned {
		if o.Row == nil {
			continue
		}
		var stamp, xmin *string
		sql := fmt.Sprintf("SELECT max(stamp)::text, max(xmin::text) FROM %s WHERE id = $1::text::int", o.Entity)
		if err := w.db.Pool().QueryRow(ctx, sql, o.Key).Scan(&stamp, &xmin); err != nil {
			return err
		}
		if stamp == nil || *stamp != rowStamp(o.Row) {
			continue
		}
		w.counts.etags.Add(1)
		if want := fmt.Sprintf("%d-%s", result.Version.Epoch(), *xmin); o.ETag != want {
			return fmt.Errorf("%s/%s: etag %s, and the row has %s", o.Entity, o.Key, o.ETag, want)
		}
	}
	return nil
}

var sagaChoices = []choice[func(*worker) []saga.Mutation]{
	{10, func(w *worker) []saga.Mutation { return []saga.Mutation{w.sagaInsert(w.key())} }},
	{20, func(w *worker) []saga.Mutation { return []saga.Mutation{w.sagaUpsert(w.key())} }},
	{10, func(w *worker) []saga.Mutation { return []saga.Mutation{w.sagaPatch(w.key())} }},
	{10, func(w *worker) []saga.Mutation { return []saga.Mutation{w.sagaAdd("item", w.key())} }},
	{5, func(w *worker) []saga.Mutation { return []saga.Mutation{w.sagaAdd("tally", w.key())} }},
	{6, func(w *worker) []saga.Mutation { return []saga.Mutation{w.sagaTally(w.key())} }},
	{3, func(w *worker) []saga.Mutation { return []saga.Mutation{w.sagaDelete("tally", w.key())} }},
	{8, func(w *worker) []saga.Mutation { return []saga.Mutation{w.sagaDelete("item", w.key())} }},
	{8, func(w *worker) []saga.Mutation { return []saga.Mutation{w.sagaPart(w.key(), w.key())} }},
	{6, func(w *worker) []saga.Mutation { return []saga.Mutation{w.sagaDelete("part", w.key())} }},
	{10, (*worker).sagaOneKey},
	{8, (*worker).sagaReplace},
	{10, (*worker).sagaSeveralKeys},
	{5, (*worker).sagaFamily},
}

func (w *worker) sagaOneKey() []saga.Mutation {
	k := w.key()
	return []saga.Mutation{w.sagaUpsert(k), w.sagaPatch(k), w.sagaAdd("item", k), w.sagaUpsert(k)}
}

func (w *worker) sagaReplace() []saga.Mutation {
	k := w.key()
	return []saga.Mutation{w.sagaUpsert(k), w.sagaDelete("item", k), w.sagaInsert(k)}[w.IntN(2):]
}

// sagaSeveralKeys has keys whose triggers change each other.
func (w *worker) sagaSeveralKeys() []saga.Mutation {
	a, b := w.key(), w.key()
	next := 1 + a%keys
	return []saga.Mutation{w.sagaUpsert(a), w.sagaUpsert(b), w.sagaUpsert(next), w.sagaDelete("item", b)}
}

// sagaFamily owns rows of all tables, of which some are changed by triggers and
// some go by a cascade.
func (w *worker) sagaFamily() []saga.Mutation {
	item, part := w.key(), w.key()
	list := []saga.Mutation{w.sagaUpsert(item), w.sagaPart(part, item), w.sagaTally(item)}
	if w.IntN(3) == 0 {
		list = append(list, w.sagaDelete("item", item)) // takes the part along
	}
	return list
}

func (w *worker) sagaInsert(k int) saga.Mutation {
	return saga.Mutation{Entity: "item", Op: saga.Insert, Row: w.itemRow(k)}
}

func (w *worker) sagaUpsert(k int) saga.Mutation {
	return saga.Mutation{Entity: "item", Op: saga.Upsert, Row: w.itemRow(k)}
}

func (w *worker) itemRow(k int) saga.Columns {
	row := saga.Columns{"id": number(k), "n": number(w.IntN(9)), "note": quoted(w.name)}
	if w.IntN(4) == 0 {
		row["blob"] = quoted(w.blob())
	}
	return row
}

func (w *worker) sagaPatch(k int) saga.Mutation {
	return saga.Mutation{
		Entity: "item", Op: saga.Patch, Key: saga.Columns{"id": number(k)},
		Set: saga.Columns{"note": quoted(w.name)}, Add: saga.Columns{"n": number(1)},
	}
}

func (w *worker) sagaAdd(entity string, k int) saga.Mutation {
	return saga.Mutation{Entity: entity, Op: saga.Add, Key: saga.Columns{"id": number(k)}, Add: saga.Columns{"n": number(w.IntN(5))}}
}

func (w *worker) sagaDelete(entity string, k int) saga.Mutation {
	return saga.Mutation{Entity: entity, Op: saga.Delete, Key: saga.Columns{"id": number(k)}}
}

func (w *worker) sagaPart(k, item int) saga.Mutation {
	return saga.Mutation{Entity: "part", Op: saga.Upsert, Row: saga.Columns{
		"id": number(k), "item_id": number(item), "n": number(w.IntN(9)),
	}}
}

func (w *worker) sagaTally(k int) saga.Mutation {
	return saga.Mutation{Entity: "tally", Op: saga.Upsert, Row: saga.Columns{"id": number(k), "n": number(w.IntN(9))}}
}

func number(n int) json.RawMessage { return json.RawMessage(strconv.Itoa(n)) }

func quoted(s string) json.RawMessage { return json.RawMessage(strconv.Quote(s)) }

// rowStamp returns the stamp of a row as JSON.
func rowStamp(row json.RawMessage) string {
	var r struct{ Stamp json.Number }
	if err := json.Unmarshal(row, &r); err != nil {
		return ""
	}
	return r.Stamp.String()
}
