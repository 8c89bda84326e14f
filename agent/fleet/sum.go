package fleet

import (
	"cmp"
	"maps"
	"slices"

	"github.com/stoker-project/stoker/agent"
)

// sums adds models up over nodes, by name.
type sums map[string]*tally

type tally struct {
	Model
	sources, revisions map[string]int
	bytes              map[string]int64
}

func sum(nodes []Node) []Model {
	all := sums{}
	for i := range nodes {
		all.add(&nodes[i])
	}
	return all.models()
}

func (all sums) add(n *Node) {
	for i := range n.Models {
		m := &n.Models[i]
		t := all[m.Name]
		if t == nil {
			t = &tally{sources: map[string]int{}, revisions: map[string]int{}, bytes: map[string]int64{}}
			t.Name, t.States = m.Name, map[agent.State]int{}
			all[m.Name] = t
		}
		t.Pods += m.Pods
		if m.Source != "" {
			t.sources[m.Source]++
		}
		if m.Wanted {
			t.Wanted++
			t.States[m.State]++
		}
		if !m.Warm {
			continue
		}
		t.Warm++
		t.revisions[m.Revision]++
		t.bytes[m.Revision] = max(t.bytes[m.Revision], m.Bytes)
		switch {
		case m.Fits == nil:
			t.FitsUnknown++
		case *m.Fits > 0:
			t.Fits += *m.Fits
			t.FitsNodes++
		}
	}
}

// models are the sums, by name.
func (all sums) models() []Model {
	out := make([]Model, 0, len(all))
	for _, name := range slices.Sorted(maps.Keys(all)) {
		t := all[name]
		t.Sources = byCount(t.sources)
		t.Revisions = []Revision{}
		for _, r := range byCount(t.revisions) {
			t.Revisions = append(t.Revisions, Revision{Revision: r, Nodes: t.revisions[r]})
		}
		if len(t.Revisions) > 0 {
			t.Bytes = t.bytes[t.Revisions[0].Revision]
		}
		out = append(out, t.Model)
	}
	return out
}

// byCount returns the keys, the most frequent one first, never nil.
func byCount(counts map[string]int) []string {
	keys := slices.Collect(maps.Keys(counts))
	slices.SortFunc(keys, func(a, b string) int { return cmp.Or(counts[b]-counts[a], cmp.Compare(a, b)) })
	return append([]string{}, keys...)
}

// Only keeps one node or one model, or both; empty names keep all. The error is
// an [UnknownError].
func (f *Fleet) Only(node, model string) (*Fleet, error) {
	if node == "" && model == "" {
		return f, nil
	}
	out := &Fleet{Time: f.Time, Nodes: f.Nodes, OtherNodes: f.OtherNodes}
	if node != "" {
		n, err := f.node(node)
		if err != nil {
			return nil, err
		}
		out.Nodes, out.OtherNodes = []Node{*n}, 0
	}
	if model != "" {
		if err := f.checkModel(model); err != nil {
			return nil, err
		}
		nodes := make([]Node, 0, len(out.Nodes))
		for _, n := range out.Nodes {
			m := n.model(model)
			n.Models = []ModelOnNode{}
			if m != nil {
				n.Models = append(n.Models, *m)
			}
			nodes = append(nodes, n)
		}
		out.Nodes = nodes
	}
	out.Models = sum(out.Nodes)
	return out, nil
}

// node finds a node, also one that has nothing of Stoker's.
func (f *Fleet) node(name string) (*Node, error) {
	var names []string
	for _, list := range [][]Node{f.Nodes, f.others} {
		for i := range list {
			if list[i].Name == name {
				return &list[i], nil
			}
			names = append(names, list[i].Name)
		}
	}
	names = append(names, f.nodeNames...)
	return nil, &UnknownError{What: "node", Name: name, Nearest: nearest(name, names), Known: len(names)}
}

// knownModels are the names of all models that a node says anything of.
func (f *Fleet) knownModels() []string {
	names := slices.Clone(f.modelNames)
	for _, m := range f.Models {
		names = append(names, m.Name)
	}
	slices.Sort(names)
	return slices.Compact(names)
}

func (f *Fleet) checkModel(name string) error {
	names := f.knownModels()
	if _, found := slices.BinarySearch(names, name); found {
		return nil
	}
	return &UnknownError{What: "model", Name: name, Nearest: nearest(name, names), Known: len(names)}
}
