// Package activitytest gives tests a saga's activities over systems in memory
// whose failures a test scripts.
package activitytest

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/capsaga/capsaga/activities"
	"github.com/capsaga/capsaga/internal/notify"
	"github.com/capsaga/capsaga/saga"
)

// Catalog has one entity, products, that goes to all sinks, and one, users, that
// goes to Redis and Kafka.
func Catalog() *saga.Catalog {
	return &saga.Catalog{Entities: map[string]*saga.Entity{
		"products": {
			Name: "products", Table: saga.Table{Schema: "public", Name: "products"}, Key: []string{"id"},
			Redis: &saga.RedisSink{}, Kafka: &saga.KafkaSink{}, Elasticsearch: &saga.ElasticsearchSink{},
		},
		"users": {
			Name: "users", Table: saga.Table{Schema: "public", Name: "users"}, Key: []string{"id"},
			Redis: &saga.RedisSink{}, Kafka: &saga.KafkaSink{},
		},
	}}
}

// Systems are the four systems in memory. A failure that a test sets is asked at
// each call, with the number of the call from 1 on.
type Systems struct {
	Redis, Elasticsearch *Sink
	Kafka                *Stream

	mu       sync.Mutex
	OnCommit func(ctx context.Context, call int) error // before the commit
	OnRecord func(call int) error
	OnAlone  func(sagaID string) bool
	OnRead   func(entity, key string) (activities.Row, error)
	OnUndo   func(call int) error // before the undo
	OnEdit   func(call int) error // before the edit
	// Refuse is what the database says to an undo or an edit; nil: it agrees.
	Refuse   func() *saga.ErrorInfo
	Reject   *saga.ErrorInfo // the business says no
	commits  int
	records  int
	ledger   map[string]*activities.CommitResult
	cancels  map[string]bool
	recorded map[string]saga.Outcome
	changes  map[string]*activities.ChangeResult
	undos    int
	edits    int
	waivers  []activities.Waiver
	gates    map[string]int
	rows     map[string]activities.Row
	lsn      saga.LSN
}

// NewSystems returns systems without failures.
func NewSystems() *Systems {
	return &Systems{
		Redis: &Sink{rows: map[string]saga.Document{}}, Elasticsearch: &Sink{rows: map[string]saga.Document{}},
		Kafka:  &Stream{},
		ledger: map[string]*activities.CommitResult{}, cancels: map[string]bool{}, recorded: map[string]saga.Outcome{},
		changes: map[string]*activities.ChangeResult{}, gates: map[string]int{}, rows: map[string]activities.Row{},
	}
}

// Activities returns the activities over the systems.
func (s *Systems) Activities(hub *notify.Hub) *activities.Saga {
	return activities.New(activities.Dependencies{
		Catalog: Catalog(), Committer: s, Batches: s, Changer: s, Ledger: s, Rows: s, Gates: s, Notifier: hub,
		Redis: s.Redis, Elasticsearch: s.Elasticsearch, Positions: s.Kafka,
	})
}

