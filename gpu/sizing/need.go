package sizing

import (
	"fmt"
	"math"
	"slices"
	"sort"
)

const (
	// blockTokens is the size of a block of vLLM's KV cache, where states do not
	// make it larger.
	blockTokens = 16
)

// Need is what one replica needs on each of its GPUs. Sizes are in bytes and, if
// not stated otherwise, of one GPU.
type Need struct {
	// The serving arguments, defaults filled in. With AutoLength, MaxModelLen is the model's own, and vLLM takes the
	// longest up to that for which the cache has room.
	TensorParallel       int     `json:"tensorParallel"`
	PipelineParallel     int     `json:"pipelineParallel"`
	Nodes                int     `json:"nnodes,omitempty"`
	MaxModelLen          int64   `json:"maxModelLen"`
	AutoLength           bool    `json:"maxModelLenAuto,omitempty"`
	GPUMemoryUtilization float64 `json:"gpuMemoryUtilization"`
	KVCacheDtype         string  `json:"kvCacheDtype"`
	EnforceEager         bool    `json:"enforceEager,omitempty"`
	Quantization         string  `json:"quantization,omitempty"`
	// MaxNumSeqs and MaxNumBatchedTokens are the requests and tokens of vLLM's batches on this GPU.
	MaxNumSeqs          uint64 `json:"maxNumSeqs"`
	MaxNumBatchedTokens uint64 `json:"maxNumBatchedTokens"`
	// Uncounted are arguments that may change the sum and that it does not count.
	Uncounted []string `json:"uncounted,omitempty"`
	// VLLMVersion is the release whose rules these are.
	VLLMVersion string `json:"vllmVersion"`

	// WeightsBytes is a GPU's equal share of the weights as vLLM holds them: what the
	// files hold of it, PaddingBytes, and a second copy of MLA's up projections.
	WeightsBytes uint64 `json:"weightsBytes"`
	// PaddingBytes fills MXFP4 experts up to the tiles of vLLM's kernels.
	PaddingBytes uint64 `json:"paddingBytes"`
	// ReplicatedBytes is what a GPU holds beyond its equal share, because it is not
	// split: some tensors, and the tables of rotary positions (RotaryBytes).
	ReplicatedBytes uint64 `json:"replicatedBytes"`
	RotaryBytes     uint64 `json:"rotaryBytes"`
	// CPUOffloadBytes is the part of the weights that stays in the memory of the CPU.
	CPUOffloadBytes uint64 `json:"cpuOffloadBytes,omitempty"`

	// KVBytesPerToken is the cache of one token in all layers that keep every
	// token.
	KVBytesPerToken uint64 `json:"kvBytesPerToken"`
	// KVWindowBytesPerToken is the same for the layers with a sliding window,
	// which keep at most KVWindowTokens.
	KVWindowBytesPerToken uint64 `json:"kvWindowBytesPerToken"`
	KVWindowTokens        uint64 `json:"kvWindowTokens"`
	// KVStateBytes is what state-space and linear-attention layers keep for one
	// request, whatever its length.
	KVStateBytes uint64 `json:"kvStateBytes"`
	// KVBlockTokens is the length of a block of the cache in tokens.
	KVBlockTokens uint64 `json:"kvBlockTokens"`
	// KVPaddingBytes is the part of KVBytes that is lost because vLLM puts
	// layers that cache differently into groups of one size.
	KVPaddingBytes uint64 `json:"kvPaddingBytes"`
	// KVBytes is the cache of one request of MaxModelLen tokens, in whole
	// blocks: what is said above, together. With AutoLength it is that of one token.
	KVBytes uint64 `json:"kvBytes"`
	// KVSequencesBytes is what the cache must have beyond KVBytes, so that there is a block for each of MaxNumSeqs requests:
	// vLLM asks that of models with states.
	KVSequencesBytes uint64 `json:"kvSequencesBytes,omitempty"`
	// KVNullBlockBytes is the block that the pool holds back, which no request gets.
	KVNullBlockBytes uint64 `json:"kvNullBlockBytes"`

	// OverheadMinBytes and OverheadMaxBytes are the least and the most that vLLM takes
	// beside weights and cache: the peak of activations, the sampler, what is outside of
	// PyTorch, CUDA graphs since 0.20, and how far the weights may be off.
	OverheadMinBytes uint64 `json:"overheadMinBytes"`
	OverheadMaxBytes uint64 `json:"overheadMaxBytes"`

	// KVKnown: config.json says enough of the attention to compute the cache.
	// Otherwise KVBytes is a guess, and nothing else is told of the cache.
	KVKnown bool `json:"kvKnown"`
	// Estimated: one of the terms is not exact; Notes say which and why.
	Estimated bool     `json:"estimated"`
	Notes     []string `json:"notes,omitempty"`

	// What the sums are made of, so that On can make them for another GPU.
	model   *Model
	serving Serving
	release release
	batch   batch
	// width is of a number that vLLM computes with, in bytes.
	width uint64
	// outside is what vLLM may take beyond its budget.
	outside uint64

	// kvGuess stands for the cache where its formula is not known.
	kvGuess uint64
	// sequenceBlocks is a block for each request, where there has to be one; 0 elsewhere.
	sequenceBlocks uint64
	// One block of all layers of a kind, padding included.
	fullBlock, windowBlock, states uint64
}

