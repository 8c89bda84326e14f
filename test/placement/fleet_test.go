package placement

import (
	"fmt"
	"maps"
	"math/rand/v2"
	"strconv"
	"sync"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/stoker-project/stoker/agent"
	"github.com/stoker-project/stoker/test/cluster"
)

const (
	// poolLabel keeps the pods of a test on its own nodes: no test finds what
	// another left, and none waits for anything to be deleted.
	poolLabel = "pool"
	zones     = 3
	perNode   = 8 // GPUs
	// fillers is the namespace of pods that only hold something.
	fillers = "fillers"
)

// share is what so many GPUs' worth of pod asks for, on nodes of 96 CPUs and 1 TiB.
func share(gpus int64) corev1.ResourceRequirements {
	return corev1.ResourceRequirements{
		Requests: corev1.ResourceList{
			corev1.ResourceCPU:    *resource.NewQuantity(8*gpus, resource.DecimalSI),
			corev1.ResourceMemory: *resource.NewQuantity(gpus*64<<30, resource.BinarySI),
		},
		Limits: corev1.ResourceList{"nvidia.com/gpu": *resource.NewQuantity(gpus, resource.DecimalSI)},
	}
}

// kind is what so many nodes of a fleet are like.
type kind struct {
	count int
	// tier of the warm label; empty: cold.
	tier string
	// fits says where the label does not follow from the free GPUs.
	fits int
	// fresh says that no agent has said anything yet.
	fresh bool
	// taken is how many of the GPUs other pods have, at least one, or from one
	// to minus this by chance.
	taken int
}

// The values of kind.fits that are not of free GPUs.
const (
	fitsByGPUs  = iota // as many as GPUs are free
	fitsHeld           // 0, though GPUs are free: something else holds their memory
	fitsUnknown        // no label: the agent knows no GPU memory
)

// node is one of a fleet.
type node struct {
	name string
	kind
	free int
}

// fleet is the nodes of one test.
type fleet struct {
	pool  string
	nodes map[string]node
}

func (n node) warm() bool { return n.tier != "" }

// held says that something that is no pod has the memory of the GPUs.
func (n node) held() bool { return n.fits == fitsHeld }

// fitting says that the node calls itself warm and able to take a replica.
func (n node) fitting() bool { return n.warm() && !n.held() }

// room is how many pods the nodes can take.
func (fl fleet) room(of func(node) bool) int {
	sum := 0
	for _, n := range fl.nodes {
		if of(n) {
			sum += n.free
		}
	}
	return sum
}

// labels are as an agent writes them, and what a cloud adds.
func (n node) labels(zone int) map[string]string {
	out := map[string]string{
		corev1.LabelTopologyZone: "zone-" + strconv.Itoa(zone),
		agent.FreeGiBLabel:       "140", agent.IdleLabel: strconv.Itoa(n.free),
	}
	if n.fresh {
		delete(out, agent.FreeGiBLabel)
		delete(out, agent.IdleLabel)
	}
	if n.held() {
		out[agent.FreeGiBLabel], out[agent.IdleLabel] = "4", "0"
	}
	if n.tier != "" {
		out[agent.WarmPrefix+model], out[agent.RevPrefix+model] = n.tier, "0123456789ab"
		out[agent.FitsPrefix+model] = strconv.Itoa(n.free)
		switch n.fits {
		case fitsHeld:
			out[agent.FitsPrefix+model] = "0"
		case fitsUnknown:
			delete(out, agent.FitsPrefix+model)
		}
	}
	return out
}

// addFleet makes nodes of each kind, in zones in turn, mixed by the seed. Each
// has a pod that the scheduler itself has bound there: it knows all of them,
// with all that they have, before any other pod comes.
func (f *fixture) addFleet(pool string, seed uint64, kinds ...kind) fleet {
	f.Helper()
	random := rand.New(rand.NewPCG(seed, 1)) //nolint:gosec // Chance that can be repeated is what a test needs.
	fl := fleet{pool: pool, nodes: map[string]node{}}
	var all []node
	for _, k := range kinds {
		for range k.count {
			taken := k.taken
			if taken < 0 {
				taken = 1 + random.IntN(-taken)
			}
			all = append(all, node{kind: k, free: perNode - taken})
		}
	}
	random.Shuffle(len(all), func(i, j int) { all[i], all[j] = all[j], all[i] })
	for i := range all {
		all[i].name = fmt.Sprintf("%s-%03d", pool, i)
		fl.nodes[all[i].name] = all[i]
	}
	f.parallel(len(all), func(i int) error {
		labels := all[i].labels(i % zones)
		labels[poolLabel] = pool
		_, err := f.cluster.AddNode(f.Context(), cluster.NodeSpec{Name: all[i].name, Labels: labels, GPUs: perNode, CPU: "96", Memory: "1Ti"})
		return err
	})
	f.parallel(len(all), func(i int) error {
		p := &corev1.Pod{
			ObjectMeta: metav1.ObjectMeta{Name: all[i].name, Labels: map[string]string{"app": "filler-" + pool}},
			Spec: corev1.PodSpec{
				NodeSelector: map[string]string{corev1.LabelHostname: all[i].name},
				Containers:   []corev1.Container{{Name: "c", Image: "i", Resources: share(int64(perNode - all[i].free))}},
			},
		}
		_, err := f.client.CoreV1().Pods(fillers).Create(f.Context(), p, metav1.CreateOptions{})
		return err
	})
	f.waitPods(fillers, "filler-"+pool, len(all), 0)
	return fl
}

// parallel calls work with 0 to n-1, some at once, and fails with its errors.
func (f *fixture) parallel(n int, work func(i int) error) {
	f.Helper()
	const workers = 8
	var wg sync.WaitGroup
	next := make(chan int)
	for range min(workers, n) {
		wg.Go(func() {
			for i := range next {
				if err := work(i); err != nil {
					f.Error(err)
				}
			}
		})
	}
	for i := range n {
		next <- i
	}
	close(next)
	wg.Wait()
	if f.Failed() {
		f.FailNow()
	}
}

// create makes pods of an app, several at once.
func (f *fixture) create(namespace, app string, fl fleet, count int, change func(*corev1.Pod)) {
	f.Helper()
	f.parallel(count, func(i int) error {
		p := pod(fmt.Sprintf("%s-%03d", app, i))
		p.Labels["app"] = app
		p.Spec.NodeSelector = map[string]string{poolLabel: fl.pool}
		if change != nil {
			change(p)
		}
		_, err := f.client.CoreV1().Pods(namespace).Create(f.Context(), p, metav1.CreateOptions{})
		return err
	})
}

// landed counts pods by where they are.
func (fl fleet) landed(pods []*corev1.Pod, on func(node) bool) int {
	count := 0
	for _, p := range pods {
		if n, ok := fl.nodes[p.Spec.NodeName]; ok && on(n) {
			count++
		}
	}
	return count
}

// byNode says how many pods each node has, for messages.
func (fl fleet) byNode(pods []*corev1.Pod) string {
	counts := map[string]int{}
	for _, p := range pods {
		counts[p.Spec.NodeName]++
	}
	text := ""
	for name := range maps.Keys(counts) {
		n := fl.nodes[name]
		text += fmt.Sprintf("%s (tier %q, held %t, free %d): %d\n", name, n.tier, n.held(), n.free, counts[name])
	}
	return text
}
