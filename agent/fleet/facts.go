package fleet

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/stoker-project/stoker/agent"
)

// facts are what is known, most telling first.
func (x *explainer) facts(named bool) []Fact {
	var out []Fact
	add := func(name, value string) {
		if value != "" {
			out = append(out, Fact{name, value})
		}
	}
	if named {
		x.modelFacts(add)
	}
	x.nodeFacts(add)
	return out
}

func (x *explainer) modelFacts(add func(name, value string)) {
	m := x.m
	add("state", m.stateText())
	add("source", m.Source)
	add("revision", m.Revision)
	if m.Bytes > 0 {
		add("size", size(m.Bytes))
	}
	add("load", x.loadText())
	add("in memory", m.memoryText())
	if m.State != agent.StateWarm {
		add("progress", m.progress())
	}
	add("reason", m.Reason)
	add("hint", m.Hint)
	add("code", m.Code)
	if m.NextAttempt != nil {
		when := "in " + span(m.NextAttempt.Sub(x.now))
		if !m.NextAttempt.After(x.now) {
			when = span(x.now.Sub(*m.NextAttempt)) + " ago"
		}
		add("next attempt", m.NextAttempt.Format(time.RFC3339)+", "+when)
	}
	if m.Tier != "" {
		fits := "not known"
		if m.Fits != nil {
			fits = fmt.Sprint(*m.Fits)
		}
		if a, ok := x.n.fitsAdvice(m); ok {
			fits += ": " + a.why
		}
		add("fits", fits)
	}
	if m.Need != nil {
		takes := size(m.Need.BytesPerGPU) + " for weights and cache"
		if m.Need.MostBytesPerGPU > m.Need.BytesPerGPU {
			takes = size(m.Need.BytesPerGPU) + " to " + size(m.Need.MostBytesPerGPU)
		}
		add("a replica takes", fmt.Sprintf("%s with %s on each; vLLM claims %.0f%% of its memory", count(m.Need.GPUs, "GPU"), takes, 100*m.Need.Share))
	}
	if took := m.Measured; took != nil {
		whose := "a pod whose namespace is not trusted, so it may take a yes away and add none"
		if took.Trusted {
			whose = "a pod of a trusted namespace"
		}
		add("measured here", fmt.Sprintf("%s on each GPU beside weights and cache, at the most, by %s", size(took.BesideBytes), whose))
	}
	if m.Pods > 0 {
		add("pods here", fmt.Sprint(m.Pods))
	}
}

// loadText says how long loading takes, by what was measured when.
func (x *explainer) loadText() string {
	load, by := x.m.loadText(), x.n.speedText(x.now)
	if load == "" || by == "" {
		return load
	}
	return load + "; " + by
}

// memoryText says how much of a model that is to be in memory is there.
func (m ModelOnNode) memoryText() string {
	switch {
	case m.RAM == "":
		return ""
	case m.Tier == agent.TierRAM:
		return "yes"
	case m.ResidentBytes > 0 && m.Bytes > 0:
		return fmt.Sprintf("%s: %s", m.progress(), m.NotInRAM)
	}
	return "no: " + or(m.NotInRAM, "the agent does not say why")
}

func (x *explainer) nodeFacts(add func(name, value string)) {
	n := x.n
	labels := []string{}
	for _, key := range []string{agent.WarmPrefix + x.name, agent.RevPrefix + x.name, agent.FitsPrefix + x.name, agent.FreeGiBLabel, agent.IdleLabel} {
		if v, ok := n.labels[key]; ok {
			labels = append(labels, key+"="+v+n.setBy(key))
		}
	}
	add("labels", or(strings.Join(labels, ", "), "none of this model, none of GPUs"))
	ready := "yes"
	if n.Ready != "True" {
		ready = n.notReady()
	}
	if n.Cordoned {
		ready += ", cordoned"
	}
	add("node ready", ready)
	add("taints", strings.Join(n.Taints, ", "))
	if n.SaidAt != nil {
		add("said", fmt.Sprintf("%s, %s, by agent %s (nothing is said while nothing changes)", n.SaidAt.Format(time.RFC3339), x.saidAgo(), or(n.AgentVersion, "of no version")))
	}
	if n.readable() {
		add("gpus", n.gpuText())
		add("store", n.storeText())
		list := fmt.Sprintf("in force, %s", count(n.List.Models, "model"))
		if n.List.Rejected != "" {
			list = "rejected, an older one is in force: " + n.List.Rejected
		}
		add("model list", list)
	}
	told := []string{TroubleNotReady, TroubleNoAgent, TroubleDisagreement, TroubleList, TroubleStore, TroubleGPUs}
	for _, t := range n.Troubles {
		if !slices.Contains(told, t.Code) {
			add("trouble", t.Text)
		}
	}
}

func (n *Node) gpuText() string {
	g := n.GPUs
	if !g.Known {
		return "not known: " + or(g.Reason, "the agent does not say why")
	}
	if g.Count == 0 {
		return "none"
	}
	c := n.gpuCells()
	return fmt.Sprintf("%s, up to %s free on one, %s idle, %s given to no pod", c.name, c.free, c.idle, c.unallocated)
}

func (n *Node) storeText() string {
	if !n.Store.Known {
		return "not known: " + or(n.Store.Reason, "the agent does not say why")
	}
	text := fmt.Sprintf("holds %s; %s free on its file system", n.storeUsed(), n.diskFree())
	if n.Store.Reason != "" {
		text += "; " + n.Store.Reason
	}
	return text
}
