package placement

import (
	"context"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/stoker-project/stoker/agent"
	"github.com/stoker-project/stoker/test/cluster"
)

// plain is a namespace in which nothing is added to pods.
const plain = "plain"

// BenchmarkBinding measures how long it takes from asking for a pod until it
// is bound, with the label and without, one after another and many at once.
func BenchmarkBinding(b *testing.B) {
	f := startCluster(b)
	f.namespace(fillers)
	f.namespace(plain)
	f.release(serving, "{}")
	const single, many = 100, 300
	var table strings.Builder
	fmt.Fprintf(&table, "| pods | median | p95 | longest |\n|---|---|---|---|\n")
	for b.Loop() {
		for _, c := range []struct {
			name, namespace string
			count           int
			atOnce          bool
		}{
			{"one after another, without the label", plain, single, false},
			{"one after another, with the label", serving, single, false},
			{"from 8 clients as fast as they can, without the label", plain, many, true},
			{"from 8 clients as fast as they can, with the label", serving, many, true},
		} {
			app := strings.ToLower(fmt.Sprintf("%s-%t", c.namespace, c.atOnce))
			fl := f.addFleet(app, 1, kind{count: 24, tier: agent.TierDisk, taken: 1}, kind{count: 24, taken: 1})
			took := f.timed(c.namespace, app, fl, c.count, c.atOnce)
			fmt.Fprintf(&table, "| %d %s | %s | %s | %s |\n", c.count, c.name, took[len(took)/2], took[len(took)*95/100], took[len(took)-1])
		}
	}
	report(b, "binding", "From the request that creates a pod to the watch that shows it bound, on 48 nodes of which half are warm; scheduler, API\nserver, etcd and test on one machine.\n\n"+table.String())
}

// timed creates pods and returns how long each took, in rising order.
func (f *fixture) timed(namespace, app string, fl fleet, count int, atOnce bool) []time.Duration {
	f.Helper()
	began := make([]time.Time, count)
	one := func(i int) (*corev1.Pod, error) {
		p := pod(fmt.Sprintf("%s-%03d", app, i))
		p.Labels["app"] = app
		p.Spec.NodeSelector = map[string]string{poolLabel: fl.pool}
		began[i] = time.Now()
		return f.client.CoreV1().Pods(namespace).Create(f.Context(), p, metav1.CreateOptions{})
	}
	if atOnce {
		f.parallel(count, func(i int) error {
			_, err := one(i)
			return err
		})
	} else {
		for i := range count {
			p, err := one(i)
			if err != nil {
				f.Fatal(err)
			}
			err = cluster.WaitFor(f.Context(), p.Name+" to be bound", func(context.Context) (bool, error) {
				_, ok := f.pods.bound(p)
				return ok, nil
			})
			if err != nil {
				f.Fatal(err)
			}
		}
	}
	var took []time.Duration
	for _, p := range f.waitPods(namespace, app, count, 0) {
		at, _ := f.pods.bound(p)
		var i int
		if _, err := fmt.Sscanf(p.Name, app+"-%d", &i); err != nil {
			f.Fatal(err)
		}
		took = append(took, at.Sub(began[i]).Round(time.Millisecond))
	}
	slices.Sort(took)
	return took
}

// BenchmarkManyNodes measures the share that lands warm where the scheduler
// does not look at every node. How many it looks at depends on all nodes that
// there are, so each number of warm ones gets a cluster of its own.
func BenchmarkManyNodes(b *testing.B) {
	const nodes, turns = 300, 5
	var table strings.Builder
	fmt.Fprintf(&table, "| warm nodes of %d | bare pods that landed warm |\n|---|---|\n", nodes)
	for _, warm := range []int{2, 5, 20} {
		b.Run(strconv.Itoa(warm), func(b *testing.B) {
			f := startCluster(b)
			f.namespace(fillers)
			f.release(serving, "{}")
			fl := f.addFleet("many", 1, kind{count: warm, tier: agent.TierDisk, taken: 1}, kind{count: nodes - warm, taken: 1})
			m := f.newMarker()
			pods, landed := 6*warm, 0
			for b.Loop() {
				for range turns {
					f.create(serving, "many", fl, pods, nil)
					landed += fl.landed(f.waitPods(serving, "many", pods, 0), node.warm)
					f.clear(serving, "many", false)
					m.move()
				}
			}
			fmt.Fprintf(&table, "| %d, with room for %d pods | %d of %d, in %d rounds |\n", warm, fl.room(node.warm), landed, turns*pods, turns)
		})
	}
	report(b, "many nodes", table.String())
}