// Commit keeps the write's rows under its saga id, once.
func (s *Systems) Commit(ctx context.Context, r activities.CommitRequest) (*activities.CommitResult, error) {
	s.mu.Lock()
	s.commits++
	call, hook := s.commits, s.OnCommit
	s.mu.Unlock()
	if hook != nil {
		if err := hook(ctx, call); err != nil {
			return nil, err
		}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	w := r.Write
	if known, ok := s.ledger[w.SagaID]; ok {
		if known.Content != w.Digest() {
			return &activities.CommitResult{Status: saga.Failed, WorkflowID: known.WorkflowID, Error: &saga.ErrorInfo{
				Code: saga.CodeSagaIDReused, Class: saga.Rejected, System: "postgres",
				Message: fmt.Sprintf("saga id %q is in use with other content", w.SagaID),
			}}, nil
		}
		again := *known
		for request, change := range s.changes {
			if id, kind, _ := strings.Cut(request, " "); id == w.SagaID && kind != "undo" && change.Version > again.Version {
				again.Version, again.Owned = change.Version, change.Owned
			}
		}
		if o, ok := s.recorded[w.SagaID]; ok {
			again.Recorded = &o
		}
		return &again, nil
	}
	if w.Stream != nil {
		return &activities.CommitResult{Status: saga.RejectedEnd, Content: w.Digest(), Error: &saga.ErrorInfo{
			Code: saga.CodeUnknownSaga, Class: saga.Rejected, System: "postgres", Message: "not in the ledger",
		}}, nil
	}
	result := s.commit(r)
	s.ledger[w.SagaID] = result
	s.keep(result.Version, result.Owned)
	return result, nil
}

// CommitBatch commits each write as Commit does; OnAlone, where it is set, says
// which are to have workflows of their own.
func (s *Systems) CommitBatch(ctx context.Context, r activities.BatchRequest) ([]*activities.CommitResult, error) {
	results := make([]*activities.CommitResult, len(r.Writes))
	for i, w := range r.Writes {
		if s.OnAlone != nil && s.OnAlone(w.Write.SagaID) {
			continue
		}
		result, err := s.Commit(ctx, activities.CommitRequest{
			Write: *w.Write, Catalog: r.Catalog, WorkflowID: r.WorkflowID, RunID: r.RunID,
			TraceParent: w.TraceParent, TraceState: w.TraceState,
		})
		if err != nil {
			return nil, err
		}
		result.InBatch = true
		results[i] = result
	}
	return results, nil
}

func (s *Systems) commit(r activities.CommitRequest) *activities.CommitResult {
	result := &activities.CommitResult{Status: saga.Committed, WorkflowID: r.WorkflowID, RunID: r.RunID, Content: r.Write.Digest()}
	if s.cancels[r.Write.SagaID] {
		result.Status = saga.Cancelled
		return result
	}
	if s.Reject != nil {
		result.Status, result.Error = saga.RejectedEnd, s.Reject
		return result
	}
	s.lsn += 100
	result.Version, _ = saga.NewVersion(1, s.lsn)
	result.FlushLSN, result.Confirmed, result.CommittedAt = s.lsn+50, saga.ConfirmedLocally, time.Now()
	for i := range r.Write.Mutations {
		m := &r.Write.Mutations[i]
		owned := saga.Owned{Entity: m.Entity, Key: saga.EncodeKey([]string{string(m.KeyColumns()["id"])})}
		if m.Op != saga.Delete {
			owned.ETag = fmt.Sprintf("1:%d", s.lsn)
			owned.Row, _ = json.Marshal(m.Row)
		}
		result.Owned = append(result.Owned, owned)
	}
	return result
}

// Commits returns how often Commit was called.
func (s *Systems) Commits() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.commits
}

// Cancel takes the saga's place in the ledger.
func (s *Systems) Cancel(_ context.Context, w saga.Write, _, _ string) (bool, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if known, ok := s.ledger[w.SagaID]; ok {
		return known.Status == saga.Committed, nil
	}
	s.cancels[w.SagaID] = true
	return false, nil
}

// RecordOutcome keeps the outcome.
func (s *Systems) RecordOutcome(_ context.Context, sagaID string, o saga.Outcome) (outdated bool, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.records++
	if s.OnRecord != nil {
		if err := s.OnRecord(s.records); err != nil {
			return false, err
		}
	}
	if known, ok := s.ledger[sagaID]; ok && o.Stream != nil && known.Version > o.Version {
		return true, nil
	}
	s.recorded[sagaID] = o
	return false, nil
}

// RecordOutcomes keeps the outcomes.
func (s *Systems) RecordOutcomes(ctx context.Context, completed []saga.Outcome) error {
	for _, o := range completed {
		if _, err := s.RecordOutcome(ctx, o.SagaID, o); err != nil {
			return err
		}
	}
	return nil
}

