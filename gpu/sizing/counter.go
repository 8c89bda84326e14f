package sizing

import (
	"fmt"
	"strconv"
	"strings"
)

// otherDType stands for every type that is not known here.
const otherDType = "other"

// counter adds up tensors and knows what vLLM does with them.
type counter struct {
	arch    Architecture
	w       Weights
	headers *headers

	duplicates int
	headBytes  uint64 // of the output head
	hasEmbed   bool
	extraBytes uint64 // of layers for speculative decoding
	castBytes  uint64 // saved by loading float32 at half the width
	grownBytes uint64 // added by loading float8 at twice the width

	// What of the extra layers was counted into these must come out again,
	// so they are counted apart from the start.
	replicated, kvProjection uint64
}

func (c *counter) add(t Tensor, again bool) error {
	if again {
		c.duplicates++
		return nil
	}
	c.w.Bytes = add(c.w.Bytes, t.Bytes)
	dtype := t.DType
	if dtypeBits(dtype) == 0 { // the file's own words are not repeated
		dtype = otherDType
	}
	c.w.ByDType[dtype] = add(c.w.ByDType[dtype], t.Bytes)
	c.w.Parameters = add(c.w.Parameters, c.parameters(t))

	if c.speculative(t.Name) {
		c.extraBytes = add(c.extraBytes, t.Bytes)
		return nil
	}
	loaded := c.loaded(t)
	c.addSplits(t)
	part := c.partOf(t.Name)
	switch {
	case !strings.HasSuffix(t.Name, ".weight"):
	case hasName(t.Name, "lm_head", "embed_out", "output_layer"), t.Name == "output.weight":
		c.headBytes = add(c.headBytes, loaded)
		part = &c.w.parts.head
	case hasName(t.Name, "embed_tokens", "wte", "word_embeddings", "tok_embeddings", "embed_in"):
		c.hasEmbed = true
		part = &c.w.parts.embed
	}
	bytes := layerBytes{loaded: loaded}
	if replicated(t) {
		c.replicated = add(c.replicated, loaded)
		bytes.replicated = loaded
	} else {
		bytes.kvProjection = c.kvPart(t.Name, loaded)
		c.kvProjection = add(c.kvProjection, bytes.kvProjection)
		if inLayer := part != &c.w.parts.head && part != &c.w.parts.embed && part != &c.w.parts.rest; inLayer && c.linear(t) {
			bytes.linear = loaded
			c.w.linearBytes = add(c.w.linearBytes, loaded)
		}
	}
	if c.arch.Quantization == "mxfp4" && strings.HasSuffix(t.Name, "_blocks") {
		bytes.mxfp4 = loaded
		c.w.MXFP4Bytes = add(c.w.MXFP4Bytes, loaded)
	}
	part.add(bytes)
	return nil
}

// linear reports a matrix of a linear layer or of experts that is not quantized yet.
func (c *counter) linear(t Tensor) bool {
	if c.arch.Quantization != "" || len(t.Shape) < 2 || hasName(t.Name, "conv1d") || strings.Contains(t.Name, "norm") {
		return false
	}
	return t.DType == "BF16" || t.DType == "F16" || t.DType == "F32"
}

// maxParts bounds the layers that are told apart: the deepest models have a few hundred.
const maxParts = 10_000

// partOf is where the bytes of a tensor are counted: in its layer of the decoder, or in what is in none.
func (c *counter) partOf(tensor string) *layerBytes {
	p := &c.w.parts
	layer, ok := decoderLayer(tensor)
	if !ok || layer >= min(c.arch.Layers, maxParts) {
		return &p.rest
	}
	if grow := int(layer) + 1 - len(p.layers); grow > 0 {
		p.layers = append(p.layers, make([]layerBytes, grow)...)
	}
	return &p.layers[layer]
}

// decoderLayer reads N out of names like model.layers.N.mlp or transformer.h.N.attn, of what is no encoder.
func decoderLayer(tensor string) (uint64, bool) {
	for name := range strings.SplitSeq(tensor, ".") {
		if strings.Contains(name, "vision") || strings.Contains(name, "visual") || strings.Contains(name, "audio") || strings.HasSuffix(name, "encoder") {
			return 0, false
		}
	}
	for _, list := range []string{".layers.", ".h.", ".blocks."} {
		if _, rest, ok := strings.Cut("."+tensor, list); ok {
			number, _, _ := strings.Cut(rest, ".")
			n, err := strconv.ParseUint(number, 10, 32)
			return n, err == nil
		}
	}
	return 0, false
}

// loaded is what a tensor takes in memory: without quantization, matrices of
// floating point take the two bytes of the type that vLLM computes in.
func (c *counter) loaded(t Tensor) uint64 {
	if c.arch.Quantization != "" || len(t.Shape) < 2 {
		return t.Bytes
	}
	switch t.DType {
	case "F32", "F64":
		loaded := min(t.Bytes, mul(t.elements(), 2))
		c.castBytes = add(c.castBytes, t.Bytes-loaded)
		return loaded
	case "F8_E4M3", "F8_E5M2":
		loaded := max(t.Bytes, mul(t.elements(), 2))
		c.grownBytes = add(c.grownBytes, loaded-t.Bytes)
		return loaded
	}
	return t.Bytes
}

