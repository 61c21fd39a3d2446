package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"sync"
	"sync/atomic"
	"time"

	"github.com/capsaga/capsaga/internal/ndjson"
	"github.com/capsaga/capsaga/saga"
	"github.com/capsaga/capsaga/saga/client"
)

// writing is one run over a file. Memory is bounded by the number of lines that
// are under way: as many batches as may run at once, and one that is being read.
type writing struct {
	sagas       writer
	ping        func(context.Context) error // whether Temporal is there
	level       client.Level
	timeout     time.Duration
	concurrency int
	batch       int // writes in one workflow at most; 1: each has its own
	report      *writeReport

	// away counts the sagas in a row that Temporal did not answer for.
	away atomic.Int64
}

// lineOutcome is the answer to one line.
type lineOutcome struct {
	Line int `json:"line"`
	saga.Outcome
}

// do writes all lines and returns the error whose exit status fits.
func (w *writing) do(ctx context.Context, input io.Reader) error {
	// Ended early, it stops the reading; what is under way is still waited for.
	reading, stop := context.WithCancel(ctx)
	defer stop()
	lines, batches := make(chan ndjson.Line), make(chan []ndjson.Line)
	var writers sync.WaitGroup
	for range w.concurrency {
		writers.Go(func() {
			for batch := range batches {
				w.write(ctx, batch)
				if int(w.away.Load()) >= 2*w.concurrency {
					stop()
				}
			}
		})
	}
	writers.Go(func() {
		defer close(batches)
		w.gather(lines, batches)
	})
	err := w.read(reading, input, lines)
	close(lines)
	writers.Wait()
	if err == nil && reading.Err() != nil {
		err = errStopped
		if ctx.Err() == nil {
			err = errAway
		}
	}
	return w.report.end(err)
}

var (
	errStopped = errors.New("stopped: what was started goes on; write the same file again for all outcomes")
	errAway    = errors.New("temporal does not answer any more: check that it runs and write the same file again, which starts nothing twice")
)

// read hands out the lines until the input or the context ends.
func (w *writing) read(ctx context.Context, input io.Reader, lines chan<- ndjson.Line) error {
	reader := ndjson.NewReader(input, saga.MaxWriteBytes)
	for ctx.Err() == nil {
		line, err := reader.Next()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		w.report.progress(reader.BytesRead())
		select {
		case lines <- line:
		case <-ctx.Done():
		}
	}
	return nil
}

// gatherPause is how long a batch that is not full waits for the next line, where
// the lines come slower than they are written.
const gatherPause = 20 * time.Millisecond

// gather hands the lines on in batches.
func (w *writing) gather(lines <-chan ndjson.Line, batches chan<- []ndjson.Line) {
	var batch []ndjson.Line
	size := 0
	send := func() {
		if len(batch) > 0 {
			batches <- batch
		}
		batch, size = nil, 0
	}
	defer send()
	for {
		var pause <-chan time.Time
		if len(batch) > 0 {
			pause = time.After(gatherPause)
		}
		select {
		case line, more := <-lines:
			if !more {
				return
			}
			if size+len(line.Data) > maxBatchBytes {
				send()
			}
			batch, size = append(batch, line), size+len(line.Data)
			if len(batch) >= max(w.batch, 1) {
				send()
			}
		case <-pause:
			send()
		}
	}
}

// maxBatchBytes is what a batch of lines holds at most: what is more would go in two
// workflows.
const maxBatchBytes = 1_000_000

// write writes a batch of lines and reports each one's answer, whatever becomes of
// it.
func (w *writing) write(ctx context.Context, lines []ndjson.Line) {
	outcomes := make([]lineOutcome, len(lines))
	var writes []saga.Write
	var places []int
	unanswered := false
	for i, line := range lines {
		write, err := w.parse(line)
		if err != nil {
			outcomes[i] = refusedLine(line.Number, sagaIDOf(line.Data), err)
			continue
		}
		writes, places = append(writes, *write), append(places, i)
	}
	for k, r := range w.send(ctx, writes) {
		o := r.Outcome
		switch {
		case r.Err == nil:
		case o.Version != 0: // as far as its batch had come
			if !w.reached(o) {
				o.Error = errorInfo(r.Err)
			}
		case w.batch > 1 && saga.ClassOf(r.Err) != saga.Rejected: // it has no workflow to ask
			o = saga.Outcome{SagaID: writes[k].SagaID, Status: saga.Pending, Error: errorInfo(r.Err)}
			unanswered = true
		default:
			o = w.unanswered(ctx, writes[k].SagaID, r.Err)
		}
		outcomes[places[k]] = lineOutcome{Line: lines[places[k]].Number, Outcome: o}
	}
	if unanswered {
		w.countAway(ctx)
	}
	for _, o := range outcomes {
		w.report.add(o, w.reached(o.Outcome))
	}
}

