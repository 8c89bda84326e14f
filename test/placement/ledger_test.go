package placement

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/cache"

	"github.com/stoker-project/stoker/test/cluster"
)

// ledger keeps every pod of the cluster, and when it was seen to be bound.
type ledger struct {
	mu      sync.Mutex
	pods    map[string]*corev1.Pod // by namespace/name
	boundAt map[string]time.Time
}

// startLedger watches until the test ends.
func startLedger(tb testing.TB, client kubernetes.Interface) *ledger {
	tb.Helper()
	l := &ledger{pods: map[string]*corev1.Pod{}, boundAt: map[string]time.Time{}}
	all := client.CoreV1().Pods(metav1.NamespaceAll)
	_, controller := cache.NewInformerWithOptions(cache.InformerOptions{
		ListerWatcher: &cache.ListWatch{
			ListWithContextFunc: func(ctx context.Context, o metav1.ListOptions) (runtime.Object, error) { return all.List(ctx, o) },
			WatchFuncWithContext: func(ctx context.Context, o metav1.ListOptions) (watch.Interface, error) {
				return all.Watch(ctx, o)
			},
		},
		ObjectType: &corev1.Pod{},
		Handler: cache.ResourceEventHandlerFuncs{
			AddFunc:    l.put,
			UpdateFunc: func(_, now any) { l.put(now) },
			DeleteFunc: l.remove,
		},
	})
	ctx, cancel := context.WithCancel(context.WithoutCancel(tb.Context()))
	done := make(chan struct{})
	go func() {
		defer close(done)
		controller.RunWithContext(ctx)
	}()
	tb.Cleanup(func() {
		cancel()
		<-done
	})
	return l
}

func key(p *corev1.Pod) string { return p.Namespace + "/" + p.Name }

func (l *ledger) put(o any) {
	p, ok := o.(*corev1.Pod)
	if !ok {
		return
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.pods[key(p)] = p
	if _, known := l.boundAt[key(p)]; !known && p.Spec.NodeName != "" {
		l.boundAt[key(p)] = time.Now()
	}
}

func (l *ledger) remove(o any) {
	if gone, ok := o.(cache.DeletedFinalStateUnknown); ok {
		o = gone.Obj
	}
	p, ok := o.(*corev1.Pod)
	if !ok {
		return
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	delete(l.pods, key(p))
	delete(l.boundAt, key(p))
}

// of returns the pods of a namespace with a label app of this value.
func (l *ledger) of(namespace, app string) []*corev1.Pod {
	l.mu.Lock()
	defer l.mu.Unlock()
	var out []*corev1.Pod
	for _, p := range l.pods {
		if p.Namespace == namespace && p.Labels["app"] == app {
			out = append(out, p)
		}
	}
	slices.SortFunc(out, func(a, b *corev1.Pod) int { return a.CreationTimestamp.Compare(b.CreationTimestamp.Time) })
	return out
}

// bound returns when a pod was bound.
func (l *ledger) bound(p *corev1.Pod) (time.Time, bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	at, ok := l.boundAt[key(p)]
	return at, ok
}

// unschedulable says whether the scheduler has tried the pod and found no node.
func unschedulable(p *corev1.Pod) bool {
	return slices.ContainsFunc(p.Status.Conditions, func(c corev1.PodCondition) bool {
		return c.Type == corev1.PodScheduled && c.Status == corev1.ConditionFalse && c.Reason == corev1.PodReasonUnschedulable
	})
}

// waitPods waits until so many pods of an app are bound, and so many have
// found no node, and returns all.
func (f *fixture) waitPods(namespace, app string, bound, waiting int) []*corev1.Pod {
	f.Helper()
	var pods []*corev1.Pod
	err := cluster.WaitFor(f.Context(), fmt.Sprintf("%d pods of %s to be bound and %d to find no node", bound, app, waiting), func(context.Context) (bool, error) {
		pods = f.pods.of(namespace, app)
		onNode, without := 0, 0
		for _, p := range pods {
			switch {
			case p.Spec.NodeName != "":
				onNode++
			case unschedulable(p):
				without++
			}
		}
		if onNode == bound && without == waiting {
			return true, nil
		}
		return false, fmt.Errorf("of %d pods %d are bound and %d found no node", len(pods), onNode, without)
	})
	if err != nil {
		f.Fatal(err)
	}
	return pods
}
