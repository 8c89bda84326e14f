package sizing

import "fmt"

// RuleOfThumbBytes is parameters x 2 bytes x 1.25, the sum that people do in
// their heads. It knows neither quantization nor the length of requests.
func (m Model) RuleOfThumbBytes() uint64 {
	return mul(m.Weights.Parameters, 5) / 2
}

// ruleOfThumbMisleads says where the rule is far from what n, the need of one
// GPU of a replica, adds up to. The rule allows two bytes a parameter, and a
// quarter of that for everything else.
func (m Model) ruleOfThumbMisleads(n Need) []string {
	a, w := m.Architecture, m.Weights
	why := []string{}
	say := func(format string, args ...any) { why = append(why, fmt.Sprintf(format, args...)) }

	// A tenth is what a few tensors of another type may make.
	if perParameter := float64(w.LoadedBytes) / float64(max(1, w.Parameters)); w.Parameters > 0 && (perParameter < 1.8 || perParameter > 2.2) {
		say("a parameter takes %.2f bytes of memory, not 2%s", perParameter, byQuantization(a))
	}
	quarter := mul(w.Parameters, 2) / 4
	if cache := mul(n.KVBytes, uint64(n.TensorParallel)); n.KVKnown && cache > quarter {
		say("one request of %d tokens takes %s of cache, more than the rule's quarter of %s", n.MaxModelLen, human(cache), human(quarter))
	}
	switch {
	case a.LatentDim > 0:
		say("the cache holds a latent vector of %d numbers for each token and layer (MLA), much less than heads would, but whole on every GPU", a.LatentDim)
	case a.FullLayers+a.WindowLayers > 0 && a.Heads > 1 && a.KVHeads == a.Heads:
		say("each of the %d attention heads has keys and values of its own, where most models share them: a token costs that much more cache", a.Heads)
	}
	constant := a.StateLayers
	if uint64(n.MaxModelLen) > n.KVWindowTokens { // of shorter ones, a window keeps all
		constant = add(constant, a.WindowLayers)
	}
	if constant > 0 {
		say("the cache of %d of %d layers does not grow with the length of a request", min(a.Layers, constant), a.Layers)
	}
	if a.KVHeads > 0 && a.LatentDim == 0 && uint64(n.TensorParallel) > a.KVHeads {
		say("%d GPUs share %d KV heads, so the cache of a token is kept %d times", n.TensorParallel, a.KVHeads, uint64(n.TensorParallel)/a.KVHeads)
	}
	return why
}

func byQuantization(a Architecture) string {
	if a.Quantization == "" {
		return ""
	}
	return ", because the weights are quantized (" + a.Quantization + ")"
}
