package sweep

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/client-go/rest"
)

// DefaultAgentTimeout is longer than a node takes to boot or an agent to be
// upgraded.
const DefaultAgentTimeout = 5 * time.Minute

const (
	// maxInterval is how often the state is looked at, maxSettle how long after
	// the start nothing is removed: until then every kubelet will have said how
	// its pods are. Short timeouts shorten both.
	maxInterval = 10 * time.Second
	maxSettle   = time.Minute
	// callTimeout bounds each request but watches.
	callTimeout = 10 * time.Second
	// minContact is the shortest silence of the API server that counts.
	minContact = 5 * time.Second
	// warnEvery is how often it is said that labels are taken back slowly.
	warnEvery = 10 * time.Minute
)

// Options of a Sweeper. All are required but Volumes, Release and those with a
// default.
type Options struct {
	// Namespace and Selector (label=value,...) find the agents' pods.
	Namespace, Selector string
	// AgentTimeout is how long a node may be without a ready agent. Default
	// [DefaultAgentTimeout].
	AgentTimeout time.Duration
	// Volumes are the chart's, of which the sweeper frees those whose claim was deleted.
	Volumes []Volume
	// Release leaves nodes alone whose annotation names another one, and events name it
	// as what makes volumes again. Zero: every node, and no name.
	Release Release
	// Listen is the address of /metrics, /healthz and /readyz; empty: none.
	Listen string
	// Kube is how the API server is reached. It must have no overall timeout,
	// which would cut watches.
	Kube   *rest.Config
	Logger *slog.Logger
}

func (o Options) validate() error {
	var errs []error
	need := func(ok bool, what string) {
		if !ok {
			errs = append(errs, fmt.Errorf("%s is missing", what))
		}
	}
	need(o.Namespace != "", "the namespace of the agents' pods (--namespace)")
	need(o.Selector != "", "the labels of the agents' pods (--selector)")
	need(o.Kube != nil, "the connection to an API server")
	need(o.Logger != nil, "the logger")
	if _, err := labels.Parse(o.Selector); err != nil {
		errs = append(errs, fmt.Errorf("--selector %q: %w", o.Selector, err))
	}
	if o.AgentTimeout < 0 {
		errs = append(errs, fmt.Errorf("--agent-timeout %s is negative", o.AgentTimeout))
	}
	return errors.Join(errs...)
}

// Sweeper takes back the labels of nodes that have had no ready agent for a
// while. Make one with [New]; one is enough for a release, and two do no harm.
type Sweeper struct {
	o       Options
	cluster cluster
	logger  *slog.Logger
	metrics *metrics
	volumes *volumeKeeper // nil: there are none
	// interval between two looks, settle after the first contact.
	interval, settle time.Duration

	// What only the loop touches.
	nodes     map[string]*memory
	contact   time.Time // since when the API server answers; zero: never yet
	reached   time.Time // when it last answered
	away      bool      // the last word was no answer; said once
	floor     time.Time // nothing from before counts
	everReady bool      // an agent's pod was once seen ready
	slow      bool
	next      time.Time // the pace: no removal before
	warned    time.Time
	events    []event

	shown atomic.Pointer[shown]
}

// memory is what is remembered of a node.
type memory struct {
	evidence
	uid string
	// withdrawals since a ready pod was last seen, and the last of them.
	withdrawals int
	withdrawn   time.Time
	failures    int
	notBefore   time.Time
}

// New makes a Sweeper and sends nothing yet. Its error names everything that is
// wrong with o.
func New(o Options) (*Sweeper, error) {
	if o.AgentTimeout == 0 {
		o.AgentTimeout = DefaultAgentTimeout
	}
	if err := o.validate(); err != nil {
		return nil, fmt.Errorf("configure the sweeper: %w", err)
	}
	k, err := newKube(o.Kube, o.Namespace, o.Selector)
	if err != nil {
		return nil, fmt.Errorf("configure the sweeper: %w", err)
	}
	s := newSweeper(o, k)
	if len(o.Volumes) > 0 {
		s.volumes = newVolumeKeeper(k, o.Volumes, o.Release, o.Logger)
	}
	return s, nil
}

func newSweeper(o Options, c cluster) *Sweeper {
	s := &Sweeper{
		o: o, cluster: c, logger: o.Logger, nodes: map[string]*memory{},
		interval: max(min(o.AgentTimeout/10, maxInterval), 100*time.Millisecond),
		settle:   min(o.AgentTimeout, maxSettle),
	}
	s.metrics = newMetrics(s.shown.Load)
	s.shown.Store(&shown{Round: time.Now()})
	return s
}

// Run works until ctx ends, which is no error.
func (s *Sweeper) Run(ctx context.Context) error {
	s.logger.Info("start sweeper", "namespace", s.o.Namespace, "selector", s.o.Selector, "agent_timeout", s.o.AgentTimeout)
	g, ctx := errgroup.WithContext(ctx)
	if s.o.Listen != "" {
		if err := s.serve(ctx, g); err != nil {
			return err
		}
	}
	g.Go(func() error {
		s.cluster.run(ctx)
		return nil
	})
	if s.volumes != nil {
		g.Go(func() error {
			s.volumes.run(ctx)
			return nil
		})
	}
	g.Go(func() error {
		ticker := time.NewTicker(s.interval)
		defer ticker.Stop()
		for {
			s.round(ctx)
			select {
			case <-ctx.Done():
				return nil
			case <-ticker.C:
			}
		}
	})
	return g.Wait()
}

// call bounds a request, and notes that the API server answered.
func (s *Sweeper) call(ctx context.Context, request func(ctx context.Context) error) error {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	err := request(ctx)
	if err == nil {
		s.answered(time.Now())
	}
	return err
}

// answered takes note of contact. After a silence, what was known of pods may
// be older than it looks: kubelets could say nothing either. So every clock
// starts again.
func (s *Sweeper) answered(now time.Time) {
	switch {
	case s.contact.IsZero():
		s.contact = now
	case now.Sub(s.reached) > max(3*s.interval, minContact):
		s.contact, s.floor = now, now
		s.logger.Warn("start every clock again: the API server has not answered for a while", "silence", now.Sub(s.reached))
	}
	s.reached = now
	s.away = false
}

// round is one look at everything, and what follows from it.
func (s *Sweeper) round(ctx context.Context) {
	view := shown{}
	defer func() {
		view.Round = time.Now()
		s.shown.Store(&view)
	}()
	if err := s.call(ctx, s.cluster.reach); err != nil {
		if ctx.Err() == nil && !s.away {
			s.away = true
			s.logger.Warn("remove nothing until the API server answers", "error", err)
		}
		return
	}
	nodes, pods, known := s.cluster.seen()
	if !known {
		return
	}
	now := time.Now()
	byNode := map[string][]pod{}
	for _, p := range pods {
		byNode[p.Node] = append(byNode[p.Node], p)
	}
	due, labelled, bare := s.observe(now, nodes, byNode)
	s.slow = suspicious(bare, labelled, s.everReady) || (s.slow && len(due) > 0)
	view = shown{Ready: true, Labelled: labelled, Bare: bare, Due: len(due), Slow: s.slow && len(due) > 0}
	if now.Before(s.contact.Add(s.settle)) {
		return
	}
	s.act(ctx, due, labelled, bare)
	s.writeEvents(ctx)
}
