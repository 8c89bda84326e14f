package fleet

import (
	"cmp"
	"slices"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
)

// Want is what is to be kept of many Nodes.
type Want struct {
	// Whole keeps all of every node, as JSON and [View].Wide show it. Without it, of more
	// than 20 nodes their models are summed up while they are read: the Fleet is for
	// [Fleet.Write] without Wide and All, and takes a few KB a node.
	Whole bool
	// Model keeps this model alone of each node, for [Fleet.Only]; empty: all.
	Model string
}

// warmth is how many models a node should hold, and holds.
type warmth struct{ wanted, warm int }

func (n *Node) warmth() warmth {
	if n.counted != nil {
		return *n.counted
	}
	var w warmth
	for i := range n.Models {
		if n.Models[i].Wanted {
			w.wanted++
		}
		if n.Models[i].Warm {
			w.warm++
		}
	}
	return w
}

// reader makes a Fleet of Nodes that come one after the other.
type reader struct {
	want   Want
	fleet  Fleet
	models sums
	// texts are those of troubles that many nodes have alike, each kept once.
	texts map[string]string
}

func newReader(want Want) *reader {
	return &reader{want: want, fleet: Fleet{Nodes: []Node{}}, models: sums{}, texts: map[string]string{}}
}

// Read makes a Fleet of Node objects as they were at now.
func Read(nodes []corev1.Node, now time.Time) *Fleet {
	r := newReader(Want{Whole: true})
	r.add(nodes, now)
	return r.read(now)
}

// add takes over Nodes as they were at now, and keeps nothing of the objects themselves.
func (r *reader) add(nodes []corev1.Node, now time.Time) {
	f := &r.fleet
	for i := range nodes {
		n := readNode(&nodes[i], now)
		if n.Word == WordNone && !hasGPU(&nodes[i]) {
			f.others = append(f.others, n)
			continue
		}
		r.models.add(&n)
		f.Nodes = append(f.Nodes, n)
		switch {
		case r.want.Whole:
		case r.want.Model != "":
			f.Nodes[len(f.Nodes)-1].keepModel(r.want.Model)
		case f.groups != nil:
			r.reduce(&f.Nodes[len(f.Nodes)-1])
		case len(f.Nodes) > fewNodes:
			f.groups = groups{}
			for i := range f.Nodes {
				r.reduce(&f.Nodes[i])
			}
		}
	}
}

// reduce adds a node's models to the groups, and keeps how many they are and what is
// wrong with the node.
func (r *reader) reduce(n *Node) {
	r.fleet.groups.add(n)
	w := n.warmth()
	for i := range n.Troubles {
		t := &n.Troubles[i]
		if r.texts[t.Text] == "" {
			r.texts[t.Text] = t.Text
		}
		t.Text = r.texts[t.Text]
	}
	n.counted, n.Models, n.labels, n.owners, n.taints = &w, nil, nil, nil, nil
}

// keepModel forgets the other models, and which labels there are.
func (n *Node) keepModel(name string) {
	m := n.model(name)
	n.Models = []ModelOnNode{}
	if m != nil {
		n.Models = append(n.Models, *m)
	}
}

// read returns what was read by now.
func (r *reader) read(now time.Time) *Fleet {
	f := &r.fleet
	f.Time = now.UTC().Truncate(time.Second)
	byName := func(a, b Node) int { return cmp.Compare(a.Name, b.Name) }
	slices.SortFunc(f.Nodes, byName)
	slices.SortFunc(f.others, byName)
	f.OtherNodes = len(f.others)
	f.Models = r.models.models()
	return f
}

// addNames takes over the names of a Node and of the models that it names.
func (f *Fleet) addNames(node string, labels map[string]string, annotation string) {
	f.nodeNames = append(f.nodeNames, node)
	seen := map[string]bool{}
	for key := range labels {
		if name := modelOf(key); name != "" {
			seen[name] = true
		}
	}
	if said, _, err := readWord(annotation); err == nil {
		for _, m := range said.Models {
			seen[m.Name] = true
		}
	}
	for name := range seen {
		if at, found := slices.BinarySearch(f.modelNames, name); !found {
			f.modelNames = slices.Insert(f.modelNames, at, strings.Clone(name))
		}
	}
}
