package stream

import (
	"context"
	"errors"
	"log/slog"
	"time"

	"github.com/jackc/pgx/v5/pgconn"
	"golang.org/x/sync/semaphore"

	"github.com/capsaga/capsaga/internal/postgres"
	"github.com/capsaga/capsaga/saga"
)

// Registry keeps who holds a slot, how far the stream is and why it stands still.
// It is *postgres.DB, whose comments say what each does.
type Registry interface {
	AcquireStream(ctx context.Context, slot string, backendPID uint32, holder string) (postgres.StreamLease, error)
	SettleStream(ctx context.Context, slot string, backendPID uint32, generation int64, confirmed saga.LSN) (saga.LSN, error)
	ProgressStream(ctx context.Context, slot string, generation int64, confirmed saga.LSN, oldest time.Time) error
	ReportStream(ctx context.Context, slot, problem string) error
	RepairSlot(ctx context.Context, want postgres.Slot) (postgres.SlotChange, error)
	CloseGap(ctx context.Context, slot string, gap postgres.StreamGap) error
}

// Config is what a Reader needs.
type Config struct {
	// URL is PostgreSQL's connection string. It is never logged.
	URL          string
	Slot         string
	Publications []string
	// Sink is whose stream this is: the backfills of others are passed over.
	Sink saga.Sink
	// Failover has standbys keep a copy of the slot.
	Failover bool
	// OnGap asks for the backfill that closes a gap. It is called again until it
	// returns nil, by this holder or the next, and once more after a crash in
	// between. Nil: the gap stays open until there is one.
	OnGap func(ctx context.Context, gap Gap) error
	// Holder names this process to people, such as host:pid.
	Holder   string
	Registry Registry
	// Database is a pool of normal connections, to look at the slot with.
	Database postgres.Querier
	Handler  Handler
	// Watch is shared by the readers of a process; default: the reader's own.
	Watch *Watch
	// Positions is told of each confirmed position at once; may be nil.
	Positions *Positions
	// Observe is told of each transaction that was handed over whole, from one
	// goroutine and in commit order; may be nil.
	Observe func(*Transaction)
	Logger  *slog.Logger // default slog.Default()
	// MaxInFlightBytes bounds what is handed over and not yet acknowledged;
	// default 12 MiB.
	MaxInFlightBytes int64
}

const (
	defaultInFlightBytes = 12 << 20
	standbyPoll          = 250 * time.Millisecond
	queryTimeout         = 2 * time.Second
	// firstBackoff doubles up to lastBackoff while a refusal lasts.
	firstBackoff = time.Second
	lastBackoff  = 30 * time.Second
)

// Reader reads one slot for as long as this process holds it.
type Reader struct {
	config Config
	conn   *pgconn.Config
	log    *slog.Logger
	report *reporter
	stats  Stats
	// alarmedAt is the position of the last alarm: only what is confirmed above
	// it shows that the stream has come past. Run's goroutine alone uses it.
	alarmedAt saga.LSN
	// When a standstill was last said, and whether the reason was known.
	stallSaid  time.Time
	stallNamed bool
	// Of the repair of a slot that is gone.
	repairPause time.Duration
	repairNext  time.Time
	// alter says that the slot's failover is not as it is to be.
	alter bool
}

// NewReader checks the configuration.
func NewReader(config Config) (*Reader, error) {
	switch {
	case config.Slot == "":
		return nil, errors.New("stream: Slot is empty")
	case len(config.Publications) == 0:
		return nil, errors.New("stream: Publications is empty")
	case config.Registry == nil, config.Database == nil, config.Handler == nil:
		return nil, errors.New("stream: Registry, Database and Handler are required")
	}
	conn, err := replicationConfig(config.URL)
	if err != nil {
		return nil, err
	}
	if config.Logger == nil {
		config.Logger = slog.Default()
	}
	if config.MaxInFlightBytes <= 0 {
		config.MaxInFlightBytes = defaultInFlightBytes
	}
	if config.Watch == nil {
		config.Watch = NewWatch(config.Database)
	}
	config.Watch.add(config.Slot)
	log := config.Logger.With("slot", config.Slot)
	r := &Reader{config: config, conn: conn, log: log}
	r.report = &reporter{registry: config.Registry, slot: config.Slot, log: log}
	return r, nil
}

// Stats returns the reader's figures.
func (r *Reader) Stats() *Stats { return &r.stats }

// Run is standby and holder in turns until ctx ends, and then returns nil. It
// never returns on a fault: it reports it and tries again.
func (r *Reader) Run(ctx context.Context) error {
	defer r.report.wait()
	backoff := firstBackoff
	for r.awaitFree(ctx) {
		started := time.Now()
		err := r.hold(ctx)
		if ctx.Err() != nil {
			break
		}
		pause := standbyPoll
		switch {
		case err == nil, slotActive(err): // another worker was faster
		case saga.ClassOf(err) == saga.Rejected:
			if time.Since(started) > 2*lastBackoff {
				backoff = firstBackoff
			}
			pause, backoff = backoff, min(backoff*2, lastBackoff)
		default:
			r.stats.Losses.Add(1)
			r.log.Warn("lost the stream", "error", err)
			backoff = firstBackoff
		}
		select {
		case <-ctx.Done():
		case <-time.After(pause):
		}
	}
	return nil
}

