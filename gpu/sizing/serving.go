package sizing

import (
	"cmp"
	"errors"
	"fmt"
	"math"
	"slices"
	"strings"
)

// AutoLength as MaxModelLen is vLLM's --max-model-len auto (or -1): the longest request for which the cache has room.
const AutoLength = -1

// mostStages bounds the stages of a pipeline: each is summed up.
const mostStages = 1024

// Serving is how vLLM is started, in the words of its arguments. The zero value
// of each field means vLLM's default.
type Serving struct {
	// TensorParallel is the number of GPUs that share each layer; default 1.
	TensorParallel int `json:"tensorParallel,omitempty"`
	// PipelineParallel is the number of stages that the layers are divided into; default 1. A replica takes
	// TensorParallel GPUs for each.
	PipelineParallel int `json:"pipelineParallel,omitempty"`
	// Nodes is the number of nodes that a replica's GPUs are divided over, as many on each; default 1.
	Nodes int `json:"nnodes,omitempty"`
	// MaxModelLen is the longest request in tokens; default: the model's own. [AutoLength] is the longest that fits.
	MaxModelLen int64 `json:"maxModelLen,omitempty"`
	// GPUMemoryUtilization is the part of a GPU's memory that vLLM claims,
	// above 0 and at most 1; default 0.92, and 0.9 of vLLM before 0.20.
	GPUMemoryUtilization float64 `json:"gpuMemoryUtilization,omitempty"`
	// KVCacheDtype is the type of the KV cache; default "auto".
	KVCacheDtype string `json:"kvCacheDtype,omitempty"`
	// MaxNumSeqs and MaxNumBatchedTokens are the most requests and tokens of a batch; the defaults depend on the GPU.
	MaxNumSeqs          int64 `json:"maxNumSeqs,omitempty"`
	MaxNumBatchedTokens int64 `json:"maxNumBatchedTokens,omitempty"`
	// EnforceEager does without CUDA graphs.
	EnforceEager bool `json:"enforceEager,omitempty"`
	// Quantization is how vLLM quantizes the weights while it loads them, or how they are already; default: as
	// config.json says.
	Quantization string `json:"quantization,omitempty"`
	// CPUOffloadGB is how many GiB of each GPU's weights stay in the memory of the CPU.
	CPUOffloadGB float64 `json:"cpuOffloadGB,omitempty"`
	// Dtype is the type that vLLM computes in; default "auto".
	Dtype string `json:"dtype,omitempty"`
	// VLLMVersion is the release whose rules hold, like 0.33 or 0.33.0; default
	// [DefaultVLLMVersion]. One whose rules are not known here is refused.
	VLLMVersion string `json:"vllmVersion,omitempty"`

	// WholePrompts is --no-enable-chunked-prefill, OneBatch --no-async-scheduling and NoPrefixCaching
	// --no-enable-prefix-caching.
	WholePrompts    bool `json:"-"`
	OneBatch        bool `json:"-"`
	NoPrefixCaching bool `json:"-"`
	// Uncounted are further arguments that may change what vLLM takes, and that no sum here counts. They make it an
	// estimate.
	Uncounted []string `json:"-"`
}

// TakesOtherwise reports whether s has arguments that change what vLLM takes beside a cache of a given type and length, on
// a given number of GPUs that share each layer, or whether they may.
func (s Serving) TakesOtherwise() bool {
	return s.PipelineParallel > 1 || s.Nodes > 1 || s.MaxNumSeqs > 0 || s.MaxNumBatchedTokens > 0 || s.EnforceEager || s.Quantization != "" ||
		s.CPUOffloadGB > 0 || dtypeBytes(s.Dtype) > 2 || s.WholePrompts || s.OneBatch || s.NoPrefixCaching || len(s.Uncounted) > 0
}

