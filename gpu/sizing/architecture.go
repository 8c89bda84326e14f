package sizing

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"strings"
)

// Architecture is what config.json says of a model, as far as memory goes. A
// number that is not there is 0.
type Architecture struct {
	ModelType string `json:"modelType,omitempty"`
	// DType is the type that vLLM computes in: "bfloat16" or "float16". vLLM
	// turns float32 into one of them.
	DType string `json:"dtype"`
	// dtypeLeftOut: config.json names none, so the weights decide.
	dtypeLeftOut bool
	// Quantization is the method ("fp8", "awq", "compressed-tensors", ...), ""
	// for none; QuantizationBits the width of a weight where it is said.
	Quantization     string `json:"quantization,omitempty"`
	QuantizationBits uint64 `json:"quantizationBits,omitempty"`
	// quantMethod is quant_method alone, and ordersGroups that groups of weights are ordered by activation: some
	// releases refuse that.
	quantMethod  string
	ordersGroups bool
	// quantized holds the sizes of the quantization's blocks, 0 where there are none.
	quantized quantizedBlocks
	// KVCacheDType is what the cache's type "auto" means for this model.
	KVCacheDType string `json:"kvCacheDtype"`
	// MaxModelLen is the longest request in tokens that vLLM takes where it is not told
	// another, LongestModelLen the longest that it lets itself be told.
	MaxModelLen     int64 `json:"maxModelLen"`
	LongestModelLen int64 `json:"longestModelLen"`
	// yarnLength is MaxModelLen by the rule of releases that scale YaRN.
	yarnLength int64
	// namesLength is false where the files name no length: then MaxModelLen is vLLM's default, and no limit.
	namesLength bool

	Layers       uint64 `json:"layers"`
	HiddenSize   uint64 `json:"hiddenSize"`
	Intermediate uint64 `json:"intermediate,omitempty"` // of the experts that one token sees
	Vocabulary   uint64 `json:"vocabulary,omitempty"`
	Heads        uint64 `json:"heads"`
	KVHeads      uint64 `json:"kvHeads"`
	KeyHeadDim   uint64 `json:"keyHeadDim"`
	ValueHeadDim uint64 `json:"valueHeadDim"`
	// LatentDim is kv_lora_rank + qk_rope_head_dim of models with MLA.
	LatentDim uint64 `json:"latentDim,omitempty"`

	// FullLayers cache every token, WindowLayers only those in a window of
	// WindowTokens, StateLayers a State whatever the length.
	FullLayers   uint64 `json:"fullLayers"`
	WindowLayers uint64 `json:"windowLayers,omitempty"`
	WindowTokens uint64 `json:"windowTokens,omitempty"`
	StateLayers  uint64 `json:"stateLayers,omitempty"`
	State        State  `json:"state,omitzero"`

	// RotaryBytes is the tables of rotary positions, which each GPU keeps whole.
	RotaryBytes uint64 `json:"rotaryBytes,omitempty"`
	// LatentCopyBytes is what vLLM keeps a second time of MLA's up projection, over
	// all GPUs: transposed, in the type that it computes in.
	LatentCopyBytes uint64 `json:"latentCopyBytes,omitempty"`
	// LatentHeadBytes is what a token's queries, keys and values take in all heads of
	// models with MLA.
	LatentHeadBytes uint64 `json:"latentHeadBytes,omitempty"`
	// DenseIntermediate is the width of layers without experts, ExpertIntermediate
	// that of one expert, ExpertsPerToken how many of them a token goes through,
	// beside the shared ones.
	DenseIntermediate  uint64 `json:"denseIntermediate,omitempty"`
	ExpertIntermediate uint64 `json:"expertIntermediate,omitempty"`
	ExpertsPerToken    uint64 `json:"expertsPerToken,omitempty"`
	// Multimodal: it has an encoder for images or sound as well.
	Multimodal bool `json:"multimodal,omitempty"`

	TiedEmbeddings bool `json:"tiedEmbeddings,omitempty"`
	// ExtraLayers are layers for speculative decoding behind the others.
	ExtraLayers uint64 `json:"extraLayers,omitempty"`

	// Estimated: a number above is not what the file says, but a guess of
	// this package; Notes say which.
	Estimated bool     `json:"estimated"`
	Notes     []string `json:"notes,omitempty"`
}

// kvKnown says whether the file told enough for the bytes of a token.
func (a Architecture) kvKnown() bool {
	if a.FullLayers+a.WindowLayers == 0 {
		return a.StateLayers > 0
	}
	return a.LatentDim > 0 || a.KVHeads > 0 && a.KeyHeadDim > 0
}

// maxNotes bounds the notes: a file may have a million strange layers.
const maxNotes = 20