// TotalBytes is the weights and the KV cache of one full-length request together:
// what must fit in the budget, beside what vLLM takes for itself.
func (n Need) TotalBytes() uint64 {
	return add(n.ResidentWeightsBytes(), n.KVBytes, n.KVSequencesBytes, n.KVNullBlockBytes)
}

// ResidentWeightsBytes is what a GPU holds of the weights.
func (n Need) ResidentWeightsBytes() uint64 {
	return less(add(n.WeightsBytes, n.ReplicatedBytes), n.CPUOffloadBytes)
}

// GPUsPerReplica is how many GPUs of a node one replica takes: all of its own, or its part on each of several nodes.
func (n Need) GPUsPerReplica() int { return max(1, n.AllGPUs()/max(1, n.Nodes)) }

// AllGPUs is how many GPUs one replica takes on all of its nodes.
func (n Need) AllGPUs() int { return max(1, n.TensorParallel) * max(1, n.PipelineParallel) }

// LeastBytes is what a replica takes of a GPU's budget at the least.
func (n Need) LeastBytes() uint64 { return add(n.TotalBytes(), n.OverheadMinBytes) }

// MostBytes is what a replica takes of a GPU's budget at the most.
func (n Need) MostBytes() uint64 { return add(n.TotalBytes(), n.OverheadMaxBytes) }

// Need adds up what one replica needs. It fails if s holds a value that vLLM
// would refuse for this model.
func (m Model) Need(s Serving) (Need, error) {
	n, err := m.resolve(s)
	if err != nil {
		return Need{}, fmt.Errorf("size for serving: %w", err)
	}
	a, tp := m.Architecture, uint64(n.TensorParallel)
	n.Estimated = a.Estimated || m.Weights.Estimated
	n.Notes = slices.Concat(m.Weights.Notes, a.Notes)
	m = n.held(m)
	n.model = &m
	n.batch = n.batchOn(commonGPU, "")
	n.addSums()
	if why := n.release.refusesQuantization(a); why != "" {
		n.estimate("%s", why)
	}

	if a.LatentDim == 0 && a.KVHeads > 0 && tp > a.KVHeads {
		n.Notes = append(n.Notes, fmt.Sprintf("%d KV heads on %d GPUs: each head stands on %d of them", a.KVHeads, tp, tp/a.KVHeads))
	}
	if a.LatentDim > 0 && tp > 1 {
		n.Notes = append(n.Notes, "the latent KV cache of MLA is not split: every GPU keeps all of it")
	}
	if n.ReplicatedBytes > n.RotaryBytes {
		n.Notes = append(n.Notes, "not split are norms, routers, biases of row-parallel layers, position embeddings and MLA's down projections")
	}
	if !a.kvKnown() {
		n.Notes = append(n.Notes, "a quarter of the weights stands for the KV cache, as in the rule of thumb")
	}
	n.noteArguments()
	return n, nil
}

