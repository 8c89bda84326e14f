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
	// batchedTokens is vLLM's default of max-num-batched-tokens for the API
	// server on GPUs of 70 GiB and more; on smaller ones it is 2048.
	batchedTokens      = 8192
	batchedTokensSmall = 2048

	defaultUtilization = 0.92
)

// Serving is how vLLM is started, in the words of its arguments. The zero value
// of each field means vLLM's default.
type Serving struct {
	// TensorParallel is the number of GPUs that one replica takes; default 1.
	TensorParallel int `json:"tensorParallel,omitempty"`
	// MaxModelLen is the longest request in tokens; default: the model's own.
	MaxModelLen int64 `json:"maxModelLen,omitempty"`
	// GPUMemoryUtilization is the part of a GPU's memory that vLLM claims,
	// above 0 and at most 1; default 0.92.
	GPUMemoryUtilization float64 `json:"gpuMemoryUtilization,omitempty"`
	// KVCacheDtype is the type of the KV cache; default "auto".
	KVCacheDtype string `json:"kvCacheDtype,omitempty"`
}

// Need is what one replica needs on each of its GPUs. Sizes are in bytes and, if
// not stated otherwise, of one GPU.
type Need struct {
	// The serving arguments, defaults filled in.
	TensorParallel       int     `json:"tensorParallel"`
	MaxModelLen          int64   `json:"maxModelLen"`
	GPUMemoryUtilization float64 `json:"gpuMemoryUtilization"`
	KVCacheDtype         string  `json:"kvCacheDtype"`

	// WeightsBytes is a GPU's equal share of the weights.
	WeightsBytes uint64 `json:"weightsBytes"`
	// ReplicatedBytes is what a GPU holds beyond its equal share, because some
	// tensors are not split; 0 without tensor parallelism.
	ReplicatedBytes uint64 `json:"replicatedBytes"`

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

	// OverheadMinBytes and OverheadMaxBytes are a range for what cannot be
	// known from files: the peak of activations, CUDA graphs, communication
	// buffers. They are no part of Fits.
	OverheadMinBytes uint64 `json:"overheadMinBytes"`
	OverheadMaxBytes uint64 `json:"overheadMaxBytes"`

	// KVKnown: config.json says enough of the attention to compute the cache.
	// Otherwise KVBytes is a guess, and nothing else is told of the cache.
	KVKnown bool `json:"kvKnown"`
	// Estimated: one of the terms is not exact; Notes say which and why.
	Estimated bool     `json:"estimated"`
	Notes     []string `json:"notes,omitempty"`

	// kvGuess stands for the cache where its formula is not known.
	kvGuess uint64
	// One block of all layers of a kind, padding included.
	fullBlock, windowBlock, states uint64
}

// TotalBytes is the weights and the KV cache of one full-length request together:
// what must fit in the budget.
func (n Need) TotalBytes() uint64 { return add(n.WeightsBytes, n.ReplicatedBytes, n.KVBytes) }

