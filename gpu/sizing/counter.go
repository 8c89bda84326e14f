package sizing

import (
	"fmt"
	"strconv"
	"strings"
)

// counter adds up tensors and knows what vLLM does with them.
type counter struct {
	arch Architecture
	w    Weights

	headBytes  uint64 // of lm_head.weight
	hasEmbed   bool
	extraBytes uint64 // of layers behind the last one
	castBytes  uint64 // saved by loading float32 at half the width

	// What of the extra layers was counted into these must come out again,
	// so they are counted apart from the start.
	replicated, kvProjection uint64
}

func (c *counter) add(t Tensor) error {
	c.w.Bytes = add(c.w.Bytes, t.Bytes)
	c.w.ByDType[t.DType] = add(c.w.ByDType[t.DType], t.Bytes)
	c.w.Parameters = add(c.w.Parameters, c.parameters(t))

	if c.arch.ExtraLayers > 0 {
		if layer, ok := layerOf(t.Name); ok && layer >= c.arch.Layers {
			c.extraBytes = add(c.extraBytes, t.Bytes)
			return nil
		}
	}
	loaded := t.Bytes
	if c.arch.Quantization == "" && len(t.Shape) > 1 && (t.DType == "F32" || t.DType == "F64") {
		loaded = min(loaded, mul(t.elements(), 2))
		c.castBytes = add(c.castBytes, t.Bytes-loaded)
	}
	switch {
	case strings.HasSuffix(t.Name, "lm_head.weight"):
		c.headBytes = add(c.headBytes, loaded)
	case strings.HasSuffix(t.Name, "embed_tokens.weight"):
		c.hasEmbed = true
	}
	switch {
	case replicated(t):
		c.replicated = add(c.replicated, loaded)
	case strings.Contains(t.Name, ".k_proj.") || strings.Contains(t.Name, ".v_proj."):
		c.kvProjection = add(c.kvProjection, loaded)
	}
	return nil
}

func (c *counter) weights() Weights {
	w := c.w
	w.ReplicatedBytes, w.KVProjectionBytes = c.replicated, c.kvProjection
	skipped := c.extraBytes
	if c.extraBytes > 0 {
		w.Notes = append(w.Notes, fmt.Sprintf("%d bytes are layers for speculative decoding, which vLLM does not load by default", c.extraBytes))
	}
	if c.castBytes > 0 {
		skipped = add(skipped, c.castBytes)
		w.Notes = append(w.Notes, fmt.Sprintf("float32 tensors are loaded at half their width, which saves %d bytes", c.castBytes))
	}
	if c.arch.TiedEmbeddings && c.hasEmbed && c.headBytes > 0 {
		skipped = add(skipped, c.headBytes)
		w.Notes = append(w.Notes, fmt.Sprintf("lm_head is tied to the embedding, so its %d bytes are not loaded", c.headBytes))
	}
	w.LoadedBytes = less(w.Bytes, skipped)
	return w
}

// parameters counts what people mean by it: int4 weights are packed eight to an
// I32 and fp4 ones two to a U8, and scales are no parameters.
func (c *counter) parameters(t Tensor) uint64 {
	if c.arch.Quantization != "" {
		for _, part := range []string{"scale", "zero", "g_idx", "weight_shape"} {
			if strings.Contains(t.Name[strings.LastIndexByte(t.Name, '.')+1:], part) {
				return 0
			}
		}
		switch {
		case t.DType == "I32" && c.arch.QuantizationBits > 0 && c.arch.QuantizationBits < 32:
			return mul(t.elements(), 32/c.arch.QuantizationBits)
		case t.DType == "U8":
			return mul(t.elements(), 2)
		}
	}
	return t.elements()
}

// replicated says whether vLLM keeps a tensor whole on every GPU.
func replicated(t Tensor) bool {
	name := t.Name
	if len(t.Shape) <= 1 {
		return strings.Contains(name, "norm") || strings.Contains(name, "ln_")
	}
	for _, part := range []string{
		".kv_a_proj_with_mqa.", ".q_a_proj.", // MLA's down projections
		".mlp.gate.", ".block_sparse_moe.gate.", ".mlp.router.", ".shared_expert_gate.", // routers
	} {
		if strings.Contains(name, part) {
			return true
		}
	}
	return false
}

// layerOf reads N out of "....layers.N....".
func layerOf(name string) (uint64, bool) {
	_, rest, ok := strings.Cut("."+name, ".layers.")
	if !ok {
		return 0, false
	}
	number, _, _ := strings.Cut(rest, ".")
	n, err := strconv.ParseUint(number, 10, 32)
	return n, err == nil
}
