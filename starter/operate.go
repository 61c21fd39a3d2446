package main

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/capsaga/capsaga/internal/config"
	"github.com/capsaga/capsaga/saga"
	"github.com/capsaga/capsaga/saga/client"
)

// operation is one of the commands replay, skip, compensate and edit, with its
// flags.
type operation struct {
	selection
	action    saga.Action
	dryRun    bool
	yes       bool
	request   string
	timeout   time.Duration
	step      string
	reason    string
	set       []string
	row       string
	patch     string
	fromStdin bool
}

// operationHelp is what the four commands share.
const operationHelp = `

Sagas are named by their ids, - reads ids from standard input, one a line, and the
flags of list select them. One saga is dealt with at once and its outcome printed.
Many are dealt with by a workflow in Temporal, which goes on without this command:
the same command again follows it. With --request-id, the same request is done once
for as long as Temporal remembers it. A saga that fails is named and holds up no
other; then the exit status is 3.`

func (a *app) replayCommand() *cobra.Command {
	return a.operationCommand(saga.ActionReplay, "Drive sagas on from where they stand",
		`Drive sagas on from where they stand. The parked steps of one that runs are tried
once more. One whose workflow was terminated or forgotten is started again, and
does only what is missing. One that goes on by itself is left alone.`, nil)
}

func (a *app) skipCommand() *cobra.Command {
	return a.operationCommand(saga.ActionSkip, "Give up a parked step",
		`Give up a parked step for good: its system stays without what the saga wrote, and
the reconciler leaves it alone. --step may be left out where only one is parked.`,
		(*operation).registerSkip)
}

func (o *operation) registerSkip(flags *pflag.FlagSet) {
	flags.StringVar(&o.step, "step", "", "the parked `step` to give up, such as elasticsearch")
	flags.StringVar(&o.reason, "reason", "", "`why`, for those who ask later")
}

func (a *app) compensateCommand() *cobra.Command {
	return a.operationCommand(saga.ActionCompensate, "Undo sagas that have not ended",
		`Undo sagas that have not ended: a new change in PostgreSQL takes theirs back and
reaches all sinks. What others have changed since is not overwritten: then the saga
parks, and show says what conflicts. One that has not committed is cancelled.`, nil)
}

func (a *app) editCommand() *cobra.Command {
	return a.operationCommand(saga.ActionEdit, "Change what a parked saga wrote, in PostgreSQL and all sinks",
		`Change what a parked saga wrote, in PostgreSQL and with it in all sinks:

  capsaga edit order-1001 --set price_cents=1299 --set 'title="Lamp"'
  capsaga edit order-1001 --row products/42 --set price_cents=1299
  capsaga edit order-1001 --patch '[{"entity":"products","op":"patch","key":{"id":42},"add":{"stock":1}}]'`,
		(*operation).registerEdit)
}

func (o *operation) registerEdit(flags *pflag.FlagSet) {
	flags.StringArrayVar(&o.set, "set", nil, "a `COLUMN=JSON` to set in the saga's row; may be given again")
	flags.StringVar(&o.row, "row", "", "the row, as `ENTITY/KEY`, if the saga owns several")
	flags.StringVar(&o.patch, "patch", "", "`mutations` as a JSON list, or @FILE, or - for standard input")
}

func (a *app) operationCommand(action saga.Action, short, long string, more func(*operation, *pflag.FlagSet)) *cobra.Command {
	o := &operation{action: action}
	cmd := &cobra.Command{
		Use:   string(action) + " SAGA_ID...|-",
		Short: short,
		Long:  long + operationHelp,
		RunE: func(cmd *cobra.Command, args []string) error {
			request, err := a.request(o, args, time.Now())
			if err != nil {
				return err
			}
			return a.operate(cmd.Context(), o, request)
		},
	}
	if more != nil {
		more(o, cmd.Flags())
	}
	o.register(cmd.Flags())
	cmd.Flags().BoolVar(&o.dryRun, "dry-run", false, "print what would be done to each saga, and do nothing")
	cmd.Flags().BoolVarP(&o.yes, "yes", "y", false, "do not ask for confirmation")
	cmd.Flags().StringVar(&o.request, "request-id", "", "a `name` for the request: the same one is done once")
	cmd.Flags().DurationVar(&o.timeout, "timeout", time.Minute, "how long to wait for a single saga, which goes on without us")
	return cmd
}