// gpuArguments returns the arguments that change how many GPUs of a node a replica takes: by default all data-parallel
// ranks run beside each other, each on TensorParallel times PipelineParallel GPUs, and other arguments put some of them on
// further nodes (engine/arg_utils.py, create_engine_config; config/parallel.py, world_size).
func gpuArguments() []string {
	return []string{
		"--data-parallel-external-lb", "--data-parallel-hybrid-lb", "--data-parallel-multi-port-external-lb", "--data-parallel-rank",
		"--data-parallel-size", "--data-parallel-size-local", "--data-parallel-start-rank", "--distributed-executor-backend", "--headless",
		"--nnodes", "--node-rank", "--prefill-context-parallel-size",
	}
}

// DoubtGPUs returns why the number of GPUs that a replica takes is not known; "" where it is known.
func (s Serving) DoubtGPUs() string {
	for _, argument := range gpuArguments() {
		if slices.Contains(s.Uncounted, argument) {
			return fmt.Sprintf("%s may change how many GPUs a replica takes, and is not counted", argument)
		}
	}
	return ""
}

// Check says everything about s that vLLM refuses of every model.
func (s Serving) Check() error {
	var errs []error
	refuse := func(bad bool, format string, args ...any) {
		if bad {
			errs = append(errs, fmt.Errorf(format, args...))
		}
	}
	refuse(s.TensorParallel < 0, "tensorParallel is %d; want 1 or more GPUs", s.TensorParallel)
	refuse(s.PipelineParallel < 0 || s.PipelineParallel > mostStages, "pipelineParallel is %d; want 1 to %d stages", s.PipelineParallel, mostStages)
	refuse(s.Nodes < 0, "nnodes is %d; want 1 or more nodes", s.Nodes)
	refuse(s.MaxModelLen < AutoLength || s.MaxModelLen > maxNumber, "maxModelLen is %d; want 1 or more tokens", s.MaxModelLen)
	refuse(!(s.GPUMemoryUtilization >= 0 && s.GPUMemoryUtilization <= 1), "gpuMemoryUtilization is %v; want a fraction above 0 and at most 1", s.GPUMemoryUtilization) // so that NaN is refused
	refuse(s.MaxNumSeqs < 0 || s.MaxNumSeqs > maxNumber, "maxNumSeqs is %d; want 1 or more requests", s.MaxNumSeqs)
	refuse(s.MaxNumBatchedTokens < 0 || s.MaxNumBatchedTokens > maxNumber, "maxNumBatchedTokens is %d; want 1 or more tokens", s.MaxNumBatchedTokens)
	refuse(!(s.CPUOffloadGB >= 0) || math.IsInf(s.CPUOffloadGB, 0), "cpuOffloadGB is %v; want a size in GiB, not negative", s.CPUOffloadGB)
	if s.MaxNumSeqs > 0 && s.MaxNumBatchedTokens > 0 {
		why := batchRefusal(batch{tokens: uint64(s.MaxNumBatchedTokens), sequences: uint64(s.MaxNumSeqs)})
		refuse(why != "", "%s", why)
	}
	if s.Dtype != "" && dtypeBytes(s.Dtype) == 0 {
		errs = append(errs, fmt.Errorf("dtype %q is not known; want auto, bfloat16, float16, half, float32 or float", s.Dtype))
	}
	_, err := parseRelease(s.VLLMVersion)
	return errors.Join(append(errs, err)...)
}

// dtypeBytes is the width of a type that --dtype takes, 0 for one that it does not (config/model.py,
// _STR_DTYPE_TO_TORCH_DTYPE). auto is two bytes for every model.
func dtypeBytes(dtype string) uint64 {
	switch strings.ToLower(dtype) {
	case "auto", "bfloat16", "float16", "half":
		return 2
	case "float32", "float":
		return 4
	}
	return 0
}

// batchRefusal says why vLLM refuses a batch (config/scheduler.py, verify_max_model_len); "" if it does not.
func batchRefusal(b batch) string {
	if b.tokens < b.sequences {
		return fmt.Sprintf("vLLM refuses batches of at most %d tokens (--max-num-batched-tokens) for %d requests at once (--max-num-seqs): a request takes one at least",
			b.tokens, b.sequences)
	}
	return ""
}

