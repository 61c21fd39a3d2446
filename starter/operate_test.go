package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/spf13/pflag"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/capsaga/capsaga/internal/listing"
	"github.com/capsaga/capsaga/saga"
)

// requestOf reads a command line as one of the four commands.
func requestOf(t *testing.T, stdin string, args ...string) (saga.BulkRequest, error) {
	t.Helper()
	a := &app{stdin: strings.NewReader(stdin)}
	o := &operation{action: saga.Action(args[0]), timeout: time.Minute}
	flags := pflag.NewFlagSet("test", pflag.ContinueOnError)
	o.register(flags)
	o.registerSkip(flags)
	o.registerEdit(flags)
	require.NoError(t, flags.Parse(args[1:]))
	return a.request(o, flags.Args(), night)
}

func TestRequests(t *testing.T) {
	open, parkedOnly := saga.Filter{Statuses: saga.OpenStatuses, BlockedOn: "redis"}, saga.Filter{Statuses: []saga.Status{saga.Parked}, BlockedOn: "redis"}
	for _, test := range []struct {
		stdin string
		args  []string
		want  saga.BulkRequest
	}{
		{"", []string{"replay", "a", "b", "a"}, saga.BulkRequest{IDs: []string{"a", "b"}}},
		{"x\n\n y \nx\n", []string{"replay", "a", "-"}, saga.BulkRequest{IDs: []string{"a", "x", "y"}}},
		{"", []string{"replay", "--blocked-on", "redis"}, saga.BulkRequest{Filter: open}},
		{"", []string{"compensate", "--blocked-on", "redis"}, saga.BulkRequest{Filter: parkedOnly}},
		{"", []string{"skip", "a", "--step", "redis", "--reason", "it is gone"}, saga.BulkRequest{Operation: saga.Operation{Step: "redis", Reason: "it is gone"}, IDs: []string{"a"}}},
		{"", []string{"edit", "a", "--set", "price=12.50", "--set", `title="a=b"`}, saga.BulkRequest{
			Operation: saga.Operation{Set: saga.Columns{"price": json.RawMessage("12.50"), "title": json.RawMessage(`"a=b"`)}}, IDs: []string{"a"},
		}},
		{`[{"entity":"products","op":"delete","key":{"id":1}}]`, []string{"edit", "a", "--patch", "-"}, saga.BulkRequest{
			Operation: saga.Operation{Mutations: []saga.Mutation{{Entity: "products", Op: saga.Delete, Key: saga.Columns{"id": json.RawMessage("1")}}}}, IDs: []string{"a"},
		}},
	} {
		got, err := requestOf(t, test.stdin, test.args...)
		require.NoError(t, err)
		require.NoError(t, got.Validate())
		test.want.Identity, test.want.Operation.Action = got.Identity, saga.Action(test.args[0])
		assert.Equal(t, test.want, got)
		again, err := requestOf(t, test.stdin, test.args...)
		require.NoError(t, err)
		assert.Equal(t, got.Identity, again.Identity, "the same command line is the same request")
	}
	one, err := requestOf(t, "", "replay", "a")
	require.NoError(t, err)
	other, err := requestOf(t, "", "compensate", "a")
	require.NoError(t, err)
	assert.NotEqual(t, one.Identity, other.Identity)
}

