package main

import (
	"fmt"

	"github.com/stoker-project/stoker/gpu/sizing"
)

// checkFit is `stoker fit --check`: an error where no replica could start here.
// It refuses only what is certain: not where no GPU could be read, and not where
// the sum is an estimate, which vLLM itself then decides better.
func checkFit(out fitOutput) error {
	var largest *sizing.SizeReport
	for i, s := range out.TensorParallelSizes {
		if s.Need == nil {
			continue
		}
		if s.Replicas > 0 || s.Need.Estimated || len(s.GPUs) == 0 {
			return nil
		}
		largest = &out.TensorParallelSizes[i]
		if reason := onlyNow(s); reason != "" {
			return fmt.Errorf("start %s on %s now: %s; wait until what runs there has ended, or find what holds the memory (stoker gpus)",
				out.Model, count(s.TensorParallel, "GPU"), reason)
		}
	}
	if largest == nil {
		return nil // an impossible size that was asked for is refused before
	}
	return usage(never(out.Model, *largest))
}

// onlyNow says why a replica does not fit that could if these GPUs were free; ""
// where it could not even then.
func onlyNow(s sizing.SizeReport) string {
	able, reason := 0, ""
	for _, g := range s.GPUs {
		if s.Need.Obstacle(g.UsableBytes, g.UsableBytes) != "" {
			continue
		}
		able++
		if !g.Fits {
			reason = g.Reason
		}
	}
	if able < s.TensorParallel {
		return ""
	}
	return reason
}

// never says why a replica of that size can never start on these GPUs, and what
// to change.
func never(model string, s sizing.SizeReport) error {
	obstacle, longest := "", int64(0)
	for _, g := range s.GPUs {
		if o := s.Need.Obstacle(g.UsableBytes, g.UsableBytes); o != "" {
			obstacle = o
		}
		longest = max(longest, g.LargestMaxModelLen)
	}
	if obstacle == "" {
		return fmt.Errorf("start %s here: a replica takes %s, and here are %d; give a smaller --tensor-parallel",
			model, count(s.TensorParallel, "GPU"), len(s.GPUs))
	}
	mend := "take more GPUs (--tensor-parallel) or larger ones"
	if longest > 0 {
		mend = fmt.Sprintf("lower --max-model-len to %d or less, raise --gpu-memory-utilization (%v), or %s", longest, s.Need.GPUMemoryUtilization, mend)
	}
	return fmt.Errorf("start %s on %s: %s; %s", model, count(s.TensorParallel, "GPU"), obstacle, mend)
}
