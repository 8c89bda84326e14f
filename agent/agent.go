package agent

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"
	"k8s.io/client-go/rest"

	"github.com/stoker-project/stoker/agent/measure"
	"github.com/stoker-project/stoker/fetcher"
	"github.com/stoker-project/stoker/fetcher/secrets"
	"github.com/stoker-project/stoker/fetcher/store"
	"github.com/stoker-project/stoker/gpu"
)

// Options of an Agent. All are required but for those with a default.
type Options struct {
	// Config is what is in force at start, as [LoadConfig] returns it.
	Config Config
	// ConfigPath is the file; it is read again while the agent runs.
	ConfigPath string
	// CredentialsDir holds one folder for each mounted Secret. Default: the
	// folder credentials beside the configuration file.
	CredentialsDir string
	// NodeName is the name of this machine's Node object.
	NodeName string
	// PodUID is the UID of the pod that the agent runs in, so that what it asks for
	// itself is not counted as other pods'; empty: it is in none, or does not know.
	PodUID string
	// Version of the binary, for the annotation and the heartbeat.
	Version string
	// Release is the Helm release that the agent is of, as NAMESPACE/NAME, for the
	// annotation; empty: none.
	Release string
	// Namespace is where the agents run, whose number decides how often each writes
	// progress; empty: this one is taken to be alone.
	Namespace string
	// Listen is the address of /metrics, /healthz and /readyz; empty: none.
	Listen string
	// Kube is how the API server is reached. It must have no overall timeout,
	// which would cut watches.
	Kube *rest.Config

	Store     Store
	Puller    Puller
	Admission *Admission
	Devices   Devices
	Logger    *slog.Logger
	// Secrets holds what no text of the agent may show, the drivers' credentials
	// among it; what Secrets are mounted is added. Nil: only what looks like a secret
	// is hidden.
	Secrets *secrets.Set
	// Dial connects to pods whose metrics page is read; nil: directly.
	Dial func(ctx context.Context, network, address string) (net.Conn, error)
}

// validate reports every option that is missing.
func (o Options) validate() error {
	var errs []error
	need := func(ok bool, what string) {
		if !ok {
			errs = append(errs, fmt.Errorf("%s is missing", what))
		}
	}
	need(o.NodeName != "", "the node's name (--node-name, or NODE_NAME in the environment)")
	need(o.ConfigPath != "", "the configuration file (--config)")
	need(o.Store != nil, "the store")
	need(o.Puller != nil, "the puller")
	need(o.Admission != nil, "the admission")
	need(o.Devices != nil, "the device reader")
	need(o.Logger != nil, "the logger")
	return errors.Join(errs...)
}

// Agent keeps one node's models warm and says so. Make one with [New].
type Agent struct {
	o       Options
	cluster cluster
	logger  *slog.Logger
	wakeup  chan struct{}
	wg      sync.WaitGroup

	// What may take long runs here; the loop looks at the latest answers.
	list    *probe[listView]
	disk    *probe[storeView]
	devices *probe[[]gpu.Device]
	node    *probe[nodeView]
	pulls   *pulls
	removes *removals
	scribe  *scribe
	events  *recorder
	scrub   *scrubber
	// inspect reads, in place of scrub, a volume that no agent writes; nil: another one.
	inspect *inspector
	warmer  *warmer
	measure *measurer
	speed   *speedometer
	written slot[written]
	// fleetSize is shared with the goroutine that writes the Node.
	fleetSize fleetSize
	lifted    slot[lifted]

	// The loop's own state: no other goroutine touches it.
	loop loopState

	// What other goroutines read of the loop.
	turned   atomic.Int64 // when it last turned, in Unix nanoseconds
	ready    atomic.Bool
	promised *promises
	// turns is how agents on one volume take turns in writing; nil: each has a volume.
	turns *turns
	// lookAgain asks for a look at the store that sees what was just changed.
	lookAgain atomic.Bool
	timeout   atomic.Int64 // intervals.timeout, for the events' writer
	observed  atomic.Int64 // intervals.observe, for /healthz
	shown     atomic.Pointer[snapshot]
	// gpusGone: the container has lost the GPUs that it had, for /healthz.
	gpusGone atomic.Bool
	metrics  *metrics
}

