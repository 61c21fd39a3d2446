package stream

import (
	"context"
	"log/slog"
	"sync"
)

// reporter keeps the registry's word on a slot equal to what was last said here,
// without ever holding up the stream.
type reporter struct {
	registry Registry
	slot     string
	log      *slog.Logger

	group sync.WaitGroup
	mu    sync.Mutex
	want  string
	sent  string
	busy  bool
}

// say sets why the stream stands still; "" says that it moves. It logs what is
// new.
func (r *reporter) say(level slog.Level, problem string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if problem != r.want {
		if problem == "" {
			r.log.Info("the stream moves again")
		} else {
			r.log.Log(context.Background(), level, "the stream stands still", "error", problem)
		}
	}
	r.want = problem
	r.start()
}

// acquired takes into account that the registry forgets a slot's problem when
// the slot has a new holder. A problem that is known to last is said again.
func (r *reporter) acquired(lasting bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.sent = ""
	if !lasting {
		r.want = ""
	}
	r.start()
}

func (r *reporter) start() {
	if r.busy || r.sent == r.want {
		return
	}
	r.busy = true
	r.group.Go(r.send)
}

func (r *reporter) send() {
	for {
		r.mu.Lock()
		problem := r.want
		if problem == r.sent {
			r.busy = false
			r.mu.Unlock()
			return
		}
		r.mu.Unlock()

		ctx, cancel := context.WithTimeout(context.Background(), queryTimeout)
		err := r.registry.ReportStream(ctx, r.slot, problem)
		cancel()

		r.mu.Lock()
		if err != nil { // tried again when something is said next
			r.busy = false
			r.mu.Unlock()
			return
		}
		r.sent = problem
		r.mu.Unlock()
	}
}

// wait returns when nothing is being sent any more.
func (r *reporter) wait() { r.group.Wait() }
