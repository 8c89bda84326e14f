// Package sized writes models of which all is real but the weights: their
// configuration, and every tensor's name, type and shape. The bytes behind are
// holes in the files, so that a model of any size takes no room. It is for what
// sizes models, and not for what reads their weights.
package sized

import (
	"bytes"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
)

// llama8B is the configuration of Llama-3.1-8B, as far as it concerns sizes.
const llama8B = `{
"architectures": ["LlamaForCausalLM"], "model_type": "llama", "torch_dtype": "bfloat16",
"hidden_size": 4096, "intermediate_size": 14336, "num_hidden_layers": 32, "num_attention_heads": 32,
"num_key_value_heads": 8, "vocab_size": 128256, "max_position_embeddings": 131072, "tie_word_embeddings": false,
"rope_scaling": {"factor": 8.0, "original_max_position_embeddings": 8192, "rope_type": "llama3"}}
`

// Llama8B writes Llama-3.1-8B in bf16 into dir, which must exist.
func Llama8B(dir string) error {
	const hidden, intermediate, kv, vocabulary = 4096, 14336, 1024, 128256
	t := &tensors{header: map[string]tensor{}}
	t.add("model.embed_tokens", vocabulary, hidden)
	for i := range 32 {
		layer := fmt.Sprintf("model.layers.%d.", i)
		t.add(layer+"self_attn.q_proj", hidden, hidden)
		t.add(layer+"self_attn.k_proj", kv, hidden)
		t.add(layer+"self_attn.v_proj", kv, hidden)
		t.add(layer+"self_attn.o_proj", hidden, hidden)
		t.add(layer+"mlp.gate_proj", intermediate, hidden)
		t.add(layer+"mlp.up_proj", intermediate, hidden)
		t.add(layer+"mlp.down_proj", hidden, intermediate)
		t.add(layer+"input_layernorm", hidden)
		t.add(layer+"post_attention_layernorm", hidden)
	}
	t.add("model.norm", hidden)
	t.add("lm_head", vocabulary, hidden)
	if err := os.WriteFile(filepath.Join(dir, "config.json"), []byte(llama8B), 0o600); err != nil {
		return err
	}
	return t.write(filepath.Join(dir, "model.safetensors"))
}

// tensor is what the header of a safetensors file says of one.
type tensor struct {
	DType   string    `json:"dtype"`
	Shape   []int64   `json:"shape"`
	Offsets [2]uint64 `json:"data_offsets"`
}

type tensors struct {
	header map[string]tensor
	bytes  uint64
}

func (t *tensors) add(name string, shape ...int64) {
	size := uint64(2)
	for _, n := range shape {
		size *= uint64(n)
	}
	t.header[name+".weight"] = tensor{"BF16", shape, [2]uint64{t.bytes, t.bytes + size}}
	t.bytes += size
}

func (t *tensors) write(path string) error {
	header, err := json.Marshal(t.header)
	if err != nil {
		return err
	}
	var front bytes.Buffer
	if err := binary.Write(&front, binary.LittleEndian, uint64(len(header))); err != nil {
		return err
	}
	front.Write(header)
	if err := os.WriteFile(path, front.Bytes(), 0o600); err != nil {
		return err
	}
	return os.Truncate(path, int64(front.Len())+int64(t.bytes))
}
