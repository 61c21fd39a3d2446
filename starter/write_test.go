package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/capsaga/capsaga/saga"
	"github.com/capsaga/capsaga/saga/client"
)

// sagas answers writes from memory.
type sagas struct {
	mu      sync.Mutex
	wrote   []string
	batches []int
	write   func(ctx context.Context, w saga.Write) (saga.Outcome, error)
	status  func(sagaID string) (saga.Outcome, error)
}

func (s *sagas) Write(ctx context.Context, w saga.Write, _ client.Level) (saga.Outcome, error) {
	s.mu.Lock()
	s.wrote = append(s.wrote, w.SagaID)
	s.mu.Unlock()
	return s.write(ctx, w)
}

func (s *sagas) WriteBatch(ctx context.Context, writes []saga.Write, level client.Level) []client.Result {
	s.mu.Lock()
	s.batches = append(s.batches, len(writes))
	s.mu.Unlock()
	var results []client.Result
	for _, w := range writes {
		o, err := s.Write(ctx, w, level)
		results = append(results, client.Result{Outcome: o, Err: err})
	}
	return results
}

func (s *sagas) Status(_ context.Context, sagaID string) (saga.Outcome, error) {
	if s.status == nil {
		return saga.Outcome{}, unavailable()
	}
	return s.status(sagaID)
}

func unavailable() error {
	return &saga.Error{Class: saga.Unavailable, System: "temporal", Code: saga.CodeUnavailable, Message: "away"}
}

func stillRunning() error {
	return &saga.Error{Class: saga.Ambiguous, System: "temporal", Code: saga.CodeStillRunning, Message: "goes on"}
}

func ends(status saga.Status) func(context.Context, saga.Write) (saga.Outcome, error) {
	return func(_ context.Context, w saga.Write) (saga.Outcome, error) {
		return saga.Outcome{SagaID: w.SagaID, Status: status, Version: 7}, nil
	}
}

func line(id string) string {
	return fmt.Sprintf(`{"saga_id":%q,"mutations":[{"entity":"products","op":"upsert","row":{"id":1}}]}`, id)
}

type run struct {
	status         int
	stdout, stderr string
	lines          map[int]lineOutcome
}

// write runs the command over an input, with one saga at a time unless w says
// otherwise.
func write(t *testing.T, ctx context.Context, w *writing, output format, input io.Reader) run {
	t.Helper()
	var stdout, stderr bytes.Buffer
	a := &app{stdout: &stdout, stderr: &stderr, output: output}
	w.report = a.newWriteReport(-1)
	if w.level == "" {
		w.level = client.WaitVisible
	}
	if w.timeout == 0 {
		w.timeout = time.Minute
	}
	if w.concurrency == 0 {
		w.concurrency = 1
	}
	if w.ping == nil {
		w.ping = func(context.Context) error { return nil }
	}
	r := run{status: report(&stderr, w.do(ctx, input)), lines: map[int]lineOutcome{}}
	r.stdout, r.stderr = stdout.String(), stderr.String()
	if output == asJSON {
		for text := range strings.Lines(r.stdout) {
			var o lineOutcome
			require.NoError(t, json.Unmarshal([]byte(text), &o), text)
			r.lines[o.Line] = o
		}
	}
	return r
}

func TestEveryLineIsAnswered(t *testing.T) {
	s := &sagas{write: ends(saga.Completed)}
	input := "\xef\xbb\xbf" + strings.Join([]string{
		line("a"), "", "{not json", `{"saga_id":"b","mutations":[]}`, strings.Repeat("[", 10_000),
		`{"saga_id":"c","x":"` + strings.Repeat("x", 2*saga.MaxWriteBytes) + `"}`, line("d"),
	}, "\r\n")
	r := write(t, t.Context(), &writing{sagas: s, concurrency: 8}, asJSON, strings.NewReader(input))
	assert.Equal(t, statusSome, r.status)
	require.Len(t, r.lines, 6)
	assert.Equal(t, saga.Completed, r.lines[1].Status)
	assert.Equal(t, saga.Completed, r.lines[7].Status)
	for number, id := range map[int]string{3: "", 4: "b", 5: "", 6: ""} {
		assert.Equal(t, saga.Failed, r.lines[number].Status)
		assert.Equal(t, id, r.lines[number].SagaID)
		assert.Equal(t, saga.CodeInvalidWrite, r.lines[number].Error.Code)
	}
	assert.ElementsMatch(t, []string{"a", "d"}, s.wrote)
	assert.Contains(t, r.stderr, "4 of 6 writes")
}

