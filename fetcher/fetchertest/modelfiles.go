package fetchertest

import (
	"fmt"
	"strconv"
)

// Token ids: three special tokens, then one for each byte.
const (
	bosToken       = 1
	eosToken       = 2
	firstByteToken = 3
)

// addSmallFiles adds what a serving engine reads beside the weights.
func (s ModelSpec) addSmallFiles(tree Tree) error {
	for _, f := range []struct {
		path  string
		value any
	}{
		{"config.json", s.config()},
		{"generation_config.json", map[string]any{"_from_model_config": true, "bos_token_id": bosToken, "eos_token_id": eosToken}},
		{"tokenizer.json", tokenizer()},
		{"tokenizer_config.json", map[string]any{
			"tokenizer_class": "PreTrainedTokenizerFast", "model_max_length": s.MaxLength,
			"unk_token": "<unk>", "bos_token": "<s>", "eos_token": "</s>", "clean_up_tokenization_spaces": false,
		}},
		{"special_tokens_map.json", map[string]any{"unk_token": "<unk>", "bos_token": "<s>", "eos_token": "</s>"}},
	} {
		if err := tree.addJSON(f.path, f.value); err != nil {
			return err
		}
	}
	tree["chat_template.jinja"] = Bytes([]byte("{% for m in messages %}{{ m['role'] }}: {{ m['content'] }}\n{% endfor %}"))
	tree[".gitattributes"] = Bytes([]byte("*.safetensors filter=lfs diff=lfs merge=lfs -text\n*.bin filter=lfs diff=lfs merge=lfs -text\n*.pth filter=lfs diff=lfs merge=lfs -text\n"))
	return nil
}

// config is what transformers and vLLM read; its numbers agree with the shapes
// of the tensors.
func (s ModelSpec) config() map[string]any {
	return map[string]any{
		"architectures":           []string{"LlamaForCausalLM"},
		"model_type":              "llama",
		"attention_bias":          false,
		"attention_dropout":       0.0,
		"bos_token_id":            bosToken,
		"eos_token_id":            eosToken,
		"head_dim":                s.Hidden / s.Heads,
		"hidden_act":              "silu",
		"hidden_size":             s.Hidden,
		"initializer_range":       0.02,
		"intermediate_size":       s.Intermediate,
		"max_position_embeddings": s.MaxLength,
		"mlp_bias":                false,
		"num_attention_heads":     s.Heads,
		"num_hidden_layers":       s.Layers,
		"num_key_value_heads":     s.KVHeads,
		"rms_norm_eps":            1e-5,
		"rope_theta":              10000.0,
		"tie_word_embeddings":     false,
		"torch_dtype":             "bfloat16",
		"use_cache":               true,
		"vocab_size":              s.Vocab,
	}
}

// tokenizer is a byte-fallback BPE without merges: every text has tokens.
func tokenizer() map[string]any {
	vocab := map[string]int{"<unk>": 0, "<s>": bosToken, "</s>": eosToken}
	for b := range 256 {
		vocab[fmt.Sprintf("<0x%02X>", b)] = firstByteToken + b
	}
	special := func(id int, content string) map[string]any {
		return map[string]any{"id": id, "content": content, "single_word": false, "lstrip": false, "rstrip": false, "normalized": false, "special": true}
	}
	return map[string]any{
		"version":        "1.0",
		"truncation":     nil,
		"padding":        nil,
		"added_tokens":   []any{special(0, "<unk>"), special(bosToken, "<s>"), special(eosToken, "</s>")},
		"normalizer":     nil,
		"pre_tokenizer":  nil,
		"post_processor": nil,
		"decoder":        map[string]any{"type": "ByteFallback"},
		"model": map[string]any{
			"type": "BPE", "dropout": nil, "unk_token": "<unk>", "continuing_subword_prefix": nil, "end_of_word_suffix": nil,
			"fuse_unk": false, "byte_fallback": true, "ignore_merges": false, "vocab": vocab, "merges": []string{},
		},
	}
}

// addUnloaded adds what real repositories carry beside the files that vLLM
// loads: documents, and the same weights in other formats.
func (s ModelSpec) addUnloaded(tree Tree) {
	tree["README.md"] = Bytes([]byte("---\nlicense: apache-2.0\n---\n# A generated model\n\nSeed " + strconv.FormatUint(s.Seed, 10) + ". Its weights mean nothing.\n"))
	tree["LICENSE"] = Bytes([]byte("Apache License, Version 2.0\n"))
	other := s.weightBytes() / 8
	tree["original/consolidated.00.pth"] = NewContent(&generated{seed: s.Seed ^ 0x5eed}, other)
	tree["original/params.json"] = Bytes([]byte(`{"dim": ` + strconv.Itoa(s.Hidden) + `}` + "\n"))
	tree["pytorch_model.bin"] = NewContent(&generated{seed: s.Seed ^ 0xb1b}, other)
}
