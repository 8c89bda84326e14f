package main

import (
	"cmp"
	"fmt"
	"slices"
	"strings"

	"github.com/stoker-project/stoker/gpu"
	"github.com/stoker-project/stoker/gpu/sizing"
)

// checkFit is `stoker fit --check`: an error where no replica could start here.
// It refuses only what is certain: not where it is tight, where no GPU could be
// read, where one that is needed does not say enough of itself, or where the sum
// is an estimate, which vLLM itself then decides better. More GPUs than are here are
// refused even so, where their number is known. Devices are those of the
// reports; partitioned are the GPUs in MIG mode that are not among them.
func (c *cli) checkFit(out fitOutput, devices, partitioned []gpu.Device) error {
	if len(devices) == 0 && len(partitioned) > 0 {
		return usage(fmt.Errorf("start %s here: %s; take GPUs that are not in MIG mode, or make MIG devices",
			out.Model, noSlices(partitioned)))
	}
	var largest, uncertain *sizing.SizeReport
	var notNow error
	for i, s := range out.TensorParallelSizes {
		if s.Need == nil {
			continue
		}
		tooFew := s.GPUsPerReplica > len(devices) && out.doubtGPUs == "" // certain, whatever the sum is
		if s.Replicas > 0 || len(s.GPUs) == 0 || s.Need.Estimated && !tooFew {
			return nil
		}
		largest = &out.TensorParallelSizes[i]
		p := prospectsOf(s, devices)
		switch {
		case p.possible >= s.GPUsPerReplica:
			uncertain = cmp.Or(uncertain, largest)
		case notNow == nil && p.possible+p.later >= s.GPUsPerReplica:
			notNow = fmt.Errorf("start %s on %s now: %s; %s", out.Model, count(s.GPUsPerReplica, "GPU"), p.why, p.mend)
		}
	}
	switch {
	case uncertain != nil:
		c.warnTight(out.Model, *uncertain)
		return nil
	case notNow != nil:
		return notNow
	case largest == nil:
		return nil // an impossible size that was asked for is refused before
	}
	last := out.TensorParallelSizes[len(out.TensorParallelSizes)-1]
	return usage(never(out.Model, *largest, devices, last.Need == nil))
}

// warnTight writes why it is open whether a replica could start, where the GPUs' memory is known.
func (c *cli) warnTight(model string, s sizing.SizeReport) {
	for _, g := range s.GPUs {
		if s.Verdict == sizing.Tight && g.Verdict == sizing.Tight {
			fmt.Fprintf(c.stderr, "stoker: warning: start %s on %s: it is tight: %s; vLLM itself decides\n",
				model, count(s.GPUsPerReplica, "GPU"), g.Reason)
			return
		}
	}
}

func noSlices(partitioned []gpu.Device) string {
	if len(partitioned) == 1 {
		return fmt.Sprintf("GPU %d is in MIG mode and has no MIG device", partitioned[0].Index)
	}
	return fmt.Sprintf("all %d GPUs are in MIG mode and have no MIG device", len(partitioned))
}

// prospects counts devices by what becomes of a replica on them. On those that are
// not counted it can never start.
type prospects struct {
	possible int // it starts, or nothing certain speaks against it
	later    int // it could, once something has changed
	why      string
	mend     string // what to do about why, the reason of the first that could later
	// share is a --gpu-memory-utilization, in hundredths, that what is free now leaves room for on each GPU whose memory
	// is not free; 0 where none would do.
	share   int
	crowded bool
}

// lower notes a GPU on which less is free than vLLM would claim.
func (p *prospects) lower(g sizing.GPUReport) {
	share := 0
	if g.UsableBytes > 0 {
		share = min(int(float64(g.FreeBytes)/float64(g.UsableBytes)*100), 99)
	}
	if float64(g.LeastBytes) > float64(g.UsableBytes)*float64(share)/100 {
		share = 0
	}
	if p.crowded {
		share = min(share, p.share)
	}
	p.share, p.crowded = share, true
}

func (p *prospects) could(why, mend string) {
	if p.later++; p.why == "" {
		p.why, p.mend = why, mend
	}
}

// crowded is what to do where less is free than vLLM would claim.
const crowded = "wait until what runs there has ended, or find what holds the memory (stoker gpus)"

