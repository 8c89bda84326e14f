package main

import (
	"fmt"
	"io"
	"maps"
	"slices"
	"strconv"
	"strings"

	"github.com/stoker-project/stoker/gpu"
	"github.com/stoker-project/stoker/gpu/sizing"
)

// printFit writes the sum, the GPUs, and what is not exact.
func (c *cli) printFit(out fitOutput, devices []gpu.Device) error {
	for _, table := range [][][]string{fitModel(out), fitTerms(out), fitGPUs(out, devices)} {
		if len(table) == 0 {
			continue
		}
		if err := printTable(c.stdout, table); err != nil {
			return err
		}
		fmt.Fprintln(c.stdout)
	}
	fmt.Fprintln(c.stdout, fitVerdict(out))
	printMeasured(c.stdout, out.Measured)
	printNotes(c.stdout, out)
	return nil
}

// fitModel is what holds for every number of GPUs.
func fitModel(out fitOutput) [][]string {
	model, w, a := out.Model, out.Weights, out.Architecture
	if out.Revision != "" {
		model += " at " + short(out.Revision)
	}
	var types []string
	for _, dtype := range slices.Sorted(maps.Keys(w.ByDType)) {
		types = append(types, size(w.ByDType[dtype])+" "+dtype)
	}
	if len(types) == 0 {
		types = []string{"types unknown"}
	}
	weights := fmt.Sprintf("%s in %s: %s; %d parameters", size(w.Bytes), count(len(w.Files), "file"), strings.Join(types, ", "), w.Parameters)
	var layers []string
	for _, kind := range []struct {
		n    uint64
		what string
	}{
		{a.FullLayers, "keep every token"},
		{a.WindowLayers, fmt.Sprintf("keep a window of %d", a.WindowTokens)},
		{a.StateLayers, "keep a state"},
	} {
		if kind.n > 0 {
			layers = append(layers, fmt.Sprintf("%d %s", kind.n, kind.what))
		}
	}
	if len(layers) == 0 {
		layers = []string{"not known"}
	}
	return [][]string{
		{"Model", model},
		{"Weights", weights + estimated(w.Estimated)},
		{"KV cache", "in " + out.KVCacheDtype + "; layers: " + strings.Join(layers, ", ") + estimated(a.Estimated)},
		{"Serving", servingText(out.Need)},
	}
}

// servingText is how vLLM is started, as far as it is not by default.
func servingText(n sizing.Need) string {
	words := []string{fmt.Sprintf("requests of %d tokens at most", n.MaxModelLen)}
	if n.AutoLength {
		words[0] = "requests as long as the cache has room"
	}
	words = append(words, fmt.Sprintf("%v of the memory", n.GPUMemoryUtilization))
	if n.BatchGiven() {
		words = append(words, fmt.Sprintf("batches of %d requests and %d tokens", n.MaxNumSeqs, n.MaxNumBatchedTokens))
	}
	if n.PipelineParallel > 1 {
		words = append(words, fmt.Sprintf("%d stages", n.PipelineParallel))
	}
	if n.Nodes > 1 {
		words = append(words, fmt.Sprintf("%d nodes", n.Nodes))
	}
	if n.Quantization != "" {
		words = append(words, "weights in "+n.Quantization)
	}
	if n.EnforceEager {
		words = append(words, "no CUDA graphs")
	}
	return strings.Join(append(words, "by the rules of vLLM "+n.VLLMVersion), ", ")
}