// alarm says that something was refused for good. It is said while the slot is
// still held, so that it cannot come after a successor's word.
func (r *Reader) alarm(err error) {
	r.stats.Alarms.Add(1)
	r.stats.Alarmed.Store(true)
	r.alarmedAt = saga.LSN(r.stats.Confirmed.Load())
	var in *transactionError
	if errors.As(err, &in) {
		r.alarmedAt = in.lsn
	}
	r.report.say(slog.LevelError, err.Error())
	r.report.wait()
}

// awaitFree returns true when nobody holds the slot, and false when ctx ends.
func (r *Reader) awaitFree(ctx context.Context) bool {
	tick := time.NewTicker(standbyPoll)
	defer tick.Stop()
	for ctx.Err() == nil {
		slot, err := r.config.Watch.look(ctx, r.config.Slot)
		switch {
		case ctx.Err() != nil:
			return false
		case err == nil && !slot.Active:
			r.alter = slot.Failover != r.config.Failover
			return true
		case errors.Is(err, errGone):
			r.repair(ctx)
		case saga.ClassOf(err) == saga.Rejected:
			r.report.say(slog.LevelError, err.Error())
		case err != nil:
			r.log.Debug("cannot look at the slot", "error", err)
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
		}
	}
	return false
}

// hold takes the slot and publishes until it is lost. When something was refused
// for good, that is reported before the slot is given up.
func (r *Reader) hold(ctx context.Context) error {
	conn, err := r.startReplication(ctx)
	if err != nil {
		if saga.ClassOf(err) == saga.Rejected {
			r.alarm(err)
		}
		return err
	}
	defer closeConnection(conn)
	err = r.holdOver(ctx, conn)
	if err != nil && saga.ClassOf(err) == saga.Rejected {
		r.alarm(err)
	}
	return err
}

func (r *Reader) holdOver(ctx context.Context, conn *pgconn.PgConn) error {
	acquiring, cancel := context.WithTimeout(ctx, queryTimeout)
	defer cancel()
	lease, err := r.config.Registry.AcquireStream(acquiring, r.config.Slot, conn.PID(), r.config.Holder)
	if err != nil {
		return err
	}
	h := r.newHold(conn, lease)
	if h.handler, err = r.config.Handler.Start(acquiring, h.lease); err != nil {
		return err
	}
	r.report.acquired(r.stats.Alarmed.Load())
	r.log.Info("holds the stream", "generation", lease.Generation, "holder", r.config.Holder)
	r.stats.Generation.Store(lease.Generation)
	r.stats.Holding.Store(true)
	r.config.Positions.setHolding(true)
	defer func() {
		r.config.Positions.setHolding(false)
		r.stats.Holding.Store(false)
		r.log.Info("left the stream", "generation", lease.Generation)
	}()
	defer r.closeGap(ctx, lease.Gap)()
	return h.run(ctx)
}

func (r *Reader) newHold(conn *pgconn.PgConn, acquired postgres.StreamLease) *hold {
	lease := Lease{Slot: r.config.Slot, Generation: acquired.Generation, Epochs: acquired.Epochs}
	tracker := newTracker(r.config.MaxInFlightBytes, r.config.Positions.advance)
	tracker.records = &r.stats.Records
	notes := &notes{registry: r.config.Registry, slot: r.config.Slot, pid: conn.PID(), lease: lease, tracker: tracker, log: r.log}
	notes.bound.Store(uint64(acquired.Bound))
	return &hold{
		slot: r.config.Slot, sink: r.config.Sink, conn: conn, lease: lease, tracker: tracker,
		stats: &r.stats, observe: r.config.Observe, log: r.log,
		health: r.health, notes: notes,
		holds: func(ctx context.Context) (bool, error) {
			slot, err := readSlot(ctx, r.config.Database, r.config.Slot)
			return err == nil && slot.Active && slot.PID == conn.PID(), err
		},
		events: make(chan event, receiveEvents),
		room:   semaphore.NewWeighted(receiveBytes),
	}
}

// stallLimit is how long nothing of the oldest transaction may be acknowledged before
// the stream is reported as standing still: nothing behind it is confirmed, whatever
// is applied of that.
const stallLimit = 3 * time.Second

// stallRepeat is how often the reason may be said anew while it changes, once there
// is one.
const stallRepeat = 10 * time.Second

// health reports a broker that is away, and takes a report back when the stream
// moves again.
func (r *Reader) health(h *hold) {
	records, stalled := h.tracker.waiting()
	r.stats.InFlight.Store(int64(records))
	r.stats.Stalled.Store(int64(stalled))
	confirmed, _ := h.tracker.state()
	switch {
	case stalled > stallLimit:
		problem := "nothing of the oldest change was acknowledged for " + stallLimit.String() + " or longer"
		trouble := h.handler.Trouble()
		if trouble != nil {
			problem += ": " + trouble.Error()
		}
		if time.Since(r.stallSaid) >= stallRepeat || trouble != nil && !r.stallNamed {
			r.stallSaid, r.stallNamed = time.Now(), trouble != nil
			r.report.say(slog.LevelError, problem)
		}
	case stalled < askEvery && confirmed > r.alarmedAt:
		r.alarmedAt, r.stallSaid, r.stallNamed = 0, time.Time{}, false
		r.stats.Alarmed.Store(false)
		r.report.say(slog.LevelInfo, "")
	}
}
