package bench

import (
	"fmt"
	"strings"

	"github.com/capsaga/capsaga/saga/client"
)

// place is which worker runs while a contestant is measured. The writers without
// sagas have none beside them: its streams would read their part of the WAL too.
type place int

const (
	alone      place = iota // no worker
	withWorker              // one in this process
	withRemote              // one in another process
)

// contestant is one way to write rows.
type contestant struct {
	letter, name, title string
	callers             int
	batched             bool // callers write batches
	file                bool // from NDJSON
	noRows              bool // it writes nothing
	place               place
	writer              func(*stage) (writer, error)
}

// is reports whether a word of --only means the contestant.
func (c contestant) is(word string) bool { return word == c.letter || word == c.name }

// naive32 and the like are names that ratios are made of.
const (
	naive32  = "naive-32"
	naive1   = "naive-1"
	ceiling  = "ceiling"
	single32 = "single-32"
	group1   = "group-1"
	group32  = "group-32"
	group256 = "group-256"
	remote1  = "remote-1"
	batch    = "batch"
	bare32   = "bare-32"
)

var contestants = []contestant{
	{letter: "a", name: naive1, title: "naive dual write, 1 caller", callers: 1, writer: naiveWriter},
	{letter: "a", name: naive32, title: "naive dual write, 32 callers", callers: 32, writer: naiveWriter},
	{letter: "b", name: ceiling, title: "straight to the four systems, in batches", callers: 4, batched: true, writer: ceilingWriter},
	{letter: "f", name: bare32, title: "bare Temporal workflow, 32 callers", callers: 32, noRows: true, place: withWorker, writer: bareWriter},
	{letter: "c", name: single32, title: "sagas one by one, 32 callers", callers: 32, place: withWorker, writer: singleWriter},
	{letter: "d", name: group1, title: "group commit, 1 caller", callers: 1, place: withWorker, writer: groupWriter},
	{letter: "d", name: group32, title: "group commit, 32 callers", callers: 32, place: withWorker, writer: groupWriter},
	{letter: "d", name: group256, title: "group commit, 256 callers", callers: 256, place: withWorker, writer: groupWriter},
	{letter: "e", name: batch, title: "batch sagas from NDJSON", callers: 4, batched: true, file: true, place: withWorker, writer: batchWriter},
	{letter: "d", name: remote1, title: "group commit, 1 caller, worker elsewhere", callers: 1, place: withRemote, writer: remoteWriter},
}

func names() []string {
	var all []string
	for _, c := range contestants {
		all = append(all, fmt.Sprintf("%s (%s)", c.name, c.letter))
	}
	return all
}

// Contestants says in lines what there is to measure.
func Contestants() string {
	var text strings.Builder
	for _, c := range contestants {
		fmt.Fprintf(&text, "  %s  %-10s %s\n", c.letter, c.name, c.title)
	}
	return text.String()
}

func naiveWriter(s *stage) (writer, error) {
	return (&plain{s.instance.systems, s.instance.plain}).naive, nil
}

func ceilingWriter(s *stage) (writer, error) {
	return (&plain{s.instance.systems, s.instance.plain}).ceiling, nil
}

func bareWriter(s *stage) (writer, error) { return s.bare.write, nil }

func remoteWriter(s *stage) (writer, error) { return s.remote.write(), nil }

func singleWriter(s *stage) (writer, error) {
	c, err := s.embedded.single()
	if err != nil {
		return nil, err
	}
	return s.embedded.write(c), nil
}

func groupWriter(s *stage) (writer, error) { return s.embedded.write(s.embedded.grouped()), nil }

func batchWriter(s *stage) (writer, error) {
	c, err := s.embedded.batching()
	if err != nil {
		return nil, err
	}
	return s.embedded.writeBatch(c), nil
}

// batching returns a client that splits a batch only where a workflow takes no more.
func (e *embedded) batching() (*client.Client, error) {
	return e.worker.NewClient(client.Options{Group: wholeBatches})
}

// single returns a client that starts a workflow for each saga.
func (e *embedded) single() (*client.Client, error) {
	return e.worker.NewClient(client.Options{Group: client.Group{Off: true}})
}

// grouped returns a client whose concurrent writes share workflows.
func (e *embedded) grouped() *client.Client { return e.worker.Client() }
