package worker

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"sync"
	"time"

	"go.temporal.io/api/serviceerror"
	"go.temporal.io/api/workflowservice/v1"
	sdkclient "go.temporal.io/sdk/client"
	"golang.org/x/sync/singleflight"

	"github.com/capsaga/capsaga/activities"
	"github.com/capsaga/capsaga/internal/postgres"
	"github.com/capsaga/capsaga/internal/stream"
	"github.com/capsaga/capsaga/saga"
	"github.com/capsaga/capsaga/workflows"
)

// gateSignalEvery is the shortest time between two signals of this process to one
// gate. A gate stays for a minute after the last one, so none is missed.
const gateSignalEvery = 5 * time.Second

// gates starts the gates of the systems that this worker can probe.
type gates struct {
	temporal sdkclient.Client
	prefix   saga.Prefix
	probers  map[string]func(context.Context) error

	calls singleflight.Group
	mu    sync.Mutex
	told  map[string]time.Time // when each gate was last signalled
}

func newGates(temporal sdkclient.Client, prefix saga.Prefix, probers map[string]func(context.Context) error) *gates {
	return &gates{temporal: temporal, prefix: prefix, probers: probers, told: map[string]time.Time{}}
}

// OpenGate makes sure that the gate of a system runs and has heard that a saga
// waits. Ten thousand sagas that park together make one call of it in five
// seconds. What nobody can probe, such as a service's own step, has no gate.
func (g *gates) OpenGate(ctx context.Context, system string) error {
	if g.probers[system] == nil || g.wasTold(system) {
		return nil
	}
	call := g.calls.DoChan(system, func() (any, error) { return nil, g.tell(context.WithoutCancel(ctx), system) })
	select {
	case done := <-call:
		return done.Err
	case <-ctx.Done():
		return fmt.Errorf("open the gate of %s: %w", system, ctx.Err())
	}
}

func (g *gates) wasTold(system string) bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	return time.Since(g.told[system]) < gateSignalEvery
}

func (g *gates) tell(ctx context.Context, system string) error {
	ctx, cancel := context.WithTimeout(ctx, gateSignalEvery)
	defer cancel()
	began := time.Now()
	options := sdkclient.StartWorkflowOptions{
		ID: g.prefix.GateID(system), TaskQueue: g.prefix.TaskQueue(),
		StaticSummary: fmt.Sprintf("Releases the sagas that are parked for %s when it is back", system),
	}
	_, err := g.temporal.SignalWithStartWorkflow(ctx, options.ID, saga.SignalParked, nil, options, saga.WorkflowGate, workflows.GateState{System: system})
	if err != nil {
		return fmt.Errorf("open the gate of %s: %w", system, err)
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	g.told[system] = began
	return nil
}

// parkedSagas finds parked sagas by Temporal's visibility.
type parkedSagas struct {
	temporal  sdkclient.Client
	namespace string
	prefix    saga.Prefix
}

// query narrows to sagas that wait for a system and not for an operator. The task
// queue tells the instances of one namespace apart.
func (p *parkedSagas) query(system string) string {
	return fmt.Sprintf("ExecutionStatus = 'Running' AND TaskQueue = %s AND %s = %s AND %s = %s AND %s IN (%s, %s)",
		literal(p.prefix.TaskQueue()),
		saga.AttributeStatus, literal(string(saga.Parked)),
		saga.AttributeBlockedOn, literal(system),
		saga.AttributeErrorClass, literal(string(saga.Unavailable)), literal(string(saga.Ambiguous)))
}

// literal quotes text for a query. The names of prefixes and systems have nothing
// to escape.
func literal(text string) string { return "'" + text + "'" }

// moment is the form in which a query takes a time.
func moment(t time.Time) string { return literal(t.UTC().Format(time.RFC3339Nano)) }

// List returns the youngest first, which is the order of all of Temporal's stores
// of visibility; none but Elasticsearch can be asked for another.
func (p *parkedSagas) List(ctx context.Context, system string, before time.Time, limit int) ([]activities.ParkedSaga, error) {
	query := p.query(system)
	if !before.IsZero() {
		query += " AND StartTime < " + moment(before)
	}
	listed, err := p.temporal.ListWorkflow(ctx, &workflowservice.ListWorkflowExecutionsRequest{
		Namespace: p.namespace, PageSize: int32(limit), Query: query, //nolint:gosec // at most 500
	})
	if err != nil {
		return nil, fmt.Errorf("list the sagas that are parked for %s: %w", system, err)
	}
	sagas := make([]activities.ParkedSaga, 0, len(listed.GetExecutions()))
	for _, e := range listed.GetExecutions() {
		sagas = append(sagas, activities.ParkedSaga{
			WorkflowID: e.GetExecution().GetWorkflowId(), RunID: e.GetExecution().GetRunId(), StartedAt: e.GetStartTime().AsTime(),
		})
	}
	return sagas, nil
}

// Count counts by one question to the server.
func (p *parkedSagas) Count(ctx context.Context, system string, from, to time.Time) (int, error) {
	query := p.query(system)
	if !from.IsZero() {
		query += " AND StartTime >= " + moment(from) + " AND StartTime <= " + moment(to)
	}
	counted, err := p.temporal.CountWorkflow(ctx, &workflowservice.CountWorkflowExecutionsRequest{Namespace: p.namespace, Query: query})
	if err != nil {
		return 0, fmt.Errorf("count the sagas that are parked for %s: %w", system, err)
	}
	return int(counted.GetCount()), nil
}

// Release signals a saga. One that has ended meanwhile, or runs anew, needs it no
// more.
func (p *parkedSagas) Release(ctx context.Context, parked activities.ParkedSaga, system string) error {
	err := p.temporal.SignalWorkflow(ctx, parked.WorkflowID, parked.RunID, saga.SignalRelease, system)
	var gone *serviceerror.NotFound
	if err == nil || errors.As(err, &gone) {
		return nil
	}
	return fmt.Errorf("release %s: %w", parked.WorkflowID, err)
}

// probers ask the systems whether they take writes; to ask whether they listen is
// not enough. What they write is a mark of the gate's own.
func (w *Worker) probers() map[string]func(context.Context) error {
	now := func() string { return strconv.FormatInt(time.Now().Unix(), 10) }
	return map[string]func(context.Context) error{
		"postgres":                 func(ctx context.Context) error { return commits(ctx, w.db) },
		string(saga.Redis):         func(ctx context.Context) error { return w.redis.SetMark(ctx, gateMark, now()) },
		string(saga.Elasticsearch): func(ctx context.Context) error { return w.elastic.SetMark(ctx, gateMark, now()) },
		string(saga.Kafka):         func(ctx context.Context) error { return streamMoves(ctx, w.db, w.positions) },
	}
}

// gateMark is the name of the mark that a probe writes.
const gateMark = "gate"

// commits returns nil when PostgreSQL is the primary and its epoch is known, as
// each commit wants it.
func commits(ctx context.Context, db *postgres.DB) error {
	if err := db.Ping(ctx); err != nil {
		return err
	}
	_, err := db.Epoch(ctx)
	return err
}

// streamMoves returns nil when the stream to Kafka reaches the present end of the
// WAL.
func streamMoves(ctx context.Context, db *postgres.DB, positions *stream.Positions) error {
	var text string
	if err := db.Pool().QueryRow(ctx, "SELECT pg_current_wal_flush_lsn()::text").Scan(&text); err != nil {
		return fmt.Errorf("read the end of the WAL: %w", err)
	}
	end, err := saga.ParseLSN(text)
	if err != nil {
		return err
	}
	return positions.Wait(ctx, end)
}
