package fleet

import (
	"cmp"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"

	"github.com/stoker-project/stoker/agent"
	"github.com/stoker-project/stoker/fetcher"
)

// gpuResource is what NVIDIA's device plugin calls a GPU.
const gpuResource = "nvidia.com/gpu"

// clockSkew is how far in the future a word may be before its clock is wrong.
const clockSkew = time.Minute

// hasGPU says whether anything about the node speaks of a GPU.
func hasGPU(n *corev1.Node) bool {
	_, offered := n.Status.Allocatable[gpuResource]
	return offered || n.Labels[presentLabel] == "true"
}

func readNode(n *corev1.Node, now time.Time) Node {
	out := Node{
		Name: n.Name, Cordoned: n.Spec.Unschedulable, Models: []ModelOnNode{},
		labels: ownLabels(n.Labels), owners: labelOwners(n.ManagedFields),
	}
	out.labels[presentLabel] = n.Labels[presentLabel]
	for _, c := range n.Status.Conditions {
		if c.Type == corev1.NodeReady {
			out.Ready, out.ReadyReason = string(c.Status), c.Reason
		}
	}
	for _, t := range n.Spec.Taints {
		out.Taints = append(out.Taints, t.ToString())
		out.taints = append(out.taints, taint{Key: t.Key, Value: t.Value, Effect: string(t.Effect)})
	}
	if q, ok := n.Status.Allocatable[gpuResource]; ok {
		v := int(q.Value())
		out.GPUs.Allocatable = &v
	}
	text, annotated := n.Annotations[agent.StatusAnnotation]
	var said agent.NodeStatus
	switch {
	case annotated:
		var err error
		var newer bool
		said, newer, err = readWord(text)
		switch {
		case err != nil:
			out.Word, out.WordError = WordUnreadable, brief(err.Error(), 200)
		case newer:
			out.Word = WordNewer
		default:
			out.Word = WordSaid
		}
	case out.stokerLabels() > 0:
		out.Word = WordLabelsOnly
	default:
		out.Word = WordNone
	}
	out.take(said)
	out.readModels(said)
	if out.Word == WordSaid && out.stokerLabels() == 0 && promises(said) {
		out.Word = WordWithdrawn
	}
	out.findTroubles(now)
	return out
}

// ownLabels are those of Stoker's domain.
func ownLabels(all map[string]string) map[string]string {
	out := map[string]string{}
	for k, v := range all {
		prefix, _, found := strings.Cut(k, "/")
		if found && (prefix == agent.Domain || strings.HasSuffix(prefix, "."+agent.Domain)) {
			out[k] = v
		}
	}
	return out
}

// stokerLabels counts the labels that agents write.
func (n *Node) stokerLabels() int {
	c := 0
	for k := range n.labels {
		if modelOf(k) != "" || k == agent.FreeGiBLabel || k == agent.IdleLabel {
			c++
		}
	}
	return c
}

// readable says whether there is an annotation that could be read.
func (n *Node) readable() bool {
	return n.Word == WordSaid || n.Word == WordNewer || n.Word == WordWithdrawn
}

// modelOf is the model that a label is about; empty for other labels.
func modelOf(key string) string {
	for _, prefix := range []string{agent.WarmPrefix, agent.RevPrefix, agent.FitsPrefix} {
		if name, ok := strings.CutPrefix(key, prefix); ok && fetcher.CheckName(name) == nil {
			return name
		}
	}
	return ""
}

// promises says whether labels belong to the word.
func promises(s agent.NodeStatus) bool {
	return s.GPUs.Known || slices.ContainsFunc(s.Models, func(m agent.ModelStatus) bool { return m.Tier != "" })
}

// take copies what the annotation says of the node itself.
func (n *Node) take(s agent.NodeStatus) {
	n.WordVersion, n.AgentVersion, n.Release, n.OmittedModels = s.Version, s.Agent, s.Release, s.Omitted
	n.More, n.ProgressSeconds = s.More, max(0, s.ProgressSeconds)
	if !s.Time.IsZero() {
		at := inJSON(s.Time)
		n.SaidAt = &at
	}
	g := &n.GPUs
	g.Known, g.Reason, g.Name, g.Count, g.Idle = s.GPUs.Known, s.GPUs.Reason, s.GPUs.Name, s.GPUs.Count, s.GPUs.Idle
	g.UsableBytes = cmp.Or(s.GPUs.UsableBytes, s.GPUs.TotalBytes) // the status of an older agent lacks it
	g.TotalBytes, g.FreeBytes, g.Unallocated = s.GPUs.TotalBytes, uint64(max(0, s.GPUs.FreeGiB))<<30, s.GPUs.Unallocated
	for _, l := range s.GPUs.Leaks {
		g.Leaks = append(g.Leaks, Leak{GPU: l.Index, MIG: l.MIG, UUID: l.UUID, Bytes: l.Bytes, Since: inJSON(time.Unix(l.Since, 0))})
	}
	n.Store = Store{
		Known: s.Store.Known, Reason: s.Store.Reason, Bytes: s.Store.Bytes, FreeBytes: s.Store.FreeBytes, TotalBytes: s.Store.TotalBytes,
		ReadBytesPerSecond: max(0, s.Store.ReadRate), ReadAt: s.Store.ReadAt,
	}
	for _, q := range s.Throttled {
		n.Throttled = append(n.Throttled, agent.ThrottledStatus{Host: q.Host, Requests: q.Requests, Until: inJSON(q.Until)})
	}
	n.List = ModelList{Models: s.List.Models, Rejected: s.List.Rejected}
}

