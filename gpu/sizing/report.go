package sizing

import (
	"cmp"
	"slices"
)

// DeviceMemory is one device as this package needs to know it.
type DeviceMemory struct {
	UUID string
	// Name is the GPU's, like NVIDIA A100-SXM4-80GB: vLLM goes by it.
	Name       string
	TotalBytes uint64
	// UsableBytes is what CUDA reports as the total, of which vLLM takes its
	// share; 0 stands for TotalBytes.
	UsableBytes uint64
	FreeBytes   uint64
	// Partition: it is a part of a GPU (a MIG device). Parts do not work
	// together, so they take replicas of one GPU only.
	Partition bool
	// Blocked says why no new process can start on it, whatever is free;
	// empty if one can.
	Blocked string
}

// divided is the memory that vLLM multiplies by gpu-memory-utilization.
func (d DeviceMemory) divided() uint64 {
	if d.UsableBytes == 0 {
		return d.TotalBytes
	}
	return d.UsableBytes
}

// Replicas is how many replicas could start on the devices now: those on which
// the need fits, in groups of GPUsPerReplica. Whether a device is given to
// somebody already is for the caller to know, who leaves it out then. It is 0 where
// [Serving.DoubtGPUs] has a doubt.
func (n Need) Replicas(devices []DeviceMemory) int {
	if n.serving.DoubtGPUs() != "" {
		return 0
	}
	fitting := 0
	for _, d := range devices {
		if n.usable(d) && n.On(d).Fits(d.divided(), d.FreeBytes) {
			fitting++
		}
	}
	return fitting / n.GPUsPerReplica()
}

func (n Need) usable(d DeviceMemory) bool {
	return d.Blocked == "" && (!d.Partition || n.AllGPUs() == 1)
}

// Report is the answer to "does it fit?", term by term. Its own terms are those
// of the tensor parallelism that was asked for, or of one GPU.
type Report struct {
	Need
	// Weights is what the files hold, over all GPUs.
	Weights Weights `json:"weights"`
	// Architecture is what config.json says.
	Architecture Architecture `json:"architecture"`
	// RuleOfThumbBytes is parameters x 2 x 1.25 over all GPUs, for comparison.
	RuleOfThumbBytes uint64 `json:"ruleOfThumbBytes"`
	// RuleOfThumbMisleads says why that is far from the truth for this model.
	RuleOfThumbMisleads []string `json:"ruleOfThumbMisleads"`
	// Verdict is whether one could start on these devices now; unknown without any.
	Verdict Verdict `json:"verdict"`
	// Replicas is how many could start on these devices now, for certain.
	Replicas int         `json:"replicas"`
	GPUs     []GPUReport `json:"gpus"`
	// TensorParallelSizes are the same sums for each size that the devices
	// allow: 1, 2, 4 and so on up to their number, or only the one that was
	// asked for.
	TensorParallelSizes []SizeReport `json:"tensorParallelSizes"`
}

// SizeReport is the answer for one tensor-parallel size.
type SizeReport struct {
	TensorParallel int `json:"tensorParallel"`
	// GPUsPerReplica is how many GPUs a replica takes: TensorParallel for each stage of a pipeline. Of one on several
	// nodes, it is the part on each.
	GPUsPerReplica int `json:"gpusPerReplica"`
	// Impossible says why vLLM refuses this size; "" if it does not. Then
	// there is no Need.
	Impossible string `json:"impossible,omitempty"`
	// Need is what each of the GPUs needs; where they differ, the first.
	Need *Need `json:"need,omitempty"`
	// Verdict is that of a replica: the best that enough GPUs have.
	Verdict  Verdict     `json:"verdict"`
	Replicas int         `json:"replicas"`
	GPUs     []GPUReport `json:"gpus"`
}