// request reads the command line.
func (a *app) request(o *operation, args []string, now time.Time) (r saga.BulkRequest, err error) {
	if r.IDs, err = a.readIDs(o, args); err != nil {
		return r, err
	}
	if r.Operation, err = a.operationOf(o); err != nil {
		return r, err
	}
	r.Request = o.request
	switch {
	case len(args) > 0 && o.given():
		return r, usagef("sagas are named by ids or selected by flags, not both; see `capsaga %s --help`", o.action)
	case len(args) == 0 && !o.given():
		return r, usagef("which sagas? give ids, or select them, as with --status parked; see `capsaga %s --help`", o.action)
	case o.timeout <= 0:
		return r, usagef("--timeout %s: want a time above zero, such as 60s", o.timeout)
	}
	if len(args) == 0 {
		if r.Filter, err = o.openFilter(now); err != nil {
			return r, err
		}
	}
	r.Identity, err = o.identity(&r)
	return r, err
}

// openFilter selects of the sagas that have not ended.
func (o *operation) openFilter(now time.Time) (saga.Filter, error) {
	f, err := o.filter(now)
	if err != nil {
		return f, err
	}
	switch {
	case len(f.Statuses) > 0 && !f.Open():
		return f, usagef("--status %s: nothing can be done to a saga that has ended: want one or more of %s", strings.Join(o.statuses, ","), join(saga.OpenStatuses))
	case len(f.Statuses) == 0 && (o.action == saga.ActionReplay || o.stopped):
		f.Statuses = saga.OpenStatuses
	case len(f.Statuses) == 0:
		f.Statuses = []saga.Status{saga.Parked}
	}
	if o.stopped && o.action != saga.ActionReplay {
		return f, usagef("--stopped: a saga without a workflow can only be replayed: `capsaga replay --stopped`")
	}
	return f, nil
}

// identity is the same for the same command line.
func (o *operation) identity(r *saga.BulkRequest) (string, error) {
	encoded, err := json.Marshal(struct {
		Operation saga.Operation
		IDs       []string
		Words     []string
	}{r.Operation, r.IDs, o.words()})
	if err != nil {
		return "", err
	}
	return fmt.Sprintf("%s-%s", o.action, digest(encoded)), nil
}

// readIDs returns the ids of the command line, each once.
func (a *app) readIDs(o *operation, args []string) ([]string, error) {
	var ids []string
	seen := map[string]bool{}
	add := func(id string) {
		if id != "" && !seen[id] {
			seen[id] = true
			ids = append(ids, id)
		}
	}
	for _, arg := range args {
		if arg != "-" {
			add(arg)
			continue
		}
		if o.patch == "-" {
			return nil, usagef("standard input cannot be both the ids and the --patch")
		}
		o.fromStdin = true
		lines := bufio.NewScanner(a.stdin)
		for lines.Scan() {
			add(strings.TrimSpace(lines.Text()))
		}
		if err := lines.Err(); err != nil {
			return nil, fmt.Errorf("read ids from standard input: %w", err)
		}
	}
	if len(args) > 0 && len(ids) == 0 {
		return nil, usagef("no ids: standard input holds none")
	}
	return ids, nil
}

// operate does what was asked for.
func (a *app) operate(ctx context.Context, o *operation, r saga.BulkRequest) error {
	c, err := a.config()
	if err != nil {
		return err
	}
	switch {
	case o.dryRun:
		return a.dryRun(ctx, c, r)
	case len(r.IDs) == 1:
		return a.operateOne(ctx, c, o, r)
	}
	if err := r.Validate(); err != nil {
		return usagef("%w", err)
	}
	return a.operateMany(ctx, c, o, r)
}

// sagas returns a client that can start again what Temporal has forgotten.
func (a *app) sagas(ctx context.Context, c config.Config) (*client.Client, error) {
	temporal, err := a.temporal(ctx, c)
	if err != nil {
		return nil, err
	}
	options := client.Options{Temporal: temporal, Prefix: c.Prefix}
	db, err := a.postgres(ctx, c)
	if err != nil {
		return nil, err
	}
	options.Ledger = db
	a.warnOfNoWorker(ctx, temporal, c)
	return client.New(options)
}