// inJSON is a time in UTC that JSON can hold; one that it cannot is moved to the end
// that is nearer.
func inJSON(t time.Time) time.Time {
	t = t.UTC()
	switch {
	case t.Year() < 1:
		return time.Time{}
	case t.Year() > 9999:
		return time.Date(9999, 12, 31, 23, 59, 59, 0, time.UTC)
	}
	return t
}

// readModels puts together what annotation and labels say of each model.
func (n *Node) readModels(s agent.NodeStatus) {
	for _, m := range s.Models {
		on := ModelOnNode{
			Name: m.Name, Source: m.Source, State: m.State, Tier: m.Tier, Revision: m.Revision,
			Wanted: m.Wanted || m.Tier != "", Bytes: m.Bytes, DoneBytes: m.DoneBytes, TotalBytes: m.TotalBytes,
			RateBytesPerSecond: m.Rate, SecondsLeft: m.SecondsLeft, Fits: m.Fits, Tight: max(0, m.Tight), Need: m.Need, NeedUnknown: m.NeedUnknown, Measured: m.Measured, Pods: m.Pods,
			RAM: m.RAM, ResidentBytes: m.ResidentBytes, NotInRAM: m.NotInRAM, LoadSeconds: m.LoadSeconds,
			Reason: m.Reason, Hint: m.Hint, Code: m.Code, NextAttempt: m.Next, said: true,
		}
		on.Label = n.labels[agent.WarmPrefix+m.Name]
		on.Disagreements = n.compare(m)
		_, labelled := n.labels[agent.WarmPrefix+m.Name]
		on.Warm = labelled && m.Tier != ""
		n.Models = append(n.Models, on)
	}
	for key := range n.labels {
		name := modelOf(key)
		if name == "" || n.model(name) != nil {
			continue
		}
		n.Models = append(n.Models, n.labelled(name))
	}
	slices.SortFunc(n.Models, func(a, b ModelOnNode) int { return cmp.Compare(a.Name, b.Name) })
}

// model is what the node says of a model; nil if it says nothing.
func (n *Node) model(name string) *ModelOnNode {
	for i := range n.Models {
		if n.Models[i].Name == name {
			return &n.Models[i]
		}
	}
	return nil
}

// labelled is a model that only labels name.
func (n *Node) labelled(name string) ModelOnNode {
	on := ModelOnNode{Name: name, Label: n.labels[agent.WarmPrefix+name], Tier: n.labels[agent.WarmPrefix+name], Revision: n.labels[agent.RevPrefix+name]}
	if fits, err := strconv.Atoi(n.labels[agent.FitsPrefix+name]); err == nil {
		on.Fits = &fits
	}
	why := "no annotation says so"
	switch {
	case n.Word == WordUnreadable:
		why = "the annotation cannot be read"
	case n.OmittedModels > 0:
		// One of those that found no room in the annotation, unless another set the label.
		warm, labelled := n.labels[agent.WarmPrefix+name]
		if !labelled {
			return on
		}
		if n.setBy(agent.WarmPrefix+name) == "" {
			on.State, on.Tier, on.Wanted, on.Warm, on.Omitted = agent.StateWarm, warm, true, true, true
			return on
		}
		why = "the annotation does not name the model, though it left some out"
	case n.readable():
		why = "the annotation does not name the model"
	}
	for _, key := range []string{agent.WarmPrefix + name, agent.RevPrefix + name, agent.FitsPrefix + name} {
		if v, ok := n.labels[key]; ok {
			on.Disagreements = append(on.Disagreements, fmt.Sprintf("label %s=%s stands%s, but %s", key, v, n.setBy(key), why))
		}
	}
	return on
}

// compare holds a model's labels against its annotation.
func (n *Node) compare(m agent.ModelStatus) []string {
	var out []string
	check := func(key, want string) {
		have, ok := n.labels[key]
		switch {
		case n.Word == WordNewer && want == "":
			// What could not be read contradicts nothing.
		case ok && want == "":
			out = append(out, fmt.Sprintf("label %s=%s stands%s, but the annotation says %s", key, have, n.setBy(key), m.State))
		case !ok && want != "":
			out = append(out, fmt.Sprintf("label %s is missing, but the annotation says %s", key, want))
		case have != want:
			out = append(out, fmt.Sprintf("label %s is %s%s, but the annotation says %s", key, or(have, `""`), n.setBy(key), want))
		}
	}
	rev, fits := "", ""
	if m.Tier != "" {
		rev = short(m.Revision)
		if m.Fits != nil {
			fits = strconv.Itoa(*m.Fits)
		}
	}
	check(agent.WarmPrefix+m.Name, m.Tier)
	check(agent.RevPrefix+m.Name, rev)
	check(agent.FitsPrefix+m.Name, fits)
	return out
}