// fitTerms are the terms of the sum on one GPU, a column for each number of GPUs
// that a replica takes.
func fitTerms(out fitOutput) [][]string {
	var needs []*sizing.Need
	head := []string{"ON EACH GPU, FOR A REPLICA ON"}
	for _, s := range out.TensorParallelSizes {
		title := count(s.GPUsPerReplica, "GPU")
		if s.Impossible != "" {
			title += ": impossible"
		}
		head, needs = append(head, title), append(needs, s.Need)
	}
	rows := [][]string{head}
	guess := estimated(out.Architecture.Estimated)
	for _, term := range []struct {
		name  string
		value func(n *sizing.Need) uint64
		guess string
		rare  bool // left out where it is 0 everywhere
		cache bool // of the cache alone, so unknown where that is
	}{
		{"weights", func(n *sizing.Need) uint64 { return n.WeightsBytes }, estimated(out.Weights.Estimated), false, false},
		{"  of padding", func(n *sizing.Need) uint64 { return n.PaddingBytes }, "", true, false},
		{"weights that are not split", func(n *sizing.Need) uint64 { return n.ReplicatedBytes - n.RotaryBytes }, estimated(out.Weights.Estimated), true, false},
		{"rotary positions", func(n *sizing.Need) uint64 { return n.RotaryBytes }, "", true, false},
		{"less what the CPU keeps", func(n *sizing.Need) uint64 { return n.CPUOffloadBytes }, estimated(out.Weights.Estimated), true, false},
		{"KV cache of a token", func(n *sizing.Need) uint64 { return n.KVBytesPerToken }, guess, false, true},
		{"  of a token in windows", func(n *sizing.Need) uint64 { return n.KVWindowBytesPerToken }, guess, true, true},
		{"  of states", func(n *sizing.Need) uint64 { return n.KVStateBytes }, guess, true, true},
		{"  of padding", func(n *sizing.Need) uint64 { return n.KVPaddingBytes }, guess, true, true},
		{"KV cache of one such request", func(n *sizing.Need) uint64 { return n.KVBytes }, guess, false, false},
		{"KV cache for a state of each", func(n *sizing.Need) uint64 { return n.KVSequencesBytes }, guess, true, true},
		{"KV cache that is held back", func(n *sizing.Need) uint64 { return n.KVNullBlockBytes }, guess, true, false},
		{"together", func(n *sizing.Need) uint64 { return n.TotalBytes() }, estimated(out.Estimated), false, false},
	} {
		row, worth := []string{term.name}, !term.rare
		for _, n := range needs {
			cell := ""
			if n != nil {
				cell = size(term.value(n)) + term.guess
				if term.cache && !n.KVKnown {
					cell = unknown
				}
				worth = worth || term.value(n) > 0
			}
			row = append(row, cell)
		}
		if worth {
			rows = append(rows, row)
		}
	}
	beside, thumb := []string{"vLLM's own, beside it"}, []string{"rule of thumb"}
	for _, n := range needs {
		if n == nil {
			beside, thumb = append(beside, ""), append(thumb, "")
			continue
		}
		beside = append(beside, size(n.OverheadMinBytes)+" to "+size(n.OverheadMaxBytes))
		thumb = append(thumb, size(out.RuleOfThumbBytes/uint64(n.AllGPUs()))+estimated(out.Weights.Estimated))
	}
	rows = append(rows, beside)
	if took := measuredRow(out.Measured, needs); took != nil {
		rows = append(rows, took)
	}
	return append(rows, thumb)
}

// fitGPUs has a line for each GPU and number of GPUs; GPUs that are alike share
// their lines.
func fitGPUs(out fitOutput, devices []gpu.Device) [][]string {
	if len(devices) == 0 {
		return nil
	}
	rows := [][]string{{
		"GPU", "NAME", "TOTAL", "FREE", "BUDGET", "A REPLICA ON", "WEIGHTS", "ONE REQUEST", "TOKENS OF CACHE", "LONGEST REQUEST", "FITS",
	}}
	for _, alike := range alikeGPUs(devices) {
		d := devices[alike[0]]
		label := []string{gpuNumbers(devices, alike), d.Name, size(d.TotalBytes), size(d.FreeBytes)}
		for _, s := range out.TensorParallelSizes {
			if s.Need == nil {
				continue
			}
			g := s.GPUs[alike[0]]
			rows = append(rows, append(label,
				size(g.BudgetBytes), count(s.GPUsPerReplica, "GPU"), size(s.Need.ResidentWeightsBytes()), size(s.Need.KVBytes),
				tokens(g, s.Need), longest(g, s.Need), fitsText(g, d, s.Need.Estimated),
			))
			label = []string{"", "", "", ""}
		}
	}
	return rows
}

// alikeGPUs groups the positions of devices that differ in nothing that counts
// here.
func alikeGPUs(devices []gpu.Device) [][]int {
	type kind struct {
		name        string
		total, free uint64
		state       gpu.State
		part        bool
	}
	var groups [][]int
	at := map[kind]int{}
	for i, d := range devices {
		k := kind{d.Name, d.TotalBytes, d.FreeBytes, d.State, d.MIG != nil}
		g, ok := at[k]
		if !ok {
			g = len(groups)
			at[k], groups = g, append(groups, nil)
		}
		groups[g] = append(groups[g], i)
	}
	return groups
}