// FinishBatch counts as one more record: each saga of the batch that has no outcome
// of its own and does not go on alone has completed.
func (s *Systems) FinishBatch(_ context.Context, workflowID string, alone []string, steps []saga.Step) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.records++
	if s.OnRecord != nil {
		if err := s.OnRecord(s.records); err != nil {
			return err
		}
	}
	for id, r := range s.ledger {
		_, known := s.recorded[id]
		if r.WorkflowID != workflowID || r.Version == 0 || known || slices.Contains(alone, id) {
			continue
		}
		o := saga.Outcome{SagaID: id, Status: saga.Completed, Content: r.Content, Confirmed: r.Confirmed, Steps: steps}
		o.Own(r.Version, r.Owned)
		s.recorded[id] = o
	}
	return nil
}

// Recorded returns the outcome that was recorded.
func (s *Systems) Recorded(sagaID string) (saga.Outcome, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	o, ok := s.recorded[sagaID]
	return o, ok
}

// ReadRow asks OnRead; without it, the row is as the last saga left it.
func (s *Systems) ReadRow(_ context.Context, e *saga.Entity, key string) (activities.Row, error) {
	if s.OnRead != nil {
		return s.OnRead(e.Name, key)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.rows[e.Name+"/"+key], nil
}

// keep notes the rows as a saga leaves them.
func (s *Systems) keep(version saga.Version, owned []saga.Owned) {
	for _, o := range owned {
		s.rows[o.Entity+"/"+o.Key] = activities.Row{Found: !o.Gone(), Row: o.Row, ETag: o.ETag, Version: version}
	}
}

// Sink is a sink in memory.
type Sink struct {
	mu   sync.Mutex
	Fail func(ctx context.Context, call int) error
	// FailRow is asked of each document.
	FailRow func(doc saga.Document) error
	calls   int
	rows    map[string]saga.Document
}

// Calls returns how often the sink was called.
func (s *Sink) Calls() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.calls
}

// Get returns what the sink holds.
func (s *Sink) Get(entity, key string) (saga.Document, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	doc, ok := s.rows[entity+"/"+key]
	return doc, ok
}

// Apply sets the documents that are newer.
func (s *Sink) Apply(ctx context.Context, docs []saga.Document) ([]saga.Applied, error) {
	s.mu.Lock()
	s.calls++
	call, fail := s.calls, s.Fail
	s.mu.Unlock()
	if fail != nil {
		if err := fail(ctx, call); err != nil {
			return nil, err
		}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	applied := make([]saga.Applied, len(docs))
	for i, doc := range docs {
		if s.FailRow != nil {
			if applied[i].Err = s.FailRow(doc); applied[i].Err != nil {
				continue
			}
		}
		at := doc.Entity + "/" + doc.Key
		if doc.Version > s.rows[at].Version {
			s.rows[at] = doc
			applied[i].Changed = true
		}
	}
	return applied, nil
}

// Stream is Kafka's stream in memory: it is always there unless it fails.
type Stream struct {
	mu    sync.Mutex
	Fail  func(ctx context.Context, call int) error
	calls int
}

// Wait returns at once.
func (s *Stream) Wait(ctx context.Context, _ saga.LSN) error {
	s.mu.Lock()
	s.calls++
	call, fail := s.calls, s.Fail
	s.mu.Unlock()
	if fail == nil {
		return nil
	}
	return fail(ctx, call)
}

// Unavailable is what an adapter says of a system that is away.
func Unavailable(system string) error {
	return &saga.Error{
		Class: saga.Unavailable, System: system, Code: saga.CodeUnavailable,
		Message: system + " at 127.0.0.1 refuses connections: is it running?",
	}
}

// Rejected is what an adapter says of a request that its system refuses.
func Rejected(system string) error {
	return &saga.Error{
		Class: saga.Rejected, System: system, Code: saga.CodeRejected,
		Message: system + " refuses the document: field title is a number",
	}
}

// Until fails with the error up to that call.
func Until(call int, err error) func(context.Context, int) error {
	return func(_ context.Context, n int) error {
		if n <= call {
			return err
		}
		return nil
	}
}

// Write returns an upsert of one product.
func Write(sagaID string) saga.Write {
	return saga.Write{SagaID: sagaID, Mutations: []saga.Mutation{{
		Entity: "products", Op: saga.Upsert,
		Row: saga.Columns{"id": json.RawMessage(`42`), "title": json.RawMessage(`"Lamp"`)},
	}}}
}
