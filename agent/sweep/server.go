package sweep

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
// turns: an API server that is away is not cured by a restart. Ready means that
// the state of the cluster is known.
func (s *Sweeper) Handler() http.Handler {
	registry := prometheus.NewRegistry()
	registry.MustRegister(s.metrics, collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	if s.volumes != nil {
		registry.MustRegister(s.volumes.metrics)
	}
	mux := http.NewServeMux()
	mux.Handle("GET /metrics", promhttp.HandlerFor(registry, promhttp.HandlerOpts{}))
	mux.HandleFunc("GET /healthz", func(w http.ResponseWriter, _ *http.Request) { answer(w, s.healthy(time.Now())) })
	mux.HandleFunc("GET /readyz", func(w http.ResponseWriter, _ *http.Request) { answer(w, s.ready()) })
	return mux
}

func answer(w http.ResponseWriter, err error) {
	if err != nil {
		http.Error(w, err.Error(), http.StatusServiceUnavailable)
		return
	}
	fmt.Fprintln(w, "ok")
}

// maxSilence is longer than a round in which every request runs into its bound
// once.
const maxSilence = 2 * time.Minute

func (s *Sweeper) healthy(now time.Time) error {
	if still := now.Sub(s.shown.Load().Round); still > maxSilence {
		return fmt.Errorf("the loop has not turned for %s", still.Truncate(time.Second))
	}
	return nil
}

func (s *Sweeper) ready() error {
	if !s.shown.Load().Ready {
		return errors.New("nodes and pods are not known: the API server has not answered yet, or does not any more")
	}
	return nil
}

// serve listens at once, so that a taken port is an error of the start, and
// serves in g until ctx ends.
func (s *Sweeper) serve(ctx context.Context, g *errgroup.Group) error {
	var lc net.ListenConfig
	listener, err := lc.Listen(ctx, "tcp", s.o.Listen)
	if err != nil {
		return fmt.Errorf("serve metrics: %w", err)
	}
	server := &http.Server{Handler: s.Handler(), ReadHeaderTimeout: 10 * time.Second}
	s.logger.Info("serve metrics", "address", listener.Addr().String())
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