// gpusPerNode is how many GPUs of each node a replica takes.
func (s Serving) gpusPerNode(tp int) int { return tp * max(1, s.PipelineParallel) / max(1, s.Nodes) }

// uneven says why vLLM refuses to divide a replica's GPUs over the nodes; "" if it does not (config/parallel.py,
// local_world_size).
func (s Serving) uneven(tp int) string {
	if all := tp * max(1, s.PipelineParallel); s.Nodes > 1 && all%s.Nodes != 0 {
		return fmt.Sprintf("the %d GPUs of a replica (--tensor-parallel-size times --pipeline-parallel-size) cannot be divided evenly over %d nodes (--nnodes)", all, s.Nodes)
	}
	return ""
}

// resolve checks the serving arguments and fills in defaults.
func (m Model) resolve(s Serving) (Need, error) {
	if err := s.Check(); err != nil {
		return Need{}, err
	}
	n := Need{
		TensorParallel: max(1, s.TensorParallel), PipelineParallel: max(1, s.PipelineParallel),
		Nodes: s.Nodes, MaxModelLen: s.MaxModelLen, GPUMemoryUtilization: s.GPUMemoryUtilization, KVCacheDtype: s.KVCacheDtype,
		EnforceEager: s.EnforceEager, Quantization: strings.ToLower(s.Quantization), Uncounted: s.Uncounted,
		serving: s, width: 2,
	}
	var err error
	if n.release, err = parseRelease(s.VLLMVersion); err != nil {
		return Need{}, err
	}
	n.VLLMVersion = n.release.String()
	if why := cmp.Or(m.refusal(n.TensorParallel), s.uneven(n.TensorParallel)); why != "" {
		return Need{}, errors.New(why)
	}
	if s.MaxModelLen <= 0 {
		n.MaxModelLen, n.AutoLength = m.Architecture.defaultLength(n.release), s.MaxModelLen == AutoLength
	}
	if s.WholePrompts && s.MaxNumBatchedTokens > 0 && s.MaxNumBatchedTokens < n.MaxModelLen {
		return Need{}, fmt.Errorf("vLLM refuses batches of at most %d tokens (--max-num-batched-tokens) without chunked prefill: a request has up to %d (--max-model-len)",
			s.MaxNumBatchedTokens, n.MaxModelLen)
	}
	if n.GPUMemoryUtilization == 0 {
		n.GPUMemoryUtilization = n.release.utilization()
	}
	if s.Dtype != "" {
		n.width = dtypeBytes(s.Dtype)
	}
	if n.KVCacheDtype == "" || n.KVCacheDtype == "auto" {
		n.KVCacheDtype = m.autoCacheType(s.Dtype)
	}
	return n, nil
}

// autoCacheType is what a KV cache of the type auto has: what config.json states for it, else the type that vLLM
// computes in.
func (m Model) autoCacheType(dtype string) string {
	a := m.Architecture
	if a.KVCacheDType != a.DType {
		return a.KVCacheDType
	}
	switch dtype = strings.ToLower(dtype); dtype {
	case "", "auto":
		return a.KVCacheDType
	case "half":
		return "float16"
	case "float":
		return "float32"
	}
	return dtype
}

// batchOn is the batch that vLLM takes on a GPU (engine/arg_utils.py, _set_default_max_num_seqs_and_batched_tokens_args).
func (n *Need) batchOn(totalBytes uint64, name string) batch {
	b, s, length := n.release.batch(totalBytes, name), n.serving, uint64(n.MaxModelLen)
	if s.MaxNumSeqs > 0 {
		b.sequences = uint64(s.MaxNumSeqs)
	}
	if s.MaxNumBatchedTokens > 0 {
		b.tokens = uint64(s.MaxNumBatchedTokens)
	} else {
		if s.WholePrompts {
			b.tokens = max(b.tokens, length)
		}
		b.tokens = min(b.tokens, mul(b.sequences, length))
	}
	if s.MaxNumSeqs == 0 {
		b.sequences = min(b.sequences, b.tokens)
	}
	return b
}