// estimate marks the architecture as not exact and says why, once.
func (a *Architecture) estimate(format string, args ...any) {
	a.Estimated = true
	note := fmt.Sprintf(format, args...)
	if len(a.Notes) < maxNotes && !slices.Contains(a.Notes, note) {
		a.Notes = append(a.Notes, note)
	}
}

// readArchitecture reads config.json, or params.json in Mistral's format. It fails where that is no JSON object;
// fields that are not as they should be make it an estimate.
func readArchitecture(fsys fs.FS) (Architecture, error) {
	c, err := readConfig(fsys)
	if err != nil {
		return Architecture{}, err
	}
	var a Architecture
	for _, read := range []func(*Architecture, config) error{
		readDimensions, readHeads, readExperts, readTypes, readLayers, readLength, readRotary,
	} {
		// What the other fields and the weights say is worth telling all the same.
		if err := read(&a, c); err != nil {
			a.estimate("%s is not understood: %s", c.file, strings.ReplaceAll(err.Error(), "\n", "; "))
		}
	}
	if a.MaxModelLen == 0 {
		a.MaxModelLen = defaultLength
	}
	a.LongestModelLen = max(a.LongestModelLen, a.MaxModelLen)
	noteUnknown(&a, c)
	return a, nil
}

// numberInto is one field of a config.json and its other names.
type numberInto struct {
	into  *uint64
	names []string
}

// readNumbers reads the fields that are as they should be, and tells of the
// others.
func readNumbers(c config, fields ...numberInto) error {
	var errs []error
	for _, f := range fields {
		n, err := c.number(f.names...)
		*f.into = n
		errs = append(errs, err)
	}
	return errors.Join(errs...)
}

func readDimensions(a *Architecture, c config) error {
	modelType, err := c.text("model_type")
	a.ModelType = modelType
	a.TiedEmbeddings = c.isTrue("tie_word_embeddings")
	a.Multimodal = c.has("vision_config", "audio_config")
	return errors.Join(err, readNumbers(c,
		numberInto{&a.Layers, []string{"num_hidden_layers", "n_layer", "num_layers", "n_layers"}},
		numberInto{&a.HiddenSize, []string{"hidden_size", "n_embd", "d_model", "n_embed", "dim"}},
		numberInto{&a.Vocabulary, []string{"vocab_size", "padded_vocab_size"}},
		numberInto{&a.ExtraLayers, []string{"num_nextn_predict_layers"}},
	))
}

func readHeads(a *Architecture, c config) error {
	if isStateOnly(a.ModelType) {
		return nil // what they call heads is none of attention
	}
	var rank, rope, nope uint64
	err := readNumbers(c,
		numberInto{&a.Heads, []string{"num_attention_heads", "n_head", "n_heads", "num_heads"}},
		numberInto{&a.KVHeads, []string{"n_head_kv", "num_kv_heads", "num_key_value_heads", "multi_query_group_num", "num_attention_groups"}},
		numberInto{&a.KeyHeadDim, []string{"head_dim", "attention_head_dim", "kv_channels", "hidden_size_per_head"}},
		numberInto{&a.ValueHeadDim, []string{"v_head_dim"}},
		numberInto{&rank, []string{"kv_lora_rank"}},
		numberInto{&rope, []string{"qk_rope_head_dim"}},
		numberInto{&nope, []string{"qk_nope_head_dim"}},
	)
	switch {
	case rank > 0 && a.ModelType == "minicpm3":
		// vLLM computes it as plain attention, values padded to the keys' width.
		a.KeyHeadDim = add(nope, rope)
		a.ValueHeadDim = a.KeyHeadDim
	case rank > 0:
		a.LatentDim = add(rank, rope)
		// Of one layer, until readLayers knows how many there are.
		a.LatentCopyBytes = mul(a.Heads, add(nope, a.ValueHeadDim), rank, 2)
		a.LatentHeadBytes = mul(a.Heads, add(mul(2, nope), mul(2, rope), a.ValueHeadDim), 2)
		a.KVHeads, a.KeyHeadDim, a.ValueHeadDim = 1, 0, 0
		return err
	}
	err = errors.Join(err, readGroups(a, c))
	if a.KVHeads == 0 {
		a.KVHeads = a.Heads
	}
	if a.KeyHeadDim == 0 && a.Heads > 0 {
		a.KeyHeadDim = a.HiddenSize / a.Heads
	}
	if a.ValueHeadDim == 0 {
		a.ValueHeadDim = a.KeyHeadDim
	}
	return err
}

