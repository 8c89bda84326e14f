package sizing

import (
	"fmt"
	"slices"
)

// DeviceMemory is one device as this package needs to know it.
type DeviceMemory struct {
	UUID       string
	TotalBytes uint64
	FreeBytes  uint64
	// Partition: it is a part of a GPU (a MIG device). Parts do not work
	// together, so they take replicas of one GPU only.
	Partition bool
}

// Replicas is how many replicas could start on the devices now: those on which
// the need fits, in groups of TensorParallel. Whether a device is given to
// somebody already is for the caller to know, who leaves it out then.
func (n Need) Replicas(devices []DeviceMemory) int {
	fitting := 0
	for _, d := range devices {
		if n.usable(d) && n.Fits(d.TotalBytes, d.FreeBytes) {
			fitting++
		}
	}
	return fitting / max(1, n.TensorParallel)
}

func (n Need) usable(d DeviceMemory) bool { return !d.Partition || n.TensorParallel <= 1 }

// Report is the answer to "does it fit?", term by term.
type Report struct {
	Need
	// Weights is what the files hold, over all GPUs.
	Weights Weights `json:"weights"`
	// Architecture is what config.json says.
	Architecture Architecture `json:"architecture"`
	// RuleOfThumbBytes is parameters x 2 x 1.25 over all GPUs, for comparison.
	RuleOfThumbBytes uint64 `json:"ruleOfThumbBytes"`
	// Replicas is how many could start on these devices now.
	Replicas int         `json:"replicas"`
	GPUs     []GPUReport `json:"gpus"`
}

// GPUReport is the answer for one device.
type GPUReport struct {
	UUID       string `json:"uuid"`
	TotalBytes uint64 `json:"totalBytes"`
	FreeBytes  uint64 `json:"freeBytes"`
	// BudgetBytes is what vLLM would claim.
	BudgetBytes uint64 `json:"budgetBytes"`
	Fits        bool   `json:"fits"`
	// Reason says why it does not fit.
	Reason string `json:"reason,omitempty"`
	// CacheBytes is what the budget leaves for the KV cache beside the weights.
	CacheBytes uint64 `json:"cacheBytes"`
	// CacheTokensMin and CacheTokensMax are how many tokens that is, with the
	// most and the least overhead.
	CacheTokensMin uint64 `json:"cacheTokensMin"`
	CacheTokensMax uint64 `json:"cacheTokensMax"`
	// LargestMaxModelLen is the longest request, up to the model's own length
	// or the one that was asked for, that this device could serve.
	LargestMaxModelLen int64 `json:"largestMaxModelLen"`
}

// Report computes everything that there is to say about serving the model on the
// devices. It fails as Need does.
func (m Model) Report(s Serving, devices []DeviceMemory) (Report, error) {
	n, err := m.Need(s)
	if err != nil {
		return Report{}, err
	}
	if own := m.Architecture.MaxModelLen; n.MaxModelLen > own {
		n.Notes = append(slices.Clone(n.Notes),
			fmt.Sprintf("maxModelLen %d is beyond the model's own %d: vLLM refuses that unless RoPE scaling is given", n.MaxModelLen, own))
	}
	r := Report{
		Need: n, Weights: m.Weights, Architecture: m.Architecture,
		RuleOfThumbBytes: m.RuleOfThumbBytes(), Replicas: n.Replicas(devices), GPUs: []GPUReport{},
	}
	for _, d := range devices {
		g := GPUReport{
			UUID: d.UUID, TotalBytes: d.TotalBytes, FreeBytes: d.FreeBytes,
			BudgetBytes: n.BudgetBytes(d.TotalBytes), CacheBytes: n.cacheBytes(d.TotalBytes),
			CacheTokensMin:     n.CacheTokens(d.TotalBytes, n.OverheadMaxBytes),
			CacheTokensMax:     n.CacheTokens(d.TotalBytes, n.OverheadMinBytes),
			LargestMaxModelLen: n.LargestMaxModelLen(d.TotalBytes, max(n.MaxModelLen, m.Architecture.MaxModelLen)),
		}
		switch g.Reason = n.Obstacle(d.TotalBytes, d.FreeBytes); {
		case g.Reason == "" && !n.usable(d):
			g.Reason = "a part of a GPU cannot work together with others"
		case g.Reason == "":
			g.Fits = true
		}
		r.GPUs = append(r.GPUs, g)
	}
	return r, nil
}