// speculative says whether a tensor belongs to layers that predict further
// tokens: behind the last layer, or named for it.
func (c *counter) speculative(name string) bool {
	if layer, ok := layerOf(name); ok && c.arch.ExtraLayers > 0 && layer >= c.arch.Layers {
		return true
	}
	for part := range strings.SplitSeq(name, ".") {
		if part == "mtp" || strings.HasPrefix(part, "mtp_") {
			return true
		}
	}
	return false
}

func (c *counter) weights() Weights {
	w := c.w
	w.ReplicatedBytes, w.KVProjectionBytes = c.replicated, c.kvProjection
	note := func(format string, args ...any) { w.Notes = append(w.Notes, fmt.Sprintf(format, args...)) }
	skipped := c.extraBytes
	if c.extraBytes > 0 {
		note("%d bytes are layers for speculative decoding, which vLLM does not load by default", c.extraBytes)
	}
	if c.castBytes > 0 {
		skipped = add(skipped, c.castBytes)
		note("float32 tensors are loaded at half their width, which saves %d bytes", c.castBytes)
	}
	if c.grownBytes > 0 {
		note("the configuration names no quantization, so float8 tensors are loaded at twice their width, which adds %d bytes", c.grownBytes)
	}
	if c.arch.TiedEmbeddings && c.hasEmbed && c.headBytes > 0 {
		skipped = add(skipped, c.headBytes)
		w.parts.head = layerBytes{}
		note("lm_head is tied to the embedding, so its %d bytes are not loaded", c.headBytes)
	}
	if other := w.ByDType[otherDType]; other > 0 {
		note("%d bytes are of types that are not known here; they are taken as they are in the file", other)
	}
	if c.duplicates > 0 {
		w.Estimated = true
		note("%d tensors stand in more than one file; each is counted once, as it is in the first", c.duplicates)
	}
	w.LoadedBytes = less(add(w.Bytes, c.grownBytes), skipped)
	return w
}

// parameters counts what people mean by it: int4 weights are packed eight to an
// I32 and fp4 ones two to a U8, and what is kept to unpack them is no parameter.
func (c *counter) parameters(t Tensor) uint64 {
	if c.arch.Quantization == "" {
		return t.elements()
	}
	last := t.Name[strings.LastIndexByte(t.Name, '.')+1:]
	for _, part := range []string{"scale", "zero", "g_idx", "weight_shape", "absmax", "quant_map", "SCB", "bitsandbytes__"} {
		if strings.Contains(last, part) {
			return 0
		}
	}
	switch {
	case t.DType == "I32" && c.arch.QuantizationBits > 0 && c.arch.QuantizationBits < 32:
		return mul(t.elements(), 32) / c.arch.QuantizationBits
	case t.DType == "U8":
		return mul(t.elements(), 2)
	}
	return t.elements()
}

// kvPart is what of a tensor's bytes makes keys and values; some models keep
// queries, keys and values in one matrix.
func (c *counter) kvPart(name string, bytes uint64) uint64 {
	a := c.arch
	switch {
	case hasName(name, "k_proj", "v_proj", "wk", "wv"):
		return bytes
	case hasName(name, "qkv_proj", "query_key_value", "Wqkv", "wqkv", "c_attn") && a.LatentDim == 0 && a.KeyHeadDim > 0:
		values := mul(a.KVHeads, add(a.KeyHeadDim, a.ValueHeadDim))
		return uint64(float64(bytes) * (float64(values) / float64(add(values, mul(a.Heads, a.KeyHeadDim)))))
	}
	return 0
}

// hasName says whether one of the names is a part of a tensor's dotted name.
func hasName(tensor string, names ...string) bool {
	for part := range strings.SplitSeq(tensor, ".") {
		for _, name := range names {
			if part == name {
				return true
			}
		}
	}
	return false
}

// replicated says whether vLLM keeps a tensor whole on every GPU.
func replicated(t Tensor) bool {
	name := t.Name
	for _, part := range []string{
		".kv_a_proj_with_mqa.", ".q_a_proj.", ".wkv_a_with_mqa.", ".wq_a.", ".indexer.", // MLA's down projections, and what chooses its tokens
		".mlp.gate.", ".block_sparse_moe.gate.", ".router.", ".shared_expert_gate.", ".mixer.gate.", // routers
		"e_score_correction_bias", "patch_embed", "pos_embed", "position_embedding", "embed_positions", "wpe.",
	} {
		if strings.Contains(name, part) {
			return true
		}
	}
	if _, below, ok := strings.Cut(name, "layers."); ok { // Mistral's routers
		if _, below, ok = strings.Cut(below, "."); ok && (below == "gate.weight" || below == "feed_forward.gate.weight") {
			return true
		}
	}
	if len(t.Shape) > 1 {
		return false
	}
	if strings.Contains(name, "norm") || strings.Contains(name, "ln_") {
		return true
	}
	// The second of a pair of matrices is split by its input, so its output, and
	// with it the bias, is whole.
	return strings.HasSuffix(name, ".bias") && hasName(name, "o_proj", "down_proj", "dense", "dense_4h_to_h", "c_proj", "out_proj", "fc2")
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
