package saga

import (
	"encoding/json"
	"fmt"
)

// The limits of one batch: well inside of what Temporal takes as one payload.
const (
	MaxBatchWrites = 1000
	MaxBatchBytes  = 1_500_000 // of the writes' JSON
)

// Batch is many writes that travel in one workflow. Each stays a saga of its own,
// with its own id, outcome, version and policy.
type Batch struct {
	// Writes holds the JSON of each Write. Those of one row are committed in this
	// order.
	Writes []json.RawMessage `json:"writes"`
	// Traces holds the trace of each write's caller, in the same order; empty: none
	// has one.
	Traces []Trace `json:"traces,omitempty"`
}

// Trace is a W3C trace context.
type Trace struct {
	Parent string `json:"traceparent,omitempty"`
	State  string `json:"tracestate,omitempty"`
}

// ParseBatch reads the input of a batch's workflow. It looks into no write: one
// that is malformed is its own failure.
func ParseBatch(data []byte) (*Batch, error) {
	b := &Batch{}
	if err := json.Unmarshal(data, b); err != nil {
		return nil, invalid("a batch: %s", describeJSON(err))
	}
	size := 0
	for _, w := range b.Writes {
		size += len(w)
	}
	switch {
	case len(b.Writes) == 0:
		return nil, invalid("a batch needs writes: at least one")
	case len(b.Writes) > MaxBatchWrites:
		return nil, invalid("a batch of %d writes: at most %d are allowed; split it", len(b.Writes), MaxBatchWrites)
	case size > MaxBatchBytes:
		return nil, invalid("a batch whose writes have %d bytes: at most %d are allowed; split it", size, MaxBatchBytes)
	case len(b.Traces) > 0 && len(b.Traces) != len(b.Writes):
		return nil, invalid("a batch of %d writes with %d traces: want as many, or none", len(b.Writes), len(b.Traces))
	}
	return b, nil
}

// Trace returns the trace of a write's caller.
func (b *Batch) Trace(i int) Trace {
	if i < len(b.Traces) {
		return b.Traces[i]
	}
	return Trace{}
}

// BatchOutcome is what a batch came to, or where it stands: the result of its
// workflow, and the answer to its updates and its query.
type BatchOutcome struct {
	// Status is pending, committed or completed. It tells of the batch alone: each
	// write has its own.
	Status Status `json:"status"`
	// Outcomes has an outcome per write, in the batch's order, without the steps that
	// all share and without the content's digest.
	Outcomes []Outcome `json:"outcomes,omitempty"`
	// Steps are the steps of each write that has completed in the batch.
	Steps []Step `json:"steps,omitempty"`
	// Split lists the writes, by their place in the batch, that have become workflows
	// of their own: WorkflowID tells their ids. Their outcome here is as far as the
	// batch knows it.
	Split []int `json:"split,omitempty"`
}

// BatchID returns the workflow id of a batch.
func BatchID(name string) string { return "batch/" + name }

// BatchSummary says in one line what a batch writes.
func BatchSummary(writes int, entities []string) string {
	text := fmt.Sprintf("batch of %d writes", writes)
	for i, e := range entities {
		separator := ", "
		if i == 0 {
			separator = ": "
		}
		text += separator + e
	}
	return text
}

// MemoBegan is the memo field of a saga that was split off a batch: since when its
// steps have been tried, as JSON of a time.
const MemoBegan = "began"
