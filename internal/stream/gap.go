package stream

import (
	"context"
	"log/slog"
	"sync"
	"time"

	"github.com/capsaga/capsaga/internal/postgres"
	"github.com/capsaga/capsaga/saga"
)

// Gap is a part of the WAL that a stream has not read and never will, as its slot
// was lost.
type Gap struct {
	Slot string
	Sink saga.Sink
	postgres.StreamGap
}

func (r *Reader) slot() postgres.Slot {
	return postgres.Slot{Name: r.config.Slot, Publication: r.config.Publications[0], Failover: r.config.Failover}
}

// repair makes a slot anew that is gone. The gap that it leaves is found by whoever
// holds the new slot first. It is not done at every look: a server whose limit on
// WAL is too low for its load invalidates one slot after the other.
func (r *Reader) repair(ctx context.Context) {
	now := time.Now()
	if now.Before(r.repairNext) {
		return
	}
	r.repairPause = min(2*r.repairPause, lastBackoff)
	if r.repairPause == 0 || now.Sub(r.repairNext) > 2*lastBackoff {
		r.repairPause = firstBackoff
	}
	change, err := r.config.Registry.RepairSlot(ctx, r.slot())
	r.repairNext = time.Now().Add(r.repairPause)
	switch {
	case ctx.Err() != nil:
	case err != nil:
		r.report.say(slog.LevelError, err.Error())
	case change.Created:
		r.log.Error("made the slot anew", "reason", change.Detail)
	}
}

// closeGap asks for the backfill of a gap, beside the stream. What it returns waits
// until it has stopped asking.
func (r *Reader) closeGap(ctx context.Context, gap *postgres.StreamGap) (stop func()) {
	if gap == nil {
		return func() {}
	}
	r.stats.Gaps.Add(1)
	log := r.log.With("reason", gap.Reason, "from", gap.From, "to", gap.To)
	if r.config.OnGap == nil {
		log.Error("changes were missed: backfill every entity of this stream with `capsaga backfill`")
		return func() {}
	}
	log.Error("changes were missed: a backfill of all entities of this stream is requested")
	ctx, cancel := context.WithCancel(ctx)
	var asking sync.WaitGroup
	asking.Go(func() {
		for pause := firstBackoff; ; pause = min(2*pause, lastBackoff) {
			err := r.requestBackfill(ctx, *gap)
			if err == nil {
				log.Warn("the backfill of what was missed is requested")
				return
			}
			if ctx.Err() != nil {
				return // the next holder begins with it
			}
			log.Error("cannot request the backfill of what was missed: it is tried again", "error", err)
			select {
			case <-ctx.Done():
			case <-time.After(pause):
			}
		}
	})
	return func() {
		cancel()
		asking.Wait()
	}
}

// requestBackfill asks first and notes then that it did: a crash in between asks
// twice.
func (r *Reader) requestBackfill(ctx context.Context, gap postgres.StreamGap) error {
	if err := r.config.OnGap(ctx, Gap{Slot: r.config.Slot, Sink: r.config.Sink, StreamGap: gap}); err != nil {
		return err
	}
	return r.config.Registry.CloseGap(ctx, r.config.Slot, gap)
}
