package saga

import (
	"encoding/json"
	"fmt"
	"strings"
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
// workflow, and the answer to its updates and its query. What the writes have in
// common it tells once, as it may be of a thousand of them: Outcome tells of one.
type BatchOutcome struct {
	// Status is pending, committed or completed. It tells of the batch alone: each
	// write has its own.
	Status Status `json:"status"`
	// Steps are the steps of each write that has committed in the batch.
	Steps []Step `json:"steps,omitempty"`
	// Split lists the writes, by their place in the batch, that have become workflows
	// of their own: WorkflowID tells their ids. Their outcome here is as far as the
	// batch knows it.
	Split []int `json:"split,omitempty"`
	BatchTable
}

// BatchTable is the results of a batch's commit.
type BatchTable struct {
	// Transactions are those of PostgreSQL that the writes were committed in.
	Transactions []BatchTransaction `json:"transactions,omitempty"`
	Entities     []string           `json:"entities,omitempty"`
	// Writes has an entry per write, in the batch's order.
	Writes []BatchWrite `json:"writes,omitempty"`
}

// BatchTransaction is what the writes of one transaction have in common.
type BatchTransaction struct {
	Version   Version      `json:"version"`
	Confirmed Confirmation `json:"confirmed,omitempty"`
	ETag      string       `json:"etag"` // of the rows that name no other
}

// BatchWrite is the result of one write.
type BatchWrite struct {
	// Transaction is the number of that of a write that has committed, from 1 on.
	Transaction int        `json:"t,omitempty"`
	Rows        []BatchRow `json:"rows,omitempty"`
	// Outcome is set instead of a write that was refused, or that had come to it
	// before the batch.
	Outcome *Outcome `json:"outcome,omitempty"`
}

// BatchRow is a row that a write owns.
type BatchRow struct {
	Entity int     `json:"e,omitempty"` // its place in the table's entities
	Key    string  `json:"k"`           // KEYENC
	ETag   *string `json:"etag,omitempty"`
	// Version is as that of Owned.
	Version Version `json:"version,omitempty"`
}

// Add enters a write's result into the table.
func (t *BatchTable) Add(version Version, confirmed Confirmation, owned []Owned) {
	w := BatchWrite{Transaction: len(t.Transactions)}
	if w.Transaction == 0 || t.Transactions[w.Transaction-1].Version != version || t.Transactions[w.Transaction-1].Confirmed != confirmed {
		t.Transactions = append(t.Transactions, BatchTransaction{Version: version, Confirmed: confirmed})
		w.Transaction++
	}
	common := &t.Transactions[w.Transaction-1].ETag
	for i := range owned {
		o := &owned[i]
		if *common == "" {
			*common = o.ETag
		}
		row := BatchRow{Entity: t.entity(o.Entity), Key: o.Key, Version: o.Version}
		// A row that is gone says so itself: the rows after it may have an etag.
		if o.ETag != *common || o.Gone() {
			row.ETag = &o.ETag
		}
		w.Rows = append(w.Rows, row)
	}
	t.Writes = append(t.Writes, w)
}

func (t *BatchTable) entity(name string) int {
	for i, known := range t.Entities {
		if known == name {
			return i
		}
	}
	t.Entities = append(t.Entities, name)
	return len(t.Entities) - 1
}

// Committed returns the version of a write that was committed, else zero.
func (t *BatchTable) Committed(i int) Version {
	if n := t.Writes[i].Transaction; n > 0 {
		return t.Transactions[n-1].Version
	}
	return 0
}

// Owned returns the rows that a write owns.
func (t *BatchTable) Owned(i int) []Owned {
	w := &t.Writes[i]
	owned := make([]Owned, len(w.Rows))
	for k, row := range w.Rows {
		owned[k] = Owned{Entity: t.Entities[row.Entity], Key: row.Key, Version: row.Version, ETag: t.Transactions[w.Transaction-1].ETag}
		if row.ETag != nil {
			owned[k].ETag = *row.ETag
		}
	}
	return owned
}

// Outcome returns the outcome of a write, whose saga id and digest are given. A batch
// without a result for it knows nothing of it yet.
func (b *BatchOutcome) Outcome(i int, sagaID, content string) Outcome {
	o := Outcome{SagaID: sagaID, Status: Pending, Content: content}
	switch {
	case i >= len(b.Writes):
	case b.Writes[i].Outcome != nil:
		o = *b.Writes[i].Outcome
		if o.Content == "" {
			o.Content = content
		}
	case b.Writes[i].Transaction > 0:
		o.Own(b.Committed(i), b.Owned(i))
		o.Status, o.Steps, o.Confirmed = b.Status, b.Steps, b.Transactions[b.Writes[i].Transaction-1].Confirmed
	}
	return o
}

// BatchID returns the workflow id of a batch.
func BatchID(name string) string { return "batch/" + name }

// BatchSummary says in one line what a batch writes.
func BatchSummary(writes int, entities []string) string {
	text := fmt.Sprintf("batch of %d writes", writes)
	if len(entities) == 0 {
		return text
	}
	return text + ": " + strings.Join(entities, ", ")
}

// MemoBegan is the memo field of a saga that was split off a batch: since when its
// steps have been tried, as JSON of a time.
const MemoBegan = "began"
