package sizing

import (
	"errors"
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

// Serving is how vLLM is started, in the words of its arguments. The zero value
// of each field means vLLM's default.
type Serving struct {
	// TensorParallel is the number of GPUs that one replica takes; default 1.
	TensorParallel int `json:"tensorParallel,omitempty"`
	// MaxModelLen is the longest request in tokens; default: the model's own.
	MaxModelLen int64 `json:"maxModelLen,omitempty"`
	// GPUMemoryUtilization is the part of a GPU's memory that vLLM claims,
	// above 0 and at most 1; default 0.92, and 0.9 of vLLM before 0.20.
	GPUMemoryUtilization float64 `json:"gpuMemoryUtilization,omitempty"`
	// KVCacheDtype is the type of the KV cache; default "auto".
	KVCacheDtype string `json:"kvCacheDtype,omitempty"`
	// VLLMVersion is the release whose rules hold, like 0.33 or 0.33.0; default
	// [DefaultVLLMVersion]. One whose rules are not known here is refused.
	VLLMVersion string `json:"vllmVersion,omitempty"`
}

// Need is what one replica needs on each of its GPUs. Sizes are in bytes and, if
// not stated otherwise, of one GPU.
type Need struct {
	// The serving arguments, defaults filled in.
	TensorParallel       int     `json:"tensorParallel"`
	MaxModelLen          int64   `json:"maxModelLen"`
	GPUMemoryUtilization float64 `json:"gpuMemoryUtilization"`
	KVCacheDtype         string  `json:"kvCacheDtype"`
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
	// blocks: what is said above, together.
	KVBytes uint64 `json:"kvBytes"`
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
	release release
	batch   batch
	// outside is what vLLM may take beyond its budget.
	outside uint64

	// kvGuess stands for the cache where its formula is not known.
	kvGuess uint64
	// One block of all layers of a kind, padding included.
	fullBlock, windowBlock, states uint64
}

// TotalBytes is the weights and the KV cache of one full-length request together:
// what must fit in the budget, beside what vLLM takes for itself.
func (n Need) TotalBytes() uint64 {
	return add(n.WeightsBytes, n.ReplicatedBytes, n.KVBytes, n.KVNullBlockBytes)
}

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
	n.model = &m
	n.batch = n.release.batch(commonGPU, "")
	a, w, tp := m.Architecture, m.Weights, uint64(n.TensorParallel)
	if _, err := a.tokenBytes(tp, n.KVCacheDtype); err != nil {
		return Need{}, fmt.Errorf("size for serving: %w", err)
	}
	n.Estimated = a.Estimated || w.Estimated
	n.Notes = slices.Concat(w.Notes, a.Notes)

	n.PaddingBytes = m.mxfp4Padding(tp)
	n.RotaryBytes = a.RotaryBytes
	n.WeightsBytes = add(ceilDiv(w.LoadedBytes, tp), ceilDiv(a.LatentCopyBytes, tp), n.PaddingBytes)
	n.ReplicatedBytes = add(n.RotaryBytes, less(w.ReplicatedBytes, w.ReplicatedBytes/tp))
	if a.LatentDim == 0 && a.KVHeads > 0 && tp > a.KVHeads {
		n.ReplicatedBytes = add(n.ReplicatedBytes, less(w.KVProjectionBytes/a.KVHeads, w.KVProjectionBytes/tp))
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
	n.addSums()
	return n, nil
}

// commonGPU is the memory of the GPUs whose defaults hold where no GPU is named: 80 GB.
const commonGPU = 80 << 30

// addSums fills in what depends on vLLM's batch, and with that on the GPU.
func (n *Need) addSums() {
	n.addCache(n.model.Architecture)
	n.addOverhead(*n.model)
}

// resolve checks the serving arguments and fills in defaults.
func (m Model) resolve(s Serving) (Need, error) {
	n := Need{
		TensorParallel: s.TensorParallel, MaxModelLen: s.MaxModelLen,
		GPUMemoryUtilization: s.GPUMemoryUtilization, KVCacheDtype: s.KVCacheDtype,
	}
	if n.TensorParallel == 0 {
		n.TensorParallel = 1
	}
	var err error
	if n.release, err = parseRelease(s.VLLMVersion); err != nil {
		return Need{}, err
	}
	n.VLLMVersion = n.release.String()
	if why := m.refusal(n.TensorParallel); why != "" {
		return Need{}, errors.New(why)
	}
	own := m.Architecture.defaultLength(n.release)
	switch {
	case n.MaxModelLen == 0:
		n.MaxModelLen = own
	case n.MaxModelLen < 0 || n.MaxModelLen > maxNumber:
		return Need{}, fmt.Errorf("maxModelLen is %d; want 1 or more tokens, or 0 for the model's own %d", n.MaxModelLen, own)
	}
	if n.GPUMemoryUtilization == 0 {
		n.GPUMemoryUtilization = n.release.utilization()
	}
	if !(n.GPUMemoryUtilization > 0 && n.GPUMemoryUtilization <= 1) { // so that NaN is refused
		return Need{}, fmt.Errorf("gpuMemoryUtilization is %v; want a fraction above 0 and at most 1", n.GPUMemoryUtilization)
	}
	switch n.KVCacheDtype {
	case "", "auto":
		n.KVCacheDtype = m.Architecture.KVCacheDType
	}
	return n, nil
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
	return less(n.BudgetBytes(totalBytes), add(n.WeightsBytes, n.ReplicatedBytes))
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
	return uint64(float64(left) / float64(n.KVBytes) * float64(n.MaxModelLen))
}

// LargestMaxModelLen is the longest MaxModelLen with which the model would fit for certain on a GPU of totalBytes, at
// most longest; 0 if none does or the cache is not known.
func (n Need) LargestMaxModelLen(totalBytes uint64, longest int64) int64 {
	left := less(n.cacheBytes(totalBytes), add(n.OverheadMaxBytes, n.KVNullBlockBytes))
	if !n.KVKnown || longest < 1 {
		return 0
	}
	// The first length that is too long.
	tooLong := sort.Search(int(min(longest, maxNumber)), func(i int) bool { return n.kvFor(uint64(i)+1) > left })
	return int64(tooLong)
}
