package sizing

import "strings"

// isStateOnly is true for models without any attention.
func isStateOnly(modelType string) bool {
	switch modelType {
	case "mamba", "mamba2", "falcon_mamba":
		return true
	}
	return false
}

// readLayers finds out how many layers cache how. It counts layers instead of
// listing them: their number is only a number in a file.
func readLayers(a *Architecture, c config) error {
	window, err := readWindow(c)
	if err != nil {
		return err
	}
	a.WindowTokens = window
	known, err := layersByType(a, c)
	if err != nil {
		return err
	}
	if !known {
		known, err = layersByRule(a, c)
		if err != nil {
			return err
		}
	}
	if !known {
		a.FullLayers = a.Layers
	}
	if a.WindowTokens == 0 {
		a.FullLayers, a.WindowLayers = add(a.FullLayers, a.WindowLayers), 0
	}
	if a.WindowLayers == 0 {
		a.WindowTokens = 0
	}
	a.LatentCopyBytes = mul(a.LatentCopyBytes, a.FullLayers)
	if a.StateLayers > 0 {
		return readState(a, c)
	}
	return nil
}

// readWindow is the length of the sliding window in tokens, 0 for none.
func readWindow(c config) (uint64, error) {
	if c.isFalse("use_sliding_window") {
		return 0, nil
	}
	return c.number("sliding_window", "sliding_window_size", "attention_chunk_size")
}

// layersByType reads the configs that list the type of each layer.
func layersByType(a *Architecture, c config) (bool, error) {
	for _, name := range []string{"layer_types", "layers_block_type"} {
		types, err := c.strings(name)
		if err != nil {
			return false, err
		}
		if len(types) == 0 {
			continue
		}
		if a.Layers == 0 {
			a.Layers = uint64(len(types))
		}
		if uint64(len(types)) > a.Layers {
			types = types[:a.Layers]
		}
		for _, t := range types {
			a.count(t)
		}
		if missing := a.Layers - uint64(len(types)); missing > 0 {
			a.FullLayers += missing
			a.estimate("%s lists %d of %d layers; the others are counted as full attention", name, len(types), a.Layers)
		}
		return true, nil
	}
	pattern, err := c.text("hybrid_override_pattern") // Nemotron-H
	if err != nil || pattern == "" {
		return false, err
	}
	a.StateLayers = uint64(strings.Count(pattern, "M"))
	a.FullLayers = uint64(strings.Count(pattern, "*"))
	return true, nil
}

// count adds one layer of a named type.
func (a *Architecture) count(layerType string) {
	switch layerType {
	case "full_attention", "attention", "global", "global_attention":
		a.FullLayers++
	case "sliding_attention", "chunked_attention", "local_attention", "local":
		a.WindowLayers++
	case "linear_attention", "mamba", "mamba2", "recurrent", "conv":
		a.StateLayers++
	case "hybrid": // attention and a state side by side
		a.FullLayers++
		a.StateLayers++
	case "mlp", "moe":
	default:
		a.FullLayers++
		a.estimate("layers of type %q are counted as full attention", layerType)
	}
}

// layersByRule knows the models that describe their layers by a rule.
func layersByRule(a *Architecture, c config) (bool, error) {
	if isStateOnly(a.ModelType) {
		a.StateLayers = a.Layers
		return true, nil
	}
	if a.ModelType == "longcat_flash" { // num_layers layers, with two attentions each
		n, err := c.number("num_layers")
		if n > 0 {
			a.Layers, a.FullLayers = n, mul(2, n)
		}
		return n > 0, err
	}
	if a.ModelType == "falcon_h1" { // attention and a state side by side in each
		a.FullLayers, a.StateLayers = a.Layers, a.Layers
		return true, nil
	}
	for _, rule := range []func(*Architecture, config) (bool, error){layersByBlocks, attentionLists, attentionPeriods, windowRules} {
		if done, err := rule(a, c); done || err != nil {
			return done, err
		}
	}
	return false, nil
}

// attentionLists reads hybrids that list their attention layers.
func attentionLists(a *Architecture, c config) (bool, error) {
	linear, err := c.object("linear_attn_config") // Kimi
	if err != nil {
		return false, err
	}
	for _, list := range []struct {
		c    config
		name string
	}{{c, "attn_layer_indices"}, {c, "full_attn_idxs"}, {in(linear), "full_attn_layers"}} { // Bamba, LFM2, Kimi
		indices, err := list.c.numbers(list.name)
		if err != nil {
			return false, err
		}
		if len(indices) > 0 {
			a.split(uint64(len(indices)))
			return true, nil
		}
	}
	kinds, err := c.numbers("attn_type_list") // MiniMax: 1 is full, 0 is linear
	if err != nil || len(kinds) == 0 {
		return false, err
	}
	var full uint64
	for _, k := range kinds {
		if k == 1 {
			full++
		}
	}
	a.split(full)
	return true, nil
}

// attentionPeriods reads hybrids in which every Nth layer is attention.
func attentionPeriods(a *Architecture, c config) (bool, error) {
	var period, offset, interval uint64
	err := readNumbers(c,
		numberInto{&period, []string{"attn_layer_period"}}, // Jamba
		numberInto{&offset, []string{"attn_layer_offset"}},
		numberInto{&interval, []string{"full_attention_interval"}}, // Qwen3-Next
	)
	switch {
	case err != nil:
		return false, err
	case period > 0:
		a.split(ceilDiv(less(a.Layers, offset%period), period))
		return true, nil
	case interval > 0:
		a.split(a.Layers / interval)
		return true, nil
	}
	return false, nil
}

// split makes some layers full attention and the others states.
func (a *Architecture) split(full uint64) {
	a.FullLayers = min(full, a.Layers)
	a.StateLayers = a.Layers - a.FullLayers
}

// windowRules knows which layers have a window, where no list says it.
func windowRules(a *Architecture, c config) (bool, error) {
	if a.WindowTokens == 0 {
		return false, nil
	}
	pattern, err := c.number("sliding_window_pattern", "_sliding_window_pattern")
	if err != nil {
		return false, err
	}
	var fullFrom uint64
	if fullFrom, err = c.number("max_window_layers"); err != nil {
		return false, err
	}
	switch {
	case pattern > 0: // every Nth is full
	case strings.HasPrefix(a.ModelType, "gemma3"):
		pattern = 6
	case a.ModelType == "gemma2", a.ModelType == "gpt_oss":
		pattern = 2
	case strings.HasPrefix(a.ModelType, "llama4"), a.ModelType == "cohere2":
		pattern = 4
	case strings.HasPrefix(a.ModelType, "qwen2") && c.has("max_window_layers"): // those before it are full
		a.FullLayers = min(fullFrom, a.Layers)
		a.WindowLayers = a.Layers - a.FullLayers
		return true, nil
	default:
		a.WindowLayers = a.Layers
		return true, nil
	}
	a.FullLayers = a.Layers / pattern
	a.WindowLayers = a.Layers - a.FullLayers
	return true, nil
}