func TestExitStatusOfOutcomes(t *testing.T) {
	for _, test := range []struct {
		level   client.Level
		status  saga.Status
		version saga.Version
		want    int
	}{
		{client.WaitVisible, saga.Completed, 7, statusDone},
		{client.WaitVisible, saga.Committed, 7, statusSome},
		{client.WaitVisible, saga.Parked, 7, statusSome},
		{client.WaitVisible, saga.RejectedEnd, 0, statusSome},
		{client.WaitVisible, saga.Compensated, 7, statusSome},
		{client.WaitVisible, saga.Cancelled, 0, statusSome},
		{client.WaitCommitted, saga.Completed, 7, statusDone},
		{client.WaitCommitted, saga.Committed, 7, statusDone},
		{client.WaitCommitted, saga.Parked, 7, statusDone},
		{client.WaitCommitted, saga.Pending, 0, statusSome},
		{client.WaitCommitted, saga.RejectedEnd, 0, statusSome},
	} {
		t.Run(fmt.Sprintf("%s of %s", test.level, test.status), func(t *testing.T) {
			s := &sagas{write: func(context.Context, saga.Write) (saga.Outcome, error) {
				return saga.Outcome{SagaID: "a", Status: test.status, Version: test.version}, nil
			}}
			r := write(t, t.Context(), &writing{sagas: s, level: test.level}, asJSON, strings.NewReader(line("a")))
			assert.Equal(t, test.want, r.status)
		})
	}
}

func TestNothingToWrite(t *testing.T) {
	for _, input := range []string{"", "\n \n"} {
		r := write(t, t.Context(), &writing{sagas: &sagas{}}, asTable, strings.NewReader(input))
		assert.Equal(t, statusDone, r.status)
		assert.Empty(t, r.stdout)
		assert.Contains(t, r.stderr, "0 writes")
	}
}

func TestTable(t *testing.T) {
	s := &sagas{write: func(_ context.Context, w saga.Write) (saga.Outcome, error) {
		if w.SagaID == "a" {
			return saga.Outcome{SagaID: "a", Status: saga.Completed, Version: 9007201764128496}, nil
		}
		return saga.Outcome{SagaID: w.SagaID, Status: saga.Parked, Version: 5, Steps: []saga.Step{
			{Name: saga.StepRedis, State: saga.StepParked, Error: &saga.ErrorInfo{Message: "WRONGTYPE"}},
		}}, nil
	}}
	input := line("a") + "\n" + `{"saga_id":"b\u001b[31m","mutations":[{"entity":"products","op":"delete","key":{"id":1}}]}`
	r := write(t, t.Context(), &writing{sagas: s}, asTable, strings.NewReader(input))
	assert.Equal(t, strings.Join([]string{
		"  LINE  SAGA                      STATUS      VERSION               ERROR",
		"     1  a                         completed   9007201764128496",
		"     2  b\\x1b[31m                 parked      5                     redis parked: WRONGTYPE",
		"",
	}, "\n"), r.stdout)
	assert.Contains(t, r.stderr, "1 completed, 1 parked")
}

func TestATimeoutLooksOnceMore(t *testing.T) {
	s := &sagas{
		write: func(ctx context.Context, _ saga.Write) (saga.Outcome, error) {
			<-ctx.Done()
			return saga.Outcome{}, stillRunning()
		},
		status: func(id string) (saga.Outcome, error) {
			return saga.Outcome{SagaID: id, Status: saga.Committed, Version: 7}, nil
		},
	}
	r := write(t, t.Context(), &writing{sagas: s, timeout: time.Millisecond}, asJSON, strings.NewReader(line("a")))
	assert.Equal(t, statusSome, r.status)
	assert.Equal(t, saga.Committed, r.lines[1].Status)
	assert.Equal(t, saga.CodeStillRunning, r.lines[1].Error.Code)
}

func TestAWriteThatTemporalDidNotTakeIsTriedAgain(t *testing.T) {
	tries := 0
	s := &sagas{write: func(_ context.Context, w saga.Write) (saga.Outcome, error) {
		if tries++; tries < 3 {
			return saga.Outcome{}, unavailable()
		}
		return saga.Outcome{SagaID: w.SagaID, Status: saga.Completed}, nil
	}}
	r := write(t, t.Context(), &writing{sagas: s}, asJSON, strings.NewReader(line("a")))
	assert.Equal(t, statusDone, r.status)
	assert.Equal(t, []string{"a", "a", "a"}, s.wrote)
}

// TestReadingStopsWhenTemporalIsGone: a file of a million lines must not wait a
// minute for each of them.
func TestReadingStopsWhenTemporalIsGone(t *testing.T) {
	s := &sagas{write: func(context.Context, saga.Write) (saga.Outcome, error) { return saga.Outcome{}, stillRunning() }}
	w := &writing{sagas: s, concurrency: 2, ping: func(context.Context) error { return errors.New("refused") }}
	r := write(t, t.Context(), w, asJSON, strings.NewReader(strings.Repeat(line("a")+"\n", 1000)))
	assert.Equal(t, statusFailed, r.status)
	assert.Contains(t, r.stderr, "temporal does not answer any more")
	assert.Less(t, len(s.wrote), 20)
	for _, o := range r.lines {
		assert.Equal(t, saga.Pending, o.Status)
	}
}

