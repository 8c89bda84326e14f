package agent

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"
	"golang.org/x/sync/errgroup"
)

// Handler answers /metrics, /healthz and /readyz. Healthy means that the loop
// turns and that the container has not lost its GPUs: a disk, a driver or an API
// server that does not answer is not cured by a restart. Ready means that the Node says what the agent knows.
func (a *Agent) Handler() http.Handler {
	registry := prometheus.NewRegistry()
	registry.MustRegister(a.metrics, newScrubMetrics(a.scrubSeen, a.warmNames), newRAMMetrics(a.shown.Load, a.warmer.seen, a.speed.now), collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	mux := http.NewServeMux()
	mux.Handle("GET /metrics", promhttp.HandlerFor(registry, promhttp.HandlerOpts{}))
	mux.HandleFunc("GET /healthz", func(w http.ResponseWriter, _ *http.Request) { answerProbe(w, a.healthy(time.Now())) })
	mux.HandleFunc("GET /readyz", func(w http.ResponseWriter, _ *http.Request) { answerProbe(w, a.isReady()) })
	return mux
}

func answerProbe(w http.ResponseWriter, err error) {
	if err != nil {
		http.Error(w, err.Error(), http.StatusServiceUnavailable)
		return
	}
	fmt.Fprintln(w, "ok")
}

// stale is the age from which what the loop asks for is no longer told: ten of
// its ticks, or half a minute if that is more.
func (a *Agent) stale() time.Duration {
	return max(30*time.Second, 10*time.Duration(a.observed.Load()))
}

// healthy reports a loop that has not turned for too long, and GPUs that only a
// new container has again.
func (a *Agent) healthy(now time.Time) error {
	bound := a.stale()
	if still := now.Sub(time.Unix(0, a.turned.Load())); still > bound {
		return fmt.Errorf("the loop has not turned for %s", still.Truncate(time.Second))
	}
	if a.gpusGone.Load() {
		return errors.New("this container has lost its GPUs (NVML's unknown error), as after systemctl daemon-reload on the node; a new one has them again")
	}
	return nil
}

func (a *Agent) isReady() error {
	if !a.ready.Load() {
		return errors.New("nothing has been said on the node yet")
	}
	return nil
}

// serve listens at once, so that a taken port is an error of the start, and
// serves in g until ctx ends.
func (a *Agent) serve(ctx context.Context, g *errgroup.Group) error {
	var lc net.ListenConfig
	listener, err := lc.Listen(ctx, "tcp", a.o.Listen)
	if err != nil {
		return fmt.Errorf("serve metrics: %w", err)
	}
	server := &http.Server{Handler: a.Handler(), ReadHeaderTimeout: 10 * time.Second}
	a.logger.Info("serve metrics", "address", listener.Addr().String())
	g.Go(func() error {
		if err := server.Serve(listener); !errors.Is(err, http.ErrServerClosed) {
			return fmt.Errorf("serve metrics: %w", err)
		}
		return nil
	})
	g.Go(func() error {
		<-ctx.Done()
		stop, cancel := context.WithTimeout(context.WithoutCancel(ctx), 5*time.Second)
		defer cancel()
		return server.Shutdown(stop)
	})
	return nil
}
