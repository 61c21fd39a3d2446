package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strconv"
	"sync"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"
)

// serverStatus is one server's line of status, and its object in JSON.
type serverStatus struct {
	Server  string `json:"server"`
	State   string `json:"state"` // ready, starting (or not answering), paused, ended (by itself), stopped
	PID     int    `json:"pid,omitempty"`
	Address string `json:"address"`
	Detail  string `json:"detail,omitempty"`
	Log     string `json:"log"`
}

func statusCommand(flags *instanceFlags) *cobra.Command {
	var output string
	cmd := &cobra.Command{
		Use: "status", Short: "Show every server's state, process and address", Args: usage(cobra.NoArgs),
		RunE: func(cmd *cobra.Command, _ []string) error {
			if output != "table" && output != "json" {
				return usageError{fmt.Errorf("-o %q: want table or json", output)}
			}
			s, err := flags.open()
			if err != nil {
				return err
			}
			statuses, err := s.status(cmd.Context())
			if err != nil {
				return err
			}
			return writeStatus(cmd.OutOrStdout(), output, statuses)
		},
	}
	cmd.Flags().StringVarP(&output, "output", "o", "table", "table or json")
	return cmd
}

func (s *stack) status(ctx context.Context) ([]serverStatus, error) {
	statuses := make([]serverStatus, len(s.servers))
	errs := make([]error, len(s.servers))
	var wait sync.WaitGroup
	for i, srv := range s.servers {
		wait.Go(func() { statuses[i], errs[i] = s.serverStatus(ctx, srv) })
	}
	wait.Wait()
	return statuses, errors.Join(errs...)
}

func (s *stack) serverStatus(ctx context.Context, srv *server) (serverStatus, error) {
	status := serverStatus{Server: srv.name, State: "stopped", Address: s.address(srv.ports[0].offset), Log: s.logFile(srv.name)}
	p, err := s.leader(srv)
	if err != nil {
		return status, err
	}
	if p == nil {
		if _, err := os.Stat(s.recordFile(srv.name)); err == nil {
			status.State, status.Detail = "ended", "by itself; see "+status.Log
		}
		return status, nil
	}
	status.PID = p.PID
	if info := p.info(); info != nil && info.stopped {
		status.State = "paused"
		return status, nil
	}
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	status.State = "ready"
	if err := srv.probe(ctx); err != nil {
		status.State, status.Detail = "starting", "does not answer yet: "+err.Error()
		return status, nil
	}
	switch srv.name {
	case "postgres", "replica":
		status.Detail = s.replication(ctx, srv.ports[0].offset)
	case "temporal":
		status.Detail = "UI " + s.temporalUI()
	}
	return status, nil
}

// replication tells a PostgreSQL server's role and, of a primary, its standbys.
func (s *stack) replication(ctx context.Context, offset int) string {
	answer, err := s.query(ctx, offset, `SELECT CASE WHEN pg_is_in_recovery() THEN 'standby'
		ELSE 'primary' || coalesce((SELECT string_agg(format(', %s %s %s', application_name, state, sync_state), '') FROM pg_stat_replication WHERE application_name = '`+replicaName+`'), '') END`)
	if err != nil {
		return err.Error()
	}
	return answer.rows[0][0]
}

func writeStatus(out io.Writer, format string, statuses []serverStatus) error {
	if format == "json" {
		encoder := json.NewEncoder(out)
		encoder.SetIndent("", "  ")
		return encoder.Encode(statuses)
	}
	table := tabwriter.NewWriter(out, 0, 8, 2, ' ', 0)
	_, _ = fmt.Fprintln(table, "SERVER\tSTATE\tPID\tADDRESS\tDETAIL")
	for _, status := range statuses {
		pid := "-"
		if status.PID != 0 {
			pid = strconv.Itoa(status.PID)
		}
		_, _ = fmt.Fprintf(table, "%s\t%s\t%s\t%s\t%s\n", status.Server, status.State, pid, status.Address, status.Detail)
	}
	return table.Flush()
}

func envCommand(flags *instanceFlags) *cobra.Command {
	return &cobra.Command{
		Use: "env", Short: "Print the variables that the CLI and the worker need: eval \"$(capsaga-local env)\"", Args: usage(cobra.NoArgs),
		RunE: func(cmd *cobra.Command, _ []string) error {
			s, err := flags.open()
			if err != nil {
				return err
			}
			for _, variable := range s.env() {
				_, _ = fmt.Fprintf(cmd.OutOrStdout(), "export %s='%s'\n", variable[0], variable[1])
			}
			return nil
		},
	}
}

