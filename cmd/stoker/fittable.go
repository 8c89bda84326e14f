package main

import (
	"fmt"
	"strconv"

	"github.com/stoker-project/stoker/gpu"
	"github.com/stoker-project/stoker/gpu/sizing"
)

// printFit writes the sum, the GPUs, and what is not exact.
func (c *cli) printFit(out fitOutput, devices []gpu.Device) error {
	if err := printTable(c.stdout, fitTerms(out)); err != nil {
		return err
	}
	if len(out.GPUs) > 0 {
		fmt.Fprintln(c.stdout)
		if err := printTable(c.stdout, fitGPUs(out.Report, devices)); err != nil {
			return err
		}
	}
	fmt.Fprintf(c.stdout, "\n%s\n", fitVerdict(out))
	for _, note := range out.Notes {
		fmt.Fprintf(c.stdout, "Note: %s.\n", note)
	}
	return nil
}

// fitTerms are the terms of the sum on one GPU, and the rule of thumb.
func fitTerms(out fitOutput) [][]string {
	n := out.Need
	model := out.Model
	if out.Revision != "" {
		model += " at " + short(out.Revision)
	}
	rows := [][]string{
		{"Model", model},
		{"Serving", fmt.Sprintf("%s a replica, requests of %d tokens at most, %v of the memory, KV cache in %s",
			count(n.TensorParallel, "GPU"), n.MaxModelLen, n.GPUMemoryUtilization, n.KVCacheDtype)},
		{"", ""},
		{"On each GPU", ""},
		{"  weights", size(n.WeightsBytes)},
	}
	if n.ReplicatedBytes > 0 {
		rows = append(rows, []string{"  weights that are not split", size(n.ReplicatedBytes)})
	}
	kv := fmt.Sprintf("%s (%s a token)", size(n.KVBytes), size(n.KVBytesPerToken))
	if n.KVWindowBytesPerToken > 0 {
		kv = fmt.Sprintf("%s (%s a token, and %s for each of the last %d)", size(n.KVBytes), size(n.KVBytesPerToken), size(n.KVWindowBytesPerToken), n.KVWindowTokens)
	}
	return append(rows,
		[]string{"  KV cache of one such request", kv},
		[]string{"  together", size(n.WeightsBytes + n.ReplicatedBytes + n.KVBytes)},
		[]string{"  beside it, about", fmt.Sprintf("%s to %s (activations, CUDA graphs; no part of the test)", size(n.OverheadMinBytes), size(n.OverheadMaxBytes))},
		[]string{"Rule of thumb", fmt.Sprintf("%s over all GPUs (parameters x 2 bytes x 1.25), for comparison", size(out.RuleOfThumbBytes))},
	)
}

func fitGPUs(r sizing.Report, devices []gpu.Device) [][]string {
	rows := [][]string{{"GPU", "NAME", "TOTAL", "FREE", "BUDGET", "WEIGHTS", "ONE REQUEST", "TOKENS OF CACHE", "LONGEST REQUEST", "FITS"}}
	for i, g := range r.GPUs {
		d := devices[i]
		number := strconv.Itoa(d.Index)
		if d.MIG != nil {
			number += "." + strconv.Itoa(d.MIG.Index)
		}
		fits := "yes"
		if !g.Fits {
			fits = "no: " + g.Reason
			if d.State != gpu.StateOK {
				fits += " (" + string(d.State) + ")"
			}
		}
		rows = append(rows, []string{
			number, d.Name, size(g.TotalBytes), size(g.FreeBytes), size(g.BudgetBytes), size(r.WeightsBytes + r.ReplicatedBytes), size(r.KVBytes),
			span(g.CacheTokensMin, g.CacheTokensMax), strconv.FormatInt(g.LargestMaxModelLen, 10), fits,
		})
	}
	return rows
}

func span(low, high uint64) string {
	if low == high {
		return strconv.FormatUint(low, 10)
	}
	return fmt.Sprintf("%d to %d", low, high)
}

func fitVerdict(r fitOutput) string {
	fitting := 0
	for _, g := range r.GPUs {
		if g.Fits {
			fitting++
		}
	}
	switch {
	case r.noGPUs != "":
		return "No GPU was compared: " + r.noGPUs + "; --gpus simulated:dgxh200 stands in for one."
	case len(r.GPUs) == 0:
		return "No GPU was compared."
	case r.Replicas > 0:
		return fmt.Sprintf("It fits: %s could start here now.", count(r.Replicas, "replica"))
	case fitting > 0:
		return fmt.Sprintf("It does not fit: a replica takes %d GPUs, and it fits on %d.", r.TensorParallel, fitting)
	}
	return "It does not fit on any of these GPUs now."
}

func size(bytes uint64) string { return gpu.FormatSize(bytes) }
