package activitytest

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"time"

	"github.com/capsaga/capsaga/activities"
	"github.com/capsaga/capsaga/saga"
)

// Undo takes a saga's rows back, once: all of them are gone then.
func (s *Systems) Undo(_ context.Context, r activities.UndoRequest) (*activities.ChangeResult, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.undos++
	if s.OnUndo != nil {
		if err := s.OnUndo(s.undos); err != nil {
			return nil, err
		}
	}
	return s.change(r.SagaID, "undo", func(o *saga.Owned) { o.ETag, o.Row = "", nil }), nil
}

// Edit changes a saga's rows, once per request.
func (s *Systems) Edit(_ context.Context, r activities.EditRequest) (*activities.ChangeResult, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.edits++
	if s.OnEdit != nil {
		if err := s.OnEdit(s.edits); err != nil {
			return nil, err
		}
	}
	set, err := json.Marshal(r.Mutations[0].Set)
	if err != nil {
		return nil, err
	}
	return s.change(r.SagaID, r.RequestID, func(o *saga.Owned) {
		o.ETag, o.Row = fmt.Sprintf("1:%d", s.lsn), set
	}), nil
}

func (s *Systems) change(sagaID, request string, apply func(o *saga.Owned)) *activities.ChangeResult {
	if known, ok := s.changes[sagaID+" "+request]; ok {
		return known
	}
	if s.Refuse != nil {
		if e := s.Refuse(); e != nil {
			return &activities.ChangeResult{Refused: e}
		}
	}
	s.lsn += 100
	r := &activities.ChangeResult{FlushLSN: s.lsn + 50, CommittedAt: time.Now()}
	r.Version, _ = saga.NewVersion(1, s.lsn)
	for _, o := range s.ledger[sagaID].Owned {
		apply(&o)
		r.Owned = append(r.Owned, o)
	}
	s.changes[sagaID+" "+request] = r
	s.keep(r.Version, r.Owned)
	return r
}

// Changes returns how many undos and edits have taken effect.
func (s *Systems) Changes() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.changes)
}

// Adopt makes a parked saga of a row that a sink refused, or makes the refusal part
// of the saga that an earlier one began.
func (s *Systems) Adopt(began *saga.Write, r saga.Refused) saga.Write {
	w := r.Write()
	if began != nil {
		w = *began
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	owned := []saga.Owned{r.Owned()}
	o := saga.Outcome{SagaID: w.SagaID, Status: saga.Parked, Content: w.Digest(), Stream: w.Stream, Error: &r.Error}
	o.Own(r.Version, owned)
	o.Steps = []saga.Step{{Name: saga.StepCommit, State: saga.StepDone}}
	for _, sink := range r.Entity.Sinks() {
		step := saga.Step{Name: saga.StepName(sink), State: saga.StepDone}
		if sink == r.Sink {
			step.State, step.Error = saga.StepParked, &r.Error
		}
		o.Steps = append(o.Steps, step)
	}
	s.recorded[w.SagaID] = o
	s.ledger[w.SagaID] = &activities.CommitResult{
		Status: saga.Committed, WorkflowID: saga.WorkflowID(w.SagaID), Content: w.Digest(),
		Version: r.Version, FlushLSN: r.Version.LSN(), Owned: owned,
	}
	return w
}

// After makes the next commit or change come after a position.
func (s *Systems) After(lsn saga.LSN) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.lsn = max(s.lsn, lsn)
}

// Waive keeps the waiver.
func (s *Systems) Waive(_ context.Context, w activities.Waiver) (saga.Version, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if known := s.ledger[w.SagaID]; known != nil && known.Version > w.Version {
		w.Version = known.Version
	}
	s.waivers = append(s.waivers, w)
	return w.Version, nil
}

// Waivers returns the waivers.
func (s *Systems) Waivers() []activities.Waiver {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.waivers)
}

// Recall returns the recorded outcome, or one made from the commit.
func (s *Systems) Recall(_ context.Context, sagaID string) (*saga.Outcome, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if o, ok := s.recorded[sagaID]; ok {
		return &o, nil
	}
	r, ok := s.ledger[sagaID]
	if !ok {
		return nil, nil
	}
	o := &saga.Outcome{SagaID: sagaID, Status: r.Status, Error: r.Error, Content: r.Content}
	if r.Version != 0 {
		o.Own(r.Version, r.Owned)
	}
	return o, nil
}

// OpenGate counts the calls.
func (s *Systems) OpenGate(_ context.Context, system string) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.gates[system]++
	return nil
}

// Gates returns how often the gate of a system was opened.
func (s *Systems) Gates(system string) int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.gates[system]
}