// New makes an agent. It touches no disk and sends nothing yet.
func New(o Options) (*Agent, error) {
	if err := o.validate(); err != nil {
		return nil, fmt.Errorf("configure the agent: %w", err)
	}
	if o.Kube == nil {
		return nil, errors.New("configure the agent: there is no connection to an API server; run in a pod or give --kubeconfig")
	}
	wakeup := make(chan struct{}, 1)
	k, err := newKube(o.Kube, o.NodeName, namespaceOf(o.Release), o.Config.Volume, poke(wakeup), o.Logger)
	if err != nil {
		return nil, fmt.Errorf("configure the agent: %w", err)
	}
	return newAgent(o, k, wakeup), nil
}

// poke returns a function that fills the one-slot channel and never waits.
func poke(c chan struct{}) func() {
	return func() {
		select {
		case c <- struct{}{}:
		default:
		}
	}
}

func newAgent(o Options, c cluster, wakeup chan struct{}) *Agent {
	if o.CredentialsDir == "" {
		o.CredentialsDir = DefaultCredentials(o.ConfigPath)
	}
	a := &Agent{o: o, cluster: c, logger: o.Logger, wakeup: wakeup}
	wake := poke(wakeup)
	observer := &storeObserver{store: o.Store, read: readSize}
	a.list = newProbe("the configuration file", wake, &a.wg, func(context.Context, func()) (listView, error) {
		return readList(o.ConfigPath, o.CredentialsDir, o.Secrets)
	})
	a.disk = newProbe("the store", wake, &a.wg, func(ctx context.Context, beat func()) (storeView, error) {
		view, err := observer.look(ctx, beat)
		return view, a.fencedBy(err) // where folders were missing, the look has tried to write
	})
	a.devices = newProbe("the GPUs", wake, &a.wg, func(ctx context.Context, _ func()) ([]gpu.Device, error) {
		return o.Devices.Devices(ctx)
	})
	a.node = newProbe("the API server", wake, &a.wg, func(ctx context.Context, _ func()) (nodeView, error) {
		return c.node(ctx)
	})
	a.pulls = newPulls(o.Puller, o.Admission, a.request, wake, &a.wg)
	observer.taking = a.pulls.taking
	a.removes = newRemovals(o.Store, wake, &a.wg)
	a.scribe = newScribe(&a.wg, o.Logger)
	a.promised = newPromises()
	o.Store.BeforeWithdraw(a.release)
	a.metrics = newMetrics(a.shown.Load, a.reading)
	a.events = newRecorder(c.event, a.metrics.eventWritten, o.Secrets.Scrub, o.Logger)
	a.speed = &speedometer{logger: o.Logger}
	if o.Config.Volume.own() {
		a.speed.file = o.Store.AgentFile(speedFile)
		a.speed.write = func(data []byte) error { return o.Store.WriteAgentFile(speedFile, data) }
	}
	usable := func() bool { return a.disk.latest().Known }
	mayWrite := func() bool { return usable() && (a.turns == nil || a.turns.writes.Load()) }
	look := func(ctx context.Context) { a.disk.start(ctx, time.Duration(a.timeout.Load()), true) }
	a.scrub = newScrubber(o.Store, mayWrite, a.pulls.transferring, look, a.speed.add, o.Logger)
	a.warmer = newWarmer(o.Store, usable, a.pulls.transferring, look, wake, o.Logger)
	a.warmer.speed = a.speed
	a.measure = newMeasurer(measure.NewAsker(o.Dial).Page, wake, o.Logger)
	switch v := o.Config.Volume; {
	case v.shared():
		a.turns = newTurns(a, c, observer)
		a.scrub.idle = func(ctx context.Context) {
			if !usable() {
				return
			}
			if changed, err := o.Store.Recheck(ctx, a.scrub.setting.Load().Cycle/recheckShare); err == nil && changed {
				look(ctx)
			}
		}
	case v.sealed():
		observer.sealed = true
		a.inspect = newInspector(o.Store, c.ledger(), o.NodeName, inspectHooks{usable: usable, look: look, next: a.disk.next, took: a.speed.add}, o.Logger)
	}
	a.loop = newLoopState(o.Config)
	a.adopt(o.Config)
	return a
}

