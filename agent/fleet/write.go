package fleet

import (
	"cmp"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/stoker-project/stoker/agent"
)

const (
	// fewNodes are listed one by one; more are summed up by kind.
	fewNodes = 20
	// fewPairs of nodes and models are all listed; of more, those not warm.
	fewPairs = 24
	// mostRows bounds a summed-up table.
	mostRows = 40
	// mostStates bounds the states that one row counts: as many as agents know.
	mostStates = 9
	// reasonWidth is how much of a reason stands in a table, in characters.
	reasonWidth = 100
)

// View chooses how much [Fleet.Write] shows.
type View struct {
	// Wide lists every node and every model on it, and shortens nothing.
	Wide bool
	// All lists every model on every node, also where all is well.
	All bool
}

// Write writes the fleet as tables: the nodes, the models, what is not warm
// though it should be, and what somebody should look at.
func (f *Fleet) Write(w io.Writer, v View) error {
	if len(f.Nodes) == 0 {
		if _, err := fmt.Fprintf(w, "No node has a GPU or anything of Stoker's (%s).\n", count(f.OtherNodes, "node")); err != nil {
			return err
		}
		return f.writeVolumes(w)
	}
	many := len(f.Nodes) > fewNodes && !v.Wide
	nodes, pairs := f.nodeTable(v), f.pairTable(v)
	if many {
		nodes = f.kindTable()
	}
	if !v.Wide && !v.All && (many || len(pairs) > mostRows) {
		pairs = f.groupTable()
	}
	parts := []table{nodes, f.modelTable(v), pairs, f.troubleTable(v)}
	if !v.Wide {
		for _, t := range parts {
			t.shorten(2 * reasonWidth)
		}
	}
	if err := writeAll(w, parts...); err != nil {
		return err
	}
	if len(f.Models) == 0 {
		if err := note(w, "No node says anything of a model."); err != nil {
			return err
		}
	}
	if f.OtherNodes > 0 {
		if err := note(w, "%s neither a GPU nor anything of Stoker's.", plural(f.OtherNodes, "other node has", "other nodes have")); err != nil {
			return err
		}
	}
	return f.writeVolumes(w)
}

func (f *Fleet) nodeTable(v View) table {
	var t table
	if v.Wide {
		t.add("NODE", "GPUS", "MOST FREE", "IDLE", "UNALLOCATED", "WARM", "STORE", "FREE DISK", "AGENT", "SAID", "TROUBLE")
	} else {
		t.add("NODE", "GPUS", "MOST FREE", "IDLE", "UNALLOCATED", "WARM", "FREE DISK", "SAID", "TROUBLE")
	}
	for i := range f.Nodes {
		n := &f.Nodes[i]
		g := n.gpuCells()
		row := []string{n.Name, g.name, g.free, g.idle, g.unallocated, n.warmOfWanted()}
		if v.Wide {
			row = append(row, n.storeUsed(), n.diskFree(), n.AgentVersion)
		} else {
			row = append(row, n.diskFree())
		}
		t.add(append(row, n.age(f.Time), strings.Join(n.codes(), ","))...)
	}
	return t
}

// gpuCells are the columns about GPUs; empty where nothing is known.
type gpuCells struct{ name, free, idle, unallocated string }

func (n *Node) gpuCells() gpuCells {
	g := n.GPUs
	switch {
	case !g.Known && g.Allocatable != nil:
		return gpuCells{name: fmt.Sprintf("%d, not known", *g.Allocatable)}
	case !g.Known:
		return gpuCells{name: "not known"}
	case g.Count == 0:
		return gpuCells{name: "none"}
	}
	out := gpuCells{name: g.kind(), free: fmt.Sprintf("%d GiB", g.FreeBytes>>30), idle: fmt.Sprint(g.Idle), unallocated: "not known"}
	if g.Unallocated != nil {
		out.unallocated = fmt.Sprint(*g.Unallocated)
	}
	return out
}

func (g GPUs) kind() string { return fmt.Sprintf("%d x %s", g.Count, or(g.Name, "GPU")) }

func (n *Node) warmOfWanted() string {
	if !n.readable() {
		return ""
	}
	w := n.warmth()
	return fmt.Sprintf("%d of %d", w.warm, w.wanted)
}