func TestWhatADryRunSays(t *testing.T) {
	replay, skip := saga.Operation{Action: saga.ActionReplay}, saga.Operation{Action: saga.ActionSkip}
	edit, undo := saga.Operation{Action: saga.ActionEdit}, saga.Operation{Action: saga.ActionCompensate}
	stuck := &saga.Outcome{Status: saga.Parked, Version: 7, Steps: []saga.Step{{Name: "redis", State: saga.StepParked}}}
	refused := &saga.Outcome{Status: saga.Parked, Version: 7, Steps: stuck.Steps, Stream: &saga.StreamChange{Sink: saga.Redis}}
	for _, test := range []struct {
		op       saga.Operation
		o        *saga.Outcome
		workflow listing.State
		want     string
	}{
		{replay, stuck, listing.Running, "try its parked steps once more"},
		{replay, stuck, listing.Terminated, "start it again where it stood"},
		{replay, &saga.Outcome{Status: saga.Committed}, listing.Gone, "start it again where it stood"},
		{replay, &saga.Outcome{Status: saga.Committed}, listing.Running, "nothing: it runs, and goes on by itself"},
		{replay, &saga.Outcome{Status: saga.Completed}, "", "nothing: it is completed"},
		{skip, stuck, listing.Running, "give up redis"},
		{skip, stuck, listing.Gone, "fail: its workflow does not run; replay it first"},
		{skip, &saga.Outcome{Status: saga.Pending}, listing.Running, "fail: it is not parked"},
		{edit, stuck, listing.Running, "change its rows and bring them to all sinks"},
		{undo, stuck, listing.Running, "undo it"},
		{undo, refused, listing.Running, "fail: plain SQL wrote the row, and nobody knows what was before"},
		{replay, refused, listing.NotStarted, "start it now"},
		{skip, refused, listing.NotStarted, "give up redis"},
		{undo, &saga.Outcome{Status: saga.Pending}, listing.Running, "cancel it, as it has not committed"},
	} {
		assert.Equal(t, test.want, would(test.op, test.o, test.workflow))
	}
}

func TestConfirmation(t *testing.T) {
	byFilter, byIDs := &saga.BulkRequest{}, &saga.BulkRequest{IDs: []string{"a", "b"}}
	for name, test := range map[string]struct {
		answer      string
		interactive bool
		yes         bool
		request     *saga.BulkRequest
		want        string
	}{
		"yes":                       {answer: "y\n", interactive: true, request: byFilter},
		"no":                        {answer: "\n", interactive: true, request: byFilter, want: "nothing was done"},
		"the terminal is gone":      {interactive: true, request: byIDs, want: "nothing was done"},
		"--yes":                     {interactive: true, yes: true, request: byFilter},
		"a filter without terminal": {request: byFilter, want: "2,000 sagas selected: without a terminal to confirm it, --yes is needed"},
		"ids without terminal":      {request: byIDs},
	} {
		var stderr bytes.Buffer
		a := &app{stdin: strings.NewReader(test.answer), stderr: &stderr, interactive: test.interactive}
		err := a.confirm(&operation{action: saga.ActionReplay, yes: test.yes}, test.request, 2000)
		if test.want == "" {
			require.NoError(t, err, name)
		} else {
			require.ErrorContains(t, err, test.want, name)
		}
		if test.interactive && !test.yes {
			assert.Equal(t, "replay 2,000 sagas? [y/N] ", stderr.String())
		}
	}
}

// script answers with one progress after another.
type script []saga.BulkProgress

func (s *script) Progress(context.Context, int) (saga.BulkProgress, error) {
	if len(*s) == 0 {
		return saga.BulkProgress{}, errors.New("the script is over")
	}
	p := (*s)[0]
	*s = (*s)[1:]
	return p, nil
}

func followed(t *testing.T, ctx context.Context, output format, s *script) (stdout, stderr string, err error) {
	t.Helper()
	var out, notes bytes.Buffer
	f := &follower{run: s, name: "bulk/capsaga/x", action: saga.ActionReplay, out: &out, notes: &notes, output: output, began: time.Now(), did: map[saga.Did]int{}}
	err = f.follow(ctx)
	return out.String(), notes.String(), err
}

