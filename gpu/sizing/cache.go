package sizing

import (
	"fmt"
	"slices"
	"strings"
)

// addCache fills in what the KV cache takes. Layers that cache differently (all
// tokens, a window, a state) share one pool in vLLM, which asks two things of
// them: blocks of one size in bytes, so a block becomes long enough for a state,
// and groups of as many layers, so the last group of a kind is padded.
func (n *Need) addCache(a Architecture) {
	tp := uint64(n.TensorParallel)
	layer, _ := a.tokenBytes(tp, n.KVCacheDtype) // Need has refused types that are not known
	n.KVBytesPerToken = mul(a.FullLayers, layer)
	n.KVWindowBytesPerToken = mul(a.WindowLayers, layer)
	if a.WindowLayers > 0 {
		n.KVWindowTokens = add(less(a.WindowTokens, 1), mul(n.release.batchesInFlight(), n.batch.tokens))
	}
	n.KVBlockTokens = blockTokens
	state := a.State.bytes(tp)
	if a.StateLayers > 0 && a.FullLayers+a.WindowLayers > 0 && layer > 0 {
		n.KVBlockTokens = mul(blockTokens, max(1, ceilDiv(state, mul(blockTokens, layer))))
		state = mul(n.KVBlockTokens, layer) // padded to a block
	}
	if n.release.cachesPrefixesOfHybrids() && a.FullLayers+a.WindowLayers > 0 {
		state = mul(2, state) // the one that is written, and the last whole one
	}
	n.KVStateBytes = mul(a.StateLayers, state)

	size := groupSize(a.FullLayers, a.WindowLayers, a.StateLayers)
	padded := func(layers uint64) uint64 { return mul(ceilDiv(layers, size), size) }
	n.fullBlock = mul(padded(a.FullLayers), layer, n.KVBlockTokens)
	n.windowBlock = mul(padded(a.WindowLayers), layer, n.KVBlockTokens)
	n.states = mul(padded(a.StateLayers), state)
	n.KVNullBlockBytes = 0
	if n.release.reservesNullBlock() && a.FullLayers+a.WindowLayers > 0 {
		n.KVNullBlockBytes = mul(size, layer, n.KVBlockTokens)
	}

	if n.KVKnown = a.kvKnown(); !n.KVKnown {
		n.kvGuess = n.WeightsBytes / 4
	}
	n.KVBytes = n.kvFor(uint64(n.MaxModelLen))
	plain := *n
	plain.fullBlock = mul(n.KVBytesPerToken, n.KVBlockTokens)
	plain.windowBlock = mul(n.KVWindowBytesPerToken, n.KVBlockTokens)
	plain.states = n.KVStateBytes
	n.KVPaddingBytes = less(n.KVBytes, plain.kvFor(uint64(n.MaxModelLen)))
}

// groupSize is how many layers vLLM puts into a group, where a model has some of
// several kinds: as many as there are of the rarest kind, or of the commonest if
// that is less than a quarter more.
func groupSize(kinds ...uint64) uint64 {
	kinds = slices.DeleteFunc(kinds, func(n uint64) bool { return n == 0 })
	if len(kinds) == 0 {
		return 1
	}
	least, most := slices.Min(kinds), slices.Max(kinds)
	if float64(most) < 1.5*float64(least) {
		return most
	}
	return least
}

// tokenBytes is what one attention layer caches of one token on one GPU.
func (a Architecture) tokenBytes(tp uint64, dtype string) (uint64, error) {
	heads, numbers := max(1, a.KVHeads/tp), add(a.KeyHeadDim, a.ValueHeadDim)
	if a.LatentDim > 0 {
		heads, numbers = 1, a.LatentDim
	}
	for _, t := range cacheTypes() {
		if t.name == dtype {
			return mul(heads, add(mul(numbers, t.bytes), t.scales)), nil
		}
	}
	return 0, CheckKVCacheDtype(dtype)
}

// cacheType is a type of the KV cache: what a number takes, and what the scales of
// one head's keys and values take for each token.
type cacheType struct {
	name          string
	bytes, scales uint64
}

// cacheTypes are the types that vLLM's --kv-cache-dtype takes, beside auto, and of
// which the size is known.
func cacheTypes() []cacheType {
	return []cacheType{
		{"bfloat16", 2, 0},
		{"float16", 2, 0},
		{"fp8", 1, 0},
		{"fp8_e4m3", 1, 0},
		{"fp8_e5m2", 1, 0},
		{"fp8_inc", 1, 0},
		{"fp8_per_token_head", 1, 8}, // a float32 for keys, and one for values
		{"int8_per_token_head", 1, 8},
	}
}

// UnsizedKVCacheDtypes are further types that vLLM takes, of which the size is not
// known here; beside them, those that begin with turboquant_.
func UnsizedKVCacheDtypes() []string {
	return []string{"fp8_ds_mla", "int4_per_token_head", "nvfp4"}
}

// CheckListedKVCacheDtype refuses what is no type of the KV cache. One that vLLM has and
// of which the size is not known here is none to refuse a whole list for: what a replica
// needs is not computed then.
func CheckListedKVCacheDtype(s string) error {
	if slices.Contains(UnsizedKVCacheDtypes(), s) || strings.HasPrefix(s, "turboquant_") {
		return nil
	}
	if err := CheckKVCacheDtype(s); err != nil {
		return fmt.Errorf("%w; leave it out for a newer one, which is then counted as auto", err)
	}
	return nil
}

// KVCacheDtypes are what [Serving] may have as the type of its KV cache.
func KVCacheDtypes() []string {
	names := []string{"auto"}
	for _, t := range cacheTypes() {
		names = append(names, t.name)
	}
	return names
}

// CheckKVCacheDtype says what would be right, unless s is a type of the KV cache, or
// empty, which is auto.
func CheckKVCacheDtype(s string) error {
	known := KVCacheDtypes()
	if s == "" || slices.Contains(known, s) {
		return nil
	}
	last := len(known) - 1
	return fmt.Errorf("KV cache dtype %q is not known; want %s or %s", s, strings.Join(known[:last], ", "), known[last])
}

// kvFor is the cache of one request of some tokens, in whole blocks. A window
// keeps what the tokens of the batches under way see, and a block more.
func (n Need) kvFor(tokens uint64) uint64 {
	sum := add(n.states, n.kvGuess, mul(n.fullBlock, ceilDiv(tokens, n.KVBlockTokens)))
	if n.windowBlock > 0 {
		inWindow := add(ceilDiv(min(tokens, n.KVWindowTokens), n.KVBlockTokens), 1)
		sum = add(sum, mul(n.windowBlock, inWindow))
	}
	return sum
}