func TestStoppedWritesNameWhatWasStarted(t *testing.T) {
	for name, test := range map[string]struct {
		first saga.Status
		want  int
	}{"after some": {saga.Completed, statusSome}, "before any": {saga.Parked, statusFailed}} {
		t.Run(name, func(t *testing.T) {
			ctx, cancel := context.WithCancel(t.Context())
			s := &sagas{write: func(ctx context.Context, w saga.Write) (saga.Outcome, error) {
				if w.SagaID == "a" {
					return saga.Outcome{SagaID: "a", Status: test.first, Version: 7}, nil
				}
				cancel()
				<-ctx.Done()
				return saga.Outcome{}, stillRunning()
			}}
			r := write(t, ctx, &writing{sagas: s}, asJSON, strings.NewReader(line("a")+"\n"+line("b")+"\n"+strings.Repeat(line("c")+"\n", 100)))
			assert.Equal(t, test.want, r.status)
			assert.Contains(t, r.stderr, "stopped")
			assert.Equal(t, "b", r.lines[2].SagaID)
			assert.Equal(t, saga.Pending, r.lines[2].Status)
			assert.Equal(t, saga.CodeStillRunning, r.lines[2].Error.Code)
			assert.LessOrEqual(t, len(s.wrote), 3)
		})
	}
}

func TestRefusedWritesFail(t *testing.T) {
	s := &sagas{write: func(context.Context, saga.Write) (saga.Outcome, error) {
		return saga.Outcome{}, &saga.Error{Class: saga.Rejected, Code: saga.CodeSagaIDReused, Message: "other content"}
	}}
	r := write(t, t.Context(), &writing{sagas: s}, asJSON, strings.NewReader(line("a")))
	assert.Equal(t, statusSome, r.status)
	assert.Equal(t, saga.Failed, r.lines[1].Status)
	assert.Equal(t, saga.CodeSagaIDReused, r.lines[1].Error.Code)
}

// Lines travel in batches, of which each is sent when it is full, when it has enough
// bytes, or when nothing more comes for a while; and each line has its own answer.
func TestWriteInBatches(t *testing.T) {
	s := &sagas{write: func(ctx context.Context, w saga.Write) (saga.Outcome, error) {
		if w.SagaID == "s7" {
			return saga.Outcome{}, &saga.Error{Class: saga.Rejected, System: "capsaga", Code: saga.CodeSagaIDReused, Message: "in use"}
		}
		return ends(saga.Completed)(ctx, w)
	}}
	input, lines := io.Pipe()
	go func() {
		for i := range 25 {
			if i == 5 {
				_, _ = io.WriteString(lines, "{\n")
			}
			_, _ = io.WriteString(lines, line(fmt.Sprint("s", i))+"\n")
			if i == 21 {
				time.Sleep(5 * gatherPause)
			}
		}
		_ = lines.Close()
	}()
	got := write(t, t.Context(), &writing{sagas: s, batch: 10}, asJSON, input)
	assert.Equal(t, statusSome, got.status)
	require.Len(t, got.lines, 26)
	assert.Equal(t, saga.Failed, got.lines[6].Status, "what is no write")
	assert.Equal(t, saga.Failed, got.lines[9].Status, "what is refused")
	assert.Equal(t, saga.Completed, got.lines[26].Status)
	assert.Equal(t, []int{9, 10, 3, 3}, s.batches)

	s = &sagas{write: ends(saga.Completed)}
	large := strings.Replace(line("a"), `"id":1`, `"id":1,"title":"`+strings.Repeat("x", 700_000)+`"`, 1)
	write(t, t.Context(), &writing{sagas: s, batch: 10}, asJSON, strings.NewReader(large+"\n"+strings.Replace(large, `"a"`, `"b"`, 1)))
	assert.Equal(t, []int{1, 1}, s.batches)
}

// What Temporal did not take of a batch is sent again, and nothing else of it.
func TestABatchIsSentAgain(t *testing.T) {
	failed := map[string]bool{}
	s := &sagas{}
	s.write = func(ctx context.Context, w saga.Write) (saga.Outcome, error) {
		if w.SagaID != "s1" && !failed[w.SagaID] {
			failed[w.SagaID] = true
			return saga.Outcome{}, unavailable()
		}
		return ends(saga.Completed)(ctx, w)
	}
	got := write(t, t.Context(), &writing{sagas: s, batch: 10}, asJSON, strings.NewReader(line("s1")+"\n"+line("s2")+"\n"+line("s3")))
	assert.Equal(t, statusDone, got.status)
	assert.Equal(t, []int{3, 2}, s.batches)
}