// request is what the fetcher is asked for a model.
func (a *Agent) request(m Model) fetcher.Request { return m.Request(a.o.CredentialsDir) }

// adopt takes a configuration over. The number of connections and the rate
// are the fetcher's and stay as they were at start.
func (a *Agent) adopt(cfg Config) {
	old := a.loop.cfg.Pull
	if old.Jobs != cfg.Pull.Jobs || old.MaxRate != cfg.Pull.MaxRate {
		a.logger.Warn("pull.jobs and pull.maxRate take effect when the agent restarts")
	}
	if a.loop.cfg.Volume != cfg.Volume {
		a.logger.Warn("volume takes effect when the agent restarts")
		cfg.Volume = a.loop.cfg.Volume
	}
	a.loop.cfg = cfg
	a.warnServing(cfg.Models)
	a.o.Admission.configure(cfg.Store)
	a.scrub.configure(cfg.Scrub)
	if a.inspect != nil {
		a.inspect.configure(cfg.Scrub, cfg.Intervals)
	}
	a.warmer.configure(cfg.RAM, cfg.Intervals.Residency)
	a.timeout.Store(int64(cfg.Intervals.Timeout))
	a.observed.Store(int64(cfg.Intervals.Observe))
}

// Run works until ctx ends, which is no error: the labels stay, because what
// they say stays true. It returns when everything that it started has ended,
// but for calls that hang in the operating system or a driver.
func (a *Agent) Run(ctx context.Context) error {
	a.logger.Info("start agent", "node", a.o.NodeName, "version", a.o.Version, "config", a.loop.cfg)
	a.turned.Store(time.Now().UnixNano())
	g, ctx := errgroup.WithContext(ctx)
	if a.o.Listen != "" {
		if err := a.serve(ctx, g); err != nil {
			return err
		}
	}
	g.Go(func() error {
		a.cluster.run(ctx)
		return nil
	})
	g.Go(func() error {
		a.events.run(ctx, func() time.Duration { return time.Duration(a.timeout.Load()) })
		return nil
	})
	if a.turns != nil {
		g.Go(func() error {
			a.turns.elector.Run(ctx)
			return nil
		})
	}
	if a.inspect != nil {
		a.wg.Go(func() { a.inspect.run(ctx) })
	} else {
		a.wg.Go(func() { a.scrub.run(ctx) })
	}
	a.wg.Go(func() { a.warmer.run(ctx) })
	a.wg.Go(func() { a.measure.run(ctx) })
	g.Go(func() error {
		a.turnAround(ctx)
		a.waitForWork()
		a.giveWay(ctx)
		return nil
	})
	return g.Wait()
}

// turnAround is the loop: a timer and a one-slot wake channel drive it.
func (a *Agent) turnAround(ctx context.Context) {
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-timer.C:
		case <-a.wakeup:
		}
		now := time.Now()
		next := a.turn(ctx, now)
		a.turned.Store(now.UnixNano())
		timer.Reset(max(0, time.Until(next)))
	}
}

// waitForWork waits for the goroutines of probes, pulls and writes. Their
// contexts have ended, so only a call that hangs in the kernel or a driver
// outlasts the bound; it ends with the process.
func (a *Agent) waitForWork() {
	done := make(chan struct{})
	go func() {
		a.wg.Wait()
		close(done)
	}()
	timer := time.NewTimer(time.Duration(a.timeout.Load()))
	defer timer.Stop()
	select {
	case <-done:
	case <-timer.C:
		a.logger.Warn("leave behind a call that does not return")
	}
}

// jitter is a random share in [0,1).
func jitter() float64 { return rand.Float64() }

// heartbeat is the agent's sign of life for those who wait on this node.
func (a *Agent) heartbeat(now time.Time) store.Heartbeat {
	return store.Heartbeat{Node: a.o.NodeName, Version: a.o.Version, Time: now.UTC()}
}