func prospectsOf(s sizing.SizeReport, devices []gpu.Device) prospects {
	var p prospects
	for i, d := range devices {
		g := s.GPUs[i]
		switch {
		case g.Verdict == sizing.Fits || g.Verdict == sizing.Tight:
			p.possible++
		case obstacle(s, g, d) != "":
		case d.State == gpu.StateLost || d.State == gpu.StateResetRequired:
			p.could(fmt.Sprintf("GPU %d: %s", d.Index, d.Obstacle()), fmt.Sprintf("reset it on the node (nvidia-smi --gpu-reset -i %d), or restart the node", d.Index))
		case memoryUnknown(d):
			p.possible++
		case !d.Usable() && !d.Taken():
			p.could(g.Reason, "mend that on the node (stoker gpus)")
		default:
			p.could(g.Reason, crowded)
			p.lower(g)
		}
	}
	if p.mend == crowded && p.share > 0 {
		// Of an idle GPU the driver holds a part, for which nobody can wait.
		p.mend += fmt.Sprintf(", or lower --gpu-memory-utilization to %.2f", float64(p.share)/100)
	}
	return p
}

// memoryUnknown reports a device of which nothing certain can be said.
func memoryUnknown(d gpu.Device) bool { return d.State != gpu.StateOK || d.TotalBytes == 0 }

// obstacle is why a replica could never start on a device, whatever ends there; ""
// where it could, or where that is not known.
func obstacle(s sizing.SizeReport, g sizing.GPUReport, d gpu.Device) string {
	switch {
	case d.MIG != nil && s.Need.AllGPUs() > 1:
		return fmt.Sprintf("GPU %d is in MIG mode, and MIG devices do not work together", d.Index)
	case memoryUnknown(d):
		return ""
	}
	return g.Never
}

// never says why a replica of that size can never start on these GPUs, and what
// to change. widest: vLLM refuses to divide the model among more GPUs.
func never(model string, s sizing.SizeReport, devices []gpu.Device, widest bool) error {
	why, tooSmall, refused := "", false, false
	whole, roomy := 0, 0 // GPUs that work together, and those where a larger share would do
	var lengths []int64
	for i, d := range devices {
		g := s.GPUs[i]
		if o := obstacle(s, g, d); o != "" {
			why = o
			refused = refused || g.Refused != ""
			tooSmall = tooSmall || d.MIG == nil || s.Need.AllGPUs() == 1
		}
		if d.MIG == nil {
			whole++
		}
		if d.MIG == nil || s.Need.AllGPUs() == 1 {
			if float64(g.LeastBytes) <= float64(g.UsableBytes)*highUtilization {
				roomy++
			}
			lengths = append(lengths, g.LargestMaxModelLen)
		}
	}
	start := fmt.Sprintf("start %s on %s", model, count(s.GPUsPerReplica, "GPU"))
	switch {
	case why == "", s.Need.Estimated && s.GPUsPerReplica > len(devices):
		return fmt.Errorf("start %s here: a replica takes %s, and here are %d; give a smaller --tensor-parallel%s",
			model, count(s.GPUsPerReplica, "GPU"), len(devices), orStages(s))
	case refused:
		return fmt.Errorf("%s: %s; raise --max-num-batched-tokens, or lower --max-num-seqs", start, why)
	case !tooSmall:
		return fmt.Errorf("%s: %s; take GPUs that are not in MIG mode, or give --tensor-parallel%s 1", start, why, orStages(s))
	}
	mend := "take larger GPUs, or a smaller or quantized model"
	if whole > s.GPUsPerReplica && !widest {
		mend = "take more GPUs (--tensor-parallel) or larger ones"
	}
	mend = "or " + mend
	if s.Need.GPUMemoryUtilization < highUtilization && roomy >= s.GPUsPerReplica {
		mend = fmt.Sprintf("raise --gpu-memory-utilization (%v), %s", s.Need.GPUMemoryUtilization, mend)
	}
	// As many GPUs as a replica takes must serve that length.
	slices.SortFunc(lengths, func(a, b int64) int { return cmp.Compare(b, a) })
	if len(lengths) >= s.GPUsPerReplica {
		if longest := lengths[s.GPUsPerReplica-1]; longest > 0 && longest < s.Need.MaxModelLen {
			mend = fmt.Sprintf("lower --max-model-len to %d or less, %s", longest, mend)
		}
	}
	return fmt.Errorf("%s: %s; %s", start, why, strings.TrimPrefix(mend, "or "))
}

// orStages names the stages of a pipeline, where there are some.
func orStages(s sizing.SizeReport) string {
	if s.Need.PipelineParallel == 1 {
		return ""
	}
	return " and --pipeline-parallel-size"
}

// highUtilization is a share of a GPU's memory that is no longer worth raising.
const highUtilization = 0.95