func (n *Node) storeUsed() string {
	if !n.Store.Known {
		return ""
	}
	return size(n.Store.Bytes)
}

func (n *Node) diskFree() string {
	if !n.Store.Known {
		return ""
	}
	return fmt.Sprintf("%s of %s", size(n.Store.FreeBytes), size(n.Store.TotalBytes))
}

// age is how old the word is.
func (n *Node) age(now time.Time) string {
	if n.SaidAt == nil {
		return ""
	}
	return span(now.Sub(*n.SaidAt)) + " ago"
}

// codes are the kinds of trouble, each once.
func (n *Node) codes() []string {
	var out []string
	if n.Cordoned {
		out = append(out, "cordoned")
	}
	for _, t := range n.Troubles {
		if !slices.Contains(out, t.Code) {
			out = append(out, t.Code)
		}
	}
	return out
}

func (f *Fleet) modelTable(v View) table {
	var t table
	t.add("MODEL", "WARM", "OTHERWISE", "FITS", "PODS", "SIZE", "REVISION", "SOURCE")
	models, rest := f.Models, []Model(nil)
	if !v.Wide && !v.All {
		models, rest = mostWanting(f.Models)
	}
	for _, m := range models {
		bytes := ""
		if m.Bytes > 0 {
			bytes = size(m.Bytes)
		}
		t.add(m.Name, fmt.Sprintf("%d of %d", m.Warm, m.Wanted), m.otherwise(), m.fitsText(), fmt.Sprint(m.Pods), bytes, m.revisionText(), m.sourceText())
	}
	if len(rest) > 0 {
		t.add(restRow(rest)...)
	}
	return t
}

// otherwise counts the nodes in other states than warm.
func (m Model) otherwise() string {
	var parts []string
	states := slices.SortedFunc(maps.Keys(m.States), func(a, b agent.State) int { return cmp.Compare(rank(a), rank(b)) })
	states = slices.DeleteFunc(states, func(s agent.State) bool { return s == agent.StateWarm })
	for i, s := range states {
		if i == mostStates {
			parts = append(parts, fmt.Sprintf("%d more", len(states)-i))
			break
		}
		parts = append(parts, fmt.Sprintf("%d %s", m.States[s], or(string(s), "without a state")))
	}
	return strings.Join(parts, ", ")
}

// rank orders states by how much they want to be looked at.
func rank(s agent.State) string {
	order := []agent.State{
		agent.StateFailed, agent.StateSkipped, agent.StateEvicting, agent.StatePulling, agent.StateVerifying,
		agent.StateUpdating, agent.StateQueued, agent.StateAbsent, agent.StateWarm,
	}
	return fmt.Sprintf("%02d%s", (slices.Index(order, s)+len(order)+1)%(len(order)+1), s)
}

func (m Model) fitsText() string {
	switch {
	case m.Warm == 0:
		return ""
	case m.Fits == 0 && m.FitsUnknown > 0:
		return "not known"
	case m.Fits == 0:
		return "0"
	}
	return fmt.Sprintf("%d on %s", m.Fits, count(m.FitsNodes, "node"))
}

func (m Model) revisionText() string {
	var parts []string
	for i, r := range m.Revisions {
		if i == 2 && len(m.Revisions) > 3 {
			parts = append(parts, fmt.Sprintf("%d more", len(m.Revisions)-i))
			break
		}
		text := short(r.Revision)
		if len(m.Revisions) > 1 {
			text += fmt.Sprintf(" (%d)", r.Nodes)
		}
		parts = append(parts, text)
	}
	return strings.Join(parts, ", ")
}

func (m Model) sourceText() string {
	switch len(m.Sources) {
	case 0:
		return ""
	case 1:
		return m.Sources[0]
	}
	return fmt.Sprintf("%s and %d more", m.Sources[0], len(m.Sources)-1)
}

