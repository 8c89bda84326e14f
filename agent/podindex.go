package agent

import (
	"cmp"
	"maps"
	"slices"
	"sync"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/client-go/tools/cache"
)

// podIndex keeps pods as the agent reads them, each read once for every change of it:
// while many are created, every turn of the loop asks for all of them.
type podIndex struct {
	// keep says which pods are kept; nil: all.
	keep func(*corev1.Pod) bool

	mu    sync.Mutex
	byKey map[string]pod // by namespace and name
	list  []pod          // by UID; nil: to be made anew
}

// put takes over an object of the watch, and reports whether it is kept, or was.
func (x *podIndex) put(o any) bool {
	p, ok := o.(*corev1.Pod)
	if !ok {
		return false
	}
	if x.keep != nil && !x.keep(p) {
		return x.remove(o)
	}
	read := podOf(p)
	x.mu.Lock()
	defer x.mu.Unlock()
	if x.byKey == nil {
		x.byKey = map[string]pod{}
	}
	x.byKey[cache.ObjectName{Namespace: p.Namespace, Name: p.Name}.String()], x.list = read, nil
	return true
}

// remove forgets an object, which may be the last state that was seen of it, and reports
// whether it was kept.
func (x *podIndex) remove(o any) bool {
	key, err := cache.DeletionHandlingMetaNamespaceKeyFunc(o)
	if err != nil {
		return false
	}
	x.mu.Lock()
	defer x.mu.Unlock()
	if _, kept := x.byKey[key]; !kept {
		return false
	}
	delete(x.byKey, key)
	x.list = nil
	return true
}

// all returns the pods in a stable order; the slice is the caller's.
func (x *podIndex) all() []pod {
	x.mu.Lock()
	defer x.mu.Unlock()
	if x.list == nil {
		x.list = slices.SortedFunc(maps.Values(x.byKey), func(a, b pod) int { return cmp.Compare(a.UID, b.UID) })
	}
	return slices.Clone(x.list)
}
