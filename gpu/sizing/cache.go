package sizing

import (
	"fmt"
	"slices"
)

// addCache fills in what the KV cache takes. Layers that cache differently (all
// tokens, a window, a state) share one pool in vLLM, which asks two things of
// them: blocks of one size in bytes, so a block becomes long enough for a state,
// and groups of as many layers, so the last group of a kind is padded.
func (n *Need) addCache(a Architecture) {
	tp := uint64(n.TensorParallel)
	layer, known := a.tokenBytes(tp, n.KVCacheDtype)
	if !known { // Need's notes say it
		layer, _ = a.tokenBytes(tp, n.model.autoCacheType(n.serving.Dtype))
	}
	n.KVBytesPerToken = mul(a.FullLayers, layer)
	n.KVWindowBytesPerToken = mul(a.WindowLayers, layer)
	if a.WindowLayers > 0 {
		n.KVWindowTokens = add(less(a.WindowTokens, 1), mul(n.batchesInFlight(), n.batch.tokens))
	}
	n.KVBlockTokens = blockTokens
	state := a.State.bytes(tp)
	if a.StateLayers > 0 && a.FullLayers+a.WindowLayers > 0 && layer > 0 {
		n.KVBlockTokens = mul(blockTokens, max(1, ceilDiv(state, mul(blockTokens, layer))))
		state = mul(n.KVBlockTokens, layer) // padded to a block
	}
	if n.release.cachesPrefixesOfHybrids() && !n.serving.NoPrefixCaching && a.FullLayers+a.WindowLayers > 0 {
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
	n.KVBytes = n.kvFor(n.requestTokens())
	n.sequenceBlocks = 0
	if a.StateLayers > 0 && !n.EnforceEager && n.release.needsBlockForEachRequest() {
		block := mul(size, layer, n.KVBlockTokens)
		if a.FullLayers+a.WindowLayers == 0 {
			block = mul(size, state)
		}
		n.sequenceBlocks = mul(n.batch.sequences, block)
	}
	n.KVSequencesBytes = less(n.sequenceBlocks, add(n.KVBytes, n.KVNullBlockBytes))
	plain := *n
	plain.fullBlock = mul(n.KVBytesPerToken, n.KVBlockTokens)
	plain.windowBlock = mul(n.KVWindowBytesPerToken, n.KVBlockTokens)
	plain.states = n.KVStateBytes
	n.KVPaddingBytes = less(n.KVBytes, plain.kvFor(n.requestTokens()))
}

// batchesInFlight is of how many batches a window keeps tokens (config/vllm.py, max_concurrent_batches): each stage works
// on one, and with asynchronous scheduling one more waits.
func (n Need) batchesInFlight() uint64 {
	if n.release.batchesInFlight() == 1 {
		return 1
	}
	batches := uint64(n.PipelineParallel)
	if !n.serving.OneBatch {
		batches++
	}
	return batches
}

// requestTokens is the length of the request for which there has to be room. One of automatic length is as short as it
// must be.
func (n Need) requestTokens() uint64 {
	if n.AutoLength {
		return 1
	}
	return uint64(n.MaxModelLen)
}

// requestText is that request in words.
func (n Need) requestText() string {
	if n.AutoLength {
		return "the shortest request"
	}
	return fmt.Sprintf("one request of %d tokens", n.MaxModelLen)
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
