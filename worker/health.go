package worker

import (
	"context"
	"encoding/json"
	"errors"
	"log/slog"
	"net"
	"net/http"
	"sync"
	"sync/atomic"
	"syscall"
	"time"
)

// DefaultHTTPAddress is where a worker answers /healthz, /readyz and /metrics
// unless it is told another place. If another worker of the host has it, a free
// port is taken and logged.
const DefaultHTTPAddress = "127.0.0.1:15190"

const pingTimeout = 2 * time.Second

// health says whether the worker takes sagas, and what of its systems answers.
type health struct {
	polling atomic.Bool
	pings   map[string]func(context.Context) error
}

// required are the systems without which no saga can begin. A sink that is away
// only delays.
var required = map[string]bool{"postgres": true, "temporal": true}

// report is the body of /readyz.
type report struct {
	Ready   bool              `json:"ready"`
	Polling bool              `json:"polling"` // the worker takes sagas from its task queue
	Systems map[string]string `json:"systems"` // "ok", or what is wrong
}

func (h *health) check(ctx context.Context) report {
	ctx, cancel := context.WithTimeout(ctx, pingTimeout)
	defer cancel()
	r := report{Ready: h.polling.Load(), Polling: h.polling.Load(), Systems: map[string]string{}}
	var mu sync.Mutex
	var wg sync.WaitGroup
	for name, ping := range h.pings {
		wg.Go(func() {
			err := ping(ctx)
			mu.Lock()
			defer mu.Unlock()
			r.Systems[name] = "ok"
			if err != nil {
				r.Systems[name] = err.Error()
				r.Ready = r.Ready && !required[name]
			}
		})
	}
	wg.Wait()
	return r
}

// routes serves the worker's HTTP.
func (h *health) routes(metrics http.Handler) http.Handler {
	mux := http.NewServeMux()
	mux.Handle("GET /metrics", metrics)
	mux.HandleFunc("GET /healthz", func(w http.ResponseWriter, _ *http.Request) {
		_, _ = w.Write([]byte("ok\n"))
	})
	mux.HandleFunc("GET /readyz", func(w http.ResponseWriter, r *http.Request) {
		report := h.check(r.Context())
		w.Header().Set("Content-Type", "application/json")
		if !report.Ready {
			w.WriteHeader(http.StatusServiceUnavailable)
		}
		_ = json.NewEncoder(w).Encode(report)
	})
	return mux
}

// listen takes the address, or, where none was asked for and the default is
// taken, any free port of the loopback interface.
func listen(ctx context.Context, address string, log *slog.Logger) (net.Listener, error) {
	var config net.ListenConfig
	wanted := address
	if wanted == "" {
		wanted = DefaultHTTPAddress
	}
	listener, err := config.Listen(ctx, "tcp", wanted)
	if errors.Is(err, syscall.EADDRINUSE) && address == "" {
		log.Info("another program has the default port", "address", wanted)
		return config.Listen(ctx, "tcp", "127.0.0.1:0")
	}
	return listener, err
}