// pairTable lists models on nodes: all, or of many those that want a look.
func (f *Fleet) pairTable(v View) table {
	all := v.Wide || v.All
	if !all {
		n := 0
		for _, node := range f.Nodes {
			n += len(node.Models)
		}
		all = n <= fewPairs
	}
	type pair struct {
		n *Node
		m ModelOnNode
	}
	var pairs []pair
	for i := range f.Nodes {
		n := &f.Nodes[i]
		for _, m := range n.Models {
			if all || m.wantsALook() {
				pairs = append(pairs, pair{n, m})
			}
		}
	}
	slices.SortStableFunc(pairs, func(a, b pair) int { return cmp.Compare(a.m.Name, b.m.Name) })
	var t table
	t.add("MODEL", "NODE", "STATE", "TIER", "LOAD", "REVISION", "FITS", "PROGRESS", "REASON")
	for _, p := range pairs {
		load := p.m.loadText()
		if by := p.n.speedText(f.Time); v.Wide && load != "" && by != "" {
			load += " (" + by + ")"
		}
		t.add(p.m.Name, p.n.Name, p.m.stateText(), p.m.Tier, load, short(p.m.Revision), p.m.fitsText(), p.m.progress(), p.m.why(v.Wide))
	}
	return t
}

// wantsALook says that a model on a node is not simply as it should be.
func (m ModelOnNode) wantsALook() bool {
	return len(m.Disagreements) > 0 || m.NotInRAM != "" || m.Reason != "" && m.Wanted || m.Wanted && m.State != agent.StateWarm || !m.said && !m.Omitted || m.State == agent.StateEvicting
}

func (m ModelOnNode) stateText() string {
	switch {
	case !m.said && !m.Omitted:
		return "label only"
	case m.Tier != "" && !m.Warm:
		return string(m.State) + ", no label"
	case m.State == "":
		return "not said"
	}
	return string(m.State)
}

func (m ModelOnNode) fitsText() string {
	if m.Fits == nil {
		return ""
	}
	return fmt.Sprint(*m.Fits)
}

// loadText is about how long it takes to load the model from this node's disk.
func (m ModelOnNode) loadText() string {
	switch {
	case m.Tier == agent.TierRAM:
		return "in memory"
	case m.LoadSeconds == nil || *m.LoadSeconds < 0:
		return ""
	}
	return "~" + span(seconds(max(1, *m.LoadSeconds)))
}

// speedText is how fast the node's disk reads, and how old that measurement is.
func (n *Node) speedText(now time.Time) string {
	s := n.Store
	if s.ReadBytesPerSecond == 0 {
		return ""
	}
	text := fmt.Sprintf("the disk reads %s/s", size(s.ReadBytesPerSecond))
	if s.ReadAt != nil {
		text += ", measured " + span(now.Sub(*s.ReadAt)) + " ago"
	}
	return text
}

// progress is how far a transfer is, or the reading into memory; empty without one.
func (m ModelOnNode) progress() string {
	switch m.State {
	case agent.StateWarm:
		if m.NotInRAM == "" || m.Bytes <= 0 || m.ResidentBytes <= 0 {
			return ""
		}
		return fmt.Sprintf("%d%% in memory", int(100*float64(min(m.ResidentBytes, m.Bytes))/float64(m.Bytes)))
	case agent.StatePulling, agent.StateVerifying, agent.StateUpdating:
	default:
		return ""
	}
	if m.TotalBytes <= 0 {
		return ""
	}
	done := max(0, min(m.DoneBytes, m.TotalBytes))
	text := fmt.Sprintf("%d%% of %s", int(100*float64(done)/float64(m.TotalBytes)), size(m.TotalBytes))
	if m.RateBytesPerSecond > 0 {
		text += fmt.Sprintf(" at %s/s", size(m.RateBytesPerSecond))
	}
	if m.SecondsLeft > 0 {
		text += fmt.Sprintf(", %s left", span(seconds(m.SecondsLeft)))
	}
	return text
}

// seconds is a duration that a number too large cannot turn negative.
func seconds(n int64) time.Duration {
	return time.Duration(min(n, int64(1000*24*time.Hour/time.Second))) * time.Second
}

// reason is the agent's, or why the model is not in memory as it should be.
func (m ModelOnNode) reason() string {
	if m.Reason == "" && m.NotInRAM != "" {
		return "not all in memory: " + m.NotInRAM
	}
	return m.Reason
}

// why is the reason, or where labels contradict it.
func (m ModelOnNode) why(whole bool) string {
	text := m.reason()
	if len(m.Disagreements) > 0 {
		text = strings.Join(append(slices.Clone(m.Disagreements), text), "; ")
		text = strings.TrimSuffix(text, "; ")
	}
	if whole {
		return text
	}
	return brief(text, reasonWidth)
}