// gpuNumbers names devices as nvidia-smi does, runs of them as 2-7.
func gpuNumbers(devices []gpu.Device, positions []int) string {
	var names []string
	for i := 0; i < len(positions); {
		d := devices[positions[i]]
		name := strconv.Itoa(d.Index)
		last := i
		if d.MIG != nil {
			name += "." + strconv.Itoa(d.MIG.Index)
		} else {
			for last+1 < len(positions) && devices[positions[last+1]].Index == d.Index+last+1-i && devices[positions[last+1]].MIG == nil {
				last++
			}
			if last > i {
				name += "-" + strconv.Itoa(devices[positions[last]].Index)
			}
		}
		names = append(names, name)
		i = last + 1
	}
	return strings.Join(names, ",")
}

// unknown stands for what cannot be computed.
const unknown = "-"

func tokens(g sizing.GPUReport, n *sizing.Need) string {
	switch {
	case !n.KVKnown:
		return unknown
	case g.CacheTokensMin == g.CacheTokensMax:
		return strconv.FormatUint(g.CacheTokensMax, 10)
	}
	return fmt.Sprintf("%d to %d", g.CacheTokensMin, g.CacheTokensMax)
}

func longest(g sizing.GPUReport, n *sizing.Need) string {
	if !n.KVKnown {
		return unknown
	}
	return strconv.FormatInt(g.LargestMaxModelLen, 10)
}

func fitsText(g sizing.GPUReport, d gpu.Device, guess bool) string {
	text := "no: " + g.Reason
	switch g.Verdict {
	case sizing.Fits:
		return "yes" + estimated(guess)
	case sizing.Tight:
		return "tight" + estimated(guess) + ": " + g.Reason
	case sizing.Unknown:
		text = "unknown: " + g.Reason
	case sizing.No:
	}
	if d.State != gpu.StateOK {
		text += " (" + string(d.State) + ")"
	}
	return text
}

func estimated(guess bool) string {
	if guess {
		return " (estimated)"
	}
	return ""
}

func fitVerdict(r fitOutput) string {
	var ways, tight, almost []string
	unknown := false
	for _, s := range r.TensorParallelSizes {
		fitting := 0
		for _, g := range s.GPUs {
			if g.Fits {
				fitting++
			}
		}
		switch {
		case s.Replicas > 0:
			ways = append(ways, fmt.Sprintf("%s of %s", count(s.Replicas, "replica"), count(s.GPUsPerReplica, "GPU")))
		case s.Verdict == sizing.Tight:
			tight = append(tight, "on "+count(s.GPUsPerReplica, "GPU"))
		case s.Verdict == sizing.Unknown:
			unknown = true
		case fitting > 0:
			almost = append(almost, fmt.Sprintf("a replica takes %d GPUs, and it fits on %d", s.GPUsPerReplica, fitting))
		}
	}
	switch {
	case r.noGPUs != "":
		return "No GPU was compared: " + r.noGPUs + "; --gpus simulated:dgxh200 stands in for one."
	case len(r.GPUs) == 0:
		return "No GPU was compared."
	case len(ways) > 0:
		return fmt.Sprintf("It fits%s: %s could start here now.", estimated(r.Estimated), strings.Join(ways, ", or "))
	case len(tight) > 0:
		return fmt.Sprintf("It is tight%s: a replica %s could start here now, or not; vLLM itself decides.", estimated(r.Estimated), strings.Join(tight, " or "))
	case unknown && r.doubtGPUs != "":
		return "It is not known whether it fits: " + r.doubtGPUs + "; vLLM itself decides."
	case unknown:
		return "It is not known whether it fits: GPUs that it takes do not report their memory; vLLM itself decides."
	case len(almost) > 0:
		return "It does not fit: " + strings.Join(almost, ", or ") + "."
	}
	return "It does not fit on any of these GPUs now."
}

// printNotes says what the numbers do not, each thing once.
func printNotes(w io.Writer, out fitOutput) {
	fmt.Fprintln(w, "vLLM's own: activations, the sampler, the driver's memory and CUDA graphs, at the least and at the most. It fits where the most leaves room.")
	fmt.Fprintln(w, "Rule of thumb: parameters x 2 bytes x 1.25, a GPU's share of it.")
	for _, why := range out.RuleOfThumbMisleads {
		fmt.Fprintf(w, "It misleads here: %s.\n", why)
	}
	said := map[string]bool{}
	for _, s := range out.TensorParallelSizes {
		if s.Impossible != "" {
			fmt.Fprintf(w, "Impossible: %s.\n", s.Impossible)
			continue
		}
		for _, note := range s.Need.Notes {
			if !said[note] {
				said[note] = true
				fmt.Fprintf(w, "Note: %s.\n", note)
			}
		}
	}
}

func size(bytes uint64) string { return gpu.FormatSize(bytes) }
