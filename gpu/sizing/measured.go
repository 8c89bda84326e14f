package sizing

import (
	"fmt"
	"math"
)

// CacheBlocks is what vLLM made of the memory that it had left for its KV cache, on each GPU.
type CacheBlocks struct {
	// Count is how many blocks there are, and Tokens how many tokens each has of every layer in a group.
	Count, Tokens uint64
	// PerRequest is how many of them vLLM counts for one request of the maximal length; 0: not known.
	PerRequest float64
}

// BesideBytes is what vLLM took of its budget on a GPU of totalBytes beside the weights and the cache: activations, the
// sampler, the driver's memory and, since 0.20, CUDA graphs. It is too much by less than one block, because vLLM rounds
// the number of blocks down (v1/core/kv_cache_planning.py, get_kv_cache_config_from_groups). It fails where the sum of the
// cache is not vLLM's own, or where b cannot be: more than the budget leaves.
func (n Need) BesideBytes(totalBytes uint64, b CacheBlocks) (uint64, error) {
	block := n.poolBlockBytes(b.Tokens)
	if block == 0 || b.Count == 0 {
		return 0, fmt.Errorf("what a block of its cache takes is not known")
	}
	a := n.model.Architecture
	ours := float64(n.KVBytes) / float64(block)
	switch {
	case b.PerRequest == 0 && a.WindowLayers+a.StateLayers > 0:
		return 0, fmt.Errorf("its layers cache differently, and how many blocks a request takes is not stated")
	case b.PerRequest > 0 && math.Abs(ours-b.PerRequest) > otherGroups+otherShare*b.PerRequest:
		return 0, fmt.Errorf("vLLM counts %.0f blocks of its cache for a request, and the sum %.0f: it is started in another way, or groups its layers in another", b.PerRequest, ours)
	}
	budget := n.BudgetBytes(totalBytes)
	weights, cache := n.ResidentWeightsBytes(), mul(b.Count, block)
	if taken := add(weights, cache); taken >= budget {
		return 0, fmt.Errorf("weights (%s) and the cache that it states (%s) are more than its budget of %s", human(weights), human(cache), human(budget))
	}
	return budget - weights - cache, nil
}

// What rounding to blocks of another length, and a last block of each group, may change of a request's blocks.
const (
	otherGroups = 4
	otherShare  = 0.02
)

// poolBlockBytes is a block of the pool that groups of layers share, each block of so many tokens; 0: not known.
func (n Need) poolBlockBytes(tokens uint64) uint64 {
	if n.model == nil || !n.KVKnown {
		return 0
	}
	a := n.model.Architecture
	layer, known := a.tokenBytes(uint64(n.TensorParallel), n.KVCacheDtype)
	if !known || a.FullLayers+a.WindowLayers == 0 {
		return 0
	}
	return mul(groupSize(a.FullLayers, a.WindowLayers, a.StateLayers), layer, tokens)
}

// Measured is what replicas of the same model that run on GPUs of the same kind took beside weights and cache.
type Measured struct {
	// BesideBytes is the most that one of them took; 0: none was measured.
	BesideBytes uint64
	// Trusted says that it may add a yes; else it may only take one away.
	Trusted bool
}

// measuredSlack is what one start may take more than another of the same replica. Repeated starts in the public logs differ
// by 10 MiB.
const measuredSlack = 128 << 20

// VerdictMeasured is Verdict in the light of what was measured: it turns Fits into Tight where replicas took more than
// the most that is computed, and Tight into Fits where trusted ones took less. No stays No. It changes nothing where
// Serving takes otherwise: replicas are measured with vLLM's defaults only.
func (n Need) VerdictMeasured(totalBytes, freeBytes uint64, m Measured) (Verdict, string) {
	v, why := n.Verdict(totalBytes, freeBytes)
	if m.BesideBytes == 0 || n.serving.TakesOtherwise() {
		return v, why
	}
	budget := n.BudgetBytes(totalBytes)
	switch {
	case v == Fits && add(n.TotalBytes(), m.BesideBytes) > budget:
		return Tight, fmt.Sprintf("weights and the KV cache of one request of %d tokens take %s; replicas that run here took %s beside them, more than the %s that is expected, and the budget is %s",
			n.MaxModelLen, human(n.TotalBytes()), human(m.BesideBytes), human(n.OverheadMaxBytes), human(budget))
	case v == Tight && m.Trusted && less(freeBytes, budget) >= n.outside &&
		add(n.TotalBytes(), max(m.BesideBytes, n.OverheadMinBytes), measuredSlack) <= budget:
		return Fits, ""
	}
	return v, why
}
