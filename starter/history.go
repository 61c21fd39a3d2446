package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"time"

	"github.com/spf13/cobra"
	enumspb "go.temporal.io/api/enums/v1"
	historypb "go.temporal.io/api/history/v1"
	sdkclient "go.temporal.io/sdk/client"
	sdklog "go.temporal.io/sdk/log"
	"go.temporal.io/sdk/worker"

	"github.com/capsaga/capsaga/workflows"
)

func (a *app) historyCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "history verify|download DIR",
		Short: "Check that this build can go on with the sagas of a live system",
		Long: `Check that this build can go on with the sagas of a live system, before it is
deployed: download keeps the histories of sagas in a folder, verify replays them
against the workflows of this build.

  capsaga history download /tmp/histories --status parked,compensating,committed
  capsaga history verify /tmp/histories`,
		Args: usage(cobra.NoArgs),
		RunE: func(cmd *cobra.Command, _ []string) error {
			return usagef("want verify or download; see `%s --help`", cmd.CommandPath())
		},
	}
	cmd.AddCommand(a.historyVerifyCommand(), a.historyDownloadCommand())
	return cmd
}

func (a *app) historyVerifyCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "verify DIR",
		Short: "Replay the histories of a folder against this build",
		Long: `Replay the histories of a folder, all its *.json, against the workflows of this
build. They are those of history download, of Temporal's CLI (workflow show -o json)
or of its UI. No system is asked. A history that fails is one of a saga that this
build could not go on with: do not deploy it.`,
		Args: usage(cobra.ExactArgs(1)),
		RunE: func(_ *cobra.Command, args []string) error { return a.verifyHistories(args[0]) },
	}
}

// verified is what became of one history.
type verified struct {
	File       string `json:"file"`
	Workflow   string `json:"workflow,omitempty"` // its type
	WorkflowID string `json:"workflow_id,omitempty"`
	Events     int    `json:"events,omitempty"`
	OK         bool   `json:"ok"`
	Error      string `json:"error,omitempty"`
}

func (a *app) verifyHistories(folder string) error {
	files, err := historyFiles(folder)
	if err != nil {
		return err
	}
	results := make([]verified, len(files))
	bad := 0
	for i, file := range files {
		results[i] = verifyHistory(file)
		if !results[i].OK {
			bad++
		}
	}
	if err := a.writeVerified(results); err != nil {
		return err
	}
	switch bad {
	case 0:
		return nil
	case len(files):
		return fmt.Errorf("none of %d histories replays: each is named above", bad)
	}
	return &exitError{status: statusSome, err: fmt.Errorf("%d of %d histories do not replay, each named above: do not deploy this build", bad, len(files))}
}

// historyFiles returns the histories of a folder.
func historyFiles(folder string) ([]string, error) {
	info, err := os.Stat(folder)
	if err != nil {
		return nil, fmt.Errorf("%w: name a folder of histories, as `capsaga history download` fills it", err)
	}
	if !info.IsDir() {
		return nil, fmt.Errorf("%s is not a folder: name one of histories, as `capsaga history download` fills it", folder)
	}
	entries, err := os.ReadDir(folder)
	if err != nil {
		return nil, err
	}
	var files []string
	for _, entry := range entries {
		if !entry.IsDir() && filepath.Ext(entry.Name()) == ".json" {
			files = append(files, filepath.Join(folder, entry.Name()))
		}
	}
	if len(files) == 0 {
		return nil, fmt.Errorf("%s has no *.json: `capsaga history download %s --status parked` fills it", folder, shellWord(folder))
	}
	return files, nil
}

func verifyHistory(file string) verified {
	v := verified{File: filepath.Base(file)}
	history, err := readHistory(file)
	if err != nil {
		v.Error = err.Error()
		return v
	}
	first := history.GetEvents()[0].GetWorkflowExecutionStartedEventAttributes()
	v.Workflow, v.WorkflowID, v.Events = first.GetWorkflowType().GetName(), first.GetWorkflowId(), len(history.GetEvents())
	replayer := worker.NewWorkflowReplayer()
	workflows.Register(replayer)
	quiet := sdklog.NewStructuredLogger(slog.New(slog.DiscardHandler))
	if err := replayer.ReplayWorkflowHistory(quiet, history); err != nil {
		v.Error = err.Error()
		return v
	}
	v.OK = true
	return v
}

func readHistory(name string) (*historypb.History, error) {
	text, err := os.ReadFile(name)
	if err != nil {
		return nil, err
	}
	if !json.Valid(text) {
		return nil, errors.New("not a history: it is not JSON")
	}
	history, err := sdkclient.HistoryFromJSON(bytes.NewReader(text), sdkclient.HistoryJSONOptions{})
	if err != nil {
		return nil, fmt.Errorf("not a history: %w", err)
	}
	if len(history.GetEvents()) == 0 || history.GetEvents()[0].GetEventType() != enumspb.EVENT_TYPE_WORKFLOW_EXECUTION_STARTED {
		return nil, errors.New("not a history: it does not begin with the start of a workflow")
	}
	return history, nil
}

func (a *app) writeVerified(results []verified) error {
	if a.output == asJSON {
		return writeJSON(a.stdout, results)
	}
	t := newTable(a.stdout, "FILE", "WORKFLOW", "EVENTS", "RESULT")
	for _, v := range results {
		result := "ok"
		if !v.OK {
			result = "failed: " + v.Error
		}
		t.row(v.File, dash(v.Workflow), fmt.Sprint(v.Events), result)
	}
	return t.flush()
}

func (a *app) historyDownloadCommand() *cobra.Command {
	o := &operation{}
	cmd := &cobra.Command{
		Use:   "download DIR [SAGA_ID...|-]",
		Short: "Keep the histories of sagas in a folder",
		Long: `Keep the histories of sagas in a folder, one file each, for history verify and for
Temporal's replayers. Sagas are named by their ids, - reads ids from standard input,
and the flags of list select them; those that Temporal has forgotten have none. A
history holds what the saga wrote: treat the folder as you treat that.`,
		Args: usage(cobra.MinimumNArgs(1)),
		RunE: func(cmd *cobra.Command, args []string) error {
			ids, err := a.readIDs(o, args[1:])
			if err != nil {
				return err
			}
			if len(ids) > 0 == o.given() {
				return usagef("which sagas? give ids, or select them, as with --status parked; see `%s --help`", cmd.CommandPath())
			}
			f, err := o.filter(time.Now())
			if err != nil {
				return err
			}
			d := download{folder: args[0], ids: ids, filter: f}
			return a.downloadHistories(cmd.Context(), d)
		},
	}
	o.register(cmd.Flags())
	return cmd
}

// historyTimeout bounds the wait for one history.
const historyTimeout = 30 * time.Second

// historyOf reads the whole history of a workflow's latest run.
func historyOf(ctx context.Context, temporal sdkclient.Client, workflowID string) (*historypb.History, error) {
	ctx, cancel := context.WithTimeout(ctx, historyTimeout)
	defer cancel()
	history := &historypb.History{}
	events := temporal.GetWorkflowHistory(ctx, workflowID, "", false, enumspb.HISTORY_EVENT_FILTER_TYPE_ALL_EVENT)
	for events.HasNext() {
		event, err := events.Next()
		if err != nil {
			return nil, err
		}
		history.Events = append(history.Events, event)
	}
	return history, nil
}