// readGroups knows how older models say the number of their KV heads.
func readGroups(a *Architecture, c config) error {
	attn, err := c.object("attn_config") // MPT, DBRX
	if err != nil {
		return err
	}
	if n, err := in(attn).number("kv_n_heads"); err != nil {
		return err
	} else if n > 0 {
		a.KVHeads = n
	}
	switch a.ModelType {
	case "falcon", "RefinedWeb", "RefinedWebModel":
		if !c.isTrue("new_decoder_architecture") && c.isTrue("multi_query") {
			a.KVHeads = 1
		}
	case "chatglm":
		if c.isFalse("multi_query_attention") {
			a.KVHeads = 0
		}
	default:
		if c.isTrue("multi_query") { // GPTBigCode
			a.KVHeads = 1
		}
	}
	return nil
}

func readExperts(a *Architecture, c config) error {
	if ffn, err := c.object("ffn_config"); err == nil && ffn != nil { // DBRX
		c.levels = append([]map[string]json.RawMessage{ffn}, c.levels...)
	}
	var dense, expert, used, shared, experts uint64
	err := readNumbers(c,
		numberInto{&dense, []string{"intermediate_size", "ffn_hidden_size", "n_inner", "d_ff", "ffn_dim"}},
		numberInto{&expert, []string{"moe_intermediate_size", "expert_ffn_hidden_size", "intermediate_size", "ffn_hidden_size"}},
		numberInto{&used, []string{
			"num_experts_per_tok", "num_experts_per_token", "moe_top_k", "experts_per_token", "moe_topk", "moe_k", "top_k_experts",
		}},
		numberInto{&experts, []string{"num_experts", "num_local_experts", "n_routed_experts", "moe_num_experts"}},
		numberInto{&shared, []string{"n_shared_experts"}},
	)
	if dense == 0 && hasImpliedWidth(a.ModelType) {
		dense = mul(4, a.HiddenSize)
	}
	if pattern, patternErr := c.text("hybrid_override_pattern"); patternErr == nil && pattern != "" && !strings.Contains(pattern, "E") {
		used, experts = 0, 0 // Nemotron-H without experts, for which its class has numbers
	}
	a.Intermediate, a.DenseIntermediate = dense, dense
	if used > 0 {
		a.ExpertIntermediate, a.ExpertsPerToken = expert, used
		a.Intermediate = max(dense, mul(expert, add(used, shared)))
	} else if experts > 1 {
		a.estimate("%s does not say how many of its %d experts a token goes through, so their workspace is not counted", c.file, experts)
	}
	return err
}

// hasImpliedWidth reports whether a model's layers are four times as wide as it is where config.json leaves their width out.
func hasImpliedWidth(modelType string) bool {
	switch modelType {
	case "gpt2", "gptj", "gpt_bigcode", "gpt_neo", "bloom", "mpt", "falcon", "RefinedWeb", "RefinedWebModel":
		return true
	}
	return false
}

// noteUnknown tells where the file says something that the sums leave out, or
// not enough.
func noteUnknown(a *Architecture, c config) {
	for _, left := range []struct{ field, what string }{
		{"num_kv_shared_layers", "layers that share a cache are counted one by one, so the KV cache is an upper bound"},
		{"index_head_dim", "the cache of the sparse-attention indexer is not counted"},
		{"swa_num_key_value_heads", "windowed layers have heads of their own; they are counted like the others"},
		{"global_head_dim", "full layers have head sizes of their own; they are counted like the others"},
		{"compress_ratios", "layers with compressed attention are counted in full"},
		{"is_encoder_decoder", "the cache of cross attention is not counted"},
		{"cross_attention_layers", "cross-attention layers are counted like the others"},
		{"num_global_key_value_heads", "full layers have heads of their own; they are counted like the others"},
		{"cross_layer_attention_config", "layers that share a cache are counted one by one"},
	} {
		if c.has(left.field) {
			a.estimate("%s: %s", left.field, left.what)
		}
	}
	if understood, err := layersByBlocks(&Architecture{Heads: a.Heads}, c); c.has("block_configs") && !understood && err == nil {
		a.estimate("block_configs: layers differ in shape; the KV cache is counted as if all were like the config's general fields")
	}
	if multimodal, err := c.object("multimodal"); err == nil && in(multimodal).has("whisper_model_args") {
		a.estimate("multimodal.whisper_model_args: the cache of the audio encoder is not counted")
	}
	for _, name := range []string{"num_key_value_heads", "head_dim"} {
		if raw, ok := c.get(name); ok && raw[0] == '[' {
			a.estimate("%s differs by layer; the largest counts for all", name)
		}
	}
	if a.ModelType == "" {
		a.estimate("%s names no model_type; its attention is counted by the fields that others have", c.file)
	} else if !knownAttention(a.ModelType) {
		a.estimate("model_type %q is not known here; its attention is counted by the fields that others have, too", a.ModelType)
	}
	if !a.kvKnown() {
		a.estimate("%s does not say enough of the attention of model_type %q to know the KV cache", c.file, a.ModelType)
	}
}