// GPUReport is the answer for one device.
type GPUReport struct {
	UUID string `json:"uuid"`
	// TotalBytes is the memory as nvidia-smi reports it, UsableBytes as CUDA does.
	TotalBytes  uint64 `json:"totalBytes"`
	UsableBytes uint64 `json:"usableBytes"`
	FreeBytes   uint64 `json:"freeBytes"`
	// BudgetBytes is what vLLM would claim: its share of UsableBytes.
	BudgetBytes uint64 `json:"budgetBytes"`
	// Verdict is fits, tight, no or unknown; Fits is true for the first only.
	Verdict Verdict `json:"verdict"`
	Fits    bool    `json:"fits"`
	// Reason says why it does not fit for certain.
	Reason string `json:"reason,omitempty"`
	// Never says why it could not start even if all of the memory were free; empty if
	// it could.
	Never string `json:"-"`
	// Refused says why vLLM refuses the batches that were asked for on this device; empty if it does not.
	Refused string `json:"-"`
	// LeastBytes is what a replica takes of the budget at the least.
	LeastBytes uint64 `json:"-"`
	// CacheBytes is what the budget leaves for the KV cache beside the weights.
	CacheBytes uint64 `json:"cacheBytes"`
	// CacheTokensMin and CacheTokensMax are how many tokens that is, with the
	// most and the least overhead.
	CacheTokensMin uint64 `json:"cacheTokensMin"`
	CacheTokensMax uint64 `json:"cacheTokensMax"`
	// LargestMaxModelLen is the longest request, up to the model's own length
	// or the one that was asked for, that this device could serve for certain.
	// Below that, it is in whole blocks of the cache.
	LargestMaxModelLen int64 `json:"largestMaxModelLen"`
}

// Report computes everything that there is to say about serving the model on the
// devices: for s.TensorParallel, or for every size that the devices allow where
// that is 0. It fails as Need does.
func (m Model) Report(s Serving, devices []DeviceMemory) (Report, error) {
	sizes := []int{s.TensorParallel}
	if s.TensorParallel == 0 {
		sizes = s.tensorParallelSizes(devices)
	}
	s.TensorParallel = sizes[0]
	n, err := m.reportedNeed(s)
	if err != nil {
		return Report{}, err
	}
	r := Report{
		Need: n, Weights: m.Weights, Architecture: m.Architecture,
		RuleOfThumbBytes: m.RuleOfThumbBytes(), RuleOfThumbMisleads: m.ruleOfThumbMisleads(n),
	}
	for _, tp := range sizes {
		s.TensorParallel = tp
		size, err := m.sizeReport(s, devices)
		if err != nil {
			return Report{}, err
		}
		r.TensorParallelSizes = append(r.TensorParallelSizes, size)
	}
	// The first is what the report's own terms are of.
	first := r.TensorParallelSizes[0]
	r.Replicas, r.GPUs, r.Verdict = first.Replicas, first.GPUs, first.Verdict
	if first.Need != nil {
		r.Need = *first.Need
	}
	return r, nil
}

// RefusedReport returns the answer for arguments that Need refuses, with why: there are no sums. The verdict is unknown,
// because arguments that are not counted may make it right.
func (m Model) RefusedReport(s Serving, why error) Report {
	n := Need{
		TensorParallel: max(1, s.TensorParallel), PipelineParallel: max(1, s.PipelineParallel), Nodes: s.Nodes, MaxModelLen: s.MaxModelLen,
		GPUMemoryUtilization: s.GPUMemoryUtilization, KVCacheDtype: s.KVCacheDtype, EnforceEager: s.EnforceEager, Quantization: s.Quantization,
		Uncounted: s.Uncounted, VLLMVersion: s.VLLMVersion, Estimated: true, Notes: []string{why.Error()},
	}
	size := SizeReport{
		TensorParallel: n.TensorParallel, GPUsPerReplica: n.GPUsPerReplica(), Impossible: why.Error(), Verdict: Unknown, GPUs: []GPUReport{},
	}
	return Report{
		Need: n, Weights: m.Weights, Architecture: m.Architecture, RuleOfThumbBytes: m.RuleOfThumbBytes(), RuleOfThumbMisleads: []string{},
		Verdict: Unknown, GPUs: []GPUReport{}, TensorParallelSizes: []SizeReport{size},
	}
}

