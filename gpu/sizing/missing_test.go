package sizing

import (
	"errors"
	"io/fs"
	"testing"
	"testing/fstest"
)

const (
	pointer   = "version https://git-lfs.github.com/spec/v1\noid sha256:4d7a214614ab2935c943f9e0ff69d22eadbb8f32b1258daaa5e2ca24d17e2393\nsize 4976698672\n"
	oddConfig = `{"architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4,
		"vocab_size": 128, "max_position_embeddings": 4096`
)

// without is a directory that has no config.json.
func without(files map[string]string) model {
	m := model{MapFS: fstest.MapFS{}, sizes: map[string]int64{}}
	for name, content := range files {
		m.file(name, content)
	}
	return m
}

// TestDirectoriesWithoutModel: what people name in place of a model, and what they are told.
func TestDirectoriesWithoutModel(t *testing.T) {
	const adapter = `{"peft_type": "LORA", "base_model_name_or_path": "meta-llama/Llama-3.1-8B"}`
	lora := w("base_model.model.model.layers.0.self_attn.q_proj.lora_A.weight", "F32", 16, 64)
	noConfig, noWeights := "open config.json", "find weights: no safetensors, bin, pt or gguf file of a model"
	tests := map[string]struct {
		m       model
		want    []string
		damaged bool // what is there is wrong, and nothing is missing
	}{
		"nothing":                   {without(nil), []string{noConfig, "there is no file in it"}, false},
		"adapter":                   {without(map[string]string{"adapter_config.json": adapter}).with(t, "adapter_model.safetensors", lora), []string{noConfig, "a LoRA adapter of meta-llama/Llama-3.1-8B, beside which vLLM loads it"}, false},
		"adapter with a config":     {newModel(oddConfig+"}").file("adapter_config.json", adapter).with(t, "adapter_model.safetensors", lora), []string{noWeights, "a LoRA adapter of meta-llama/Llama-3.1-8B"}, false},
		"adapter in bin":            {newModel(oddConfig+"}").file("adapter_config.json", adapter).file("adapter_model.bin", "0123"), []string{noWeights, "a LoRA adapter"}, false},
		"adapter of nothing":        {without(map[string]string{"adapter_config.json": "null"}), []string{"a LoRA adapter of another model"}, false},
		"tokenizer":                 {without(map[string]string{"tokenizer.json": "{}", "tokenizer_config.json": "{}"}), []string{noConfig, "a tokenizer and no model"}, false},
		"tokenizer and config":      {newModel(oddConfig+"}").file("tokenizer.json", "{}"), []string{noWeights}, false},
		"GGUF alone":                {without(map[string]string{"a-Q4_K_M.gguf": "GGUF"}), []string{noConfig, "GGUF files only; put the config.json"}, false},
		"pipeline":                  {without(map[string]string{"model_index.json": "{}", "unet/config.json": "{}"}), []string{noConfig, "a pipeline of diffusers"}, false},
		"Meta's format":             {without(map[string]string{"params.json": `{"dim": 64}`, "consolidated.00.pth": "0123"}), []string{noConfig, "Meta's own format"}, false},
		"Meta's weights":            {newModel(oddConfig+"}").file("consolidated.00.pth", "0123"), []string{noWeights, "vLLM loads no .pth files"}, false},
		"the Hub's cache":           {without(map[string]string{"refs/main": "a", "blobs/b": "", "snapshots/a/config.json": "{}"}), []string{noConfig, "name the directory of a revision in its snapshots"}, false},
		"one directory too high":    {without(map[string]string{"README.md": "", "Llama/config.json": "{}"}), []string{noConfig, "there is one in Llama"}, false},
		"checkpoints":               {without(map[string]string{"checkpoint-1/config.json": "{}", "checkpoint-2/config.json": "{}", "runs/x": ""}), []string{"there is one in checkpoint-1, checkpoint-2"}, false},
		"files of no model":         {without(map[string]string{"notes.txt": ""}), []string{noConfig}, false},
		"ONNX":                      {newModel(oddConfig+"}").file("onnx/model.onnx", "0123"), []string{noWeights}, false},
		"config is a pointer":       {newModel(pointer).with(t, "model.safetensors", lora), []string{"read config.json: it is a Git LFS pointer", "git lfs pull"}, true},
		"weights are a pointer":     {newModel(oddConfig+"}").file("model.safetensors", pointer), []string{"read model.safetensors: it is a Git LFS pointer"}, true},
		"bin files are pointers":    {newModel(oddConfig+"}").file("pytorch_model.bin", pointer), []string{"read pytorch_model.bin: it is a Git LFS pointer"}, true},
		"GGUF files are pointers":   {newModel(oddConfig+"}").file("a.gguf", pointer), []string{"read a.gguf: it is a Git LFS pointer"}, true},
		"the index is a pointer":    {newModel(oddConfig+"}").file("model.safetensors.index.json", pointer), []string{"read model.safetensors.index.json: it is a Git LFS pointer"}, true},
		"config with a mark before": {newModel("\xef\xbb\xbf"+oddConfig+"}").with(t, "model.safetensors", lora), []string{"config.json: it begins with a byte order mark"}, true},
		"config is a page":          {newModel("<!DOCTYPE html>").with(t, "model.safetensors", lora), []string{"config.json: invalid character '<'"}, true},
		"config is a text":          {newModel(`"llama"`).with(t, "model.safetensors", lora), []string{"config.json: it is a JSON string; want an object"}, true},
	}
	for name, tt := range tests {
		_, err := ReadModel(tt.m)
		wantError(t, name, err, tt.want...)
		if errors.Is(err, fs.ErrNotExist) == tt.damaged {
			t.Errorf("%s: %v: of a missing file: %v", name, err, !tt.damaged)
		}
	}
}
