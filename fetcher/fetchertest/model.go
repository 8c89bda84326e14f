package fetchertest

import (
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"strconv"
)

// Tree is the files of one commit, by slash-separated path.
type Tree map[string]*Content

// ModelSpec describes a model of Llama's architecture with generated weights
// (bfloat16). Zero fields take the values of the smallest useful model: about
// 0.6 MB in two shards.
type ModelSpec struct {
	// Seed makes the weights differ.
	Seed uint64
	// Layers, Hidden, Intermediate, Heads, KVHeads and Vocab are config.json's
	// num_hidden_layers, hidden_size, intermediate_size, num_attention_heads,
	// num_key_value_heads and vocab_size. Hidden must be a multiple of Heads,
	// Heads of KVHeads, and Vocab at least 259.
	Layers, Hidden, Intermediate, Heads, KVHeads, Vocab int
	// MaxLength is max_position_embeddings.
	MaxLength int
	// Shards is the number of safetensors files: at least 1, and at most as
	// many as there are tensors.
	Shards int
	// Bare leaves out the files that vLLM would not load: README.md,
	// LICENSE, original/consolidated.00.pth and pytorch_model.bin.
	Bare bool
}

// SpecOfSize returns a spec whose weights have the given number of bytes, give
// or take half a layer of a small model (at least 9 MB), in the given number
// of shards.
func SpecOfSize(seed uint64, bytes int64, shards int) ModelSpec {
	s := ModelSpec{Seed: seed, Hidden: 512, Intermediate: 1536, Heads: 8, KVHeads: 2, Vocab: 2048, MaxLength: 4096, Shards: shards}
	if bytes >= 200<<20 {
		s.Hidden, s.Intermediate, s.Heads, s.KVHeads, s.Vocab = 1024, 4096, 16, 4, 8192
	}
	s.Layers = 1
	one := s.weightBytes()
	s.Layers = 2
	layer := s.weightBytes() - one
	s.Layers = int(max(1, math.Round(float64(bytes-one+layer)/float64(layer))))
	return s
}

func (s ModelSpec) withDefaults() ModelSpec {
	for _, d := range []struct {
		field *int
		value int
	}{
		{&s.Layers, 2},
		{&s.Hidden, 64},
		{&s.Intermediate, 192},
		{&s.Heads, 4},
		{&s.KVHeads, 2},
		{&s.Vocab, 512},
		{&s.MaxLength, 2048},
		{&s.Shards, 2},
	} {
		if *d.field == 0 {
			*d.field = d.value
		}
	}
	return s
}

func (s ModelSpec) check() error {
	var errs []error
	if s.Layers < 1 || s.Intermediate < 1 || s.MaxLength < 1 || s.KVHeads < 1 || s.Heads < 1 {
		errs = append(errs, fmt.Errorf("layers %d, intermediate %d, max length %d, heads %d and kv heads %d must be positive", s.Layers, s.Intermediate, s.MaxLength, s.Heads, s.KVHeads))
	} else if s.Hidden%s.Heads != 0 || s.Heads%s.KVHeads != 0 {
		errs = append(errs, fmt.Errorf("hidden %d must be a multiple of heads %d, and heads of kv heads %d", s.Hidden, s.Heads, s.KVHeads))
	}
	if s.Vocab < firstByteToken+256 {
		errs = append(errs, fmt.Errorf("vocab %d must be at least %d", s.Vocab, firstByteToken+256))
	}
	if s.Shards < 1 || s.Shards > 9*s.Layers+3 {
		errs = append(errs, fmt.Errorf("shards %d must be between 1 and the number of tensors, %d", s.Shards, 9*s.Layers+3))
	}
	return errors.Join(errs...)
}

// tensors lists the weights in the order that transformers saves them.
func (s ModelSpec) tensors() []tensor {
	h, i, v := int64(s.Hidden), int64(s.Intermediate), int64(s.Vocab)
	kv := h / int64(s.Heads) * int64(s.KVHeads)
	all := []tensor{{"model.embed_tokens.weight", []int64{v, h}}}
	for l := range s.Layers {
		p := "model.layers." + strconv.Itoa(l) + "."
		all = append(all,
			tensor{p + "input_layernorm.weight", []int64{h}},
			tensor{p + "self_attn.q_proj.weight", []int64{h, h}},
			tensor{p + "self_attn.k_proj.weight", []int64{kv, h}},
			tensor{p + "self_attn.v_proj.weight", []int64{kv, h}},
			tensor{p + "self_attn.o_proj.weight", []int64{h, h}},
			tensor{p + "post_attention_layernorm.weight", []int64{h}},
			tensor{p + "mlp.gate_proj.weight", []int64{i, h}},
			tensor{p + "mlp.up_proj.weight", []int64{i, h}},
			tensor{p + "mlp.down_proj.weight", []int64{h, i}},
		)
	}
	return append(all, tensor{"model.norm.weight", []int64{h}}, tensor{"lm_head.weight", []int64{v, h}})
}

func (s ModelSpec) weightBytes() int64 {
	var n int64
	for _, t := range s.tensors() {
		n += t.bytes()
	}
	return n
}

// GenerateModel makes a model repository: config.json and its companions,
// model-0000i-of-0000n.safetensors with an index, and (unless Bare) files that
// vLLM would not load. The same spec always gives the same bytes. Weights are
// generated as they are read, so that a model of any size takes no memory.
func GenerateModel(spec ModelSpec) (Tree, error) {
	s := spec.withDefaults()
	if err := s.check(); err != nil {
		return nil, fmt.Errorf("generate model: %w", err)
	}
	tree := Tree{}
	if err := s.addWeights(tree); err != nil {
		return nil, fmt.Errorf("generate model: %w", err)
	}
	if err := s.addSmallFiles(tree); err != nil {
		return nil, fmt.Errorf("generate model: %w", err)
	}
	if !s.Bare {
		s.addUnloaded(tree)
	}
	return tree, nil
}

func (s ModelSpec) addWeights(tree Tree) error {
	shards := split(s.tensors(), s.Shards)
	weightMap := map[string]string{}
	for i, tensors := range shards {
		name := fmt.Sprintf("model-%05d-of-%05d.safetensors", i+1, len(shards))
		if len(shards) == 1 {
			name = "model.safetensors"
		}
		content, err := safetensors(s.Seed*1_000_003+uint64(i), tensors)
		if err != nil {
			return err
		}
		tree[name] = content
		for _, t := range tensors {
			weightMap[t.name] = name
		}
	}
	if len(shards) == 1 {
		return nil
	}
	return tree.addJSON("model.safetensors.index.json", map[string]any{
		"metadata":   map[string]any{"total_size": s.weightBytes()},
		"weight_map": weightMap,
	})
}

// split cuts tensors into n runs of about the same number of bytes, none of
// them empty.
func split(tensors []tensor, n int) [][]tensor {
	var total int64
	for _, t := range tensors {
		total += t.bytes()
	}
	shards := make([][]tensor, 0, n)
	var run []tensor
	var done int64
	for i, t := range tensors {
		run = append(run, t)
		done += t.bytes()
		open := n - len(shards) - 1 // shards still to be begun after this one
		full := done*int64(n) >= total*int64(len(shards)+1)
		if open > 0 && (full || len(tensors)-i-1 == open) {
			shards, run = append(shards, run), nil
		}
	}
	return append(shards, run)
}

func (t Tree) addJSON(path string, value any) error {
	text, err := json.MarshalIndent(value, "", "  ")
	if err != nil {
		return fmt.Errorf("write %s: %w", path, err)
	}
	t[path] = Bytes(append(text, '\n'))
	return nil
}