func (s *stack) env() [][2]string {
	return [][2]string{
		{"CAPSAGA_POSTGRES_URL", s.postgresURL(postgresPort)},
		{"CAPSAGA_POSTGRES_REPLICA_URL", s.postgresURL(replicaPort)},
		{"CAPSAGA_REDIS_URL", "redis://" + s.address(redisPort) + "/0"},
		{"CAPSAGA_KAFKA_BROKERS", s.address(kafkaPort)},
		{"CAPSAGA_ELASTICSEARCH_URL", "http://" + s.address(elasticsearchPort)},
		{"TEMPORAL_ADDRESS", s.address(temporalPort)},
		{"TEMPORAL_NAMESPACE", temporalNamespace},
		{"CAPSAGA_TEMPORAL_UI_URL", s.temporalUI()},
	}
}

func (s *stack) temporalUI() string { return "http://" + s.address(temporalUIPort) }

var serverNames = []string{"postgres", "replica", "redis", "kafka", "elasticsearch", "temporal"}

// named finds the servers of a command line; "all" is not among them, as up and
// down are for that.
func (s *stack) named(names []string) ([]*server, error) {
	var servers []*server
	for _, name := range names {
		srv, err := s.server(name)
		if err != nil {
			return nil, err
		}
		servers = append(servers, srv)
	}
	return servers, nil
}

func logsCommand(flags *instanceFlags) *cobra.Command {
	var (
		follow bool
		lines  int
	)
	cmd := &cobra.Command{
		Use: "logs [SERVER...]", Short: "Show the end of the servers' logs", ValidArgs: serverNames,
		RunE: func(cmd *cobra.Command, names []string) error {
			s, err := flags.open()
			if err != nil {
				return err
			}
			if len(names) == 0 {
				names = serverNames
			}
			servers, err := s.named(names)
			if err != nil {
				return err
			}
			args := []string{"-n", strconv.Itoa(lines)}
			if follow {
				args = append(args, "-F")
			}
			shown := 0
			for _, srv := range servers {
				if _, err := os.Stat(s.logFile(srv.name)); err == nil || follow {
					args = append(args, s.logFile(srv.name))
					shown++
				}
			}
			if shown == 0 {
				return fmt.Errorf("no logs in %s: nothing was started there", s.path("logs"))
			}
			show := exec.CommandContext(cmd.Context(), "tail", args...) //nolint:gosec // the names of our own log files
			show.Stdout, show.Stderr = cmd.OutOrStdout(), os.Stderr
			if err := show.Run(); err != nil && cmd.Context().Err() == nil {
				return fmt.Errorf("tail: %w", err)
			}
			return nil
		},
	}
	cmd.Flags().BoolVarP(&follow, "follow", "f", false, "go on showing what is logged")
	cmd.Flags().IntVarP(&lines, "lines", "n", 20, "`number` of lines of each log")
	return cmd
}

func sqlCommand(flags *instanceFlags) *cobra.Command {
	return &cobra.Command{
		Use: `sql postgres|replica "SQL"`, Short: "Run SQL; prints the last statement's rows, tab-separated", Args: usage(cobra.ExactArgs(2)),
		RunE: func(cmd *cobra.Command, args []string) error {
			offset, ok := map[string]int{"postgres": postgresPort, "replica": replicaPort}[args[0]]
			if !ok {
				return usageError{fmt.Errorf("no SQL on %q; want postgres or replica", args[0])}
			}
			s, err := flags.open()
			if err != nil {
				return err
			}
			answer, err := s.query(cmd.Context(), offset, args[1])
			if err != nil {
				return fmt.Errorf("sql on %s: %w", args[0], err)
			}
			return writeRows(cmd.OutOrStdout(), answer)
		},
	}
}

// writeRows prints rows only, so that scripts can use them: columns separated by
// tabs, or the command's tag where a statement has no columns.
func writeRows(out io.Writer, answer *result) error {
	if len(answer.columns) == 0 {
		_, err := fmt.Fprintln(out, answer.tag)
		return err
	}
	for _, row := range answer.rows {
		for i, value := range row {
			if i > 0 {
				value = "\t" + value
			}
			if _, err := io.WriteString(out, value); err != nil {
				return err
			}
		}
		if _, err := io.WriteString(out, "\n"); err != nil {
			return err
		}
	}
	return nil
}
