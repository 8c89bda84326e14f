package agent

import (
	"context"
	"fmt"
	"sync"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// What the agents write of progress at most, in bytes per second: every watcher of
// Nodes receives the whole Node each time, and etcd keeps it.
const (
	nodeRate  = 1 << 10
	fleetRate = 256 << 10
	// maxPace bounds how old progress becomes in the largest fleet.
	maxPace = 15 * time.Minute
	// stateShare is how many times more often a change of state may be written.
	stateShare = 10
)

// recount is how often the agents are counted anew.
const recount = 30 * time.Minute

// pace is the time between two writes of size bytes that keeps this node within
// nodeRate, and all agents together within fleetRate.
func pace(size, agents int) time.Duration {
	seconds := max(float64(size)/nodeRate, float64(size)*float64(agents)/fleetRate)
	return min(time.Duration(seconds*float64(time.Second)), maxPace)
}

// size is about how many bytes labels and annotation add to the Node. Each label
// stands there twice, in managedFields as "f:KEY":{}.
func (s said) size() int {
	n := len(s.annotation)
	for k, v := range s.labels {
		n += 2*len(k) + len(v) + len(`"":"","f:":{},`)
	}
	return n
}

// fleetSize is how many agents there are, as far as this one knows: 1 until it has
// counted. One goroutine asks, another reads.
type fleetSize struct {
	mu     sync.Mutex
	agents int
	next   time.Time
}

// now returns the last count.
func (s *fleetSize) now() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return max(1, s.agents)
}

// due reports whether to count now, and then not before recount has passed.
func (s *fleetSize) due(now time.Time) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if now.Before(s.next) {
		return false
	}
	s.next = now.Add(recount)
	return true
}

func (s *fleetSize) set(agents int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.agents = agents
}

// agents counts the pods of a namespace, which are about as many as the
// agents, with one short request: the API server says how many a page of one leaves
// out, as long as nothing is selected
// (https://kubernetes.io/docs/reference/kubernetes-api/common-definitions/list-meta/).
func (k *kube) agents(ctx context.Context, namespace string) (int, error) {
	l, err := k.client.Pods(namespace).List(ctx, metav1.ListOptions{Limit: 1})
	if err != nil {
		return 0, fmt.Errorf("count the agents: %w", err)
	}
	n := len(l.Items)
	if l.RemainingItemCount != nil {
		n += int(*l.RemainingItemCount)
	}
	return max(1, n), nil
}
