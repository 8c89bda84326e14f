package fleet

import (
	"fmt"
	"math"
	"strings"

	"github.com/stoker-project/stoker/agent"
	"github.com/stoker-project/stoker/fetcher"
)

// advice is why something is as it is, what to do, and the command that does it
// or shows more; run is empty where there is none.
type advice struct{ why, do, run string }

// fitsAdvice says why no replica of a warm model could start, or why that is
// not known. ok is false where replicas fit.
func (n *Node) fitsAdvice(m ModelOnNode) (a advice, ok bool) {
	if m.Fits != nil && *m.Fits > 0 {
		return advice{}, false
	}
	if m.Fits == nil {
		return n.fitsUnknown(m), true
	}
	g := n.GPUs
	need := m.Need
	switch {
	case !g.Known:
		return advice{"the GPUs are not known: " + or(g.Reason, "the agent does not say why"), gpusUnknownDo, ""}, true
	case g.Count == 0:
		return advice{"the node has no whole GPU that can take work", "look at its GPUs on the node", "nvidia-smi"}, true
	case g.Unallocated != nil && *g.Unallocated == 0:
		return advice{fmt.Sprintf("no GPU is left: pods hold all %d, or the device plugin offers no more", g.Count), "free a GPU, or let the replica start on another node", ""}, true
	case need != nil && need.GPUs > g.Count:
		return advice{fmt.Sprintf("a replica takes %d GPUs and the node has %d", need.GPUs, g.Count), "lower serving.tensorParallel or serving.pipelineParallel of its list entry, or serve it on larger nodes", ""}, true
	case need != nil && g.Unallocated != nil && need.GPUs > *g.Unallocated:
		return advice{fmt.Sprintf("a replica takes %d GPUs and %d of %d are left", need.GPUs, *g.Unallocated, g.Count), "free some GPUs, or let the replica start on another node", ""}, true
	case m.Tight > 0:
		return n.tightAdvice(m), true
	case need == nil || g.TotalBytes == 0:
		return advice{fmt.Sprintf("too little GPU memory is free: %d GiB at the most on one GPU", g.FreeBytes>>30), "find on the node what holds it", "nvidia-smi"}, true
	}
	return n.memoryAdvice(m), true
}

const gpusUnknownDo = "give the agent's pod the driver: set the chart's runtimeClassName to nvidia where NVIDIA's runtime is not the default"

func (n *Node) fitsUnknown(m ModelOnNode) advice {
	switch g := n.GPUs; {
	case !g.Known:
		return advice{"the GPUs are not known: " + or(g.Reason, "the agent does not say why"), gpusUnknownDo, ""}
	case g.Unallocated == nil:
		return advice{"the agent does not know the pods on this node yet", "wait a moment; if it stays so, look at the agent's log", n.agentPods()}
	case m.NeedUnknown != "":
		return advice{"what a replica needs is unknown: " + m.NeedUnknown, "see what is wrong with the files", m.fitCommand()}
	case m.Need == nil:
		return advice{"what a replica needs cannot be told from the model's files and its serving settings", "see what is missing", m.fitCommand()}
	}
	return advice{"the agent has not said it yet", "wait a minute: more is said only once it has held for that long", ""}
}

// fitCommand sizes the model. It is there to be copied into a shell, so a source
// that would mean more to one than its name is left out.
func (m ModelOnNode) fitCommand() string {
	if _, err := fetcher.ParseSource(m.Source); err != nil || strings.IndexFunc(m.Source, func(r rune) bool { return !strings.ContainsRune(forShell, r) }) >= 0 {
		return "stoker fit " + m.Name
	}
	return "stoker fit " + m.Source
}

// forShell are the characters that a shell takes for themselves.
const forShell = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_.,:/@+="

// tightAdvice says what leaves open whether a replica could start.
func (n *Node) tightAdvice(m ModelOnNode) advice {
	a := advice{
		"it is tight: the least that vLLM takes beside weights and cache leaves room, the most does not, and only vLLM's start tells",
		"lower serving.maxModelLen a little or raise serving.tensorParallel of its list entry, to be certain", m.fitCommand(),
	}
	need := m.Need
	if need == nil || need.MostBytesPerGPU == 0 || n.GPUs.UsableBytes == 0 {
		return a
	}
	budget := uint64(math.Ceil(need.Share * float64(n.GPUs.UsableBytes)))
	a.why = fmt.Sprintf("it is tight: a replica needs %s to %s on each GPU, and vLLM may take %s of its %s",
		size(need.BytesPerGPU), size(need.MostBytesPerGPU), size(budget), size(n.GPUs.TotalBytes))
	if took := m.Measured; took != nil && need.MostBytesPerGPU <= budget {
		a.why += fmt.Sprintf("; that would do, but a replica was measured here that took %s beside weights and cache", size(took.BesideBytes))
		a.do = "see how replicas of it are started here, and make serving of its list entry match or lower serving.maxModelLen a little"
		if !took.Trusted {
			a.do = "see which pods serve it here: the measured one is of no namespace in agent.measure.trustedNamespaces; if it claims too much, delete it, and within about an hour it no longer counts"
		}
		a.run = "kubectl get pods -A -l " + agent.ModelLabel + "=" + m.Name + " --field-selector spec.nodeName=" + n.Name
	}
	return a
}

// memoryAdvice says what of a GPU's memory is missing.
func (n *Node) memoryAdvice(m ModelOnNode) advice {
	g, need := n.GPUs, m.Need
	budget := uint64(math.Ceil(need.Share * float64(g.UsableBytes)))
	// What is free is rounded down, so it is less than this.
	below := g.FreeBytes + 4<<30
	switch {
	case need.BytesPerGPU > budget:
		return advice{
			fmt.Sprintf("a replica needs %s on each GPU, and vLLM may take %s of its %s", size(need.BytesPerGPU), size(budget), size(g.TotalBytes)),
			"lower serving.maxModelLen or serving.maxNumSeqs, or raise serving.tensorParallel of its list entry, or serve it on larger GPUs", m.fitCommand(),
		}
	case below <= budget && len(g.Leaks) > 0:
		return advice{
			fmt.Sprintf("vLLM takes %s of a GPU at its start, less is free on every one, and %s is in use on %s though no pod here has a GPU",
				size(budget), size(g.Leaks[0].Bytes), g.Leaks[0].device()),
			"find the process on the node and end it", "nvidia-smi",
		}
	case below <= budget:
		return advice{
			fmt.Sprintf("vLLM takes %s of a GPU at its start, and the most that is free on one is %d GiB", size(budget), g.FreeBytes>>30),
			"wait until what runs there has ended, or find on the node what holds the memory", "nvidia-smi",
		}
	case need.GPUs > 1:
		return advice{
			fmt.Sprintf("vLLM takes %s of each of %d GPUs at its start, and fewer have as much free", size(budget), need.GPUs),
			"find on the node what holds their memory", "nvidia-smi",
		}
	}
	return advice{
		fmt.Sprintf("vLLM takes %s of a GPU at its start, and it is not there, or not for long enough to be said", size(budget)),
		"wait a minute: more is said only once it has held for that long; if it stays so, find on the node what holds the memory", "nvidia-smi",
	}
}