// held is the model as vLLM holds it with these arguments.
func (n *Need) held(m Model) Model {
	if n.width == 4 {
		if m.Architecture.Quantization != "" || n.Quantization != "" {
			n.estimate("quantized weights with --dtype float32 are counted as if all were wider")
		}
		m.Weights = m.Weights.widened()
		m.Architecture.RotaryBytes = mul(m.Architecture.RotaryBytes, 2)
		m.Architecture.LatentCopyBytes = mul(m.Architecture.LatentCopyBytes, 2)
	}
	m, doubt := m.quantized(n.Quantization, n.release)
	if doubt != "" {
		n.estimate("%s", doubt)
	}
	if n.PipelineParallel > 1 {
		if doubt := m.doubtStages(n.PipelineParallel); doubt != "" {
			n.estimate("%s", doubt)
		}
	}
	return m
}

// estimate marks the sum as not exact and says why.
func (n *Need) estimate(format string, args ...any) {
	n.Estimated = true
	n.Notes = append(n.Notes[:len(n.Notes):len(n.Notes)], fmt.Sprintf(format, args...))
}

// noteArguments says what the arguments leave open.
func (n *Need) noteArguments() {
	if _, known := n.model.Architecture.tokenBytes(1, n.KVCacheDtype); !known {
		doubt := DoubtKVCacheDtype(n.KVCacheDtype)
		if doubt == "" {
			doubt = fmt.Sprintf("the size of a KV cache of type %q is not known for this model; it is counted as auto", n.KVCacheDtype)
		}
		n.estimate("%s", doubt)
	}
	if n.CPUOffloadBytes > 0 && (n.Quantization != "" || n.model.Architecture.Quantization != "") {
		n.estimate("kernels for quantized weights may keep copies of what is offloaded on the GPU")
	}
	if n.PipelineParallel > 1 {
		n.Notes = append(n.Notes, fmt.Sprintf("the layers are divided into %d stages; the sum is that of the stage that takes the most", n.PipelineParallel))
	}
	if n.AutoLength {
		n.Notes = append(n.Notes, fmt.Sprintf("the length is automatic: vLLM takes the longest request for which the cache has room, up to %d tokens", n.MaxModelLen))
	}
	if doubt := n.serving.DoubtGPUs(); doubt != "" {
		n.estimate("%s", doubt)
	}
	for _, argument := range n.Uncounted {
		n.estimate("%s may change what vLLM takes, and is not counted", argument)
	}
}

// BatchGiven reports whether the arguments say how large a batch is.
func (n Need) BatchGiven() bool { return n.serving.MaxNumSeqs > 0 || n.serving.MaxNumBatchedTokens > 0 }

// commonGPU is the memory of the GPUs whose defaults hold where no GPU is named: 80 GB.
const commonGPU = 80 << 30

// addSums fills in what depends on vLLM's batch, and with that on the GPU. Of the stages of a pipeline it takes the one
// that needs the most; what it needs at the least is that of whichever needs more.
func (n *Need) addSums() {
	n.MaxNumSeqs, n.MaxNumBatchedTokens = n.batch.sequences, n.batch.tokens
	var most Need
	var least, outside uint64
	for i, s := range n.model.stages(n.PipelineParallel) {
		one := *n
		one.addWeights(s)
		one.addCache(s.Architecture)
		one.addOverhead(s)
		least, outside = max(least, one.LeastBytes()), max(outside, one.outside)
		if i == 0 || one.MostBytes() > most.MostBytes() {
			most = one
		}
	}
	*n = most
	n.outside = outside
	n.OverheadMinBytes = max(n.OverheadMinBytes, less(least, n.TotalBytes()))
}

// addWeights fills in what a GPU of a stage holds of the weights.
func (n *Need) addWeights(s stage) {
	a, w, tp := s.Architecture, s.Weights, uint64(n.TensorParallel)
	n.PaddingBytes = s.mxfp4Padding(tp)
	n.RotaryBytes = a.RotaryBytes
	n.WeightsBytes = add(ceilDiv(w.LoadedBytes, tp), ceilDiv(a.LatentCopyBytes, tp), n.PaddingBytes)
	n.ReplicatedBytes = add(n.RotaryBytes, less(w.ReplicatedBytes, w.ReplicatedBytes/tp))
	if a.LatentDim == 0 && a.KVHeads > 0 && tp > a.KVHeads {
		n.ReplicatedBytes = add(n.ReplicatedBytes, less(w.KVProjectionBytes/a.KVHeads, w.KVProjectionBytes/tp))
	}
	n.CPUOffloadBytes = min(uint64(min(n.serving.CPUOffloadGB*(1<<30), math.MaxInt64)), ceilDiv(s.offloadable, tp))
}