// operateOne deals with a single saga and prints what became of it.
func (a *app) operateOne(ctx context.Context, c config.Config, o *operation, r saga.BulkRequest) error {
	sagas, err := a.sagas(ctx, c)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, o.timeout)
	defer cancel()
	op := r.Operation
	if len(op.Set) > 0 {
		if op, err = a.patchOf(ctx, c, r.IDs[0], op); err != nil {
			return err
		}
	}
	answer, err := sagas.Operate(ctx, r.IDs[0], r.Request, op)
	if hasCode(err, saga.CodeStillRunning) {
		return fmt.Errorf("%s: no answer within %s; what was asked for goes on: see `%s`", r.IDs[0], o.timeout, commandLine("show", r.IDs[0]))
	}
	if err != nil {
		return withSchemaHint(err)
	}
	if err := a.writeAnswer(answer); err != nil {
		return err
	}
	if answer.Status == saga.Parked && answer.Did != saga.DidNothing {
		return &exitError{status: statusSome, err: fmt.Errorf("%s is parked: see `%s`", answer.SagaID, commandLine("show", answer.SagaID))}
	}
	return nil
}

func (a *app) writeAnswer(answer saga.Answer) error {
	if a.output == asJSON {
		encoder := json.NewEncoder(a.stdout)
		encoder.SetEscapeHTML(false)
		return encoder.Encode(answer)
	}
	if _, err := fmt.Fprintf(a.stdout, "%s: %s\n", printable(answer.SagaID), printable(answered(&answer))); err != nil {
		return err
	}
	return a.writeSteps(answer.Steps, time.Now())
}

// answered says in a line what a request did, and where the saga stands now.
func answered(answer *saga.Answer) string {
	did := string(answer.Did)
	switch {
	case answer.Did == saga.DidNothing:
		return "nothing to do: " + answer.Note
	case answer.Did == saga.DidCompensate && answer.Status != saga.Compensated:
		did = "undo begun"
	case answer.Did == saga.DidCompensate:
		return did
	}
	return fmt.Sprintf("%s, and now %s", did, answer.Status)
}

// dryRun prints what would be done to each saga.
func (a *app) dryRun(ctx context.Context, c config.Config, r saga.BulkRequest) error {
	plans, err := a.plans(ctx, c, r)
	if err != nil {
		return err
	}
	missed := 0
	for _, p := range plans {
		if p.Error != "" {
			missed++
		}
	}
	if err := a.writePlans(plans); err != nil {
		return err
	}
	a.note("dry run: %s, nothing was done", sagasOf(len(plans)))
	switch {
	case missed == 0:
		return nil
	case missed == len(plans):
		return errors.New("none of the sagas can be looked up: each is named above")
	}
	return &exitError{status: statusSome, err: fmt.Errorf("%d of %s cannot be looked up: each is named above", missed, sagasOf(len(plans)))}
}

func (a *app) writePlans(plans []plan) error {
	if a.output == asJSON {
		encoder := json.NewEncoder(a.stdout)
		encoder.SetEscapeHTML(false)
		for _, p := range plans {
			if err := encoder.Encode(p); err != nil {
				return err
			}
		}
		return nil
	}
	if len(plans) == 0 {
		return nil
	}
	t := newTable(a.stdout, "SAGA", "STATUS", "WORKFLOW", "WOULD")
	for _, p := range plans {
		would := p.Would
		if p.Error != "" {
			would = p.Error
		}
		t.row(p.SagaID, dash(string(p.Status)), dash(string(p.Workflow)), would)
	}
	return t.flush()
}

// confirm asks the person at the terminal. Without one, sagas that a filter
// selects need --yes: who wrote the filter cannot see what it selects.
func (a *app) confirm(o *operation, r *saga.BulkRequest, count int) error {
	switch {
	case o.yes:
		return nil
	case !a.interactive || o.fromStdin:
		if len(r.IDs) > 0 {
			return nil
		}
		return usagef("%s selected: without a terminal to confirm it, --yes is needed; --dry-run shows them", sagasOf(count))
	}
	a.prompt("%s %s? [y/N] ", o.action, sagasOf(count))
	answer, err := bufio.NewReader(a.stdin).ReadString('\n')
	if err != nil && !errors.Is(err, io.EOF) {
		return err
	}
	switch strings.ToLower(strings.TrimSpace(answer)) {
	case "y", "yes":
		return nil
	}
	return errors.New("not confirmed: nothing was done")
}

func (a *app) prompt(format string, args ...any) { _, _ = fmt.Fprintf(a.stderr, format, args...) }