func (w *writing) parse(line ndjson.Line) (*saga.Write, error) {
	if line.Err != nil {
		return nil, &saga.Error{Class: saga.Rejected, System: "capsaga", Code: saga.CodeInvalidWrite, Message: line.Err.Error()}
	}
	return saga.ParseWrite(line.Data)
}

// retryPause is the time between tries of a write that Temporal did not take.
const retryPause = 500 * time.Millisecond

// send writes the sagas, again and again while Temporal does not take them: that is
// safe, as a saga's id makes all tries one.
func (w *writing) send(ctx context.Context, writes []saga.Write) []client.Result {
	ctx, cancel := context.WithTimeout(ctx, w.timeout)
	defer cancel()
	results := make([]client.Result, len(writes))
	open := make([]int, len(writes))
	for i := range open {
		open[i] = i
	}
	for len(open) > 0 {
		var again []int
		for k, r := range w.try(ctx, writes, open) {
			results[open[k]] = r
			if r.Err == nil {
				w.away.Store(0)
			} else if saga.ClassOf(r.Err) == saga.Unavailable {
				again = append(again, open[k])
			}
		}
		if open = again; len(open) == 0 {
			break
		}
		select {
		case <-ctx.Done():
			return results
		case <-time.After(retryPause):
		}
	}
	return results
}

// try writes those of the sagas that are open, once.
func (w *writing) try(ctx context.Context, writes []saga.Write, open []int) []client.Result {
	if w.batch <= 1 {
		o, err := w.sagas.Write(ctx, writes[open[0]], w.level)
		return []client.Result{{Outcome: o, Err: err}}
	}
	list := make([]saga.Write, len(open))
	for k, i := range open {
		list[k] = writes[i]
	}
	return w.sagas.WriteBatch(ctx, list, w.level)
}

// lookTimeout bounds the second look at a saga whose wait has ended.
const lookTimeout = 2 * time.Second

// unanswered is the outcome of a saga whose wait failed: refused for good, or as
// far as it is known to be.
func (w *writing) unanswered(ctx context.Context, sagaID string, err error) saga.Outcome {
	if saga.ClassOf(err) == saga.Rejected {
		w.away.Store(0)
		return saga.Outcome{SagaID: sagaID, Status: saga.Failed, Error: errorInfo(err)}
	}
	looking, cancel := context.WithTimeout(context.WithoutCancel(ctx), lookTimeout)
	defer cancel()
	o, lookErr := w.sagas.Status(looking, sagaID)
	if lookErr != nil {
		o = saga.Outcome{SagaID: sagaID, Status: saga.Pending}
		w.countAway(ctx)
	}
	if o.Error == nil && !w.reached(o) {
		o.Error = errorInfo(err)
	}
	return o
}

// countAway tells a Temporal that is gone, for which reading on is useless, from
// sagas that are slow.
func (w *writing) countAway(ctx context.Context) {
	pinging, cancel := context.WithTimeout(context.WithoutCancel(ctx), lookTimeout)
	defer cancel()
	if w.ping(pinging) == nil {
		w.away.Store(0)
		return
	}
	w.away.Add(1)
}

// reached reports whether an outcome is what was waited for. A parked saga has
// reached its commit.
func (w *writing) reached(o saga.Outcome) bool {
	switch o.Status {
	case saga.Completed:
		return true
	case saga.Committed, saga.Parked:
		return w.level == client.WaitCommitted && o.Version != 0
	default:
		return false
	}
}

func refusedLine(number int, sagaID string, err error) lineOutcome {
	return lineOutcome{Line: number, Outcome: saga.Outcome{SagaID: sagaID, Status: saga.Failed, Error: errorInfo(err)}}
}

func errorInfo(err error) *saga.ErrorInfo {
	var e *saga.Error
	if !errors.As(err, &e) {
		return &saga.ErrorInfo{Code: saga.CodeUnavailable, Message: err.Error()}
	}
	return &saga.ErrorInfo{Code: e.Code, Message: e.Message, Class: e.Class, System: e.System}
}

// sagaIDOf finds the id of a line that is JSON but no good write, so that its
// answer can name it.
func sagaIDOf(data []byte) string {
	var named struct {
		SagaID string `json:"saga_id"`
	}
	if len(data) > saga.MaxWriteBytes || json.Unmarshal(data, &named) != nil || len(named.SagaID) > saga.MaxSagaIDBytes {
		return ""
	}
	return named.SagaID
}

// counts is the summary of a run.
type counts struct {
	lines, reached int
	byStatus       map[saga.Status]int
}

// end is the error of a run that printed these answers and ended with cause.
func (c counts) end(cause error) error {
	missed := c.lines - c.reached
	switch {
	case cause != nil && c.reached == 0:
		return cause
	case cause != nil:
		return &exitError{status: statusSome, err: cause}
	case missed > 0:
		return &exitError{status: statusSome, err: fmt.Errorf("%d of %s did not end as was waited for: each is named above", missed, writesOf(c.lines))}
	}
	return nil
}