// tensorParallelSizes are the powers of two with which a replica takes no more than the GPUs that can
// work together, and at least the least that nodes can share.
func (s Serving) tensorParallelSizes(devices []DeviceMemory) []int {
	whole := 0
	for _, d := range devices {
		if !d.Partition {
			whole++
		}
	}
	least := 1
	for least < 1<<16 && s.uneven(least) != "" {
		least *= 2
	}
	sizes := []int{least}
	for tp := 2 * least; s.gpusPerNode(tp) <= whole; tp *= 2 {
		sizes = append(sizes, tp)
	}
	return sizes
}

// reportedNeed is Need with a note for people who ask for too much.
func (m Model) reportedNeed(s Serving) (Need, error) {
	n, err := m.Need(s)
	if err != nil {
		return Need{}, err
	}
	if err := m.CheckLength(s); err != nil {
		n.Notes = append(slices.Clone(n.Notes), err.Error()+" unless VLLM_ALLOW_LONG_MAX_MODEL_LEN is set or --hf-overrides scale its RoPE")
	}
	return n, nil
}

func (m Model) sizeReport(s Serving, devices []DeviceMemory) (SizeReport, error) {
	r := SizeReport{TensorParallel: max(1, s.TensorParallel), GPUs: []GPUReport{}}
	r.GPUsPerReplica = max(1, s.gpusPerNode(r.TensorParallel))
	if r.Impossible = cmp.Or(m.refusal(r.TensorParallel), s.uneven(r.TensorParallel)); r.Impossible != "" {
		return r, nil
	}
	n, err := m.reportedNeed(s)
	if err != nil {
		return SizeReport{}, err
	}
	if len(devices) > 0 {
		n = n.On(devices[0])
	}
	r.Need, r.Replicas = &n, n.Replicas(devices)
	r.Verdict = n.verdict(devices)
	longest := max(n.MaxModelLen, m.Architecture.longest(n.release))
	for _, d := range devices {
		r.GPUs = append(r.GPUs, n.gpuReport(d, longest))
	}
	return r, nil
}

func (n Need) gpuReport(d DeviceMemory, longest int64) GPUReport {
	n = n.On(d)
	memory := d.divided()
	g := GPUReport{
		UUID: d.UUID, TotalBytes: d.TotalBytes, UsableBytes: memory, FreeBytes: d.FreeBytes,
		BudgetBytes: n.BudgetBytes(memory), LeastBytes: n.LeastBytes(), CacheBytes: n.cacheBytes(memory),
		CacheTokensMin:     n.CacheTokens(memory, n.OverheadMaxBytes),
		CacheTokensMax:     n.CacheTokens(memory, n.OverheadMinBytes),
		LargestMaxModelLen: n.LargestMaxModelLen(memory, longest),
	}
	g.Verdict, g.Reason = n.verdictOn(d)
	g.Fits = g.Verdict == Fits
	g.Never, g.Refused = n.Obstacle(memory, memory), batchRefusal(n.batch)
	return g
}

// verdictOn is the verdict of one device, and why it is not Fits.
func (n Need) verdictOn(d DeviceMemory) (Verdict, string) {
	v, why := n.On(d).Verdict(d.divided(), d.FreeBytes)
	switch {
	case d.Blocked != "":
		return No, d.Blocked
	case (v == Fits || v == Tight) && !n.usable(d):
		return No, "a part of a GPU cannot work together with others"
	}
	return v, why
}

// verdict is the best that as many devices have as a replica takes; unknown beats no, for it refuses nothing.
func (n Need) verdict(devices []DeviceMemory) Verdict {
	if len(devices) == 0 || n.serving.DoubtGPUs() != "" {
		return Unknown
	}
	count := map[Verdict]int{}
	for _, d := range devices {
		v, _ := n.verdictOn(d)
		count[v]++
	}
	able := 0
	for _, v := range []Verdict{Fits, Tight, Unknown} {
		if able += count[v]; able >= n.GPUsPerReplica() {
			return v
		}
	}
	return No
}
