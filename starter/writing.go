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
// are under way.
type writing struct {
	sagas       writer
	ping        func(context.Context) error // whether Temporal is there
	level       client.Level
	timeout     time.Duration
	concurrency int
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
	lines := make(chan ndjson.Line)
	var writers sync.WaitGroup
	for range w.concurrency {
		writers.Go(func() {
			for line := range lines {
				o := w.line(ctx, line)
				w.report.add(o, w.reached(o.Outcome))
				if int(w.away.Load()) >= 2*w.concurrency {
					stop()
				}
			}
		})
	}
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

// line writes one line and returns its answer, whatever becomes of it.
func (w *writing) line(ctx context.Context, line ndjson.Line) lineOutcome {
	if line.Err != nil {
		return refusedLine(line.Number, "", &saga.Error{Class: saga.Rejected, System: "capsaga", Code: saga.CodeInvalidWrite, Message: line.Err.Error()})
	}
	write, err := saga.ParseWrite(line.Data)
	if err != nil {
		return refusedLine(line.Number, sagaIDOf(line.Data), err)
	}
	o, err := w.write(ctx, *write)
	if err != nil {
		o = w.unanswered(ctx, write.SagaID, err)
	}
	return lineOutcome{Line: line.Number, Outcome: o}
}

// retryPause is the time between tries of a write that Temporal did not take.
const retryPause = 500 * time.Millisecond

// write writes one saga, again and again while Temporal does not take it: that is
// safe, as the saga's id makes all tries one.
func (w *writing) write(ctx context.Context, write saga.Write) (saga.Outcome, error) {
	ctx, cancel := context.WithTimeout(ctx, w.timeout)
	defer cancel()
	for {
		o, err := w.sagas.Write(ctx, write, w.level)
		if err == nil {
			w.away.Store(0)
		}
		if err == nil || saga.ClassOf(err) != saga.Unavailable {
			return o, err
		}
		select {
		case <-ctx.Done():
			return o, err
		case <-time.After(retryPause):
		}
	}
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