// refusal says why vLLM refuses a number of GPUs; "" if it does not.
func (a Architecture) refusal(tp int) string {
	if tp < 1 {
		return fmt.Sprintf("tensorParallel is %d; want 1 or more GPUs", tp)
	}
	n := uint64(tp)
	if a.Heads > 0 && a.Heads%n != 0 {
		return fmt.Sprintf("tensorParallel is %d, which does not divide the model's %d attention heads", tp, a.Heads)
	}
	if kv := a.KVHeads; a.LatentDim == 0 && kv > 0 && kv%n != 0 && n%kv != 0 {
		return fmt.Sprintf("tensorParallel is %d, which neither divides the model's %d KV heads nor is a multiple of them", tp, kv)
	}
	if padded := mul(ceilDiv(a.Vocabulary, vocabularyTile), vocabularyTile); padded%n != 0 {
		return fmt.Sprintf("tensorParallel is %d, which does not divide the vocabulary of %d (vLLM pads it to %d)", tp, a.Vocabulary, padded)
	}
	return ""
}

// vocabularyTile is what vLLM pads the vocabulary to a multiple of
// (vllm/model_executor/layers/vocab_parallel_embedding.py).
const vocabularyTile = 64

// BudgetBytes is what vLLM claims of a GPU: total x gpu-memory-utilization,
// rounded up as vLLM does.
func (n Need) BudgetBytes(totalBytes uint64) uint64 {
	return min(totalBytes, uint64(math.Ceil(float64(totalBytes)*n.GPUMemoryUtilization)))
}

// cacheBytes is what the budget leaves for the KV cache.
func (n Need) cacheBytes(totalBytes uint64) uint64 {
	return less(n.BudgetBytes(totalBytes), n.ResidentWeightsBytes())
}

// human is a size as people read it. Two decimals, because a hundredth of a GPU
// may decide.
func human(bytes uint64) string {
	if bytes < 1024 {
		return fmt.Sprintf("%d B", bytes)
	}
	value, unit := float64(bytes)/1024, 0
	for value >= 1024 && unit < 2 {
		value /= 1024
		unit++
	}
	return fmt.Sprintf("%.2f %ciB", value, "KMG"[unit])
}

// CacheTokens is how many tokens of cache a GPU of totalBytes would have beside
// the weights, if overheadBytes were taken by activations and the like. With
// windows or states in the model, it is the number of requests of MaxModelLen
// that fit, in tokens. 0 if the cache is not known.
func (n Need) CacheTokens(totalBytes, overheadBytes uint64) uint64 {
	left := less(n.cacheBytes(totalBytes), overheadBytes)
	switch {
	case n.KVBytes == 0 || !n.KVKnown:
		return 0
	case n.windowBlock == 0 && n.states == 0 && n.fullBlock > 0:
		return left / n.fullBlock * n.KVBlockTokens
	}
	return uint64(float64(left) / float64(n.kvFor(uint64(n.MaxModelLen))) * float64(n.MaxModelLen))
}

// LargestMaxModelLen is the longest MaxModelLen with which the model would fit for certain on a GPU of totalBytes, at
// most longest; 0 if none does or the cache is not known.
func (n Need) LargestMaxModelLen(totalBytes uint64, longest int64) int64 {
	left := less(n.cacheBytes(totalBytes), add(n.OverheadMaxBytes, n.KVNullBlockBytes))
	if !n.KVKnown || longest < 1 || left < n.sequenceBlocks {
		return 0
	}
	// The first length that is too long.
	tooLong := sort.Search(int(min(longest, maxNumber)), func(i int) bool { return n.kvFor(uint64(i)+1) > left })
	return int64(tooLong)
}
