package fleet

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/stoker-project/stoker/agent"
)

// groups are models that are not as they should be, by what many nodes say alike.
type groups map[groupKey]*group

type groupKey struct{ model, state, reason string }

// group takes as much for thousands of nodes as for a few.
type group struct {
	groupKey
	count int
	names []string // the first groupNames by name
	// progress is that of a single node, percent and left those of all whose transfer says
	// how far it is.
	progress string
	percent  span2
	left     int64
}

// groupNames is how many nodes a group names.
const groupNames = 2

func (all groups) add(n *Node) {
	for i := range n.Models {
		m := &n.Models[i]
		if !m.wantsALook() {
			continue
		}
		k := groupKey{m.Name, m.stateText(), m.reason()}
		if len(m.Disagreements) > 0 {
			k.reason = "labels and annotation disagree"
		}
		g := all[k]
		if g == nil {
			g = &group{groupKey: k}
			all[k] = g
		}
		g.add(n.Name, m)
	}
}

func (g *group) add(node string, m *ModelOnNode) {
	g.count++
	at, _ := slices.BinarySearch(g.names, node)
	if at < groupNames {
		g.names = slices.Insert(g.names, at, node)
		g.names = g.names[:min(len(g.names), groupNames)]
	}
	progress := m.progress()
	if g.count == 1 {
		g.progress = progress
	}
	if progress != "" && m.TotalBytes > 0 {
		g.percent.add(int(100 * float64(max(0, min(m.DoneBytes, m.TotalBytes))) / float64(m.TotalBytes)))
		g.left = max(g.left, m.SecondsLeft)
	}
}

// progressText is how far the transfers are.
func (g *group) progressText() string {
	switch {
	case g.count == 1:
		return g.progress
	case !g.percent.any:
		return ""
	case g.left == 0:
		return g.percent.text("%")
	}
	return g.percent.text("%") + ", up to " + span(seconds(g.left)) + " left"
}

func (g *group) nodesText() string {
	if g.count <= len(g.names) {
		return strings.Join(g.names, ", ")
	}
	return fmt.Sprintf("%s and %d more", strings.Join(g.names, ", "), g.count-len(g.names))
}

// groupTable sums up what is not warm: one row for what many nodes say alike.
func (f *Fleet) groupTable() table {
	found := f.groups
	if found == nil {
		found = groups{}
		for i := range f.Nodes {
			found.add(&f.Nodes[i])
		}
	}
	all := slices.SortedFunc(maps.Values(found), func(a, b *group) int {
		return cmp.Or(
			cmp.Compare(a.model, b.model), b.count-a.count,
			cmp.Compare(rank(agent.State(a.state)), rank(agent.State(b.state))), cmp.Compare(a.reason, b.reason),
		)
	})
	var t table
	t.add("MODEL", "STATE", "COUNT", "NODES", "PROGRESS", "REASON")
	for i, g := range all {
		if i == mostRows {
			t.add("...", "", "", "", "", fmt.Sprintf("%s more; --wide, --model or --node show them", count(len(all)-i, "row")))
			break
		}
		t.add(g.model, g.state, fmt.Sprint(g.count), g.nodesText(), g.progressText(), brief(g.reason, reasonWidth))
	}
	return t
}
