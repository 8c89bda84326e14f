package sweep

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strconv"
	"testing"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
)

var errAway = errors.New("connection refused")

// world is a cluster in memory. Its watches see everything at once, unless
// lag holds them back.
type world struct {
	t     *testing.T
	nodes map[string]node
	pods  map[types.UID]pod
	// stale is what the watches show, if not nil.
	stale func() ([]node, []pod)
	away  bool
	// before a withdrawal reaches the API server
	before    func(n node)
	refuse    error
	unsynced  bool
	withdrawn []string // node@seconds since the start
	told      []event
	started   time.Time
	version   int
}

func newWorld(t *testing.T) *world {
	t.Helper()
	return &world{t: t, nodes: map[string]node{}, pods: map[types.UID]pod{}, started: time.Now()}
}

// label is what an agent writes.
func (w *world) label(name string) {
	w.version++
	n := w.nodes[name]
	n.Name, n.UID, n.Version = name, types.UID("uid-"+name), strconv.Itoa(w.version)
	n.Labels, n.Annotations, n.Wrote = []string{"warm.stoker.dev/m"}, []string{"stoker.dev/status"}, time.Now()
	w.nodes[name] = n
}

// wrote names the release of the agent that labelled a node.
func (w *world) wrote(name string, r Release) {
	n := w.nodes[name]
	n.Release = r.String()
	w.nodes[name] = n
}

func (w *world) pod(uid, node string, ready bool) {
	w.pods[types.UID(uid)] = pod{UID: types.UID(uid), Node: node, Ready: ready, Since: time.Now()}
}

// fleet makes so many labelled nodes, each with a ready agent.
func (w *world) fleet(n int) {
	for i := range n {
		name := fmt.Sprintf("n%02d", i)
		w.label(name)
		w.pod("p-"+name, name, true)
	}
}

func (w *world) seen() ([]node, []pod, bool) {
	if w.stale != nil {
		nodes, pods := w.stale()
		return nodes, pods, true
	}
	nodes, pods := w.now()
	return nodes, pods, !w.unsynced
}

func (w *world) now() (nodes []node, pods []pod) {
	for _, n := range w.nodes {
		nodes = append(nodes, n)
	}
	for _, p := range w.pods {
		pods = append(pods, p)
	}
	return nodes, pods
}

func (w *world) reach(context.Context) error {
	if w.away {
		return errAway
	}
	return nil
}

var nodeResource = schema.GroupResource{Resource: "nodes"}

func (w *world) look(_ context.Context, name string) (node, []pod, error) {
	if w.away {
		return node{}, nil, errAway
	}
	n, ok := w.nodes[name]
	if !ok {
		return node{}, nil, apierrors.NewNotFound(nodeResource, name)
	}
	var pods []pod
	for _, p := range w.pods {
		if p.Node == name {
			pods = append(pods, p)
		}
	}
	return n, pods, nil
}

func (w *world) withdraw(_ context.Context, n node) error {
	if w.before != nil {
		w.before(n)
	}
	if w.away {
		return errAway
	}
	if w.refuse != nil {
		return w.refuse
	}
	have := w.nodes[n.Name]
	if have.Version != n.Version {
		return apierrors.NewConflict(nodeResource, n.Name, errors.New("the object has been modified"))
	}
	w.version++
	have.Labels, have.Annotations, have.Wrote, have.Version = nil, nil, time.Time{}, strconv.Itoa(w.version)
	w.nodes[n.Name] = have
	w.withdrawn = append(w.withdrawn, fmt.Sprintf("%s@%.0f", n.Name, time.Since(w.started).Seconds()))
	return nil
}

func (w *world) event(_ context.Context, e event) error {
	if w.away {
		return errAway
	}
	w.told = append(w.told, e)
	return nil
}

func (w *world) run(ctx context.Context) { <-ctx.Done() }

// reasons counts the events that were written.
func (w *world) reasons() map[string]int {
	out := map[string]int{}
	for _, e := range w.told {
		out[e.Reason]++
	}
	return out
}

// sweep makes a sweeper with the default timeout in this world.
func (w *world) sweep() *Sweeper {
	return newSweeper(Options{Namespace: "ns", Selector: "a=b", AgentTimeout: DefaultAgentTimeout, Logger: slog.New(slog.DiscardHandler)}, w)
}

// pass lets the sweeper work for so long.
func (w *world) pass(s *Sweeper, d time.Duration) {
	w.t.Helper()
	for end := time.Now().Add(d); time.Now().Before(end); time.Sleep(s.interval) {
		s.round(w.t.Context())
	}
}