func TestARequestIsFollowedToItsEnd(t *testing.T) {
	done := saga.BulkItem{SagaID: "a", Did: saga.DidRetry, Status: saga.Completed}
	failed := saga.BulkItem{SagaID: "b", Status: saga.Pending, Error: &saga.ErrorInfo{Code: saga.CodeNotParked, Message: "it is pending"}}
	nothing := saga.BulkItem{SagaID: "c", Did: saga.DidNothing, Status: saga.Completed, Note: "it has ended: completed"}
	steps := func() *script {
		return &script{
			{Total: 3, Items: []saga.BulkItem{}},
			{Total: 3, Done: 2, Failed: 1, Items: []saga.BulkItem{done, failed}},
			{Total: 3, Done: 3, Failed: 1, Items: []saga.BulkItem{nothing}, Finished: true},
		}
	}
	stdout, stderr, err := followed(t, t.Context(), asTable, steps())
	golden(t, stdout,
		"SAGA                              DID           STATUS        NOTE",
		"a                                 retried       completed",
		"b                                 failed        pending       not_parked: it is pending",
		"c                                 nothing       completed     it has ended: completed")
	assert.Regexp(t, `^3 sagas in .*: 1 with nothing to do, 1 retried, 1 failed\n$`, stderr)
	var exit *exitError
	require.ErrorAs(t, err, &exit)
	assert.Equal(t, statusSome, exit.status)

	stdout, _, _ = followed(t, t.Context(), asJSON, steps())
	assert.Equal(t, 3, strings.Count(stdout, "\n"), "a line each")

	_, _, err = followed(t, t.Context(), asTable, &script{{Total: 3, Done: 1, Items: []saga.BulkItem{done}, Cancelled: true}})
	require.ErrorContains(t, err, "cancelled, with 1 of 3 done")
	_, _, err = followed(t, t.Context(), asTable, &script{{Total: 1, Done: 1, Items: []saga.BulkItem{done}, Finished: true}})
	require.NoError(t, err)
}

func TestWhoStopsToLookIsToldHowToGoOn(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	_, _, err := followed(t, ctx, asTable, &script{{Items: []saga.BulkItem{}}})
	require.ErrorContains(t, err, "the request goes on; the same command again follows it, `temporal workflow cancel --workflow-id bulk/capsaga/x` stops it")
}

func TestHistoriesAreVerified(t *testing.T) {
	recorded, err := filepath.Glob("../workflows/testdata/*/*.json")
	require.NoError(t, err)
	require.NotEmpty(t, recorded)
	folder := t.TempDir()
	good, err := os.ReadFile(recorded[0])
	require.NoError(t, err)
	write := func(name, text string) {
		require.NoError(t, os.WriteFile(filepath.Join(folder, name), []byte(text), 0o600))
	}
	write("good.json", string(good))
	write("notes.txt", "no history")
	r := execute(t, nil, "", "history", "verify", folder)
	assert.Equal(t, statusDone, r.status, r.stderr)
	assert.Contains(t, r.stdout, "good.json  capsaga.Saga")

	write("other.json", `{"events":[]}`)
	write("text.json", "hello")
	write("changed.json", strings.ReplaceAll(string(good), `"capsaga.Saga"`, `"capsaga.Other"`))
	r = execute(t, nil, "", "history", "verify", folder, "-o", "json")
	assert.Equal(t, statusSome, r.status)
	assert.Contains(t, r.stderr, "3 of 4 histories do not replay")
	var results []verified
	require.NoError(t, json.Unmarshal([]byte(r.stdout), &results))
	for _, v := range results {
		assert.Equal(t, v.File == "good.json", v.OK, v.File)
		assert.Equal(t, v.OK, v.Error == "", v.File)
	}

	only := t.TempDir()
	require.NoError(t, os.WriteFile(filepath.Join(only, "x.json"), []byte("{}"), 0o600))
	r = execute(t, nil, "", "history", "verify", only)
	assert.Equal(t, statusFailed, r.status)
	assert.Contains(t, r.stdout, "not a history")
}

func TestFilesOfHistories(t *testing.T) {
	assert.Equal(t, "a%2Fb%20c.json", historyFile("a/b c"))
	assert.LessOrEqual(t, len(historyFile(strings.Repeat("/", 200))), maxFileName)
	assert.NotEqual(t, historyFile(strings.Repeat("/", 200)), historyFile(strings.Repeat("?", 200)))
	assert.NotContains(t, historyFile(".."), "..")
}