// Need adds up what one replica needs. It fails if s holds a value that vLLM
// would refuse for this model.
func (m Model) Need(s Serving) (Need, error) {
	n, err := m.resolve(s)
	if err != nil {
		return Need{}, fmt.Errorf("size for serving: %w", err)
	}
	a, w, tp := m.Architecture, m.Weights, uint64(n.TensorParallel)
	n.Estimated = a.Estimated || w.Estimated
	n.Notes = slices.Concat(w.Notes, a.Notes)

	n.WeightsBytes = ceilDiv(w.LoadedBytes, tp)
	n.ReplicatedBytes = less(w.ReplicatedBytes, w.ReplicatedBytes/tp)
	if a.LatentDim == 0 && a.KVHeads > 0 && tp > a.KVHeads {
		n.ReplicatedBytes = add(n.ReplicatedBytes, less(w.KVProjectionBytes/a.KVHeads, w.KVProjectionBytes/tp))
		n.Notes = append(n.Notes, fmt.Sprintf("%d KV heads on %d GPUs: each head stands on %d of them", a.KVHeads, tp, tp/a.KVHeads))
	}
	if a.LatentDim > 0 && tp > 1 {
		n.Notes = append(n.Notes, "the latent KV cache of MLA is not split: every GPU keeps all of it")
	}
	if n.ReplicatedBytes > 0 {
		n.Notes = append(n.Notes, "not split are norms, routers, biases of row-parallel layers, position embeddings and MLA's down projections")
	}

	if err := n.addCache(a); err != nil {
		return Need{}, fmt.Errorf("size for serving: %w", err)
	}
	n.OverheadMinBytes, n.OverheadMaxBytes = a.overhead(tp)
	return n, nil
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
	if why := m.Architecture.refusal(n.TensorParallel); why != "" {
		return Need{}, errors.New(why)
	}
	own := m.Architecture.MaxModelLen
	switch {
	case n.MaxModelLen == 0:
		n.MaxModelLen = own
	case n.MaxModelLen < 0 || n.MaxModelLen > maxNumber:
		return Need{}, fmt.Errorf("maxModelLen is %d; want 1 or more tokens, or 0 for the model's own %d", n.MaxModelLen, own)
	}
	if n.GPUMemoryUtilization == 0 {
		n.GPUMemoryUtilization = defaultUtilization
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
	return ""
}

// overhead is a range for what vLLM measures when it starts: the activations of
// one batch (a few copies of the hidden state and of the widest layer), the
// logits of the sequences in it and their float32 copies, and at the upper end
// 1 GiB for CUDA graphs, communication and fragments.
func (a Architecture) overhead(tp uint64) (least, most uint64) {
	peak := func(tokens, sequences uint64) uint64 {
		perToken := add(mul(4, a.HiddenSize), mul(3, a.Intermediate)/tp)
		return add(mul(tokens, perToken, 2), mul(sequences, a.Vocabulary, 8))
	}
	return peak(batchedTokensSmall, 256), add(peak(batchedTokens, 1024), 1<<30)
}

// BudgetBytes is what vLLM claims of a GPU: total x gpu-memory-utilization,
// rounded up as vLLM does.
func (n Need) BudgetBytes(totalBytes uint64) uint64 {
	return min(totalBytes, uint64(math.Ceil(float64(totalBytes)*n.GPUMemoryUtilization)))
}

// cacheBytes is what the budget leaves for the KV cache.
func (n Need) cacheBytes(totalBytes uint64) uint64 {
	return less(n.BudgetBytes(totalBytes), add(n.WeightsBytes, n.ReplicatedBytes))
}

// Fits is vLLM's own test of one GPU: what it claims is free, and the weights and
// the cache of one request of MaxModelLen fit in that.
func (n Need) Fits(totalBytes, freeBytes uint64) bool {
	return n.Obstacle(totalBytes, freeBytes) == ""
}

// Obstacle says in words why Fits is false; "" where it is true.
func (n Need) Obstacle(totalBytes, freeBytes uint64) string {
	budget := n.BudgetBytes(totalBytes)
	weights := add(n.WeightsBytes, n.ReplicatedBytes)
	switch {
	case totalBytes == 0:
		return "the GPU's memory is not known"
	case weights > budget:
		return fmt.Sprintf("the weights take %s on each GPU, more than the budget of %s", human(weights), human(budget))
	case add(weights, n.KVBytes) > budget:
		return fmt.Sprintf("weights (%s) and the KV cache of one request of %d tokens (%s) are more than the budget of %s",
			human(weights), n.MaxModelLen, human(n.KVBytes), human(budget))
	case freeBytes < budget:
		return fmt.Sprintf("%s are free, less than the budget of %s that vLLM claims at the start", human(freeBytes), human(budget))
	}
	return ""
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
	case n.windowBlock == 0 && n.states == 0:
		return left / n.fullBlock * n.KVBlockTokens
	}
	return uint64(float64(left) / float64(n.KVBytes) * float64(n.MaxModelLen))
}

// LargestMaxModelLen is the longest MaxModelLen with which the model would still
// fit on a GPU of totalBytes, at most longest; 0 if none does or the cache is not
// known.
func (n Need) LargestMaxModelLen(totalBytes uint64, longest int64) int64 {
	left := n.cacheBytes(totalBytes)
	if !n.KVKnown || longest < 1 {
		return 0
	}
	// The first length that is too long.
	tooLong := sort.Search(int(min(longest, maxNumber)), func(i int) bool { return n.kvFor(uint64(i)+1) > left })
	return int64(tooLong)
}
